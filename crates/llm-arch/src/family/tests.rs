use crate::Positions;
use serde_json::{Map, Value, json};

mod gguf;
mod keys;
mod reference;

use super::*;
use crate::{MlpSpec, Packing, Role, RopeScaling, Side, Stored, Unit};

fn object(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn llama() -> Map<String, Value> {
    object(json!({
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 11008, "vocab_size": 32000, "rms_norm_eps": 1e-5, "torch_dtype": "float16",
        "transformers_version": "4.31.0", "_name_or_path": "x", "pad_token_id": null, "use_cache": true
    }))
}

fn gpt2() -> Map<String, Value> {
    object(json!({
        "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "n_ctx": 1024,
        "vocab_size": 50257, "activation_function": "gelu_new", "resid_pdrop": 0.1
    }))
}

#[test]
fn parameter_counts_match_the_published_models() {
    assert_eq!(from_config(&llama()).unwrap().n_parameters(), 6_738_415_616);
    assert_eq!(from_config(&gpt2()).unwrap().n_parameters(), 124_439_808);
}

#[test]
fn gpt2_matrices_are_stored_transposed_and_named_with_or_without_prefix() {
    let skeleton = from_config(&gpt2()).unwrap();
    let slot = skeleton
        .slots
        .iter()
        .find(|s| s.name == "transformer.h.11.mlp.c_fc.weight")
        .unwrap();
    assert_eq!(
        (slot.unit, slot.stored),
        (Unit::Layer(Side::Decoder, 11), Stored::Transposed)
    );
    assert_eq!(
        (slot.shape.as_slice(), slot.stored_shape().as_slice()),
        (&[3072, 768][..], &[768, 3072][..])
    );
    assert_eq!(slot.short_name(), Some("h.11.mlp.c_fc.weight"));
    assert!(
        skeleton.is_harmless("h.3.attn.bias") && !skeleton.is_harmless("h.3.attn.c_attn.scale")
    );
    assert!(
        skeleton.is_harmless("lm_head.weight"),
        "a second copy of the tied table"
    );
}

#[test]
fn what_is_not_understood_is_an_error_that_names_it() {
    let with = |mut config: Map<String, Value>, key: &str, value: Value| {
        config.insert(key.to_owned(), value);
        from_config(&config).unwrap_err().to_string()
    };
    struct Case {
        key: &'static str,
        value: Value,
        words: &'static [&'static str],
    }
    let cases = [
        Case {
            key: "model_type",
            value: json!("gpt5"),
            words: &["`gpt5`", "gpt2", "llama"],
        },
        Case {
            key: "hidden_act",
            value: json!("mish"),
            words: &["`hidden_act`", "\"mish\"", "silu"],
        },
        Case {
            key: "hidden_size",
            value: json!(-1),
            words: &["`hidden_size`", "-1", "whole number"],
        },
        Case {
            key: "hidden_size",
            value: Value::Null,
            words: &["`hidden_size` is missing"],
        },
        Case {
            key: "num_key_value_heads",
            value: json!(5),
            words: &["`num_key_value_heads`", "5", "divisor of the 32"],
        },
        Case {
            key: "frobnicate",
            value: json!(true),
            words: &["`frobnicate`: true"],
        },
        Case {
            key: "quantization_config",
            value: json!({"bits": 4}),
            words: &["`quantization_config`"],
        },
        Case {
            key: "rope_scaling",
            value: json!({"type": "yarm"}),
            words: &["`rope_scaling.type`", "yarm", "llama3"],
        },
        Case {
            key: "rope_scaling",
            value: json!({"type": "linear", "factor": 2.0, "surprise": 1}),
            words: &["`rope_scaling.surprise`"],
        },
        Case {
            key: "num_hidden_layers",
            value: json!(10_001),
            words: &["`num_hidden_layers`", "from 1 to 10000"],
        },
        Case {
            key: "hidden_size",
            value: json!(1 << 24),
            words: &["parameters", "cannot all be right"],
        },
        Case {
            key: "head_dim",
            value: json!(127),
            words: &["an even part of a head's 127 elements"],
        },
        Case {
            key: "torch_dtype",
            value: json!("int8"),
            words: &["`torch_dtype`", "bfloat16"],
        },
    ];
    for Case { key, value, words } in cases {
        let message = with(llama(), key, value);
        assert!(words.iter().all(|w| message.contains(w)), "{message}");
    }
}

#[test]
fn old_and_new_spellings_of_rope_agree() {
    let scaled = |key: &str, rope: Value, theta: Option<f64>| {
        let mut config = llama();
        config.insert(key.to_owned(), rope);
        if let Some(theta) = theta {
            config.insert("rope_theta".to_owned(), json!(theta));
        }
        from_config(&config).unwrap().spec
    };
    let old = scaled(
        "rope_scaling",
        json!({"type": "linear", "factor": 2.0}),
        Some(5e5),
    );
    let new = scaled(
        "rope_parameters",
        json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}),
        None,
    );
    assert_eq!(old, new);
}

#[test]
fn gguf_metadata_gives_the_same_model() {
    let metadata = object(json!({
        "general.architecture": "llama", "general.name": "x", "llama.embedding_length": 4096, "llama.block_count": 32,
        "llama.attention.head_count": 32, "llama.attention.head_count_kv": 32, "llama.feed_forward_length": 11008,
        "llama.context_length": 2048, "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": 128, "llama.vocab_size": 32000
    }));
    let from_gguf = |has: &[&str]| from_gguf(&metadata, 32000, |name| has.contains(&name)).unwrap();
    let mut expected = from_config(&llama()).unwrap().spec;
    expected.dtype = None;
    let Positions::Rotary(kinds) = &mut expected.decoder.positions else {
        panic!("rotary")
    };
    kinds[0].pairing = llm_tensor::Pairing::Adjacent;
    let found = from_gguf(&["output.weight", "token_embd.weight"]);
    assert_eq!(found.spec, expected);
    assert_eq!(found.n_parameters(), 6_738_415_616);
    let tied = from_gguf(&["rope_freqs.weight"]);
    assert_eq!(tied.spec.head.matrix, crate::HeadMatrix::Tied);
    let Positions::Rotary(kinds) = tied.spec.decoder.positions else {
        panic!("rotary")
    };
    assert_eq!(kinds[0].scaling, RopeScaling::Stored);
    assert!(
        tied.slots
            .iter()
            .any(|s| s.name == "rope_freqs.weight" && *s.shape == [64])
    );
}

#[test]
fn a_ggufs_two_kinds_of_layers_are_told_apart_or_refused() {
    let metadata = object(json!({
        "general.architecture": "gemma4", "gemma4.embedding_length": 64, "gemma4.block_count": 3,
        "gemma4.attention.head_count": 4, "gemma4.attention.head_count_kv": [2, 2, 1], "gemma4.feed_forward_length": 96,
        "gemma4.attention.key_length": 32, "gemma4.attention.value_length": 32, "gemma4.rope.dimension_count": 32,
        "gemma4.attention.key_length_swa": 16, "gemma4.attention.value_length_swa": 16, "gemma4.rope.dimension_count_swa": 16,
        "gemma4.attention.sliding_window": 8, "gemma4.attention.sliding_window_pattern": [true, true, false],
        "gemma4.rope.freq_base": 1e6, "gemma4.rope.freq_base_swa": 5e3, "gemma4.embedding_length_per_layer_input": 0
    }));
    let read = |key: &str, value: Value, has: &[&str]| {
        let mut metadata = metadata.clone();
        metadata.insert(key.to_owned(), value);
        from_gguf(&metadata, 100, |name| has.contains(&name))
    };
    let spec = |has| read("gemma4.expert_count", json!(0), has).unwrap().spec;
    let own = |spec: &ModelSpec| {
        let own = spec.decoder.attentions();
        let own = own.map(|a| (a.head_dim, a.n_kv_heads, a.window, a.packing));
        own.collect::<Vec<_>>()
    };
    let sliding = (16, 2, Some(8), Packing::Separate);
    let found = spec(&["rope_freqs.weight"]);
    let full = (32, 1, None, Packing::KeysAreValues);
    assert_eq!(own(&found), [sliding, sliding, full]);
    let kinds = found.decoder.positions.rotary();
    assert_eq!((kinds[0].base, kinds[1].base), (1e6, 5e3));
    assert_eq!(kinds[0].scaling, RopeScaling::Stored);
    assert_eq!(kinds[1].scaling, RopeScaling::None);
    let found = spec(&["blk.2.attn_v.weight"]);
    assert_eq!(own(&found)[2].3, Packing::Separate);
    let mut small = metadata.clone();
    small.extend(object(json!({
        "gemma4.embedding_length_per_layer_input": 8, "gemma4.block_count": 4,
        "gemma4.attention.sliding_window_pattern": [true, false, true, false],
        "gemma4.attention.head_count_kv": 1, "gemma4.attention.shared_kv_layers": 2,
        "gemma4.feed_forward_length": [96, 96, 192, 192]
    })));
    let skeleton = from_gguf(&small, 100, |_| false).unwrap();
    let table = skeleton
        .slots
        .iter()
        .find(|s| s.role == Role::PerLayerTable);
    assert_eq!(*table.unwrap().shape, [100, 4 * 8]);
    let decoder = &skeleton.spec.decoder;
    let widths = decoder.layers.iter().map(|layer| match layer.mlp {
        MlpSpec::Dense(mlp) => mlp.width,
        MlpSpec::Experts(_) | MlpSpec::Absent => 0,
    });
    assert_eq!(widths.collect::<Vec<_>>(), [96, 96, 192, 192]);
    let keys = decoder.attentions().map(|own| own.keys_of);
    assert_eq!(keys.collect::<Vec<_>>(), [None, None, Some(0), Some(1)]);
    for (key, value, words) in [
        ("attention.value_length", json!(16), "expected 32"),
        ("rope.dimension_count_swa", json!(8), "expected 16"),
        ("attention.head_count_kv", json!([2, 1, 1]), "same in all"),
        ("attention.head_count_kv", json!([2, 1]), "3 numbers"),
        ("feed_forward_length", json!([96, 96, 95]), "twice as much"),
        ("feed_forward_length", json!([]), "twice as much"),
        (
            "feed_forward_length",
            json!([96, 192, 192]),
            "twice as much",
        ),
    ] {
        let error = read(&format!("gemma4.{key}"), value, &[]).unwrap_err();
        assert!(error.to_string().contains(words), "{key}: {error}");
    }
}

fn read(path: &std::path::Path) -> Map<String, Value> {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    object(serde_json::from_slice(&text).unwrap())
}

#[test]
fn real_configurations_have_the_parameters_that_were_counted() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let footprints = read(&fixtures.join("footprints.json"));
    assert_eq!(footprints.len(), 7);
    for (name, expected) in footprints {
        let config = read(&fixtures.join(expected["config"].as_str().unwrap()));
        let skeleton = from_config(&config).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(
            Value::from(skeleton.n_parameters()),
            expected["parameters"],
            "{name}"
        );
        assert_eq!(
            Value::from(skeleton.slots.len()),
            expected["tensors"],
            "{name}"
        );
    }
}

#[test]
fn no_slots_are_made_on_a_configurations_word() {
    let mut config = llama();
    config.insert("model_type".to_owned(), json!("mixtral"));
    config.insert("num_local_experts".to_owned(), json!(1 << 20));
    let message = from_config(&config).unwrap_err().to_string();
    assert!(
        message.contains("more layers and experts than any"),
        "{message}"
    );
}

#[test]
fn first_spellings_describe_the_same_models() {
    struct Case {
        config: Value,
        n_parameters: u64,
    }
    let cases = [
        // falcon-7b as first published.
        Case {
            config: json!({
                "model_type": "RefinedWebModel", "hidden_size": 4544, "n_layer": 32, "n_head": 71, "multi_query": true,
                "parallel_attn": true, "bias": false, "alibi": false, "vocab_size": 65024, "hidden_dropout": 0.0,
                "apply_residual_connection_post_layernorm": false, "torch_dtype": "bfloat16"
            }),
            n_parameters: 6_921_720_704,
        },
        // falcon-40b.
        Case {
            config: json!({
                "model_type": "RefinedWeb", "hidden_size": 8192, "n_layer": 60, "n_head": 128, "n_head_kv": 8,
                "parallel_attn": true, "bias": false, "alibi": false, "vocab_size": 65024,
                "apply_residual_connection_post_layernorm": false
            }),
            n_parameters: 41_303_293_952,
        },
        // bloom-560m.
        Case {
            config: json!({
                "model_type": "bloom", "n_embed": 1024, "num_attention_heads": 16, "n_layer": 24, "vocab_size": 250_880,
                "offset_alibi": 100, "seq_length": 2048, "n_inner": null, "unk_token_id": 0
            }),
            n_parameters: 559_214_592,
        },
    ];
    for Case {
        config,
        n_parameters,
    } in cases
    {
        assert_eq!(
            from_config(&object(config)).unwrap().n_parameters(),
            n_parameters
        );
    }
    let mut longrope = object(json!({
        "model_type": "phi3", "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1,
        "num_attention_heads": 4, "vocab_size": 9, "max_position_embeddings": 64, "original_max_position_embeddings": 16
    }));
    let scaled = |config: &mut Map<String, Value>, kind: &str| {
        let factors = [1.0, 1.5, 2.0, 2.5, 3.0, 3.5];
        config.insert(
            "rope_scaling".to_owned(),
            json!({"type": kind, "short_factor": factors, "long_factor": factors}),
        );
        from_config(config).unwrap().spec
    };
    assert_eq!(
        scaled(&mut longrope, "su"),
        scaled(&mut longrope, "longrope")
    );
}

#[test]
fn the_readme_names_every_family() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let number = format!("runs {} families of models", FAMILIES.len());
    assert!(
        readme.contains(&number),
        "README.md does not say `{number}`"
    );
    let (_, table) = readme.split_once("| mechanism | families |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named: Vec<_> = table.split(|c| !is_part(c)).collect();
    for family in families() {
        let name = family.trim_end_matches("_text");
        assert!(
            named.contains(&name),
            "README.md's table of families does not have {name}"
        );
    }
}
