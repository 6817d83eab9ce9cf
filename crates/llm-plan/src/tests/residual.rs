//! Residuals of several streams.

use super::costs::{hand_overs, placed};
use super::*;

/// Four streams of 32 elements.
fn small() -> Skeleton {
    let config = json!({
        "model_type": "gemma3n_text", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 200,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8, "num_kv_shared_layers": 0,
        "layer_types": ["sliding_attention", "full_attention"], "tie_word_embeddings": false,
        "hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 200, "laurel_rank": 8
    });
    from_config(&object(config)).unwrap()
}

#[test]
fn all_streams_go_from_device_to_device_until_the_norm_makes_one_row() {
    let skeleton = small();
    let stored = all_as(&skeleton, DType::BF16);
    let request = request(&skeleton, &stored);
    let rows = |homes: [Value; 4]| {
        let [first, second, norm, head] = homes;
        let mut map = json!({"model.embed_tokens_per_layer": 0, "model.layers.0": first, "model.layers.1": second, "lm_head": head});
        for (of, at) in [
            (
                &[
                    "embed_tokens",
                    "per_layer_model_projection",
                    "per_layer_projection_norm",
                    "altup_projections",
                ][..],
                json!(0),
            ),
            (&["norm", "altup_unembed_projections"], norm),
        ] {
            for module in of {
                map[format!("model.{module}")] = at.clone();
            }
        }
        hand_overs(&placed(&request, map))
    };
    let row = |width: u64, from, to| (from, to, Bytes::new(4 * width), 1.0);
    let (cpu, gpu) = (json!("cpu"), json!(0));
    let (streams, inputs, x) = (4 * 32, 2 * 4, 32);
    let found = rows([gpu.clone(), cpu.clone(), gpu.clone(), gpu.clone()]);
    let expected = [
        row(streams, GPU, RunOn::Cpu),
        row(inputs, GPU, RunOn::Cpu),
        row(streams, RunOn::Cpu, GPU),
        row(0, GPU, RunOn::Cpu),
    ];
    assert_eq!(found, expected);
    let found = rows([gpu.clone(), cpu.clone(), cpu, gpu]);
    let expected = [
        row(streams, GPU, RunOn::Cpu),
        row(inputs, GPU, RunOn::Cpu),
        row(x, RunOn::Cpu, GPU),
        row(0, GPU, RunOn::Cpu),
    ];
    assert_eq!(found, expected);
}
