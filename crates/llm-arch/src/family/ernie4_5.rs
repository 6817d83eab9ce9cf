//! ERNIE 4.5, dense and with experts: Llama with neighbours of a head turned as pairs.

use llm_tensor::{Activation, Gate, Pairing, Routing, Scoring, Weighting};
use serde_json::json;

use super::block::{self, HeadDefaults, gated};
use super::{Family, Gguf, glm4_moe, llama, qwen, written};
use crate::ArchError;
use crate::config::{Config, OF_NONE, Off, Unread};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Naming, Role, Stored};
use crate::spec::{
    AttentionSpec, DenseMlp, ExpertsSpec, Gating, Join, LayerSpec, MlpSpec, ModelSpec, NormSpec,
    Positions, SharedSpec,
};

pub(super) static ERNIE4_5: Family = Family {
    model_types: &["ernie4_5"],
    spec: dense,
    core: &[
        ("hidden_size", 1_024),
        ("intermediate_size", 3_072),
        ("num_hidden_layers", 18),
        ("num_attention_heads", 16),
        ("vocab_size", 103_424),
    ],
    unread: OF_NONE,
    naming: |_| &llama::NAMING,
    gguf: Some(Gguf {
        architecture: "ernie4_5",
        keys: &[llama::GGUF_KEYS, llama::HEAD_DIM],
        flags: &[("attn_q.bias", "use_bias")],
        naming: |_| &llama::GGUF_NAMING,
        adjust: |_| (),
        config: |spec| {
            let mut config = written::like_llama(spec, "Ernie4_5ForCausalLM")?;
            let bias = written::attention(spec)?.qkv_bias;
            config.insert("use_bias".to_owned(), bias.into());
            written::add_rope(&mut config, spec)?;
            Ok(config)
        },
    }),
};

pub(super) static ERNIE4_5_MOE: Family = Family {
    model_types: &["ernie4_5_moe"],
    spec: with_experts,
    core: &[
        ("hidden_size", 2_560),
        ("intermediate_size", 12_288),
        ("num_hidden_layers", 28),
        ("num_attention_heads", 20),
        ("vocab_size", 103_424),
    ],
    unread: Unread {
        // Training; layers that guess tokens, which have names of their own; and what a GGUF says of shared experts' width,
        // where the converter divides by the heads of keys (conversion/ernie.py of llama.cpp).
        any: &[
            "expert_shared_feed_forward_length",
            "moe_capacity",
            "multi_token_pred_lambda",
            "num_nextn_predict_layers",
        ],
        off: &[
            ("moe_gate", Off::Word("topk")),
            ("moe_use_aux_free", Off::True),
        ],
    },
    naming: |_| &Naming {
        names: &[
            &[(
                Role::RouterCorrection,
                "mlp.moe_statics.e_score_correction_bias",
            )],
            glm4_moe::SHARED_NAMES,
            qwen::EXPERTS_NAMES,
            llama::NAMES,
        ],
        bare: &[Role::RouterCorrection],
        corrections: Stored::Row,
        ..qwen::EXPERTS_NAMING
    },
    gguf: Some(Gguf {
        architecture: "ernie4_5-moe",
        keys: &[
            &[
                ("interleave_moe_layer_step", "moe_layer_interval"),
                ("leading_dense_block_count", "moe_layer_start_index"),
                ("expert_count", "moe_num_experts"),
                ("expert_used_count", "moe_k"),
                ("expert_shared_count", "moe_num_shared_experts"),
                ("expert_feed_forward_length", "moe_intermediate_size"),
            ],
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
        ],
        flags: &[("attn_q.bias", "use_bias")],
        naming: |_| &llama::GGUF_EXPERTS_NAMING,
        adjust: |_| (),
        config: |spec| {
            let experts = written::some_experts(spec)?;
            let has_experts = |layer: &LayerSpec| layer.mlp.experts().is_some();
            let mut layers = spec.decoder.layers.iter();
            let first = layers.position(has_experts).unwrap_or_default();
            let every = 1 + layers.position(has_experts).unwrap_or_default();
            let mut config = written::like_llama(spec, "Ernie4_5_MoeForCausalLM")?;
            let more = json!({
                "use_bias": written::attention(spec)?.qkv_bias,
                "moe_layer_start_index": first,
                "moe_layer_interval": every,
                "moe_num_experts": experts.routing.n_experts,
                "moe_k": experts.routing.n_active,
                "moe_intermediate_size": experts.width,
                "moe_num_shared_experts": written::n_shared(&experts)?,
            });
            written::extend(&mut config, more);
            written::add_rope(&mut config, spec)?;
            Ok(config)
        },
    }),
};

fn dense(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let bias = config.flag("use_bias", false)?;
    let mlp = gated(config, "hidden_act", Activation::Silu, bias)?;
    let heads = HeadDefaults {
        head_dim: (!config.mentions("head_dim")).then_some(128),
        n_kv_heads: Some(2),
    };
    model(config, "ernie4_5", heads, |_| mlp)
}

fn with_experts(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let bias = config.flag("use_bias", false)?;
    let n_experts = config
        .opt_count(config.spelling(&["num_experts", "moe_num_experts"])?)?
        .unwrap_or(64);
    let key = config.spelling(&["num_experts_per_tok", "moe_k"])?;
    let n_active = config.opt_count(key)?.unwrap_or(6);
    if n_active > n_experts {
        return config.bad_value(key, &format!("a number up to the {n_experts} experts"));
    }
    block::check_scoring(config, Scoring::Softmax)?;
    // Sums of weights are larger in any case.
    let least = config.opt_positive("moe_norm_min")?.unwrap_or(1e-12);
    if least > 1e-6 {
        return config.bad_value("moe_norm_min", "1e-6 or less");
    }
    let activation = config.activation("hidden_act", Activation::Silu)?;
    let width = config.opt_count("moe_intermediate_size")?.unwrap_or(1_536);
    let n_shared = config.whole("moe_num_shared_experts")?.unwrap_or(2);
    let shared = SharedSpec {
        mlp: DenseMlp {
            width: n_shared * width,
            activation: activation.into(),
            gating: Gating::Separate,
            scales: None,
            cut_off: None,
            bias,
        },
        join: Join::Plain,
    };
    let experts = MlpSpec::Experts(ExpertsSpec {
        correction: true,
        shared: (n_shared > 0).then_some(shared),
        ..ExpertsSpec::plain(
            Routing {
                weighting: Weighting::Normalised,
                ..Routing::softmax(n_experts, n_active)
            },
            width,
            Gate::Of(activation),
        )
    });
    let dense = gated(config, "hidden_act", Activation::Silu, bias)?;
    let n_layers = config.n_layers("num_hidden_layers")?;
    let first = config.whole("moe_layer_start_index")?.unwrap_or(1);
    let last = last_with_experts(config)?.unwrap_or(n_layers - 1);
    let every = config.opt_count("moe_layer_interval")?.unwrap_or(1);
    let heads = HeadDefaults {
        head_dim: None,
        n_kv_heads: Some(4),
    };
    let mut spec = model(config, "ernie4_5_moe", heads, |i| {
        let has_experts = (first..=last).contains(&i) && (i + 1).is_multiple_of(every);
        if has_experts { experts } else { dense }
    })?;
    // Other than the dense model's.
    spec.head.bias = bias;
    Ok(spec)
}

/// The last layer that may have experts; none where it is the last of all.
fn last_with_experts(config: &Config<'_>) -> Result<Option<usize>, ArchError> {
    match config.is_minus_one("moe_layer_end_index") {
        true => Ok(None),
        false => config.whole("moe_layer_end_index"),
    }
}

fn model(
    config: &Config<'_>,
    family: &'static str,
    heads: HeadDefaults,
    mlp: impl Fn(usize) -> MlpSpec,
) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 131_072)?;
    let bias = config.flag("use_bias", false)?;
    let attention = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        ..block::attention(config, heads)?
    };
    let defaults = RopeDefaults {
        base: 500_000.0,
        pairing: Pairing::Adjacent,
        ..RopeDefaults::new(attention.head_dim, context)
    };
    let rotary = rotary(config, defaults)?;
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-5));
    let layers = 0..config.n_layers("num_hidden_layers")?;
    let layers = layers.map(|i| block::attending(attention, mlp(i)));
    let stack = block::sequential(layers.collect(), Positions::Rotary(vec![rotary]), norm);
    block::decoder_only(config, family, context, stack, true)
}
