//! Gemma 4 (text): layers that see all have heads of another size and number, whose keys may be their values too, and each layer
//! multiplies its result. The small ones (E2B, E4B) have inputs of each layer, and last layers that see the keys of earlier ones.

use llm_tensor::{Activation, Gate, Routing, Weighting};
use serde_json::{Map, Value, json};

use super::block::{self, HeadDefaults};
use super::{Family, Gguf, gemma, llama, sliding, written};
use crate::ArchError;
use crate::config::{Config, OF_NONE, Unread};
use crate::rope_config::{self, RopeDefaults};
use crate::skeleton::{Elsewhere, Names, Naming, Role, StackRows};
use crate::spec::{
    AttentionSpec, DenseMlp, ExpertsSpec, Gating, Join, MlpSpec, ModelSpec, NormSpec, Packing,
    PerLayerSpec, Positions, Residual, SharedSpec,
};
use crate::{RopeScaling, RotarySpec};

pub(super) static FAMILY: Family = Family {
    model_types: &["gemma4_text"],
    spec,
    core: &[
        ("hidden_size", 2_304),
        ("intermediate_size", 9_216),
        ("num_hidden_layers", 30),
        ("num_attention_heads", 8),
        ("vocab_size", 262_144),
    ],
    unread: Unread {
        any: &[
            // They say something of experts, and of inputs of layers, where there are such.
            "moe_intermediate_size",
            "num_experts",
            "top_k_experts",
            "vocab_size_per_layer_input",
        ],
        off: &[],
    },
    naming: |_| &Naming {
        names: &[NAMES, PER_LAYER_NAMES, gemma::SANDWICH_NAMES, llama::NAMES],
        bare: &[Role::LayerScale, Role::RouterNorm, Role::RouterScales],
        // Of layers that see others' keys; nobody reads them.
        harmless: &[
            "layers.{i}.self_attn.k_norm.weight",
            "layers.{i}.self_attn.k_proj.weight",
            "layers.{i}.self_attn.v_proj.weight",
        ],
        elsewhere: &[
            (
                Role::Gate,
                Elsewhere::Stack(STACKED_GATE_UP, StackRows::First),
            ),
            (
                Role::Up,
                Elsewhere::Stack(STACKED_GATE_UP, StackRows::Second),
            ),
            (Role::Down, Elsewhere::Stack(STACKED_DOWN, StackRows::All)),
        ],
        ..gemma::SANDWICH_NAMING
    },
    gguf: Some(Gguf {
        architecture: "gemma4",
        keys: &[
            &[
                ("attention.shared_kv_layers", "num_kv_shared_layers"),
                ("embedding_length_per_layer_input", INPUTS_OF_LAYERS),
                ("expert_count", "num_experts"),
                ("expert_used_count", "top_k_experts"),
                ("expert_feed_forward_length", "moe_intermediate_size"),
                ("final_logit_softcapping", "final_logit_softcapping"),
            ],
            llama::GGUF_KEYS,
            llama::HEAD_DIM,
            llama::WINDOW,
        ],
        flags: &[("ffn_gate_inp.weight", "enable_moe_block")],
        naming: |spec| match written::experts(spec) {
            Some(_) => &GGUF_EXPERTS_NAMING,
            None => &GGUF_NAMING,
        },
        adjust: table_of_all_tokens,
        config: written,
    }),
};

const NAMES: Names = &[
    (Role::LayerScale, "layer_scalar"),
    (Role::Router, "router.proj"),
    (Role::RouterNorm, "router.scale"),
    (Role::RouterScales, "router.per_expert_scale"),
    (Role::ExpertsNorm, "pre_feedforward_layernorm_2"),
    (Role::PostExpertsNorm, "post_feedforward_layernorm_2"),
    (Role::PostSharedNorm, "post_feedforward_layernorm_1"),
    (Role::SharedGate, "mlp.gate_proj"),
    (Role::SharedUp, "mlp.up_proj"),
    (Role::SharedDown, "mlp.down_proj"),
    (Role::Gate, "experts.{e}.gate_proj"),
    (Role::Up, "experts.{e}.up_proj"),
    (Role::Down, "experts.{e}.down_proj"),
];

/// Of the inputs of layers.
pub(super) const PER_LAYER_NAMES: Names = &[
    (Role::PerLayerTable, "model.embed_tokens_per_layer"),
    (Role::PerLayerModel, "model.per_layer_model_projection"),
    (Role::PerLayerNorm, "model.per_layer_projection_norm"),
    (Role::PerLayerGate, "per_layer_input_gate"),
    (Role::PerLayerOut, "per_layer_projection"),
    (Role::PostPerLayerNorm, "post_per_layer_input_norm"),
];

const STACKED_GATE_UP: &str = "model.layers.{i}.experts.gate_up_proj";
const STACKED_DOWN: &str = "model.layers.{i}.experts.down_proj";

/// Names of the inputs of layers in a GGUF.
pub(super) const GGUF_PER_LAYER_NAMES: Names = &[
    (Role::PerLayerTable, "per_layer_token_embd"),
    (Role::PerLayerModel, "per_layer_model_proj"),
    (Role::PerLayerNorm, "per_layer_proj_norm"),
    (Role::PerLayerGate, "inp_gate"),
    (Role::PerLayerOut, "proj"),
    (Role::PostPerLayerNorm, "post_norm"),
];

const GGUF_NAMES: Names = &[(Role::LayerScale, "layer_output_scale")];

/// Tensors of layers that see others' keys in a GGUF, where the converter found them; nobody reads them.
pub(super) const GGUF_UNSEEN: &[&str] = &[
    "blk.{i}.attn_k.weight",
    "blk.{i}.attn_k_norm.weight",
    "blk.{i}.attn_v.weight",
];

const GGUF_NAMING: Naming = Naming {
    names: &[GGUF_NAMES, GGUF_PER_LAYER_NAMES, llama::GGUF_NAMES],
    harmless: GGUF_UNSEEN,
    ..llama::GGUF_NAMING
};

const GGUF_EXPERTS_NAMING: Naming = Naming {
    names: &[
        &[
            (Role::RouterNorm, "ffn_gate_inp.scale"),
            (Role::RouterScales, "ffn_down_exps.scale"),
            (Role::ExpertsNorm, "pre_ffw_norm_2"),
            (Role::PostExpertsNorm, "post_ffw_norm_2"),
            (Role::PostSharedNorm, "post_ffw_norm_1"),
            (Role::SharedGate, "ffn_gate"),
            (Role::SharedUp, "ffn_up"),
            (Role::SharedDown, "ffn_down"),
        ],
        GGUF_NAMES,
        GGUF_PER_LAYER_NAMES,
        llama::GGUF_EXPERTS_NAMES,
        llama::GGUF_NAMES,
    ],
    bare: &[Role::RouterNorm, Role::RouterScales],
    ..llama::GGUF_EXPERTS_NAMING
};

/// Has the table of layers' inputs know all tokens: a GGUF does not say how many it knows.
pub(super) fn table_of_all_tokens(spec: &mut ModelSpec) {
    let vocab = spec.vocab;
    let per_layer = spec.embedding.per_layer.as_mut();
    per_layer.into_iter().for_each(|of| of.vocab = vocab);
}

/// The configuration of a GGUF's model.
fn written(spec: &ModelSpec) -> Result<Map<String, Value>, ArchError> {
    let attentions = || spec.decoder.attentions();
    let of_kind = |slides: bool| attentions().find(|own| own.window.is_some() == slides);
    let Some(full) = of_kind(false) else {
        return written::none("none of its layers sees all");
    };
    let sliding = of_kind(true).unwrap_or(full);
    let [full_rotary, sliding_rotary] = spec.decoder.positions.rotary() else {
        return written::none("it has not two kinds of positions");
    };
    let RopeScaling::Proportional { n_pairs, factor } = full_rotary.scaling else {
        return written::none("its layers that see all do not turn a part of each head");
    };
    if written::experts(spec).is_some() {
        return written::none("all experts of a layer lie in one tensor there");
    }
    let mlp = written::mlp(spec)?;
    let widths = spec.decoder.layers.iter().map(|layer| match layer.mlp {
        MlpSpec::Dense(mlp) => Some(mlp.width),
        MlpSpec::Experts(_) | MlpSpec::Absent => None,
    });
    let is_wide = widths.flatten().any(|width| width != mlp.width);
    let n_shared = attentions().filter(|own| own.keys_of.is_some()).count();
    let per_layer = spec.embedding.per_layer;
    let mut config = written::config(spec, "Gemma4ForCausalLM");
    written::extend(&mut config, sliding::written(spec));
    let more = json!({
        "hidden_size": spec.hidden,
        "intermediate_size": mlp.width,
        "num_hidden_layers": spec.decoder.n_layers(),
        "num_attention_heads": full.n_heads,
        "num_key_value_heads": sliding.n_kv_heads,
        "num_global_key_value_heads": full.n_kv_heads,
        "head_dim": sliding.head_dim,
        "global_head_dim": full.head_dim,
        "attention_k_eq_v": full.packing == Packing::KeysAreValues,
        "hidden_activation": written::name(written::activation(&mlp)?),
        "max_position_embeddings": spec.context,
        "rms_norm_eps": written::shortest(spec.decoder.norm.eps),
        "final_logit_softcapping": spec.head.soft_cap.map(written::shortest),
        INPUTS_OF_LAYERS: per_layer.map_or(0, |of| of.width),
        "vocab_size_per_layer_input": per_layer.map_or(spec.vocab, |of| of.vocab),
        "num_kv_shared_layers": n_shared,
        "use_double_wide_mlp": is_wide,
        "rope_parameters": {
            "full_attention": {
                "rope_type": "proportional",
                "rope_theta": full_rotary.base,
                "partial_rotary_factor": 2.0 * n_pairs as f64 / full.head_dim as f64,
                "factor": factor,
            },
            "sliding_attention": {"rope_type": "default", "rope_theta": sliding_rotary.base},
        },
    });
    written::extend(&mut config, more);
    Ok(config)
}

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    match config.text("use_bidirectional_attention")? {
        // Pictures alone see what follows them.
        None | Some("vision") => {}
        Some(_) => return config.bad_value("use_bidirectional_attention", "null or vision"),
    }
    let context = block::context(config, 131_072)?;
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-6));
    let slides = slides(config)?;
    let [full, sliding] = attentions(config, &slides, norm)?;
    let borrows = keys_of(config, &slides, 0)?;
    // Of layers that see others' keys twice as wide, where it is said.
    let widens = config.flag("use_double_wide_mlp", false)?;
    let [own, wide] = [1, 2].map(|times| mlp(config, times));
    let (own, wide) = (own?, wide?);
    let layers = slides.iter().zip(&borrows).map(|(slides, keys_of)| {
        let mut attention = if *slides { sliding } else { full };
        if keys_of.is_some() {
            attention.keys_of = *keys_of;
            attention.packing = Packing::Separate;
        }
        let mlp = if widens && keys_of.is_some() {
            wide
        } else {
            own
        };
        block::attending(attention, mlp)
    });
    let dims = [full.head_dim, sliding.head_dim];
    let rotaries = rotaries(config, dims.map(|dim| RopeDefaults::new(dim, context)))?;
    let positions = Positions::Rotary(rotaries.into());
    let mut stack = block::sequential(layers.collect(), positions, norm);
    stack.residual = Residual::Sandwich;
    stack.scaled_layers = true;
    let mut spec = block::decoder_only(config, "gemma4_text", context, stack, true)?;
    spec.embedding.scale = (spec.hidden as f32).sqrt();
    spec.embedding.per_layer = per_layer(config, spec.vocab)?;
    spec.head.soft_cap = config.cap("final_logit_softcapping", None)?;
    Ok(spec)
}

/// Inputs of layers, if it has such.
fn per_layer(config: &Config<'_>, vocab: usize) -> Result<Option<PerLayerSpec>, ArchError> {
    let width = match config.whole(INPUTS_OF_LAYERS)? {
        Some(0) => return Ok(None),
        Some(_) => config.count(INPUTS_OF_LAYERS)?,
        None => 256,
    };
    const VOCAB: &str = "vocab_size_per_layer_input";
    let own = config.opt_count(VOCAB)?.unwrap_or(262_144);
    if own < vocab {
        return config.bad_value(VOCAB, &format!("a row for each of the {vocab} tokens"));
    }
    Ok(Some(PerLayerSpec {
        vocab: own,
        width,
        activation: config.activation("hidden_activation", Activation::GeluTanh)?,
    }))
}

/// For each layer the one whose keys and values it sees in place of its own: the last of its kind that has some. So do the last
/// `default` layers where the configuration does not say how many.
pub(super) fn keys_of(
    config: &Config<'_>,
    slides: &[bool],
    default: usize,
) -> Result<Vec<Option<usize>>, ArchError> {
    const SHARED: &str = "num_kv_shared_layers";
    let n_shared = match config.whole(SHARED)? {
        None if default > 0 => default,
        None | Some(0) => return Ok(vec![None; slides.len()]),
        Some(_) => config.count(SHARED)?,
    };
    let own = slides.len().saturating_sub(n_shared);
    let last_of_kind = |slides_too: bool| slides[..own].iter().rposition(|of| *of == slides_too);
    let mut keys_of = vec![None; own];
    for &slides in &slides[own..] {
        let Some(last) = last_of_kind(slides) else {
            let expected = "fewer: a layer of each kind before those that see the keys of another";
            return config.bad_value(SHARED, expected);
        };
        keys_of.push(Some(last));
    }
    Ok(keys_of)
}

/// The feed-forward for all tokens, some times as wide, with experts beside it where there are some.
fn mlp(config: &Config<'_>, times: usize) -> Result<MlpSpec, ArchError> {
    let activation = config.activation("hidden_activation", Activation::GeluTanh)?;
    let shared = DenseMlp {
        width: times * config.count("intermediate_size")?,
        activation: activation.into(),
        gating: Gating::Separate,
        bias: false,
        scales: None,
        cut_off: None,
    };
    if !config.flag("enable_moe_block", false)? {
        return Ok(MlpSpec::Dense(shared));
    }
    let n_experts = config.count("num_experts")?;
    let n_active = config.count("top_k_experts")?;
    if n_active > n_experts {
        let expected = format!("a number up to the {n_experts} experts");
        return config.bad_value("top_k_experts", &expected);
    }
    Ok(MlpSpec::Experts(ExpertsSpec {
        shared: Some(SharedSpec {
            mlp: shared,
            join: Join::Normed,
        }),
        ..ExpertsSpec::plain(
            Routing {
                weighting: Weighting::Normalised,
                ..Routing::softmax(n_experts, n_active)
            },
            config.count("moe_intermediate_size")?,
            Gate::Of(activation),
        )
    }))
}

/// True for each layer with a window. The last has none, whatever is said of it.
fn slides(config: &Config<'_>) -> Result<Vec<bool>, ArchError> {
    let n_layers = config.n_layers("num_hidden_layers")?;
    let mut slides = config.sliding(n_layers, |i| !(i + 1).is_multiple_of(6))?;
    if let Some(last) = slides.last_mut() {
        *last = false;
    }
    Ok(slides)
}

/// Attention of layers that see all, and of those that slide.
fn attentions(
    config: &Config<'_>,
    slides: &[bool],
    norm: NormSpec,
) -> Result<[AttentionSpec; 2], ArchError> {
    let defaults = HeadDefaults {
        head_dim: Some(256),
        n_kv_heads: Some(4),
    };
    let bias = config.flag("attention_bias", false)?;
    let sliding = AttentionSpec {
        qkv_bias: bias,
        out_bias: bias,
        qk_norm: norm.of_heads(),
        v_norm: Some(norm.eps),
        scale: 1.0,
        window: config.window("sliding_window", Some(512))?,
        rotary_idx: Some(1),
        ..block::attention(config, defaults)?
    };
    let keys_are_values = config.flag("attention_k_eq_v", false)?;
    let mut full = AttentionSpec {
        head_dim: config.opt_count("global_head_dim")?.unwrap_or(512),
        window: None,
        rotary_idx: Some(0),
        ..sliding
    };
    // Given for all models, and read in those whose keys are values.
    let n_kv_heads = config.opt_count(GLOBAL_KV_HEADS)?;
    if let Some(n_kv_heads) = n_kv_heads.filter(|_| keys_are_values) {
        full.n_kv_heads = n_kv_heads;
    }
    let of_kinds = by_layer(config, slides, [full, sliding])?;
    let [mut full, sliding] = of_kinds;
    for attention in of_kinds {
        if !attention.n_heads.is_multiple_of(attention.n_kv_heads) {
            let key = match config.has(BY_LAYER) {
                true => BY_LAYER,
                false => GLOBAL_KV_HEADS,
            };
            let expected = format!("a divisor of the {} attention heads", attention.n_heads);
            return config.bad_value(key, &expected);
        }
    }
    if keys_are_values {
        full.packing = Packing::KeysAreValues;
    }
    Ok([full, sliding])
}

/// The same with heads as the reference library writes them, where it does: by layer, and not by kind.
fn by_layer(
    config: &Config<'_>,
    slides: &[bool],
    kinds: [AttentionSpec; 2],
) -> Result<[AttentionSpec; 2], ArchError> {
    let Some(by_layer) = config.object(BY_LAYER)? else {
        return Ok(kinds);
    };
    let [_, base] = kinds;
    let mut found = [None; 2];
    for (i, slides) in slides.iter().enumerate() {
        let given = by_layer.object(&i.to_string())?;
        let given = given.as_ref();
        let count = |key, base| {
            let given = given.map(|given| given.opt_count(key)).transpose()?;
            Ok::<_, ArchError>(given.flatten().unwrap_or(base))
        };
        let heads = (
            count("head_dim", base.head_dim)?,
            count("num_key_value_heads", base.n_kv_heads)?,
        );
        if let Some(given) = given {
            given.finish(&OF_NONE);
        }
        if *found[usize::from(*slides)].get_or_insert(heads) != heads {
            return config.bad_value(BY_LAYER, "the same heads in all layers of a kind");
        }
    }
    by_layer.finish(&OF_NONE);
    let mut kinds = kinds;
    for (attention, heads) in kinds.iter_mut().zip(found) {
        if let Some((head_dim, n_kv_heads)) = heads {
            (attention.head_dim, attention.n_kv_heads) = (head_dim, n_kv_heads);
        }
    }
    Ok(kinds)
}

const INPUTS_OF_LAYERS: &str = "hidden_size_per_layer_input";
const GLOBAL_KV_HEADS: &str = "num_global_key_value_heads";
const BY_LAYER: &str = "per_layer_config";

/// Rotary positions of both kinds of layers.
fn rotaries(
    config: &Config<'_>,
    [full, sliding]: [RopeDefaults; 2],
) -> Result<[RotarySpec; 2], ArchError> {
    let full = RopeDefaults { base: 1e6, ..full };
    if let Some(by_type) = rope_config::by_type(config, [full, sliding])? {
        return Ok(by_type);
    }
    if config.has("rope_parameters") {
        return config.bad_value("rope_parameters", "one object for each kind of layer");
    }
    let full = RotarySpec {
        scaling: RopeScaling::Proportional {
            n_pairs: full.head_dim / 8,
            factor: 1.0,
        },
        ..rope_config::of_object(config, None, full, None)?
    };
    Ok([full, rope_config::of_object(config, None, sliding, None)?])
}
