//! Fate of tensors that are not as a configuration has them: heads tied to the table of tokens, in every family,
//! experts in one tensor, and tensors that the model has no use for.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

use std::fs;
use std::sync::Arc;

use llm_arch::{HeadMatrix, Role};
use llm_backend::Reference;
use llm_plan::{Limits, WeightDType};
use llm_quant::Scalar;
use llm_runtime::{BoundModel, LoadOptions, Notice, RuntimeError, load};
use llm_tensor::DType;
use llm_tests::{Variant, fixture, session};

/// A model of the fixtures with a head that differs from its table, and what the two are called.
struct Case {
    name: String,
    model: Variant,
    table: String,
    head: String,
}

impl Case {
    fn tied(&self, is_tied: bool) -> Variant {
        let mut model = self.model.clone();
        model.set("tie_word_embeddings", is_tied);
        model
    }

    fn without(&self, is_tied: bool, tensor: &str) -> Variant {
        let mut model = self.tied(is_tied);
        model.tensors.remove(tensor).unwrap();
        model
    }
}

fn cases() -> Vec<Case> {
    let mut names: Vec<_> = fs::read_dir(fixture("models"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    let case = |name: String| {
        let folder = fixture("models").join(&name);
        let (bound, mut model) = (BoundModel::open(&folder).unwrap(), Variant::of(&folder));
        let table = bound.tensors().next().unwrap();
        assert_eq!(table.slot.role, Role::TokenTable, "{name}");
        let table = table.tensor.name.clone();
        let head = bound.skeleton().head_names().next().unwrap();
        let (shape, elements) = model.tensors[&table].clone();
        // Only one row differs from the table.
        let mut own = elements;
        let (n, width) = (own.len(), shape[1] as usize);
        own[n - width..].reverse();
        model.tensors.insert(head.clone(), (shape, own));
        // Else it would be what T5 means by a tied table.
        if bound.spec().family == "t5" {
            model.set("scale_decoder_outputs", true);
        }
        Case {
            name,
            model,
            table,
            head,
        }
    };
    names.into_iter().map(case).collect()
}

fn logits(model: &BoundModel) -> Vec<f32> {
    let mut session = session(Reference::default(), model, DType::F32, 1, 8);
    session.prefill(0, &[3, 1, 4, 1, 5, 9, 2]).unwrap().to_vec()
}

fn opened(model: &Variant) -> Result<BoundModel, RuntimeError> {
    // What is bound stays open.
    BoundModel::open(model.write().path())
}

#[test]
fn a_stored_head_that_differs_is_used_whatever_the_configuration_says() {
    for case in cases() {
        let name = &case.name;
        let model = opened(&case.tied(true)).unwrap();
        assert_eq!(model.spec().head.matrix, HeadMatrix::Separate, "{name}");
        let told = |notice: &Notice| matches!(notice, Notice::OwnHead { head, table } if *head == case.head && *table == case.table);
        assert!(model.notices().iter().any(told), "{name}");
        let separate = opened(&case.tied(false)).unwrap();
        assert!(separate.notices().is_empty(), "{name}");
        assert_eq!(logits(&model), logits(&separate), "{name}");
        let tied = opened(&case.without(true, &case.head)).unwrap();
        assert_ne!(logits(&model), logits(&tied), "{name}");
    }
}

#[test]
fn an_equal_head_counts_once_and_under_whichever_name() {
    for case in cases() {
        let name = &case.name;
        let tied = opened(&case.without(true, &case.head)).unwrap();
        assert_eq!(tied.spec().head.matrix, HeadMatrix::Tied, "{name}");
        let expected = logits(&tied);
        let mut both = case.tied(true);
        let table = both.tensors[&case.table].clone();
        both.tensors.insert(case.head.clone(), table);
        let mut as_head = both.clone();
        as_head.tensors.remove(&case.table);
        let told = |model: &BoundModel| {
            let mut notices = model.notices().iter();
            notices.any(|notice| matches!(notice, Notice::TableAsHead { .. }))
        };
        for (model, is_told) in [(both, false), (as_head, true)] {
            let model = opened(&model).unwrap();
            let n_parameters = model.skeleton().n_parameters();
            assert_eq!(n_parameters, tied.skeleton().n_parameters(), "{name}");
            assert_eq!(told(&model), is_told, "{name}");
            assert_eq!(logits(&model), expected, "{name}");
        }
    }
}

#[test]
fn a_head_that_is_missing_is_an_error_that_says_how_to_tie_it() {
    for case in cases() {
        let name = &case.name;
        let untied = case.without(false, &case.head);
        match opened(&untied) {
            // It is tied whatever the configuration says.
            Ok(model) => {
                assert_eq!(model.spec().family, "t5", "{name}");
                let tied = opened(&case.without(true, &case.head)).unwrap();
                assert_eq!(logits(&model), logits(&tied), "{name}");
            }
            Err(error) => {
                let message = error.to_string();
                let says = |word: &str| message.contains(word);
                assert!(
                    says(&case.head) && says("tie_word_embeddings"),
                    "{name}: {message}"
                );
            }
        }
    }
}

#[test]
fn copies_of_t5s_table_are_the_table() {
    let folder = fixture("models/t5-v1-style");
    let shared = Variant::of(&folder);
    let expected = logits(&BoundModel::open(&folder).unwrap());
    let table = shared.tensors["shared.weight"].clone();
    let copies = [
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "lm_head.weight",
    ];
    for stored in copies {
        let mut model = shared.clone();
        model.tensors.remove("shared.weight");
        model.tensors.insert(stored.to_owned(), table.clone());
        assert_eq!(logits(&opened(&model).unwrap()), expected, "{stored}");
    }
    let mut model = shared.clone();
    for copy in copies {
        model.tensors.insert(copy.to_owned(), table.clone());
    }
    assert_eq!(logits(&opened(&model).unwrap()), expected);
    let encoders = model.tensors.get_mut("encoder.embed_tokens.weight");
    encoders.unwrap().1[5] += 1.0;
    let error = opened(&model).unwrap_err();
    assert!(
        matches!(&error, RuntimeError::SecondTable { second, .. } if second == "encoder.embed_tokens.weight"),
        "{error}"
    );
}

/// Fate of a tensor that the model has no use for.
enum Fate {
    Silence,
    LeftOut,
    LeftOutOfLayers,
    /// An error with these words in it.
    Error(&'static [&'static str]),
}

#[test]
fn layers_that_guess_tokens_are_left_out_with_a_word() {
    let plain = Variant::of(&fixture("models/glm4-moe"));
    assert!(opened(&plain).unwrap().notices().is_empty());
    let mut model = plain.clone();
    let next = model.config["num_hidden_layers"].as_u64().unwrap();
    let extra = (vec![3], vec![1.0, 2.0, 3.0]);
    let name = format!("model.layers.{next}.eh_proj.weight");
    model.tensors.insert(name, extra);
    let model = opened(&model).unwrap();
    let [notice] = model.notices() else {
        panic!("{:?}", model.notices());
    };
    let told = notice.to_string();
    assert!(told.contains("1 tensors of layers from"), "{told}");
    assert_eq!(logits(&model), logits(&opened(&plain).unwrap()));
}

#[test]
fn what_the_model_has_no_use_for_is_left_out_with_a_word() {
    use Fate::{Error, LeftOut, LeftOutOfLayers, Silence};
    let adapter = Error(&["adapter", "LoRA", "merged"]);
    let cases = [
        ("v_head.summary.weight", LeftOut),
        ("score.weight", LeftOut),
        ("model.layers.3.self_attn.q_proj.weight", LeftOut),
        ("model.layers.61.eh_proj.weight", LeftOut),
        ("mtp.layers.0.input_layernorm.weight", LeftOut),
        ("medusa_head.0.0.linear.weight", LeftOut),
        ("vision_tower.blocks.0.attn.qkv.weight", LeftOut),
        ("optimizer.state.exp_avg", LeftOut),
        ("model.layers.0.self_attn.q_proj.bias", LeftOutOfLayers),
        ("model.layers.2.self_attn.k_norm.weight", LeftOutOfLayers),
        ("model.layers.1.self_attn.k_scale", LeftOutOfLayers),
        ("layers.1.mlp.up_proj.bias", LeftOutOfLayers),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", Silence),
        ("model.embeddings.position_ids", Silence),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", adapter),
        (
            "base_model.model.model.layers.0.mlp.up_proj.lora_B.default.weight",
            Error(&["adapter"]),
        ),
        (
            "model.layers.0.self_attn.q_proj.qweight",
            Error(&["quantization", "GPTQ"]),
        ),
        (
            "model.layers.0.self_attn.q_proj.weight_scale",
            Error(&["quantization", "FP8"]),
        ),
        (
            "model.layers.0.self_attn.q_proj.weight.absmax",
            Error(&["quantization"]),
        ),
        (
            "model.layers.9.self_attn.q_proj.weight.quant_map",
            Error(&["quantization"]),
        ),
    ];
    let plain = Variant::of(&fixture("models/llama"));
    let expected = logits(&opened(&plain).unwrap());
    for (name, fate) in cases {
        let mut model = plain.clone();
        let extra = (vec![3], vec![1.0, 2.0, 3.0]);
        model.tensors.insert(name.to_owned(), extra);
        let model = match (opened(&model), fate) {
            (Err(error), Error(words)) => {
                let message = error.to_string();
                let says = |word: &&str| message.contains(*word);
                assert!(says(&name) && words.iter().all(says), "{name}: {message}");
                continue;
            }
            (Ok(model), fate) => {
                let told: Vec<_> = model.notices().iter().map(Notice::to_string).collect();
                match (fate, model.notices()) {
                    (Silence, []) => {}
                    (LeftOut, [Notice::LeftOut(unused)])
                    | (LeftOutOfLayers, [Notice::LeftOutOfLayers(unused)]) => {
                        assert_eq!((unused.n, unused.bytes.get()), (1, 12), "{name}");
                        assert!(told[0].contains(name), "{told:?}");
                    }
                    _ => panic!("{name}: {told:?}"),
                }
                model
            }
            (Err(error), _) => panic!("{name}: {error}"),
        };
        assert_eq!(logits(&model), expected, "{name}");
    }
}

#[test]
fn names_of_deepseeks_own_files_are_known() {
    let saved = Variant::of(&fixture("models/deepseek-v4"));
    let mut own = saved.clone();
    for name in saved.tensors.keys() {
        let name_of = match name.as_str() {
            "model.embed_tokens.weight" => "embed.weight".to_owned(),
            other => {
                let other = other.strip_prefix("model.").unwrap_or(other);
                let other = other.replace("hc_head.hc_", "hc_head_");
                other.replace(".attn.norm.", ".attn.kv_norm.")
            }
        };
        own.rename(name, &name_of);
    }
    assert!(own.tensors.contains_key("layers.0.attn.kv_norm.weight"));
    let (saved, own) = (opened(&saved).unwrap(), opened(&own).unwrap());
    assert!(own.notices().is_empty(), "{:?}", own.notices());
    assert_eq!(logits(&own), logits(&saved));
}

#[test]
fn tables_of_experts_name_different_experts_that_there_are() {
    let plain = Variant::of(&fixture("models/deepseek-v4"));
    let table = "model.layers.1.ffn.gate.tid2eid";
    let [.., before, _] = plain.tensors[table].1[..] else {
        panic!("experts of a token")
    };
    let none = |number: i64| (number, format!("expert {number}, and the layer has 6"));
    let again = (
        before as i64,
        format!("expert {before} twice for token 130"),
    );
    // The last would be 0 in 32 bits.
    for (number, flaw) in [none(-1), none(6), none(1 << 32), again] {
        let mut model = plain.clone();
        *model.tensors.get_mut(table).unwrap().1.last_mut().unwrap() = number as f32;
        let model = opened(&model).unwrap();
        let options = LoadOptions {
            dtype: WeightDType::Auto,
            quant: None,
            encoder: &Scalar,
            limits: Limits {
                n_sequences: 1,
                context: 8,
                n_tokens: 8,
                n_logits: 1,
            },
            offload: None,
        };
        let device = Arc::new(Reference::default());
        let error = load(&model, &device, &options, &mut |_| ())
            .map(|_| ())
            .unwrap_err();
        assert!(error.is_users());
        let told = error.to_string();
        let expected = format!("`{table}` names {flaw}");
        assert!(told.contains(&expected), "{told}");
    }
}

#[test]
fn experts_in_one_tensor_are_those_in_many() {
    for name in ["qwen3-moe", "qwen3-moe-mixed", "mixtral", "mixtral-sliding"] {
        let model = Variant::of(&fixture("models").join(name));
        let stacked = model.stacked();
        assert!(stacked.tensors.len() < model.tensors.len(), "{name}");
        let (model, found) = (opened(&model).unwrap(), opened(&stacked).unwrap());
        assert!(found.notices().is_empty(), "{name}: {:?}", found.notices());
        assert_eq!(logits(&found), logits(&model), "{name}");

        // One expert too few, and rows that are not there.
        let of_experts = |name: &&String| name.ends_with("experts.gate_up_proj");
        let stack = stacked.tensors.keys().find(of_experts).unwrap();
        for dim in 0..3 {
            let mut damaged = stacked.clone();
            let (shape, elements) = damaged.tensors.get_mut(stack).unwrap();
            shape[dim] /= 2;
            elements.truncate(shape.iter().product::<u64>() as usize);
            let error = opened(&damaged).unwrap_err().to_string();
            assert!(error.contains(stack), "{name}: {error}");
        }
    }
}

/// A GGUF of the fixtures with another name, of the same length, for one of its tensors.
fn renamed(gguf: &str, from: &str, to: &str) -> Result<BoundModel, RuntimeError> {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(fixture("gguf-models").join(gguf)).unwrap();
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes());
    let at = at.unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    BoundModel::open(&path)
}

#[test]
fn what_a_gguf_has_of_a_layer_is_of_use_and_nothing_else() {
    let with = |name: &str| renamed("llama3-rope-tied.gguf", "rope_freqs.weight", name);
    let model = with("value_head.weight").unwrap();
    assert!(
        matches!(model.notices(), [Notice::LeftOut(unused)] if unused.names == ["value_head.weight"]),
        "{:?}",
        model.notices()
    );
    for name in ["blk.1.attn_q.bias", "blk.1.ffn_up.bias"] {
        let error = with(name).unwrap_err().to_string();
        let is_named = error.contains(name) && error.contains("not understood");
        assert!(is_named, "{error}");
    }
    // What the first layer has the others have, too.
    let error = with("blk.0.attn_q.bias").unwrap_err().to_string();
    assert!(error.contains("`blk.1.attn_q.bias` [48]"), "{error}");
    // A layer more than there are.
    assert!(with("blk.9.attn_q.bias").is_ok());
}
