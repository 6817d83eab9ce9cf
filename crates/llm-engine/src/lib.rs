//! Generation on a loaded session: requests, scheduling, stop strings, prefixes and beams.
//!
//! Nothing here knows the command line, and nothing prints. [`complete`] brings one answer to its end. A [`Batch`] has
//! several answers share each pass over the weights, each with an outcome of its own.

mod batch;
mod beams;
mod complete;
mod error;
mod generation;
mod prefix;
mod settings;
mod text;

pub use batch::{Batch, Ended, nth_seed};
pub use complete::complete;
pub use error::EngineError;
pub use generation::{Completion, EndReason, Generation, Timings};
pub use prefix::Prefix;
pub use settings::{Length, Settings};

/// Result of everything that can fail here.
pub type Result<T> = std::result::Result<T, EngineError>;
