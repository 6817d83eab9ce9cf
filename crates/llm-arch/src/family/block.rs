//! Common parts of many families' configurations.

use llm_tensor::{Activation, Gate, Norm, Routing, Scoring, Weighting};
use serde_json::{Map, Value};

use crate::ArchError;
use crate::config::Config;
use crate::spec::{
    AttentionSpec, DenseMlp, EmbeddingSpec, ExpertsSpec, FinalNorm, Gating, HeadMatrix, HeadSpec,
    LayerSpec, MixerSpec, MlpSpec, ModelSpec, NonLinearity, NormOrder, NormOver, NormSpec, Packing,
    Positions, QkNorm, Residual, StackSpec,
};

type Result<T> = std::result::Result<T, ArchError>;

impl NormSpec {
    /// RMSNorm.
    pub(super) fn rms(eps: f64) -> Self {
        NormSpec {
            norm: Norm::Rms,
            bias: false,
            eps: eps as f32,
            gain_offset: 0.0,
        }
    }

    /// RMSNorm whose gain is stored as its distance from one.
    pub(super) fn rms_around_one(eps: f64) -> Self {
        NormSpec {
            gain_offset: 1.0,
            ..Self::rms(eps)
        }
    }

    /// LayerNorm.
    pub(super) fn layer(eps: f64) -> Self {
        NormSpec {
            norm: Norm::Layer,
            bias: true,
            eps: eps as f32,
            gain_offset: 0.0,
        }
    }

    /// LayerNorm without a bias.
    pub(super) fn layer_without_bias(eps: f64) -> Self {
        NormSpec {
            bias: false,
            ..Self::layer(eps)
        }
    }

    /// The same for each head of queries and keys.
    pub(super) fn of_heads(self) -> Option<QkNorm> {
        Some(QkNorm {
            norm: self,
            over: NormOver::Head,
            order: NormOrder::BeforePositions,
        })
    }

    /// The same for all queries, and all keys, of a position together.
    pub(super) fn of_all_heads(self) -> Option<QkNorm> {
        Some(QkNorm {
            over: NormOver::AllHeads,
            ..self.of_heads()?
        })
    }
}

impl ExpertsSpec {
    /// Experts of separate matrices without biases, and nothing beside them.
    pub(super) fn plain(routing: Routing, width: usize, gate: Gate) -> Self {
        ExpertsSpec {
            routing,
            correction: false,
            width,
            latent: None,
            gate,
            bias: false,
            fused: false,
            weighs_inputs: false,
            by_token: false,
            shared: None,
        }
    }
}

/// Defaults of a family's heads.
#[derive(Clone, Copy, Default)]
pub(super) struct HeadDefaults {
    /// Elements of a head where `head_dim` is absent; else the hidden size shared among the heads.
    pub(super) head_dim: Option<usize>,
    /// Heads of keys where `num_key_value_heads` is absent; else as many as of queries, which `null` always means.
    pub(super) n_kv_heads: Option<usize>,
}

/// Weights of chosen experts, by a flag that says if they are normalised.
pub(super) fn weighting(config: &Config<'_>, key: &str, default: bool) -> Result<Weighting> {
    Ok(match config.flag(key, default)? {
        true => Weighting::Normalised,
        false => Weighting::Probability,
    })
}

/// Weights that llama.cpp always brings to a sum of one, or never, whatever a model was made with.
pub(super) fn set_weighting(spec: &mut ModelSpec, weighting: Weighting) {
    for layer in &mut spec.decoder.layers {
        if let MlpSpec::Experts(experts) = &mut layer.mlp {
            experts.routing.weighting = weighting;
        }
    }
}

/// Only GGUF says by number how scores become probabilities: 1 is a softmax, 2 are sigmoids.
pub(super) fn check_scoring(config: &Config<'_>, scoring: Scoring) -> Result<()> {
    let number = match scoring {
        Scoring::Softmax => 1,
        Scoring::Sigmoid => 2,
        Scoring::SqrtSoftplus | Scoring::Plain => return Ok(()),
    };
    match config.whole(SCORING)? {
        Some(found) if found != number => config.bad_value(SCORING, &number.to_string()),
        _ => Ok(()),
    }
}

/// Key of a GGUF.
pub(super) const SCORING: &str = "expert_gating_func";

/// Positions, `max_position_embeddings`.
pub(super) fn context(config: &Config<'_>, default: usize) -> Result<usize> {
    let context = config.opt_count("max_position_embeddings")?;
    Ok(context.unwrap_or(default))
}

/// Layers that guess tokens, which a GGUF counts among the others.
pub(super) fn gguf_drafting(config: &Config<'_>) -> Result<usize> {
    Ok(config.whole(GGUF_DRAFTING)?.unwrap_or(0))
}

/// Key of a GGUF: layers that guess tokens.
pub(super) const GGUF_DRAFTING: &str = "nextn_predict_layers";

/// True for each layer that attends, in a GGUF that lists heads of keys by layer.
pub(super) fn gguf_attends(config: &Map<String, Value>) -> Vec<bool> {
    let heads = config.get("num_key_value_heads").and_then(Value::as_array);
    let heads = heads.into_iter().flatten();
    heads.map(|heads| heads.as_u64() != Some(0)).collect()
}

/// Their one number of heads of keys in the list's stead.
pub(super) fn gather_kv_heads(config: &mut Map<String, Value>) {
    let heads = config.get("num_key_value_heads").and_then(Value::as_array);
    let most = heads.and_then(|heads| heads.iter().filter_map(Value::as_u64).max());
    if let Some(most) = most {
        config.insert("num_key_value_heads".to_owned(), most.into());
    }
}

/// Heads as most families give them: `num_attention_heads`, fewer `num_key_value_heads`, and a `head_dim`. Separate
/// matrices, no biases.
pub(super) fn attention(config: &Config<'_>, defaults: HeadDefaults) -> Result<AttentionSpec> {
    let hidden = config.count("hidden_size")?;
    let n_heads = config.count("num_attention_heads")?;
    let default = match config.mentions("num_key_value_heads") {
        true => None,
        false => defaults.n_kv_heads,
    };
    let n_kv_heads = config.opt_count("num_key_value_heads")?.or(default);
    let n_kv_heads = n_kv_heads.unwrap_or(n_heads);
    if !n_heads.is_multiple_of(n_kv_heads) {
        let meaning = match default {
            Some(n_kv_heads) => format!(" (by default it is {n_kv_heads})"),
            None => String::new(),
        };
        return config.bad_value(
            "num_key_value_heads",
            &format!("a divisor of the {n_heads} attention heads{meaning}"),
        );
    }
    let head_dim = match config.opt_count("head_dim")?.or(defaults.head_dim) {
        Some(head_dim) => head_dim,
        None => head_dim(config, "num_attention_heads", hidden, n_heads)?,
    };
    // Only GGUF says this; another extent would be values of another width.
    if config
        .opt_count("attention.value_length")?
        .is_some_and(|dim| dim != head_dim)
    {
        return config.bad_value("attention.value_length", &head_dim.to_string());
    }
    Ok(separate_heads(n_heads, n_kv_heads, head_dim))
}

/// Heads that share the hidden size among them, each with keys of its own; the keys of both numbers.
pub(super) fn heads(config: &Config<'_>, hidden: &str, key: &str) -> Result<AttentionSpec> {
    let (hidden, n_heads) = (config.count(hidden)?, config.count(key)?);
    let head_dim = head_dim(config, key, hidden, n_heads)?;
    Ok(separate_heads(n_heads, n_heads, head_dim))
}

/// The hidden size shared among the heads.
pub(super) fn head_dim(
    config: &Config<'_>,
    key: &str,
    hidden: usize,
    n_heads: usize,
) -> Result<usize> {
    if hidden.is_multiple_of(n_heads) {
        Ok(hidden / n_heads)
    } else {
        config.bad_value(key, &format!("a divisor of the hidden size {hidden}"))
    }
}

/// Heads of three matrices without biases, which see all positions and whose scores are scaled by 1 / √head_dim.
pub(super) fn separate_heads(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> AttentionSpec {
    AttentionSpec {
        n_heads,
        n_kv_heads,
        head_dim,
        packing: Packing::Separate,
        qkv_bias: false,
        out_bias: false,
        qk_norm: None,
        v_norm: None,
        turned_norm: None,
        scale: root_scale(head_dim),
        input_scale: 1.0,
        result_scale: 1.0,
        soft_cap: None,
        window: None,
        chunked: false,
        sinks: false,
        keys_of: None,
        rotary_idx: Some(0),
        growth_idx: None,
        output_gate: false,
    }
}

/// 1 / √head_dim.
pub(super) fn root_scale(head_dim: usize) -> f32 {
    (head_dim as f32).sqrt().recip()
}

/// A feed-forward block of `intermediate_size` with separate gate, its non-linearity named by `key`.
pub(super) fn gated(
    config: &Config<'_>,
    key: &str,
    default: Activation,
    bias: bool,
) -> Result<MlpSpec> {
    Ok(MlpSpec::Dense(DenseMlp {
        width: config.count("intermediate_size")?,
        activation: NonLinearity::Of(config.activation(key, default)?),
        gating: Gating::Separate,
        scales: None,
        cut_off: None,
        bias,
    }))
}

/// A feed-forward block of two matrices with biases.
pub(super) fn plain_mlp(width: usize, activation: Activation, bias: bool) -> MlpSpec {
    MlpSpec::Dense(DenseMlp {
        width,
        activation: activation.into(),
        gating: Gating::None,
        scales: None,
        cut_off: None,
        bias,
    })
}

/// Layers that are all alike.
pub(super) fn like_layers(
    n_layers: usize,
    attention: AttentionSpec,
    mlp: MlpSpec,
) -> Vec<LayerSpec> {
    vec![attending(attention, mlp); n_layers]
}

/// A layer that attends.
pub(super) fn attending(attention: AttentionSpec, mlp: MlpSpec) -> LayerSpec {
    let mixer = MixerSpec::Attention(attention);
    LayerSpec { mixer, mlp }
}

/// Sequential blocks and a final norm.
pub(super) fn sequential(
    layers: Vec<LayerSpec>,
    positions: Positions,
    norm: NormSpec,
) -> StackSpec {
    StackSpec {
        layers,
        positions,
        norm,
        final_norm: FinalNorm::Present,
        residual: Residual::Sequential,
        scaled_layers: false,
        streams: None,
    }
}

/// A decoder with a plain embedding of `hidden_size` and a plain head, tied as the configuration says.
pub(super) fn decoder_only(
    config: &Config<'_>,
    family: &'static str,
    context: usize,
    decoder: StackSpec,
    tied_by_default: bool,
) -> Result<ModelSpec> {
    // A dynamic scaling is made for more positions than the configuration's maximum, which is the original one.
    let kinds = decoder.positions.rotary().iter();
    let context = kinds
        .map(|rotary| rotary.reach(context))
        .max()
        .unwrap_or(context);
    let hidden =
        config.count(config.spelling(&["n_embd", "n_embed", "d_model", "hidden_size"])?)?;
    Ok(ModelSpec {
        family,
        hidden,
        vocab: config.count("vocab_size")?,
        context,
        embedding: EmbeddingSpec {
            width: hidden,
            scale: 1.0,
            norm: None,
            per_layer: None,
        },
        encoder: None,
        decoder,
        head: HeadSpec::plain(head_matrix(config, tied_by_default)?),
        n_drafting: 0,
        dtype: config.dtype()?,
    })
}

/// `tie_word_embeddings`.
pub(super) fn head_matrix(config: &Config<'_>, tied_by_default: bool) -> Result<HeadMatrix> {
    let is_tied = config.flag("tie_word_embeddings", tied_by_default)?;
    Ok(if is_tied {
        HeadMatrix::Tied
    } else {
        HeadMatrix::Separate
    })
}

/// Says that queries, keys and values are stored one after the other, as GGUFs have them.
pub(super) fn store_stacked(spec: &mut ModelSpec) {
    let attentions = spec.decoder.attentions_mut();
    attentions.for_each(|attention| attention.packing = Packing::Stacked);
}

/// Sets the window of each layer that slides.
pub(super) fn slide(stack: &mut StackSpec, slides: &[bool], window: Option<usize>) {
    for (attention, slides) in stack.attentions_mut().zip(slides) {
        attention.window = window.filter(|_| *slides);
    }
}
