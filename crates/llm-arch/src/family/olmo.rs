//! OLMo 2 and 3 (results are normalised, not inputs) and OLMoE: queries and keys are normalised over all heads.

use llm_tensor::{Activation, Gate, Routing, Weighting};
use serde_json::{Map, Value, json};

use super::block::{self, HeadDefaults, gated};
use super::{Family, Gguf, llama, qwen, sliding, written};
use crate::config::{Config, OF_NONE};
use crate::rope_config::{self, RopeDefaults, rotary};
use crate::skeleton::{Naming, Role};
use crate::spec::{
    AttentionSpec, ExpertsSpec, MlpSpec, ModelSpec, NormSpec, Positions, Residual, StackSpec,
};
use crate::{ArchError, RotarySpec};

pub(super) static OLMO2: Family = Family {
    model_types: &["olmo2"],
    spec: olmo2,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 50_304),
    ],
    unread: OF_NONE,
    naming: |_| &NAMING,
    gguf: Some(Gguf {
        architecture: "olmo2",
        keys: &[llama::GGUF_KEYS, llama::HEAD_DIM],
        flags: &[("attn_q.bias", "attention_bias")],
        naming: |_| &llama::GGUF_NAMING,
        adjust: |_| (),
        config: |spec| written(spec, "Olmo2ForCausalLM"),
    }),
};

pub(super) static OLMO3: Family = Family {
    model_types: &["olmo3"],
    spec: olmo3,
    core: &[
        ("hidden_size", 4_096),
        ("intermediate_size", 11_008),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("vocab_size", 50_304),
    ],
    unread: OF_NONE,
    naming: |_| &NAMING,
    gguf: Some(Gguf {
        architecture: "olmo2",
        keys: &[llama::GGUF_KEYS, llama::HEAD_DIM, llama::WINDOW],
        flags: &[("attn_q.bias", "attention_bias")],
        naming: |_| &llama::GGUF_NAMING,
        adjust: |_| (),
        config: |spec| {
            let mut config = written(spec, "Olmo3ForCausalLM")?;
            written::extend(&mut config, sliding::written(spec));
            Ok(config)
        },
    }),
};

pub(super) static OLMOE: Family = Family {
    model_types: &["olmoe"],
    spec: olmoe,
    core: &[
        ("hidden_size", 2_048),
        ("intermediate_size", 2_048),
        ("num_hidden_layers", 16),
        ("num_attention_heads", 16),
        ("vocab_size", 50_304),
    ],
    unread: OF_NONE,
    naming: |_| &qwen::EXPERTS_NAMING,
    gguf: Some(Gguf {
        architecture: "olmoe",
        keys: &[
            &[
                ("expert_count", "num_experts"),
                ("expert_used_count", "num_experts_per_tok"),
            ],
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
        ],
        flags: &[("attn_q.bias", "attention_bias")],
        naming: |_| &llama::GGUF_EXPERTS_NAMING,
        adjust: |_| (),
        config: |spec| {
            let mut config = written(spec, "OlmoeForCausalLM")?;
            let Some(experts) = written::experts(spec) else {
                return written::none("its layers have no experts");
            };
            let more = json!({
                "num_experts": experts.routing.n_experts,
                "num_experts_per_tok": experts.routing.n_active,
                "norm_topk_prob": experts.routing.weighting == Weighting::Normalised,
            });
            written::extend(&mut config, more);
            Ok(config)
        },
    }),
};

const NAMING: Naming = Naming {
    names: &[
        &[
            (Role::PostAttnNorm, "post_attention_layernorm"),
            (Role::PostMlpNorm, "post_feedforward_layernorm"),
        ],
        llama::NAMES,
    ],
    ..llama::NAMING
};

fn written(spec: &ModelSpec, architecture: &str) -> Result<Map<String, Value>, ArchError> {
    let mut config = written::like_llama(spec, architecture)?;
    let bias = written::attention(spec)?.qkv_bias;
    config.insert("attention_bias".to_owned(), bias.into());
    written::add_rope(&mut config, spec)?;
    Ok(config)
}

fn olmo2(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 2048)?;
    let attention = attention(config)?;
    let rotary = rotary(config, RopeDefaults::new(attention.head_dim, context))?;
    let stack = normed_results(config, attention, vec![rotary])?;
    block::decoder_only(config, "olmo2", context, stack, false)
}

fn olmo3(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 2048)?;
    let attention = attention(config)?;
    let defaults = RopeDefaults {
        base: 500_000.0,
        ..RopeDefaults::new(attention.head_dim, context)
    };
    let rotaries = full_and_sliding(config, defaults)?;
    let mut stack = normed_results(config, attention, rotaries.into())?;
    let slides = config.sliding(stack.n_layers(), |i| !(i + 1).is_multiple_of(4))?;
    block::slide(
        &mut stack,
        &slides,
        config.window("sliding_window", Some(4096))?,
    );
    for (attention, slides) in stack.attentions_mut().zip(&slides) {
        attention.rotary_idx = Some(usize::from(*slides));
    }
    block::decoder_only(config, "olmo3", context, stack, false)
}

fn olmoe(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 4096)?;
    let attention = attention(config)?;
    let rotary = rotary(config, RopeDefaults::new(attention.head_dim, context))?;
    let n_experts = config
        .opt_count(config.spelling(&["num_local_experts", "num_experts"])?)?
        .unwrap_or(64);
    let experts = MlpSpec::Experts(ExpertsSpec::plain(
        Routing {
            weighting: block::weighting(config, "norm_topk_prob", false)?,
            ..Routing::softmax(n_experts, config.n_active(n_experts, 8)?)
        },
        config.count("intermediate_size")?,
        Gate::Of(config.activation("hidden_act", Activation::Silu)?),
    ));
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, experts);
    let stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm(config)?);
    block::decoder_only(config, "olmoe", context, stack, false)
}

/// The rotary positions of layers that see all, and of those that slide, which no `rope_scaling` beside them is for.
/// A `rope_theta` there is for both: the models were trained with one.
fn full_and_sliding(
    config: &Config<'_>,
    defaults: RopeDefaults,
) -> Result<[RotarySpec; 2], ArchError> {
    if let Some(by_type) = rope_config::by_type(config, [defaults; 2])? {
        return Ok(by_type);
    }
    let full = rotary(config, defaults)?;
    let sliding = RotarySpec {
        scaling: crate::RopeScaling::None,
        ..full.clone()
    };
    Ok([full, sliding])
}

fn attention(config: &Config<'_>) -> Result<AttentionSpec, ArchError> {
    let bias = config.flag("attention_bias", false)?;
    Ok(AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        qk_norm: norm(config)?.of_all_heads(),
        ..block::attention(config, HeadDefaults::default())?
    })
}

fn norm(config: &Config<'_>) -> Result<NormSpec, ArchError> {
    let eps = config.opt_positive("rms_norm_eps")?;
    Ok(NormSpec::rms(eps.unwrap_or(1e-5)))
}

fn normed_results(
    config: &Config<'_>,
    attention: AttentionSpec,
    rotaries: Vec<RotarySpec>,
) -> Result<StackSpec, ArchError> {
    let mlp = gated(config, "hidden_act", Activation::Silu, false)?;
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let mut stack = block::sequential(layers, Positions::Rotary(rotaries), norm(config)?);
    stack.residual = Residual::Results;
    Ok(stack)
}
