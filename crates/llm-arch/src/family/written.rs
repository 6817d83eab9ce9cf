//! Configurations as they are written, for models that came without one: the inverse of what the families read.

use llm_tensor::{Activation, Gate};
use serde_json::{Map, Value, json};

use crate::spec::{AttentionSpec, DenseMlp, ExpertsSpec, MlpSpec, ModelSpec, NonLinearity};
use crate::{ArchError, RopeScaling, RotarySpec};

type Result<T> = std::result::Result<T, ArchError>;

/// A configuration with what all families call the same.
pub(super) fn config(spec: &ModelSpec, architecture: &str) -> Map<String, Value> {
    let mut config = Map::new();
    config.insert("architectures".to_owned(), json!([architecture]));
    config.insert("model_type".to_owned(), json!(spec.family));
    config.insert("vocab_size".to_owned(), json!(spec.vocab));
    config.insert("tie_word_embeddings".to_owned(), json!(spec.is_tied()));
    config
}

/// Common keys of families since Llama, without rotary positions.
pub(super) fn like_llama(spec: &ModelSpec, architecture: &str) -> Result<Map<String, Value>> {
    let (width, activation) = match experts(spec) {
        Some(experts) => (experts.width, gate(&experts)?),
        None => {
            let mlp = mlp(spec)?;
            (mlp.width, name(activation(&mlp)?))
        }
    };
    extents(spec, architecture, (width, activation))
}

/// Name of the activation that gates experts.
pub(super) fn gate(experts: &ExpertsSpec) -> Result<&'static str> {
    match experts.gate {
        Gate::Of(activation) => Ok(name(activation)),
        Gate::Clamped(_) => none("its experts' gates are clamped"),
        Gate::Absent(_) => none("nothing gates its experts"),
    }
}

/// The same of feed-forwards of some width, and an activation of some name.
pub(super) fn extents(
    spec: &ModelSpec,
    architecture: &str,
    (width, activation): (usize, &str),
) -> Result<Map<String, Value>> {
    let attention = attention(spec)?;
    let mut config = config(spec, architecture);
    extend(
        &mut config,
        json!({
            "hidden_size": spec.hidden,
            "intermediate_size": width,
            "num_hidden_layers": spec.decoder.n_layers(),
            "num_attention_heads": attention.n_heads,
            "num_key_value_heads": attention.n_kv_heads,
            "head_dim": attention.head_dim,
            "hidden_act": activation,
            "max_position_embeddings": spec.context,
            "rms_norm_eps": shortest(spec.decoder.norm.eps),
        }),
    );
    Ok(config)
}

/// Adds the entries of an object.
pub(super) fn extend(config: &mut Map<String, Value>, more: Value) {
    let Value::Object(more) = more else {
        unreachable!("an object is written as one")
    };
    config.extend(more);
}

/// Attention, where all layers have the same.
pub(super) fn attention(spec: &ModelSpec) -> Result<&AttentionSpec> {
    match spec.decoder.attentions().next() {
        Some(attention) => Ok(attention),
        None => none("it has no attention"),
    }
}

/// The feed-forward block, where all layers have the same.
pub(super) fn mlp(spec: &ModelSpec) -> Result<DenseMlp> {
    match spec.decoder.layers.first().map(|layer| layer.mlp) {
        Some(MlpSpec::Dense(mlp)) => Ok(mlp),
        Some(MlpSpec::Experts(_)) => none("its layers have experts"),
        Some(MlpSpec::Absent) => none("its layers have no feed-forward"),
        None => none("it has no layers"),
    }
}

/// The activation of a feed-forward block, which has no numbers of its own.
pub(super) fn activation(mlp: &DenseMlp) -> Result<Activation> {
    match mlp.activation {
        NonLinearity::Of(activation) => Ok(activation),
        NonLinearity::Clamped(_) => none("its activation is clamped"),
        NonLinearity::Xielu => none("its activation has numbers of its own"),
    }
}

/// The experts, where all layers have the same.
pub(super) fn experts(spec: &ModelSpec) -> Option<ExpertsSpec> {
    match spec.decoder.layers.first()?.mlp {
        MlpSpec::Dense(_) | MlpSpec::Absent => None,
        MlpSpec::Experts(experts) => Some(experts),
    }
}

/// The experts of the first layer that has some.
pub(super) fn some_experts(spec: &ModelSpec) -> Result<ExpertsSpec> {
    let mut layers = spec.decoder.layers.iter();
    match layers.find_map(|layer| layer.mlp.experts().copied()) {
        Some(experts) => Ok(experts),
        None => none("its layers have no experts"),
    }
}

/// Experts side by side in one for all tokens, each as wide as the others.
pub(super) fn n_shared(experts: &ExpertsSpec) -> Result<usize> {
    let width = experts.shared.map_or(0, |shared| shared.mlp.width);
    match width.is_multiple_of(experts.width) {
        true => Ok(width / experts.width),
        false => none("its expert for all tokens is not as wide as some of the others"),
    }
}

/// The positions that all its layers share, or the first of several kinds.
pub(super) fn rotary(spec: &ModelSpec) -> Result<&RotarySpec> {
    match spec.decoder.positions.rotary() {
        [rotary, ..] => Ok(rotary),
        [] => none("its positions are not rotary"),
    }
}

/// `rope_theta`, and `rope_scaling` where there is one, for heads that are turned as a whole.
pub(super) fn add_rope(config: &mut Map<String, Value>, spec: &ModelSpec) -> Result<()> {
    let rotary = rotary(spec)?;
    if rotary.dim != attention(spec)?.head_dim {
        return none("only a part of each head is turned, which its family does not know");
    }
    config.insert("rope_theta".to_owned(), json!(rotary.base));
    add_scaling(config, rotary)
}

/// The same for heads of which a part may be turned.
pub(super) fn add_partial_rope(config: &mut Map<String, Value>, spec: &ModelSpec) -> Result<()> {
    let (rotary, fraction) = (rotary(spec)?, rotary_fraction(spec)?);
    config.insert("partial_rotary_factor".to_owned(), json!(fraction));
    config.insert("rope_theta".to_owned(), json!(rotary.base));
    add_scaling(config, rotary)
}

/// Gives an entry another name.
pub(super) fn rename(config: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = config.shift_remove(from) {
        config.insert(to.to_owned(), value);
    }
}

/// `rope_scaling`, where there is one.
pub(super) fn add_scaling(config: &mut Map<String, Value>, rotary: &RotarySpec) -> Result<()> {
    let scaling = match &rotary.scaling {
        RopeScaling::None => return Ok(()),
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Dynamic {
            factor,
            original_context,
        } => json!({
            "rope_type": "dynamic",
            "factor": factor,
            "original_max_position_embeddings": *original_context as u64,
        }),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": *original_context as u64,
        }),
        RopeScaling::LongRope {
            short,
            long,
            original_context,
            magnitude,
        } => json!({
            "rope_type": "longrope",
            "short_factor": short,
            "long_factor": long,
            "original_max_position_embeddings": original_context,
            "attention_factor": magnitude,
        }),
        RopeScaling::Yarn { .. }
        | RopeScaling::Stored
        | RopeScaling::Proportional { .. }
        | RopeScaling::Growth { .. } => {
            return none("its rotary positions are stretched in a way that has no name");
        }
    };
    config.insert("rope_scaling".to_owned(), scaling);
    Ok(())
}

/// The part of each head that is turned, so that as many elements come of it.
pub(super) fn rotary_fraction(spec: &ModelSpec) -> Result<f64> {
    let (series, head_dim) = (rotary(spec)?.series, attention(spec)?.head_dim as f64);
    let fraction = series as f64 / head_dim;
    // It is multiplied and cut off.
    let is_short = (head_dim * fraction) as usize != series;
    Ok(if is_short {
        fraction.next_up()
    } else {
        fraction
    })
}

/// The number of which one over its root is `scale`. The libraries want a whole one.
pub(super) fn scalar(scale: f32) -> Value {
    let scalar = 1.0 / (f64::from(scale) * f64::from(scale));
    let whole = scalar.round();
    if (whole as f32).sqrt().recip() == scale {
        json!(whole as u64)
    } else {
        json!(scalar)
    }
}

/// Name of an activation in a configuration.
pub(super) fn name(activation: Activation) -> &'static str {
    match activation {
        Activation::Relu => "relu",
        Activation::ReluSquared => "relu2",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
        Activation::Silu => "silu",
    }
}

/// The number with the fewest digits of those that are `x` in f32.
pub(super) fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

pub(super) fn none<T>(reason: &'static str) -> Result<T> {
    Err(ArchError::NoConfig { reason })
}
