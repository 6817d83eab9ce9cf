//! The index of a sharded checkpoint, beside two shards that it may name.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use llm_checkpoint::Checkpoint;
use tempfile::TempDir;

/// A tensor of one byte, called `a` in `1.safetensors` and `b` in `2.safetensors`.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (shard, tensor) in [("1.safetensors", "a"), ("2.safetensors", "b")] {
        let header = format!(r#"{{"{tensor}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#);
        let len = (header.len() as u64).to_le_bytes();
        let file = [&len[..], header.as_bytes(), &[7]].concat();
        fs::write(folder.path().join(shard), file).expect("a writable folder");
    }
    folder
});

fuzz_target!(|index: &[u8]| {
    let path: &Path = &FOLDER.path().join("model.safetensors.index.json");
    fs::write(path, index).expect("a writable folder");
    if let Ok(checkpoint) = Checkpoint::open(path) {
        llm_fuzz::read_both_ends(&checkpoint);
    }
});
