//! No family may pay for its shape: decoding of each against llama, per byte of weights that a token reads, at about 300 MB
//! a model.
//!
//! `cargo bench -p llm-benches --bench families [-- FAMILY …]` makes the models with `cargo xtask make-model` in a temporary
//! folder, one at a time.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it finds")]

use std::cell::RefCell;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Result, ensure};
use llm_arch::{HeadMatrix, MlpSpec, Role, Side, Skeleton, Slot, Unit};
use llm_benches::{cpu, interleaved};
use llm_cpu::Cpu;
use llm_plan::WeightDType;
use llm_runtime::{BoundModel, Limits, LoadOptions, Session, load};
use serde_json::{Value, json};

fn main() -> Result<()> {
    let asked: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let folder = tempfile::tempdir()?;
    let cpu = cpu(None);
    let llama = RefCell::new(Model::make(&cpu, folder.path(), "llama", &llama())?);
    for (name, config) in families() {
        if !asked.is_empty() && !asked.iter().any(|family| family == name) {
            continue;
        }
        let model = RefCell::new(Model::make(&cpu, folder.path(), name, &config)?);
        let seconds = interleaved(
            31,
            &mut [&mut || llama.borrow_mut().step(), &mut || {
                model.borrow_mut().step()
            }],
        );
        let speed = |bytes: u64, seconds: f64| bytes as f64 / seconds / 1e9;
        let (ours, theirs) = (
            speed(model.borrow().bytes, seconds[1]),
            speed(llama.borrow().bytes, seconds[0]),
        );
        println!(
            "{name:10} {:4.0} MB a token {:5.1} GB/s, llama {theirs:5.1} GB/s | {:3.0}% of llama",
            model.borrow().bytes as f64 / 1e6,
            ours,
            100.0 * ours / theirs
        );
    }
    Ok(())
}

struct Model {
    session: Session,
    /// Of the weights that one token reads.
    bytes: u64,
    n_held: usize,
}

impl Model {
    fn make(cpu: &Arc<Cpu>, folder: &Path, name: &str, config: &Value) -> Result<Model> {
        let (file, out) = (folder.join("config.json"), folder.join(name));
        std::fs::write(&file, config.to_string())?;
        let mut make = Command::new(env!("CARGO"));
        make.args(["xtask", "make-model", "--dtype", "bf16"])
            .arg(&file)
            .arg(&out);
        ensure!(
            make.output()?.status.success(),
            "cannot make {name}: {make:?}"
        );
        let model = BoundModel::open(&out)?;
        let limits = Limits {
            n_sequences: 1,
            context: 256,
            n_tokens: 256,
            n_logits: 1,
        };
        let options = LoadOptions {
            dtype: WeightDType::Auto,
            quant: None,
            encoder: &**cpu,
            limits,
            offload: None,
        };
        let mut session = load(&model, cpu, &options, &mut |_| ())?;
        session.prefill(0, &[3, 4, 5, 6, 7, 8, 9, 10])?;
        let n_held = session.len(0);
        // The mapping outlives the file's name.
        std::fs::remove_dir_all(out)?;
        Ok(Model {
            bytes: 2 * n_read(model.skeleton()),
            n_held,
            session,
        })
    }

    fn step(&mut self) {
        self.session
            .step(&[(0, 11)])
            .expect("a step of a loaded model");
        self.session.truncate(0, self.n_held);
    }
}

/// Elements of the weights that one token reads.
fn n_read(skeleton: &Skeleton) -> u64 {
    let spec = &skeleton.spec;
    let share = |slot: &Slot| match (slot.unit, slot.role) {
        (Unit::Embedding, Role::TokenTable) => {
            f64::from(u8::from(spec.head.matrix == HeadMatrix::Tied))
        }
        (Unit::Embedding, Role::PositionTable)
        | (Unit::PerLayerTable, _)
        | (Unit::Layer(Side::Encoder, _) | Unit::FinalNorm(Side::Encoder), _) => 0.0,
        // An encoder's result is turned to keys and values once.
        (_, Role::CrossK | Role::CrossV) => 0.0,
        (Unit::Expert { layer, .. }, _) => match spec.decoder.layers[layer].mlp {
            MlpSpec::Experts(experts) => {
                experts.routing.n_active as f64 / experts.routing.n_experts as f64
            }
            MlpSpec::Dense(_) | MlpSpec::Absent => 0.0,
        },
        _ => 1.0,
    };
    skeleton
        .slots
        .iter()
        .map(|slot| (slot.n_elements() as f64 * share(slot)) as u64)
        .sum()
}

fn llama() -> Value {
    like_llama("llama", json!({}))
}

/// A configuration with llama's keys, and more.
fn like_llama(model_type: &str, more: Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12,
        "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 8192, "max_position_embeddings": 2048,
        "tie_word_embeddings": false,
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    config
}

fn families() -> Vec<(&'static str, Value)> {
    let gpt = |model_type: &str| {
        json!({
            "model_type": model_type, "n_embd": 1024, "n_layer": 12, "n_head": 16, "n_positions": 2048,
            "vocab_size": 8192, "tie_word_embeddings": true,
        })
    };
    let gemma = json!({"head_dim": 64, "sliding_window": 1024, "tie_word_embeddings": true});
    let falcon = json!({
        "model_type": "falcon", "hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 12,
        "vocab_size": 8192,
    });
    let opt = json!({"ffn_dim": 4096, "intermediate_size": null, "num_key_value_heads": null, "tie_word_embeddings": true});
    vec![
        (
            "mistral",
            like_llama("mistral", json!({"sliding_window": 1024})),
        ),
        ("qwen2", like_llama("qwen2", json!({}))),
        ("qwen3", like_llama("qwen3", json!({"head_dim": 64}))),
        ("phi3", like_llama("phi3", json!({}))),
        (
            "gemma",
            like_llama(
                "gemma",
                json!({"head_dim": 64, "tie_word_embeddings": true}),
            ),
        ),
        ("gemma2", like_llama("gemma2", gemma.clone())),
        ("gemma3", like_llama("gemma3_text", gemma)),
        ("gpt2", gpt("gpt2")),
        ("gptj", gpt("gptj")),
        (
            "gpt_neox",
            like_llama(
                "gpt_neox",
                json!({"intermediate_size": 4096, "num_key_value_heads": null}),
            ),
        ),
        (
            "bloom",
            json!({"model_type": "bloom", "hidden_size": 1024, "n_layer": 12, "n_head": 16, "vocab_size": 8192}),
        ),
        ("falcon", falcon),
        ("opt", like_llama("opt", opt)),
        (
            "mixtral",
            like_llama(
                "mixtral",
                json!({"num_local_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 6}),
            ),
        ),
        (
            "t5",
            json!({
                "model_type": "t5", "d_model": 1024, "d_ff": 2816, "d_kv": 64, "num_heads": 16, "num_layers": 2,
                "num_decoder_layers": 12, "vocab_size": 8192, "feed_forward_proj": "gated-gelu",
                "tie_word_embeddings": false,
            }),
        ),
    ]
}
