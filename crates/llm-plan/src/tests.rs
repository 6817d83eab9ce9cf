//! Plans of real and small models. What they share: models, the devices that they are planned for, and requests.

mod bad_input;
mod brute_force;
mod configurations;
mod costs;
mod divided;
mod evenly;
mod footprints;
mod maps;
mod packed;
mod per_layer;
mod properties;
mod reasons;
mod recommended;
mod residual;
mod stages;
mod streamed;
mod unlike_gpus;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use llm_arch::{ExpertsSpec, Skeleton, from_config};
use llm_tensor::{Bytes, DType, KvShape, WorkspaceShape};
use serde_json::{Map, Value, json};

use crate::*;

/// Devices whose needs are easily told: elements as they are, and for a GPU a fixed part.
struct Plain {
    fixed: u64,
}

impl DeviceCosts for Plain {
    fn kv_pool_bytes(&self, shape: &KvShape) -> Bytes {
        let n_elements = shape.width() * shape.capacity * shape.n_sequences;
        Bytes::new((n_elements * shape.dtype.size()) as u64)
    }

    fn kv_block_len(&self, _: &KvShape) -> usize {
        16
    }

    fn routes_bytes(&self, experts: &ExpertsSpec, n_tokens: usize) -> Bytes {
        Bytes::new((n_tokens * experts.routing.n_active * 8) as u64)
    }

    fn workspace_bytes(&self, shape: &WorkspaceShape) -> Bytes {
        Bytes::new((shape.n_tokens * shape.cols * 4) as u64)
    }

    fn fixed_bytes(&self) -> Bytes {
        Bytes::new(self.fixed)
    }
}

const GPU: RunOn = RunOn::Gpu(0);

const GPU_CONTEXT: u64 = 300_000_000;

fn costs() -> Costs<'static> {
    Costs {
        cpu: &Plain { fixed: 0 },
        gpu: &Plain { fixed: GPU_CONTEXT },
        program: Bytes::ZERO,
    }
}

/// The same, of GPUs that take next to nothing for themselves, and of a program that takes something.
fn small_costs() -> Costs<'static> {
    Costs {
        cpu: &Plain { fixed: 0 },
        gpu: &Plain { fixed: 100 },
        program: Bytes::new(5000),
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn object(json: Value) -> Map<String, Value> {
    match json {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

fn read(path: &Path) -> Map<String, Value> {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    object(serde_json::from_slice(&text).unwrap())
}

/// One of the real models in the fixtures.
fn real(name: &str) -> Skeleton {
    let config = fixtures()
        .join("configs")
        .join(name.replace('/', "--"))
        .join("config.json");
    from_config(&read(&config)).unwrap()
}

/// One of the golden models.
pub(crate) fn golden(name: &str) -> Skeleton {
    let config = fixtures().join("models").join(name).join("config.json");
    from_config(&read(&config)).unwrap()
}

/// A small Llama, its head tied or not.
fn llama(n_layers: usize, is_tied: bool) -> Skeleton {
    llama_of(32, n_layers, is_tied)
}

fn llama_of(hidden: usize, n_layers: usize, is_tied: bool) -> Skeleton {
    let config = json!({
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": n_layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 200, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": is_tied
    });
    from_config(&object(config)).unwrap()
}

/// A mixture of experts.
fn mixtral(n_layers: usize, n_experts: usize) -> Skeleton {
    mixtral_of(32, n_layers, n_experts)
}

fn mixtral_of(hidden: usize, n_layers: usize, n_experts: usize) -> Skeleton {
    let config = json!({
        "model_type": "mixtral", "hidden_size": hidden, "intermediate_size": 3 * hidden / 2, "num_hidden_layers": n_layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "num_local_experts": n_experts, "num_experts_per_tok": 2,
        "sliding_window": null, "tie_word_embeddings": false
    });
    from_config(&object(config)).unwrap()
}

/// A small T5.
fn t5(n_layers: usize) -> Skeleton {
    t5_of(32, n_layers)
}

fn t5_of(hidden: usize, n_layers: usize) -> Skeleton {
    let config = json!({
        "model_type": "t5", "d_model": hidden, "d_ff": 2 * hidden, "d_kv": hidden / 4, "num_heads": 4, "num_layers": n_layers,
        "vocab_size": 100, "n_positions": 64, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": true
    });
    from_config(&object(config)).unwrap()
}

/// A small OPT: tables of tokens and of positions, the first of another width, its head tied to it.
fn opt(n_layers: usize) -> Skeleton {
    opt_of(32, n_layers)
}

fn opt_of(hidden: usize, n_layers: usize) -> Skeleton {
    let config = json!({
        "model_type": "opt", "hidden_size": hidden, "word_embed_proj_dim": hidden / 2, "ffn_dim": 2 * hidden,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4, "vocab_size": 100, "max_position_embeddings": 64, "do_layer_norm_before": true,
        "tie_word_embeddings": true, "activation_function": "relu"
    });
    from_config(&object(config)).unwrap()
}

/// A checkpoint that holds everything in one element type.
fn all_as(skeleton: &Skeleton, dtype: DType) -> Vec<StoredTensor> {
    vec![StoredTensor::in_order(llm_quant::Scheme::Dense(dtype)); skeleton.slots.len()]
}

const ONE_SEQUENCE: Limits = Limits {
    n_sequences: 1,
    context: 64,
    n_tokens: 16,
    n_logits: 1,
};

/// Unquantized, as stored, on a machine without GPU that has any amount of RAM.
fn request<'a>(skeleton: &'a Skeleton, stored: &'a [StoredTensor]) -> Request<'a> {
    Request {
        skeleton,
        stored,
        encodings: Encodings {
            dtype: WeightDType::Auto,
            config_dtype: None,
            quant: None,
        },
        kv_dtype: None,
        limits: ONE_SEQUENCE,
        load_piece: Bytes::mib(64),
        slice: DEFAULT_SLICE,
        budgets: budgets(&[], 1 << 50, None),
        strategy: Strategy::Auto,
        offload: Offload::Stream,
        costs: costs(),
    }
}

fn budgets(gpus: &[u64], ram: u64, disk: Option<u64>) -> Budgets {
    let gpus = gpus.iter().enumerate();
    Budgets {
        gpus: gpus.map(|(i, &n)| (i as u32, Bytes::new(n))).collect(),
        ram: Bytes::new(ram),
        disk: disk.map(Bytes::new),
    }
}

fn fits(request: &Request<'_>) -> Plan {
    match plan(request).unwrap() {
        Verdict::Fits(plan) => *plan,
        refused => panic!("{refused}"),
    }
}

/// A machine that computes in no time, and hands rows over as soon as their bytes are there.
const fn speeds(gpu: f64, pcie: f64, ram: f64, disk: f64) -> Speeds {
    Speeds {
        gpu: GpuSpeed {
            memory: gpu,
            pcie,
            products: f64::INFINITY,
            launch: 0.0,
            hand_over: 0.0,
        },
        gpus: BTreeMap::new(),
        links: BTreeMap::new(),
        ram,
        cpu_products: f64::INFINITY,
        disk,
    }
}

/// The faster way to make tokens.
fn fastest(speeds: Speeds) -> Offload {
    let workload = Workload {
        n_prompt: 0,
        n_new: 1,
    };
    Offload::Fastest {
        speeds,
        workload,
        only: None,
    }
}

const GB: u64 = 1_000_000_000;
