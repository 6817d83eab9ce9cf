//! GPT-NeoX (Black et al. 2022) and Pythia.

use llm_tensor::Activation;
use serde_json::json;

use super::{Family, Gguf, block, llama, written};
use crate::ArchError;
use crate::config::{Config, OF_NONE};
use crate::rope_config::{RopeDefaults, rotary};
use crate::skeleton::{Elsewhere, Naming, Role};
use crate::spec::{AttentionSpec, ModelSpec, NormSpec, Packing, Positions, Residual};

pub(super) static FAMILY: Family = Family {
    model_types: &["gpt_neox"],
    spec,
    core: &[
        ("hidden_size", 6_144),
        ("intermediate_size", 24_576),
        ("num_hidden_layers", 44),
        ("num_attention_heads", 64),
        ("vocab_size", 50_432),
    ],
    unread: OF_NONE,
    naming: |_| &Naming {
        names: &[&[
            (Role::TokenTable, "gpt_neox.embed_in"),
            (Role::AttnNorm, "input_layernorm"),
            (Role::Qkv, "attention.query_key_value"),
            (Role::Out, "attention.dense"),
            (Role::MlpNorm, "post_attention_layernorm"),
            (Role::Up, "mlp.dense_h_to_4h"),
            (Role::Down, "mlp.dense_4h_to_h"),
            (Role::FinalNorm, "gpt_neox.final_layer_norm"),
            (Role::Head, "embed_out"),
        ]],
        layer: "gpt_neox.layers.{i}.",
        base_prefix: "gpt_neox.",
        // The causal mask, its filler, and precomputed frequencies.
        harmless: &[
            "layers.{i}.attention.bias",
            "layers.{i}.attention.masked_bias",
        ],
        // What transformers calls it since version 5.
        elsewhere: &[(Role::Head, Elsewhere::Name("lm_head.weight"))],
        ..Naming::PLAIN
    },
    gguf: Some(Gguf {
        architecture: "gptneox",
        keys: &[&[
            ("embedding_length", "hidden_size"),
            ("block_count", "num_hidden_layers"),
            ("feed_forward_length", "intermediate_size"),
            ("context_length", "max_position_embeddings"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.layer_norm_epsilon", "layer_norm_eps"),
            ("rope.freq_base", "rope_theta"),
        ]],
        flags: &[],
        naming: |_| &llama::GGUF_NAMING,
        adjust: block::store_stacked,
        config: |spec| {
            let (mlp, attention) = (written::mlp(spec)?, written::attention(spec)?);
            let rotary = written::rotary(spec)?;
            let mut config = written::config(spec, "GPTNeoXForCausalLM");
            let more = json!({
                "hidden_size": spec.hidden,
                "intermediate_size": mlp.width,
                "num_hidden_layers": spec.decoder.n_layers(),
                "num_attention_heads": attention.n_heads,
                "hidden_act": written::name(written::activation(&mlp)?),
                "max_position_embeddings": spec.context,
                "layer_norm_eps": written::shortest(spec.decoder.norm.eps),
                "rotary_pct": written::rotary_fraction(spec)?,
                "rotary_emb_base": rotary.base,
                "attention_bias": attention.qkv_bias,
                "use_parallel_residual": spec.decoder.residual == Residual::ParallelTwoNorms,
            });
            written::extend(&mut config, more);
            written::add_scaling(&mut config, rotary)?;
            Ok(config)
        },
    }),
};

fn spec(config: &Config<'_>) -> Result<ModelSpec, ArchError> {
    let context = block::context(config, 2048)?;
    let bias = config.flag("attention_bias", true)?;
    let attention = AttentionSpec {
        packing: Packing::PerGroup,
        qkv_bias: bias,
        out_bias: bias,
        ..block::heads(config, "hidden_size", "num_attention_heads")?
    };
    let defaults = RopeDefaults {
        fraction: Some(0.25),
        ..RopeDefaults::new(attention.head_dim, context)
    };
    let rotary = rotary(config, defaults)?;
    let activation = config.activation("hidden_act", Activation::Gelu)?;
    let mlp = block::plain_mlp(config.count("intermediate_size")?, activation, true);
    let layers = block::like_layers(config.n_layers("num_hidden_layers")?, attention, mlp);
    let norm = NormSpec::layer(config.opt_positive("layer_norm_eps")?.unwrap_or(1e-5));
    let mut stack = block::sequential(layers, Positions::Rotary(vec![rotary]), norm);
    if config.flag("use_parallel_residual", true)? {
        stack.residual = Residual::ParallelTwoNorms;
    }
    block::decoder_only(config, "gpt_neox", context, stack, false)
}
