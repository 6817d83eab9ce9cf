//! Mistral: Llama with a sliding window in its first version.

use llm_tensor::Activation;

use super::block::{self, HeadDefaults, gated};
use super::{Family, llama};
use crate::ArchError;
use crate::config::{Config, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::spec::{ModelSpec, NormSpec, Positions};

pub(super) static FAMILY: Family = Family {
    model_types: &["mistral"],
    spec,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 14_336),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 32_000),
    ],
    unread: Unread {
        // All layers slide, or none, whatever this says: the reference library warns, and does not read it.
        any: &["layer_types"],
        off: &[],
    },
    naming: |_| &llama::NAMING,
    gguf: None,
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 131_072)?;
    let mut attention = block::attention(
        config,
        HeadDefaults {
            n_kv_heads: Some(8),
            ..HeadDefaults::default()
        },
    )?;
    attention.window = config.window("sliding_window", Some(4096))?;
    let rotary = rotary(config, RopeDefaults::new(attention.head_dim, context))?;
    let mlp = gated(config, "hidden_act", Activation::Silu, false)?;
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-6));
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    block::decoder_only(config, "mistral", context, stack, false)
}
