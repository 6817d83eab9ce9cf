//! RAM that the process takes for itself: a bound, the same for a plan and for the run that it is made for.

use std::path::Path;

use llm_arch::Skeleton;
use llm_checkpoint::{Format, Value};
use llm_runtime::BoundModel;
use llm_tensor::Bytes;

use crate::demo;

/// With a checkpoint's headers and its tokenizer.
pub(crate) fn with_model(model: &BoundModel) -> Bytes {
    let (checkpoint, skeleton) = (model.checkpoint(), model.skeleton());
    let tokens = checkpoint.metadata().get("tokenizer.ggml.tokens");
    let has_tokenizer = match checkpoint.format() {
        Format::Gguf => tokens.and_then(Value::as_strings).is_some(),
        _ => checkpoint.path() == Path::new(demo::ORIGIN) || is_beside(checkpoint.folder()),
    };
    bytes(skeleton, checkpoint.tensors().len(), has_tokenizer)
}

/// With what a folder holds that has a configuration and no weights.
pub(crate) fn with_folder(folder: &Path, skeleton: &Skeleton) -> Bytes {
    bytes(skeleton, 0, is_beside(folder))
}

/// With the headers of a checkpoint of some tensors.
pub(crate) fn of_headers(n_tensors: usize) -> Bytes {
    Bytes::new(PROGRAM.get() + n_tensors as u64 * TENSOR)
}

fn bytes(skeleton: &Skeleton, n_stored: usize, has_tokenizer: bool) -> Bytes {
    let n_tensors = n_stored.max(skeleton.slots.len());
    // Ids beyond the model's own are of no use to it, and not expected.
    let n_tokens = if has_tokenizer {
        skeleton.spec.vocab
    } else {
        0
    };
    Bytes::new(PROGRAM.get() + n_tensors as u64 * TENSOR + n_tokens as u64 * TOKEN)
}

/// True where a tokenizer lies in a folder.
fn is_beside(folder: &Path) -> bool {
    let files = ["tokenizer.json", "vocab.json"];
    files.iter().any(|file| folder.join(file).is_file())
}

/// Code, libraries and stacks. `llm-run generate --json` of the demo and of small fixtures has 8 to 12 MB resident
/// beside what it allocates, most of it the 13 MB of code as far as it is used; 64 threads add 0.6 MB.
const PROGRAM: Bytes = Bytes::mib(24);
/// A tensor's entry in the header, its slot, its places in the plan and in the session. Mixtures of 18,143 and 36,283
/// tensors of 64 elements take 1.8 KB for each beside what is allocated for it, 0.7 KB of that before they are loaded.
const TENSOR: u64 = 2048;
/// A token of the vocabulary, with what merges it. Of 49,152 and 196,608 tokens each takes 0.6 to 0.7 KB in byte-pair
/// tokenizers, 0.8 to 1.06 KB in unigram ones, and 0.5 KB in those of GGUF; the size of a `tokenizer.json` says less: it is
/// multiplied by 9 to 53.
const TOKEN: u64 = 1100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::KeyArgs;

    #[test]
    fn what_is_there_is_counted() {
        let config = br#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "vocab_size": 256,
            "num_hidden_layers": 2, "num_attention_heads": 4}"#;
        let (skeleton, _) = llm_runtime::read_config(config, Path::new("config.json")).unwrap();
        let n_slots = skeleton.slots.len() as u64;
        assert_eq!(n_slots, 2 * 9 + 3);
        let own = PROGRAM.get() + n_slots * TENSOR;
        let folder = tempfile::tempdir().unwrap();
        let found = || with_folder(folder.path(), &skeleton).get();
        assert_eq!(found(), own);
        std::fs::write(folder.path().join("vocab.json"), "{}").unwrap();
        assert_eq!(found(), own + 256 * TOKEN);
        // A quantized matrix is several tensors of a file.
        assert_eq!(
            bytes(&skeleton, 100, false).get(),
            PROGRAM.get() + 100 * TENSOR
        );
    }

    #[test]
    fn a_run_counts_what_its_plan_did() {
        let demo = crate::open::bind(Path::new(demo::NAME), &KeyArgs::default()).unwrap();
        let skeleton = demo.skeleton();
        let n_stored = demo.checkpoint().tensors().len();
        assert_eq!(with_model(&demo), bytes(skeleton, n_stored, true));
    }
}
