//! Phi-3 and Phi-3.5 mini and medium, Phi-4 (Llama's block with fused projections).

use llm_tensor::Activation;
use serde_json::json;

use super::block::{self, HeadDefaults};
use super::{Family, Gguf, llama, written};
use crate::config::{Config, OF_NONE};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Naming, Role};
use crate::spec::{
    AttentionSpec, DenseMlp, Gating, MlpSpec, ModelSpec, NonLinearity, NormSpec, Packing, Positions,
};
use crate::{ArchError, RopeScaling};

pub(super) static FAMILY: Family = Family {
    model_types: &["phi3"],
    spec,
    core: &[
        ("hidden_size", 3_072),
        ("intermediate_size", 8_192),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 32_064),
    ],
    unread: OF_NONE,
    naming: |_| &Naming {
        names: &[&[
            (Role::TokenTable, "model.embed_tokens"),
            (Role::AttnNorm, "input_layernorm"),
            (Role::Qkv, "self_attn.qkv_proj"),
            (Role::Out, "self_attn.o_proj"),
            (Role::MlpNorm, "post_attention_layernorm"),
            (Role::GateUp, "mlp.gate_up_proj"),
            (Role::Down, "mlp.down_proj"),
            (Role::FinalNorm, "model.norm"),
            (Role::Head, "lm_head"),
        ]],
        layer: "model.layers.{i}.",
        base_prefix: "model.",
        ..Naming::PLAIN
    },
    gguf: Some(Gguf {
        architecture: "phi3",
        keys: &[
            llama::GGUF_KEYS,
            llama::WINDOW,
            &[(
                "rope.scaling.original_context_length",
                "original_max_position_embeddings",
            )],
        ],
        flags: &[],
        naming: |_| &llama::GGUF_NAMING,
        adjust: |_| (),
        config: |spec| {
            let mut config = written::like_llama(spec, "Phi3ForCausalLM")?;
            let rotary = written::rotary(spec)?;
            let original = match &rotary.scaling {
                RopeScaling::LongRope {
                    original_context, ..
                } => *original_context,
                _ => spec.context,
            };
            let window = written::attention(spec)?.window;
            let more = json!({
                "original_max_position_embeddings": original,
                "partial_rotary_factor": written::rotary_fraction(spec)?,
                "rope_theta": rotary.base,
                "sliding_window": window,
            });
            written::extend(&mut config, more);
            written::add_scaling(&mut config, rotary)?;
            Ok(config)
        },
    }),
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 4096)?;
    // Read with a longer rope; it says nothing without one.
    config.opt_count("original_max_position_embeddings")?;
    only_longrope(config)?;
    config.only("attention_bias", false)?;
    let attention = AttentionSpec {
        packing: Packing::Stacked,
        window: config.window("sliding_window", None)?,
        ..block::attention(config, HeadDefaults::default())?
    };
    let defaults = RopeDefaults {
        fraction: Some(1.0),
        ..RopeDefaults::new(attention.head_dim, context)
    };
    let rotary = rotary(config, defaults)?;
    let mlp = MlpSpec::Dense(DenseMlp {
        width: config.count("intermediate_size")?,
        activation: NonLinearity::Of(config.activation("hidden_act", Activation::Silu)?),
        gating: Gating::Fused,
        scales: None,
        cut_off: None,
        bias: false,
    });
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-5));
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    block::decoder_only(config, "phi3", context, stack, false)
}

/// The family knows one way to a longer context.
fn only_longrope(config: &Config<'_>) -> Result<(), ArchError> {
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(rope) = config.object(key)? else {
            continue;
        };
        for key in ["rope_type", "type"] {
            match rope.text(key)? {
                None | Some("default" | "longrope" | "su") => {}
                // GGUF's word for what one tensor holds.
                Some("none") => {}
                Some(_) => return rope.bad_value(key, "longrope, su or default"),
            }
        }
    }
    Ok(())
}
