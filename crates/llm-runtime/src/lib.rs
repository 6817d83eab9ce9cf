//! Binds a model to a checkpoint, loads it, and runs it token by token.
//!
//! ```text
//! folder, file ── open ──► BoundModel ── load(device) ──► Session ── prefill, step ──► logits ── Sampler ──► id
//! ```
//!
//! [`BoundModel`] joins a skeleton with a checkpoint: nothing missing, nothing misshapen. [`load`] brings its weights
//! to a [`Device`], in the form and the element type in which they will be used. A [`Session`] holds the loaded
//! stages and the positions of its sequences. Inside a stage everything is generic over the backend; between stages
//! there is one virtual call each, and only hidden states cross.

mod activations;
mod allocated;
mod angles;
mod beam;
mod bind;
mod block;
mod blocks;
mod device;
mod encode;
mod error;
mod hub;
mod link;
mod load;

mod mixer;
mod mlp;
mod not_finite;
mod notice;
mod offload;
mod packed;
mod pass;
mod peers;
mod pipeline;
mod port;
mod probe;
mod progress;
mod projection;
mod published;
mod quantized;
mod relative;
mod rows;
mod sample;
mod save;
mod scaled;
mod session;
mod slots;
mod source;
mod stage;
mod state;
mod stream;
mod streams;
mod sublayer;
mod sum;

pub use allocated::{Allocated, CostsOf};
pub use beam::{BeamSearch, BeamStep, Beams, EarlyStopping};
pub use bind::{BoundModel, BoundTensor, Misfit, read_config, read_config_with};
pub use device::{Device, Elsewhere, StageOptions, Stages};
pub use error::RuntimeError;
pub use llm_plan::Limits;
pub use load::{LoadOptions, OffloadOptions, load, load_on, load_under};
pub use not_finite::NotFinite;
pub use notice::{Notice, Unused};
pub use offload::{OffloadAbout, OffloadDamage, OffloadEntry, OffloadFolder, OffloadSource};
pub use pass::{Interrupt, Interrupts, Pass};
pub use peers::{Unread, WhyUnread};
pub use port::{Crossing, Lane, Port};
pub use probe::Probe;
pub use progress::{Event, Progress};
pub use published::form::PublishedForm;
pub use sample::{Rules, Sampler, Sampling};
pub use save::{BeyondPeers, Linears, Save};
pub use session::{Mark, Session};
pub use source::WeightSource;
pub use stream::Feed;

/// Result of everything that can fail here.
pub type Result<T> = std::result::Result<T, RuntimeError>;
