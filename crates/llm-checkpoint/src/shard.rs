//! Writing whole checkpoints: cut into shards, crash-safe, as a stream.

mod copy;
mod flush;
mod names;
mod plan;
mod staging;
mod together;
mod writer;

pub(crate) use names::{STAGING, UNFINISHED_SHARD};
pub use plan::{Shard, ShardPlan};
pub use staging::Existing;
pub use writer::ShardWriter;

#[cfg(test)]
mod tests;
