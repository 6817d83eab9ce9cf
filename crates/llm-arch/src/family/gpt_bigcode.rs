//! GPT-BigCode (SantaCoder, StarCoder): GPT-2 with one head of keys and values.

use super::{Family, Gguf, gpt2, llama, written};
use crate::ArchError;
use crate::config::{Config, Unread};
use crate::skeleton::{Matrices, Naming};
use crate::spec::{ModelSpec, Packing};

pub(super) static FAMILY: Family = Family {
    model_types: &["gpt_bigcode"],
    spec,
    core: gpt2::CORE,
    unread: Unread {
        any: &[
            // Only the order of equal operations in half precision.
            "attention_softmax_in_fp32",
            "scale_attention_softmax_in_fp32",
            // Follows from `multi_query`.
            "num_key_value_heads",
            // Of the inference code that the first models were published with.
            "inference_runner",
            "max_batch_size",
            "pad_key_length",
            "pre_allocate_kv_cache",
            "validate_runner_input",
        ],
        off: &[],
    },
    naming: |_| &Naming {
        matrices: Matrices::OutIn,
        ..gpt2::NAMING
    },
    gguf: Some(Gguf {
        architecture: "starcoder",
        keys: &[
            gpt2::GGUF_KEYS,
            &[("attention.head_count_kv", "num_key_value_heads")],
        ],
        flags: &[],
        naming: |_| &llama::GGUF_NAMING,
        adjust: |_| (),
        config: |spec| {
            if written::attention(spec)?.n_kv_heads != 1 {
                return written::none("its converter knows one head of keys only");
            }
            let mut config = gpt2::written(spec, "GPTBigCodeForCausalLM")?;
            config.insert("multi_query".to_owned(), true.into());
            Ok(config)
        },
    }),
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let is_multi_query = config.flag("multi_query", true)?;
    gpt2::like_gpt2(
        config,
        "gpt_bigcode",
        Packing::PerGroup,
        is_multi_query.then_some(1),
    )
}
