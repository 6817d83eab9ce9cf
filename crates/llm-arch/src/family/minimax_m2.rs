//! MiniMax-M2: Mixtral with experts chosen by corrected sigmoids, queries and keys normalised as a whole, half of each head turned.

use llm_tensor::{Activation, Gate, Routing, Scoring};
use serde_json::json;

use super::block::{self, HeadDefaults};
use super::{Family, Gguf, llama, mixtral, written};
use crate::ArchError;
use crate::config::{Config, Off, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Naming, Role};
use crate::spec::{AttentionSpec, ExpertsSpec, MlpSpec, ModelSpec, NormSpec, Positions};

pub(super) static FAMILY: Family = Family {
    model_types: &["minimax_m2"],
    spec,
    core: &[
        ("hidden_size", 3_072),
        ("intermediate_size", 1_536),
        ("num_hidden_layers", 62),
        ("num_attention_heads", 48),
        ("vocab_size", 200_064),
    ],
    unread: Unread {
        // Of the models before it, which had linear attention and dense layers; and of layers that guess tokens.
        any: &[
            "mlp_intermediate_size",
            "mtp_transformer_layers",
            "num_mtp_modules",
            "shared_moe_mode",
            "use_mtp",
        ],
        off: &[
            ("layernorm_full_attention_beta", Off::One),
            ("layernorm_linear_attention_beta", Off::One),
            ("layernorm_mlp_beta", Off::One),
            ("qk_norm_type", Off::Word("per_layer")),
            ("scoring_func", Off::Word("sigmoid")),
            ("shared_intermediate_size", Off::Zero),
            ("use_qk_norm", Off::True),
            ("use_routing_bias", Off::True),
        ],
    },
    naming: |_| &Naming {
        names: &[
            &[(
                Role::RouterCorrection,
                "block_sparse_moe.e_score_correction_bias",
            )],
            mixtral::NAMES,
            llama::NAMES,
        ],
        bare: &[Role::RouterCorrection],
        ..mixtral::NAMING
    },
    gguf: Some(Gguf {
        architecture: "minimax-m2",
        keys: &[
            &[
                ("expert_count", "num_local_experts"),
                ("expert_used_count", "num_experts_per_tok"),
                ("expert_feed_forward_length", "intermediate_size"),
            ],
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
        ],
        flags: &[],
        naming: |_| &llama::GGUF_EXPERTS_NAMING,
        adjust: |_| (),
        config: |spec| {
            let experts = written::some_experts(spec)?;
            let mut config = written::like_llama(spec, "MiniMaxM2ForCausalLM")?;
            written::add_partial_rope(&mut config, spec)?;
            let more = json!({
                "num_local_experts": experts.routing.n_experts,
                "num_experts_per_tok": experts.routing.n_active,
            });
            written::extend(&mut config, more);
            Ok(config)
        },
    }),
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 196_608)?;
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-6));
    let heads = HeadDefaults {
        head_dim: Some(128),
        n_kv_heads: Some(8),
    };
    let attention = AttentionSpec {
        qk_norm: norm.of_all_heads(),
        ..block::attention(config, heads)?
    };
    let n_layers = config.n_layers("num_hidden_layers")?;
    let attends = config.bits("attn_type_list", n_layers)?;
    if attends.is_some_and(|attends| attends.contains(&false)) {
        return config.bad_value("attn_type_list", "a list of 1: layers that attend");
    }
    // As published files say it; the newer key counts where both are there.
    let turned = config.opt_count("rotary_dim")?;
    let fraction = turned.map_or(1.0, |dim| dim as f64 / attention.head_dim as f64);
    let defaults = RopeDefaults {
        base: 5e6,
        fraction: Some(fraction),
        ..RopeDefaults::new(attention.head_dim, context)
    };
    let rotary = rotary(config, defaults)?;
    block::check_scoring(config, Scoring::Sigmoid)?;
    let n_experts = config
        .opt_count(config.spelling(&["num_experts", "num_local_experts"])?)?
        .unwrap_or(256);
    let experts = MlpSpec::Experts(ExpertsSpec {
        correction: true,
        ..ExpertsSpec::plain(
            Routing::sigmoid(n_experts, config.n_active(n_experts, 8)?),
            config.count("intermediate_size")?,
            Gate::Of(config.activation("hidden_act", Activation::Silu)?),
        )
    });
    let layers = block::like_layers(n_layers, attention, experts);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    block::decoder_only(config, "minimax_m2", context, stack, false)
}
