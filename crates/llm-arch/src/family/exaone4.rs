//! EXAONE 4: results are normalised, not inputs, and layers that see all positions know of none where others slide.

use llm_tensor::Activation;

use super::block::{self, HeadDefaults, gated};
use super::{Family, Gguf, llama, sliding, written};
use crate::ArchError;
use crate::config::{Config, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Naming, Role};
use crate::spec::{AttentionSpec, ModelSpec, NormSpec, Positions, Residual};

pub(super) static FAMILY: Family = Family {
    model_types: &["exaone4"],
    spec,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 16_384),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 102_400),
    ],
    unread: Unread {
        // Beside a list of the kinds of layers.
        any: &["sliding_window_pattern"],
        off: &[],
    },
    naming: |_| &Naming {
        names: &[
            &[
                (Role::PostAttnNorm, "post_attention_layernorm"),
                (Role::PostMlpNorm, "post_feedforward_layernorm"),
            ],
            llama::NAMES,
        ],
        ..llama::NAMING
    },
    gguf: Some(Gguf {
        architecture: "exaone4",
        keys: &[llama::GGUF_KEYS, llama::HEAD_DIM, llama::WINDOW],
        flags: &[],
        naming: |_| &llama::GGUF_NAMING,
        adjust: |_| (),
        config: |spec| {
            let mut config = written::like_llama(spec, "Exaone4ForCausalLM")?;
            written::extend(&mut config, sliding::written(spec));
            written::add_rope(&mut config, spec)?;
            Ok(config)
        },
    }),
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 2048)?;
    let eps = config.opt_positive("rms_norm_eps")?.unwrap_or(1e-5);
    let norm = NormSpec::rms(eps);
    let heads = HeadDefaults {
        n_kv_heads: Some(32),
        ..HeadDefaults::default()
    };
    let attention = AttentionSpec {
        qk_norm: norm.of_heads(),
        ..block::attention(config, heads)?
    };
    let rotary = rotary(config, RopeDefaults::new(attention.head_dim, context))?;
    let mlp = gated(config, "hidden_act", Activation::Silu, false)?;
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let mut stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    stack.residual = Residual::Results;
    let window = config.window("sliding_window", Some(4096))?;
    let pattern = match config.has("layer_types") || window.is_none() {
        true => None,
        false => Some(config.opt_count("sliding_window_pattern")?.unwrap_or(4)),
    };
    let slides = config.sliding(stack.n_layers(), |i| {
        pattern.is_some_and(|pattern| !(i + 1).is_multiple_of(pattern))
    })?;
    block::slide(&mut stack, &slides, window);
    for attention in stack.attentions_mut() {
        attention.rotary_idx = (window.is_none() || attention.window.is_some()).then_some(0);
    }
    block::decoder_only(config, "exaone4", context, stack, false)
}
