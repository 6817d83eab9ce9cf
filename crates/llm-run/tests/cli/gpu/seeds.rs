//! Models of 7 to 11 billion parameters on a GPU of 15 GB, in small: a twentieth of the weights as they are stored, and quantized a
//! 256th of them, since an emulated GPU makes some hundred million multiplications a second. Budgets are as large a part of what
//! the model takes as they are of the real one's. All layers are there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use llm_arch::Slot;
use llm_checkpoint::{NewTensor, SafetensorsWriter};
use llm_tensor::{DType, Shape};
use serde_json::Value;

use super::{json_on, machine};
use crate::support::{self, fixture};

struct Seed {
    /// Folder of the real one's configuration.
    real: String,
    /// Keys that make it small.
    small: Value,
}

/// Those of the list that the bundle for GPUs has, too.
fn seeds(scale: &str) -> Vec<Seed> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../benches/configs/seeds.json"
    );
    let seeds: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let of_seed = |seed: &Value| Seed {
        real: seed["real"].as_str().unwrap().to_owned(),
        small: seed[scale].clone(),
    };
    let seeds: Vec<_> = seeds.as_array().unwrap().iter().map(of_seed).collect();
    assert_eq!(seeds.len(), 4);
    seeds
}

const STORED: &[&[&str]] = &[&[]];
const QUANTIZED: &[&[&str]] = &[&["--load-in-8bit"], &["--load-in-4bit"]];
/// Bytes of a process's own on a GPU, which plans count.
const CONTEXT: f64 = 600.0 * 1_048_576.0;

#[test]
fn seeds_in_small_make_the_tokens_of_one_device() {
    let n_shared = check("20", STORED) + check("256", QUANTIZED);
    assert!(n_shared >= 3, "{n_shared} of them need more than the GPU");
}

/// Models that need more than the GPU.
fn check(scale: &str, precisions: &[&[&str]]) -> usize {
    let mut n_shared = 0;
    for Seed { real, small } in seeds(scale) {
        let real = fixture(&format!("configs/{real}"));
        let folder = tempfile::tempdir().unwrap();
        write_model(folder.path(), &Path::new(&real).join("config.json"), &small);
        let small = folder.path().to_str().unwrap();
        for &flags in precisions {
            let name = format!("{real} {flags:?}");
            let plan = |model: &str, gpu: &str, context: &str| {
                let budgets = format!("0={gpu},cpu=1TB");
                let args = ["plan", model, "--json", "--max-memory", &budgets];
                support::json(&[&args[..], &["--context", context], flags].concat())
            };
            let needed = |plan: &Value| plan["memories"]["0"]["needed"].as_f64().unwrap() - CONTEXT;
            let share = (15e9 - CONTEXT) / needed(&plan(&real, "1TB", "2048"));
            let budget = CONTEXT + share * needed(&plan(small, "1TB", "8"));
            let budget = format!("{}", budget as u64);
            let (in_small, in_large) = (plan(small, &budget, "8"), plan(&real, "15GB", "2048"));
            assert_eq!(tiers(&in_small), tiers(&in_large), "{name}");

            let generate = |budget: &[&str]| {
                let args = [
                    "generate",
                    small,
                    "--token-ids",
                    "5,6",
                    "--max-new-tokens",
                    "2",
                ];
                let more = ["--context", "8", "--ignore-eos", "--greedy", "--json"];
                // Kernels' own faults are looked for elsewhere, which takes a third of the time.
                let machine = machine().races(false).unwritten(false);
                json_on(&machine, &[&args[..], &more, flags, budget].concat())
            };
            let budget = format!("0={budget}");
            let found = generate(&["--max-memory", &budget]);
            let is_shared = share < 1.0;
            if is_shared {
                n_shared += 1;
                let expected = generate(&[]);
                assert_eq!(found["generated_ids"], expected["generated_ids"], "{name}");
            }
            assert_eq!(
                found["generated_ids"].as_array().unwrap().len(),
                2,
                "{name}"
            );
        }
    }
    n_shared
}

/// Memories where some unit rests.
fn tiers(plan: &Value) -> BTreeSet<String> {
    let units = plan["units"].as_array().unwrap().iter();
    units
        .map(|unit| unit["home"].as_str().unwrap().to_owned())
        .collect()
}

/// Writes a model of a real one's configuration with some other keys, and of random weights in bf16.
pub(super) fn write_model(folder: &Path, config: &Path, small: &Value) {
    let config = std::fs::read(config).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    for (key, value) in small.as_object().unwrap() {
        assert!(config.get(key).is_some(), "{key}");
        config[key] = value.clone();
    }
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let skeleton = llm_arch::from_config(config.as_object().unwrap()).unwrap();
    let tensor = |slot: &Slot| {
        let dims: Vec<u64> = slot.stored_shape().iter().map(|&d| d as u64).collect();
        NewTensor {
            name: slot.name.clone(),
            dtype: DType::BF16,
            shape: Shape::new(&dims).unwrap(),
        }
    };
    let tensors: Vec<_> = skeleton.slots.iter().map(tensor).collect();
    let path = folder.join("model.safetensors");
    let mut writer = SafetensorsWriter::create(&path, &tensors, &BTreeMap::new()).unwrap();
    let mut random = 1_u64;
    for slot in &skeleton.slots {
        let (rows, cols) = slot.matrix();
        // Results of products are as large as what goes in; norms are near one, biases near zero.
        let (middle, spread) = match (rows, slot.name.ends_with("bias")) {
            (1, true) => (0.0, 0.1),
            (1, false) => (1.0, 0.2),
            _ => (0.0, 3.0 / (cols as f32).sqrt()),
        };
        let mut value = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let unit = (random >> 40) as f32 / (1 << 24) as f32 - 0.5;
            let bits = (middle + spread * unit).to_bits();
            ((bits >> 16) as u16).to_le_bytes()
        };
        let bytes: Vec<u8> = (0..slot.n_elements()).flat_map(|_| value()).collect();
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
}
