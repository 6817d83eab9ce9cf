//! Names of the files that a checkpoint is written to.

/// The index of a sharded checkpoint.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The file of a checkpoint that is not sharded.
pub(super) const SINGLE: &str = "model.safetensors";

pub(super) fn shard_name(shard_idx: usize, n_shards: usize) -> String {
    if n_shards == 1 {
        return SINGLE.to_owned();
    }
    format!("model-{:05}-of-{n_shards:05}.safetensors", shard_idx + 1)
}

/// True if `name` is one that [`shard_name`] makes.
pub(super) fn is_shard_name(name: &str) -> bool {
    let is_number = |text: &str| text.len() >= 5 && text.bytes().all(|b| b.is_ascii_digit());
    let numbers = name
        .strip_prefix("model-")
        .and_then(|rest| rest.strip_suffix(".safetensors"))
        .and_then(|rest| rest.split_once("-of-"));
    name == SINGLE || numbers.is_some_and(|(idx, n)| is_number(idx) && is_number(n))
}

/// The name of the staging folder.
pub(crate) const STAGING: &str = ".unfinished-checkpoint";

/// Name of the shard that an index of no checkpoint lists; it is never there.
pub(crate) const UNFINISHED_SHARD: &str =
    "(none: this checkpoint was being replaced, write it again)";
