/// Flaw of the index of a sharded checkpoint.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexFlaw {
    /// An index beyond what any model needs.
    #[error("the index has {len} bytes, more than the {limit} that are allowed")]
    TooLong {
        /// Bytes of the file.
        len: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// Not the JSON it should be.
    #[error("the index is not valid: {reason}")]
    Json {
        /// The parser's words.
        reason: String,
    },
    /// No tensor at all.
    #[error("the index lists no tensors")]
    Empty,
    /// A tensor that is listed twice.
    #[error("the index lists tensor `{tensor}` twice")]
    DuplicateEntry {
        /// The tensor.
        tensor: String,
    },
    /// A shard whose name could lead out of the folder.
    #[error("shard `{shard}` of tensor `{tensor}` is not a plain file name")]
    ShardName {
        /// The shard as named.
        shard: String,
        /// A tensor that is said to lie there.
        tensor: String,
    },
    /// A shard that is not there.
    #[error(
        "shard `{shard}` is missing, which holds tensor `{tensor}`; {n_present} of {n_shards} shards are there: download the others as well"
    )]
    MissingShard {
        /// The first one missing.
        shard: String,
        /// A tensor that lies in it.
        tensor: String,
        /// Shards that are there.
        n_present: usize,
        /// Shards that the index names.
        n_shards: usize,
    },
    /// A tensor that is in two shards.
    #[error("tensor `{tensor}` is both in shard `{first}` and in shard `{second}`")]
    TwoShards {
        /// The tensor.
        tensor: String,
        /// One shard.
        first: String,
        /// Another one.
        second: String,
    },
}
