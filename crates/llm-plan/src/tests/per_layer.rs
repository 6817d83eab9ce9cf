//! Rows that layers take in, and keys and values that several of them see.

use llm_arch::Unit;

use super::costs::{hand_overs, placed};
use super::*;

/// Of its six layers the last three see keys of the second and the third; its table is the largest unit by far.
fn small() -> Skeleton {
    let config = json!({
        "model_type": "gemma4_text", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "vocab_size": 200,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8, "global_head_dim": 16, "sliding_window": 64,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 10_000, "num_kv_shared_layers": 3
    });
    from_config(&object(config)).unwrap()
}

/// Bytes of a key and a value in bf16, of a layer that slides or of one that sees all.
const KV: [u64; 2] = [64 * 2 * 8 * 2, 64 * 2 * 16 * 2];

#[test]
fn a_device_has_keys_of_another_once_for_all_layers_that_see_them() {
    let skeleton = small();
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    request.limits.n_tokens = 64;
    let kv = |cpu_from: usize| {
        let home = |i| if i < cpu_from { json!(0) } else { json!("cpu") };
        let mut map = json!({"model.embed_tokens": 0, "model.per_layer_model_projection": 0, "model.per_layer_projection_norm": 0,
            "model.embed_tokens_per_layer": 0, "model.norm": 0});
        for i in 0..6 {
            map[format!("model.layers.{i}")] = home(i);
        }
        let plan = placed(&request, map);
        let of = |home| plan.estimate.memory(home).unwrap().terms.get(Term::KvCache);
        let rows = hand_overs(&plan);
        ([Home::Gpu(0), Home::Ram].map(|home| of(home).get()), rows)
    };
    let [sliding, full] = KV;
    assert_eq!(kv(6).0, [2 * sliding + full, 0]);
    // The last layer sees keys of the second alone.
    assert_eq!(kv(5).0, [2 * sliding + full, full]);
    assert_eq!(kv(4).0, [2 * sliding + full, sliding + full]);
    assert_eq!(kv(3).0, [2 * sliding + full, sliding + full]);
    assert_eq!(kv(2).0, [sliding + full, sliding + full]);
    assert_eq!(kv(1).0, [sliding, sliding + full]);
    let row = |width: u64, from, to| (from, to, Bytes::new(4 * width), 1.0);
    let cpu = RunOn::Cpu;
    let [inputs, lent] = [6 * 4, 2 * 8 + 2 * 16];
    assert_eq!(
        kv(4).1,
        [
            row(32, GPU, cpu),
            row(inputs, GPU, cpu),
            row(lent, GPU, cpu),
            row(32, cpu, GPU),
            row(0, GPU, cpu),
        ],
        "what is beside the residual goes with it, but not to the head"
    );
}

#[test]
fn the_table_of_layers_inputs_is_the_last_that_gets_room() {
    let skeleton = small();
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    request.costs = small_costs();
    request.load_piece = Bytes::new(4096);
    let needed = |plan: &Plan| plan.estimate.memory(Home::Ram).unwrap().needed().get();
    let all = needed(&fits(&request));
    let table = 10_000 * 6 * 4 * 2;
    request.budgets = budgets(&[], all - table / 2, Some(GB));
    let plan = fits(&request);
    for (unit, placement) in plan.map.iter() {
        let expected = match unit {
            Unit::PerLayerTable => Home::Disk,
            _ => Home::Ram,
        };
        assert_eq!(placement.home, expected, "{unit}");
    }
    // A row of each token of a pass comes from there.
    assert!(needed(&plan) < all - table + 8192, "{}", needed(&plan));
    assert_eq!(
        plan.step.weights.iter().map(|(at, _)| at.home).max(),
        Some(Home::Ram)
    );
}
