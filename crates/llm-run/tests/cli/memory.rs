//! What a loaded model takes of the machine's memory.

use std::collections::BTreeMap;

use llm_checkpoint::{NewTensor, SafetensorsWriter};
use llm_tensor::Shape;

use crate::support::json;

/// A model of the right shape whose weights are all zero.
const CONFIG: &str = r#"{
    "model_type": "llama", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8,
    "num_attention_heads": 8, "vocab_size": 4096, "tie_word_embeddings": true, "dtype": "bfloat16"
}"#;

/// Every position's keys and values, of 8 layers of 2 · 1024 bf16 elements.
const KV_BYTES_PER_TOKEN: u64 = 8 * 2 * 1024 * 2;

#[test]
fn weights_that_lie_right_in_the_file_are_not_copied() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), CONFIG).unwrap();
    let skeleton = llm_arch::from_config(&serde_json::from_str(CONFIG).unwrap()).unwrap();
    let tensor = |slot: &llm_arch::Slot| {
        let dims: Vec<u64> = slot.stored_shape().iter().map(|&d| d as u64).collect();
        NewTensor {
            name: slot.name.clone(),
            dtype: skeleton.spec.dtype.unwrap(),
            shape: Shape::new(&dims).unwrap(),
        }
    };
    let tensors: Vec<_> = skeleton.slots.iter().map(tensor).collect();
    let path = folder.path().join("model.safetensors");
    let mut writer = SafetensorsWriter::create(&path, &tensors, &BTreeMap::new()).unwrap();
    let weights = 2 * skeleton.n_parameters();
    let zeros = vec![0; 1 << 20];
    for at in (0..weights).step_by(zeros.len()) {
        writer
            .write(&zeros[..(weights - at).min(1 << 20) as usize])
            .unwrap();
    }
    writer.finish().unwrap();

    let ids = "1,".repeat(99) + "1";
    let path = folder.path().to_str().unwrap();
    let found = json(&[
        "generate",
        path,
        "--token-ids",
        &ids,
        "--max-new-tokens",
        "28",
        "--json",
    ]);
    let anonymous = found["memory"]["anonymous_bytes"].as_u64().unwrap();
    let limit = 128 * KV_BYTES_PER_TOKEN + (64 << 20);
    assert!(
        anonymous <= limit,
        "{anonymous} bytes are anonymous, of {limit} allowed, for {weights} of weights"
    );
    assert!(weights > 2 * limit, "a copy of the weights would show");
    let resident = found["memory"]["peak_resident_bytes"].as_u64().unwrap();
    assert!(resident > weights, "the weights were all used");
}
