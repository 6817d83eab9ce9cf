use std::path::Path;

use serde_json::json;

use super::*;
use crate::HeadMatrix;

/// The skeleton that a fixture's configuration describes.
fn fixture(name: &str) -> Skeleton {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let text = std::fs::read(folder.join(name).join("config.json")).unwrap();
    let mut config: Map<String, Value> = serde_json::from_slice(&text).unwrap();
    config.shift_remove("quantization_config");
    from_config(&config).unwrap()
}

/// The same model as its family's GGUFs have it.
fn in_gguf(hub: &Skeleton) -> Skeleton {
    let mut gguf = hub.clone();
    family::adjust_to_gguf(&mut gguf.spec);
    gguf.spec.dtype = None;
    gguf
}

#[test]
fn a_written_configuration_describes_the_same_model() {
    for name in [
        "models/arcee-biases",
        "models/bloom",
        "models/bloom-6heads-residual-post-ln",
        "models/cohere",
        "models/cohere2",
        "models/ernie4-5",
        "models/ernie4-5-moe",
        "models/falcon-7b-style",
        "models/falcon-7b-biases",
        "models/falcon-11b-style",
        "models/falcon-40b-style",
        "models/falcon-rw-style",
        "models/gemma",
        "models/glm4",
        "models/glm4-moe",
        "models/glm4-moe-groups",
        "models/gpt-bigcode",
        "models/gpt-neox",
        "models/gpt-neox-sequential",
        "models/gpt2",
        "models/granite",
        "models/hunyuan-dense",
        "models/hunyuan-moe",
        "models/llama",
        "models/llama-biases",
        "models/llama-rope-linear",
        "models/llama3-rope-tied",
        "models/minimax-m2",
        "models/mixtral",
        "models/mpt",
        "models/nemotron",
        "models/nemotron-biases",
        "models/olmo2",
        "models/olmoe",
        "models/phi",
        "models/phi3",
        "models/phi3-gqa-sliding",
        "models/phi3-longrope-long",
        "models/phi3-longrope-short",
        "models/phi3-partial-rotary",
        "models/qwen2",
        "models/qwen2-moe",
        "models/qwen3",
        "models/qwen3-moe",
        "models/seed-oss",
        "models/smollm3",
        "models/lfm2",
        "models/lfm2-biases",
        "models/lfm2-moe",
        "models/stablelm",
        "models/stablelm-parallel",
        "models/starcoder2",
        "configs/bigscience--bloomz-7b1-mt",
        "configs/google--gemma-7b",
        "configs/gpt2",
        "configs/microsoft--Phi-3-mini-4k-instruct",
        "configs/tiiuae--falcon-7b-instruct",
    ] {
        let hub = fixture(name);
        let form = HubForm::new(&in_gguf(&hub), &Map::new(), None);
        let form = form.unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut expected = hub.spec;
        expected.dtype = None;
        assert_eq!(form.skeleton.spec, expected, "{name}");
        assert_eq!(form.skeleton.slots, hub.slots, "{name}");
        assert_eq!(form.as_found.len(), hub.slots.len(), "{name}");
    }
}

/// Gemma's larger sizes scale their scores by another number, which is nowhere but in their size.
#[test]
fn gemma_2_and_3_keep_their_windows_and_scales() {
    for name in [
        "models/gemma2",
        "models/gemma3",
        "models/gemma3-rope-scaled",
    ] {
        let hub = fixture(name);
        let gguf = in_gguf(&hub);
        let form = HubForm::new(&gguf, &Map::new(), None).unwrap();
        let mut expected = hub.spec;
        let attentions = expected.decoder.attentions_mut();
        for (attention, own) in attentions.zip(gguf.spec.decoder.attentions()) {
            attention.scale = own.scale;
        }
        expected.dtype = None;
        assert_eq!(form.skeleton.spec, expected, "{name}");
        assert_eq!(form.config["query_pre_attn_scalar"], json!(24), "{name}");
    }
}

#[test]
fn what_no_configuration_says_is_an_error() {
    let mut scaled = fixture("models/gpt2");
    let last = scaled.spec.decoder.attentions_mut().last();
    last.unwrap().scale *= 0.5;
    let mut wide = fixture("models/bloom");
    if let crate::MlpSpec::Dense(mlp) = &mut wide.spec.decoder.layers[0].mlp {
        mlp.width += 1;
    }
    let mut turned = fixture("models/llama");
    let mut stored = fixture("models/llama");
    for (skeleton, is_stored) in [(&mut turned, false), (&mut stored, true)] {
        let Positions::Rotary(kinds) = &mut skeleton.spec.decoder.positions else {
            unreachable!("llamas turn")
        };
        match is_stored {
            true => kinds[0].scaling = RopeScaling::Stored,
            false => kinds[0].dim -= 2,
        }
    }
    for (skeleton, words) in [
        (scaled, "another model"),
        (wide, "four times"),
        (turned, "a part of each head"),
        (stored, "rope_freqs.weight"),
        (fixture("models/gpt-oss"), "alternate"),
        (fixture("models/granitemoe"), "one matrix a layer"),
        (fixture("models/qwen3-next"), "one matrix there"),
        (fixture("models/opt"), "no GGUF"),
        (fixture("models/t5-v1-style"), "no GGUF"),
    ] {
        let odd: Vec<f32> = (0..6).map(|i| 1.0 + i as f32 * 0.3).collect();
        let error = HubForm::new(&in_gguf(&skeleton), &Map::new(), Some(&odd)).unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
}

#[test]
fn stored_factors_get_the_name_that_they_were_counted_by() {
    let hub = fixture("models/llama3-rope-tied");
    let Positions::Rotary(kinds) = &hub.spec.decoder.positions else {
        unreachable!("llamas turn")
    };
    let mut plain = kinds[0].clone();
    plain.scaling = RopeScaling::None;
    let llama3 = |original_context| RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context,
    };
    plain.base = 500_000.0;
    (plain.dim, plain.series) = (64, 64);
    for original_context in [8192.0, 4096.0, 131_072.0] {
        let scaled = RotarySpec {
            scaling: llama3(original_context),
            ..plain.clone()
        };
        let (long, short) = (plain.frequencies(1, None), scaled.frequencies(1, None));
        let factors: Vec<f32> = long.iter().zip(short).map(|(a, b)| a / b).collect();
        assert_eq!(named(&plain, &factors), Some(llama3(original_context)));
    }
    let llama4 = RotarySpec {
        scaling: RopeScaling::Llama3 {
            factor: 16.0,
            low_freq_factor: 1.0,
            high_freq_factor: 1.0,
            original_context: 8192.0,
        },
        ..plain.clone()
    };
    let (long, short) = (plain.frequencies(1, None), llama4.frequencies(1, None));
    let factors: Vec<f32> = long.iter().zip(short).map(|(a, b)| a / b).collect();
    assert_eq!(named(&plain, &factors), Some(llama4.scaling));
    assert_eq!(named(&plain, &[1.0; 32]), Some(RopeScaling::None));
    assert_eq!(named(&plain, &[2.0; 32]), None);
    assert_eq!(named(&plain, &[f32::NAN; 32]), None);
}

#[test]
fn yarn_is_written_in_the_words_of_the_metadata() {
    let metadata = json!({
        "general.architecture": "qwen2",
        "qwen2.embedding_length": 64, "qwen2.block_count": 1, "qwen2.feed_forward_length": 96,
        "qwen2.context_length": 512, "qwen2.attention.head_count": 4, "qwen2.attention.head_count_kv": 2,
        "qwen2.attention.layer_norm_rms_epsilon": 1e-6, "qwen2.rope.freq_base": 1e6,
        "qwen2.rope.scaling.type": "yarn", "qwen2.rope.scaling.factor": 4.0,
        "qwen2.rope.scaling.original_context_length": 128,
    });
    let metadata = metadata.as_object().unwrap();
    let gguf = crate::from_gguf(metadata, 32, |_| false).unwrap();
    let form = HubForm::new(&gguf, metadata, None).unwrap();
    assert_eq!(
        form.config["rope_scaling"]["original_max_position_embeddings"],
        128
    );
    assert_eq!(
        form.skeleton.spec.decoder.positions,
        gguf.spec.decoder.positions
    );
    assert_eq!(form.skeleton.spec.head.matrix, HeadMatrix::Tied);
}

/// Orders of rows as llama.cpp's converter makes them.
#[test]
fn rows_are_found_where_the_converter_put_them() {
    struct Case {
        stored: Stored,
        /// Rows in their stored order.
        order: Vec<usize>,
    }
    let cases = [
        Case {
            stored: Stored::Pairs { head_dim: 6 },
            order: vec![0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11],
        },
        // Two groups of two queries, a key and a value, of one row each.
        Case {
            stored: Stored::Stacked {
                n_kv_heads: 2,
                n_queries: 2,
                head_dim: 1,
            },
            order: vec![0, 1, 4, 5, 2, 6, 3, 7],
        },
        Case {
            stored: Stored::Stacked {
                n_kv_heads: 2,
                n_queries: 1,
                head_dim: 2,
            },
            order: vec![0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11],
        },
    ];
    for Case { stored, order } in cases {
        for (at, &row) in order.iter().enumerate() {
            assert_eq!(stored.stored_row(row), at, "{stored:?}: row {row}");
        }
    }
}
