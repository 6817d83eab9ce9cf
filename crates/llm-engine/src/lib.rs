//! Generation on a loaded session: requests, scheduling, stop strings, prefixes and beams.
//!
//! Nothing here knows the command line, and nothing prints. [`complete`] brings one answer to its end. A [`Batch`] has
//! several answers share each pass over the weights, each with an outcome of its own. An [`Engine`] is a thread that does so for
//! whoever submits a [`Request`], and hands out each answer as it is made.

mod batch;
mod beams;
mod client;
mod complete;
mod draft;
mod engine;
mod error;
mod generation;
mod grammar;
mod held;
mod logprobs;
mod prefix;
mod settings;
mod speculate;
mod stats;
mod text;

pub use batch::{Batch, Ended, Pace, nth_seed};
pub use client::{Client, Token};
pub use complete::complete;
pub use draft::{DraftCounts, DraftLength, DraftSource, Drafts, Lookup};
pub use engine::{Busy, Engine, Event, Handle, Request};
pub use error::EngineError;
pub use generation::{Completion, EndReason, Generation, Timings};
pub use grammar::{Constraint, Grammars};
pub use llm_runtime::RuntimeError;
pub use logprobs::Logprobs;
pub use prefix::Prefix;
pub use settings::{Length, Settings};
pub use stats::Stats;

/// Result of everything that can fail here.
pub type Result<T> = std::result::Result<T, EngineError>;
