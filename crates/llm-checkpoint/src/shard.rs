//! Writing whole checkpoints: cut into shards, crash-safe, as a stream.

mod copy;
mod flush;
mod plan;
mod staging;
mod together;
mod writer;

pub(crate) use plan::Opaques;
pub use plan::{Shard, ShardPlan};
pub use staging::Existing;
pub(crate) use staging::{STAGING, UNFINISHED_SHARD};
pub use writer::ShardWriter;

#[cfg(test)]
mod tests;
