//! Mistral: Llama with a sliding window in its first version.

use llm_tensor::Activation;

use super::block::{self, gated};
use super::{Family, llama};
use crate::ArchError;
use crate::config::Config;
use crate::rope_config::{RopeDefaults, rotary};
use crate::spec::{ModelSpec, NormSpec, Positions};

pub(super) static FAMILY: Family = Family {
    model_types: &["mistral"],
    spec,
    harmless_keys: &["attention_dropout"],
    naming: |_| &llama::NAMING,
    gguf: None,
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = config
        .opt_count("max_position_embeddings")?
        .unwrap_or(131_072);
    let attention = block::attention(config, None)?;
    let rotary = rotary(config, RopeDefaults::new(attention.head_dim, context))?;
    let mlp = gated(config, "hidden_act", Activation::Silu, false)?;
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-6));
    let mut layers = block::like_layers(config.n_layers("num_hidden_layers")?, &attention, mlp);
    let window = config.window("sliding_window", Some(4096))?;
    let slides = config.sliding(layers.len(), |_| true)?;
    block::slide(&mut layers, &slides, window);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm, attention);
    block::decoder_only(config, "mistral", context, stack, false)
}
