//! GPT-BigCode (SantaCoder, StarCoder): GPT-2 with one head of keys and values.

use super::{Family, gpt2};
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
    gguf: None,
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
