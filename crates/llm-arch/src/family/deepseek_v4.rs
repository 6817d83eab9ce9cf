//! DeepSeek-V4: attention of all heads to one key, beside what runs of positions are compressed to.

use llm_tensor::{ClampedGate, Gate, GateOrder, Pairing, Routing, Scoring, Weighting};

use super::{Family, block};
use crate::ArchError;
use crate::config::{Config, Off, Unread};
use crate::rope_config::{RopeDefaults, of_runs};
use crate::skeleton::{Elsewhere, Naming, Role};
use crate::spec::{
    DenseMlp, EntriesSpec, EntryIndexSpec, ExpertsSpec, Gating, HyperSpec, Join, LayerSpec,
    MixerSpec, MlpSpec, ModelSpec, NonLinearity, NormSpec, Positions, SharedKeySpec, SharedSpec,
    StackSpec, StreamsJoin, StreamsSpec,
};

pub(super) static FAMILY: Family = Family {
    model_types: &["deepseek_v4"],
    spec,
    core: &[
        ("hidden_size", 4_096),
        ("num_hidden_layers", 43),
        ("num_attention_heads", 64),
        ("vocab_size", 129_280),
    ],
    unread: Unread {
        any: &[
            // Tensors tell.
            "expert_dtype",
            "router_jitter_noise",
        ],
        off: &[
            ("attention_bias", Off::False),
            ("hidden_act", Off::Word("silu")),
            ("mlp_bias", Off::False),
            ("n_shared_experts", Off::One),
            ("norm_topk_prob", Off::True),
            ("num_key_value_heads", Off::One),
            ("topk_method", Off::Word("noaux_tc")),
        ],
    },
    naming: |_| &Naming {
        names: &[&[
            (Role::TokenTable, "model.embed_tokens"),
            (Role::AttnNorm, "attn_norm"),
            (Role::QDown, "attn.wq_a"),
            (Role::QLatentNorm, "attn.q_norm"),
            (Role::QUp, "attn.wq_b"),
            (Role::K, "attn.wkv"),
            (Role::KNorm, "attn.norm"),
            (Role::EntryFeatures, "attn.compressor.wkv"),
            (Role::EntryGates, "attn.compressor.wgate"),
            (Role::EntryPlaces, "attn.compressor.ape"),
            (Role::EntryNorm, "attn.compressor.norm"),
            (Role::IndexFeatures, "attn.indexer.compressor.wkv"),
            (Role::IndexGates, "attn.indexer.compressor.wgate"),
            (Role::IndexPlaces, "attn.indexer.compressor.ape"),
            (Role::IndexNorm, "attn.indexer.compressor.norm"),
            (Role::IndexQ, "attn.indexer.wq_b"),
            (Role::IndexWeights, "attn.indexer.weights_proj"),
            (Role::OutGroups, "attn.wo_a"),
            (Role::Out, "attn.wo_b"),
            (Role::Sinks, "attn.attn_sink"),
            (Role::MlpNorm, "ffn_norm"),
            (Role::Router, "ffn.gate"),
            (Role::RouterCorrection, "ffn.gate.bias"),
            (Role::RouterTokens, "ffn.gate.tid2eid"),
            (Role::Gate, "ffn.experts.{e}.w1"),
            (Role::Up, "ffn.experts.{e}.w3"),
            (Role::Down, "ffn.experts.{e}.w2"),
            (Role::SharedGate, "ffn.shared_experts.w1"),
            (Role::SharedUp, "ffn.shared_experts.w3"),
            (Role::SharedDown, "ffn.shared_experts.w2"),
            (Role::MixerStreams, "hc_attn_fn"),
            (Role::MixerStreamsBase, "hc_attn_base"),
            (Role::MixerStreamsScale, "hc_attn_scale"),
            (Role::MlpStreams, "hc_ffn_fn"),
            (Role::MlpStreamsBase, "hc_ffn_base"),
            (Role::MlpStreamsScale, "hc_ffn_scale"),
            (Role::EndStreams, "model.hc_head.hc_fn"),
            (Role::EndStreamsBase, "model.hc_head.hc_base"),
            (Role::EndStreamsScale, "model.hc_head.hc_scale"),
            (Role::FinalNorm, "model.norm"),
            (Role::Head, "head"),
        ]],
        layer: "model.layers.{i}.",
        base_prefix: "model.",
        bare: &[
            Role::EntryPlaces,
            Role::IndexPlaces,
            Role::Sinks,
            Role::RouterCorrection,
            Role::RouterTokens,
            Role::MixerStreams,
            Role::MixerStreamsBase,
            Role::MixerStreamsScale,
            Role::MlpStreams,
            Role::MlpStreamsBase,
            Role::MlpStreamsScale,
            Role::EndStreams,
            Role::EndStreamsBase,
            Role::EndStreamsScale,
        ],
        // As published files have them; those of transformers 5.24 mix both.
        elsewhere: &[
            (Role::TokenTable, Elsewhere::Name("embed.weight")),
            (Role::EndStreams, Elsewhere::Name("hc_head_fn")),
            (Role::EndStreamsBase, Elsewhere::Name("hc_head_base")),
            (Role::EndStreamsScale, Elsewhere::Name("hc_head_scale")),
            (
                Role::KNorm,
                Elsewhere::Name("model.layers.{i}.attn.kv_norm.weight"),
            ),
        ],
        ..Naming::PLAIN
    },
    gguf: None,
};

/// What a layer sees beside its last positions.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Nothing,
    /// Some of the entries of short runs.
    Selected,
    /// All entries of long runs.
    All,
}

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 1 << 20)?;
    let norm = NormSpec::rms(config.opt_positive("rms_norm_eps")?.unwrap_or(1e-6));
    let n_layers = config.n_layers("num_hidden_layers")?;
    let kinds = kinds(config, n_layers)?;
    let by_token = by_token(config, n_layers)?;
    let (attention, positions) = attention(config, norm, context)?;
    let experts = experts(config)?;
    let layer = |i: usize| LayerSpec {
        mixer: MixerSpec::SharedKey(attention(kinds[i])),
        mlp: MlpSpec::Experts(ExpertsSpec {
            by_token: by_token[i],
            correction: !by_token[i],
            ..experts
        }),
    };
    let stack = StackSpec {
        streams: Some(streams(config)?),
        ..block::sequential((0..n_layers).map(layer).collect(), positions, norm)
    };
    let mut spec = block::decoder_only(config, "deepseek_v4", context, stack, false)?;
    spec.n_drafting = config.whole("num_nextn_predict_layers")?.unwrap_or(1);
    Ok(spec)
}

/// Streams of the residual.
fn streams(config: &Config<'_>) -> Result<StreamsSpec, ArchError> {
    let n = config.opt_count("hc_mult")?.unwrap_or(4);
    if !(2..=MOST_STREAMS).contains(&n) {
        return config.bad_value("hc_mult", &format!("a number from 2 to {MOST_STREAMS}"));
    }
    Ok(StreamsSpec {
        n,
        join: StreamsJoin::Hyper(HyperSpec {
            n_rounds: config.opt_count("hc_sinkhorn_iters")?.unwrap_or(20),
            eps: config.opt_positive("hc_eps")?.unwrap_or(1e-6) as f32,
        }),
    })
}

/// As many as devices mix.
const MOST_STREAMS: usize = 8;

/// What each layer sees: by words, by how many positions are compressed to one, or as the larger model has it.
fn kinds(config: &Config<'_>, n_layers: usize) -> Result<Vec<Kind>, ArchError> {
    let words = [
        ("sliding_attention", Kind::Nothing),
        (SELECTED, Kind::Selected),
        (ALL, Kind::All),
    ];
    let by_words = config.indices("layer_types", Some(n_layers), &words)?;
    let ratios = [(0, Kind::Nothing), (4, Kind::Selected), (128, Kind::All)];
    // It goes on with layers that guess tokens.
    let by_ratio = config.first_of("compress_ratios", n_layers, &ratios)?;
    let default = |i: usize| match i {
        0 | 1 => Kind::All,
        _ if i.is_multiple_of(2) => Kind::All,
        _ => Kind::Selected,
    };
    Ok((by_words.or(by_ratio)).unwrap_or_else(|| (0..n_layers).map(default).collect()))
}

/// True for each layer of which a table says where a token goes.
fn by_token(config: &Config<'_>, n_layers: usize) -> Result<Vec<bool>, ArchError> {
    let by_words = config.kinds("mlp_layer_types", n_layers, ["moe", "hash_moe"])?;
    let n_first = config.whole("num_hash_layers")?.unwrap_or(3);
    Ok(by_words.unwrap_or_else(|| (0..n_layers).map(|i| i < n_first).collect()))
}

/// Attention of a kind of layer, and the positions of all.
fn attention(
    config: &Config<'_>,
    norm: NormSpec,
    context: usize,
) -> Result<(impl Fn(Kind) -> SharedKeySpec, Positions), ArchError> {
    let extent = |key, default| -> Result<usize, ArchError> {
        Ok(config.opt_count(key)?.unwrap_or(default))
    };
    let n_heads = config.count("num_attention_heads")?;
    let head_dim = extent("head_dim", 512)?;
    let rope_dim = config.opt_count("qk_rope_head_dim")?;
    let fraction = rope_dim.map_or(64.0 / 512.0, |dim| dim as f64 / head_dim as f64);
    let defaults = RopeDefaults {
        fraction: Some(fraction),
        pairing: Pairing::Adjacent,
        ..RopeDefaults::new(head_dim, context)
    };
    let [plain, of_runs] = of_runs(config, defaults, 160_000.0)?;
    if rope_dim.is_some_and(|dim| dim != plain.dim) || of_runs.dim != plain.dim {
        let expected = format!("{} elements that are turned in every layer", plain.dim);
        return config.bad_value("qk_rope_head_dim", &expected);
    }
    let n_groups = extent("o_groups", 8)?;
    if !n_heads.is_multiple_of(n_groups) {
        let expected = format!("a divisor of the {n_heads} attention heads");
        return config.bad_value("o_groups", &expected);
    }
    let index = EntryIndexSpec {
        n_selected: extent("index_topk", 512)?,
        n_heads: extent("index_n_heads", 64)?,
        head_dim: extent("index_head_dim", 128)?,
    };
    if index.head_dim < plain.dim {
        let expected = format!("{} or more, which are turned", plain.dim);
        return config.bad_value("index_head_dim", &expected);
    }
    let [selected, all] = rates(config)?;
    let shared = SharedKeySpec {
        n_heads,
        head_dim,
        rope_dim: plain.dim,
        q_rank: extent("q_lora_rank", 1_024)?,
        n_groups,
        group_rank: extent("o_lora_rank", 1_024)?,
        window: extent("sliding_window", 128)?,
        norm,
        scale: block::root_scale(head_dim),
        rotary_idx: 0,
        back_idx: 1,
        entries: None,
    };
    let back = [&plain, &of_runs].map(|rotary| crate::RotarySpec {
        turns_back: true,
        ..rotary.clone()
    });
    let [plain_back, of_runs_back] = back;
    let positions = Positions::Rotary(vec![plain, plain_back, of_runs, of_runs_back]);
    let of_runs = SharedKeySpec {
        rotary_idx: 2,
        back_idx: 3,
        ..shared
    };
    let of_kind = move |kind| match kind {
        Kind::Nothing => shared,
        Kind::Selected => SharedKeySpec {
            entries: Some(EntriesSpec {
                rate: selected,
                overlaps: true,
                index: Some(index),
            }),
            ..of_runs
        },
        Kind::All => SharedKeySpec {
            entries: Some(EntriesSpec {
                rate: all,
                overlaps: false,
                index: None,
            }),
            ..of_runs
        },
    };
    Ok((of_kind, positions))
}

/// Positions of runs whose entries are selected, and of those whose are all seen.
fn rates(config: &Config<'_>) -> Result<[usize; 2], ArchError> {
    let object = config.object("compress_rates")?;
    let rate = |key, older, default| -> Result<usize, ArchError> {
        let older = config.opt_count(older)?;
        let newer = match &object {
            Some(rates) => rates.opt_count(key)?,
            None => None,
        };
        match older.or(newer).unwrap_or(default) {
            1 => config.bad_value("compress_rates", "2 or more"),
            rate => Ok(rate),
        }
    };
    let rates = [
        rate(SELECTED, "compress_rate_csa", 4)?,
        rate(ALL, "compress_rate_hca", 128)?,
    ];
    if let Some(object) = object {
        object.finish(&Unread { any: &[], off: &[] });
    }
    Ok(rates)
}

/// Experts beside one for all tokens, of clamped features.
fn experts(config: &Config<'_>) -> Result<ExpertsSpec, ArchError> {
    let key = config.spelling(&["num_local_experts", "n_routed_experts"])?;
    let n_experts = config.opt_count(key)?.unwrap_or(256);
    let scoring = match config.text("scoring_func")? {
        None | Some("sqrtsoftplus") => Scoring::SqrtSoftplus,
        Some("sigmoid") => Scoring::Sigmoid,
        Some("softmax") => Scoring::Softmax,
        Some(_) => return config.bad_value("scoring_func", "sqrtsoftplus, sigmoid or softmax"),
    };
    let scale = config.opt_positive("routed_scaling_factor")?.unwrap_or(1.5);
    let routing = Routing {
        scoring,
        weighting: Weighting::Normalised,
        eps: 1e-20,
        scale: scale as f32,
        ..Routing::softmax(n_experts, config.n_active(n_experts, 6)?)
    };
    let key = config.spelling(&["intermediate_size", "moe_intermediate_size"])?;
    let width = config.opt_count(key)?.unwrap_or(2_048);
    let gate = ClampedGate {
        alpha: 1.0,
        limit: config.opt_positive("swiglu_limit")?.unwrap_or(10.0) as f32,
        added: 0.0,
        order: GateOrder::Halves,
    };
    Ok(ExpertsSpec {
        shared: Some(SharedSpec {
            mlp: DenseMlp {
                width,
                activation: NonLinearity::Clamped(gate),
                gating: Gating::Separate,
                scales: None,
                cut_off: None,
                bias: false,
            },
            join: Join::Plain,
        }),
        ..ExpertsSpec::plain(routing, width, Gate::Clamped(gate))
    })
}

const SELECTED: &str = "compressed_sparse_attention";
const ALL: &str = "heavily_compressed_attention";
