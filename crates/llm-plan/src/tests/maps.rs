//! Device maps as users give them, and as they are printed.

use llm_arch::{Side, Unit};

use super::*;

/// The plan of a map, and the map as it is printed.
fn with_map(skeleton: &Skeleton, budgets: Budgets, map: Value) -> (Plan, Value) {
    let stored = all_as(skeleton, DType::BF16);
    let mut request = request(skeleton, &stored);
    request.budgets = budgets;
    request.strategy = map.to_string().parse().unwrap();
    let plan = fits(&request);
    let printed = Value::Object(plan.map.hf_device_map(skeleton));
    (plan, printed)
}

fn machine() -> Budgets {
    budgets(&[GB, GB], GB, Some(GB))
}

#[test]
fn maps_are_printed_as_they_were_given() {
    let gpt2 = real("gpt2");
    let cases = [
        (&gpt2, json!({"": 0})),
        (&gpt2, json!({"": "cpu"})),
        (&gpt2, json!({"": "disk"})),
        (
            &llama(3, false),
            json!({
                "model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": "cpu", "model.layers.2": "disk",
                "model.norm": 1, "lm_head": 1
            }),
        ),
        (&llama(2, false), json!({"model": "cpu", "lm_head": 1})),
        (
            &mixtral(2, 2),
            json!({
                "model.embed_tokens": 0, "model.layers.0": 0,
                "model.layers.1.input_layernorm": 0, "model.layers.1.self_attn": 0,
                "model.layers.1.post_attention_layernorm": 0, "model.layers.1.block_sparse_moe.gate": 0,
                "model.layers.1.block_sparse_moe.experts.0": "cpu", "model.layers.1.block_sparse_moe.experts.1": 0,
                "model.norm": 0, "lm_head": 0
            }),
        ),
    ];
    for (skeleton, map) in cases {
        let (plan, printed) = with_map(skeleton, machine(), map.clone());
        assert_eq!(printed, map);
        // Printed and read again, it is the same map.
        assert_eq!(with_map(skeleton, machine(), printed).0.map, plan.map);
    }
}

#[test]
fn accelerates_maps_are_understood() {
    // With modules that have no tensors, and a tied head that has none of its own.
    let map = json!({
        "transformer.wte": 0, "lm_head": 0, "transformer.wpe": 0, "transformer.drop": 0,
        "transformer.h.0": 0, "transformer.h.1": 0, "transformer.h.2": 0, "transformer.h.3": 0,
        "transformer.h.4": 0, "transformer.h.5": 0, "transformer.h.6": 1, "transformer.h.7": 1,
        "transformer.h.8": 1, "transformer.h.9": 1, "transformer.h.10": 1, "transformer.h.11": 1,
        "transformer.ln_f": 1
    });
    let (plan, printed) = with_map(&real("gpt2"), machine(), map.clone());
    let mut expected = object(map);
    expected.shift_remove("transformer.drop");
    assert_eq!(printed, Value::Object(expected));
    let home = |unit| plan.map.get(unit).unwrap().home;
    assert_eq!(home(Unit::Head), Home::Gpu(0));
    assert_eq!(home(Unit::Layer(Side::Decoder, 5)), Home::Gpu(0));
    assert_eq!(home(Unit::FinalNorm(Side::Decoder)), Home::Gpu(1));

    let map = json!({
        "shared": 0, "encoder.embed_tokens": 0, "decoder.embed_tokens": 0, "encoder.block": 0,
        "encoder.final_layer_norm": 0, "encoder.dropout": 0, "decoder.block": "cpu",
        "decoder.final_layer_norm": "cpu", "decoder.dropout": "cpu", "lm_head": "cuda:0"
    });
    let (plan, printed) = with_map(&t5(2), machine(), map);
    let expected = json!({"shared": 0, "encoder": 0, "decoder": "cpu", "lm_head": 0});
    assert_eq!(printed, expected);
    assert_eq!(plan.map.devices(), [RunOn::Gpu(0)]);
}

fn error(skeleton: &Skeleton, budgets: Budgets, map: Value) -> PlanError {
    let stored = all_as(skeleton, DType::BF16);
    let mut request = request(skeleton, &stored);
    request.budgets = budgets;
    let planned = map.to_string().parse().and_then(|strategy| {
        request.strategy = strategy;
        plan(&request)
    });
    planned.unwrap_err()
}

#[test]
fn what_rests_on_no_gpu_is_streamed_to_the_one_before_it() {
    let map = json!({
        "model.embed_tokens": "cpu", "model.layers.0": 0, "model.layers.1": "disk", "model.layers.2": 1,
        "model.layers.3": "cpu", "model.norm": "cpu", "lm_head": "cpu"
    });
    let run_on = |map: &Value, budgets| {
        let plan = with_map(&llama(4, false), budgets, map.clone()).0;
        plan.map
            .iter()
            .map(|(_, place)| place.run_on)
            .collect::<Vec<_>>()
    };
    let gpus = [0, 0, 0, 1, 1, 1, 1].map(RunOn::Gpu);
    assert_eq!(run_on(&map, machine()), gpus);
    // Where the map names no GPU, none is used.
    assert_eq!(run_on(&json!({"": "cpu"}), machine()), [RunOn::Cpu; 7]);
}

#[test]
fn experts_may_be_on_another_gpu_than_their_layer() {
    let map = json!({
        "model.embed_tokens": 0, "model.layers.0.self_attn": 0, "model.layers.0.input_layernorm": 0,
        "model.layers.0.post_attention_layernorm": 0, "model.layers.0.block_sparse_moe.gate": 0,
        "model.layers.0.block_sparse_moe.experts.0": 1, "model.layers.0.block_sparse_moe.experts.1": 0,
        "model.norm": "cpu", "lm_head": 0
    });
    let plan = with_map(&mixtral(1, 2), machine(), map).0;
    let placed: Vec<_> = plan.map.iter().collect();
    let on = |number| Placement {
        home: Home::Gpu(number),
        run_on: RunOn::Gpu(number),
    };
    let expert = |expert| Unit::Expert { layer: 0, expert };
    assert_eq!(placed[2..4], [(expert(0), on(1)), (expert(1), on(0))]);
    // What follows is streamed to the layer's GPU, and no stage is cut for an expert.
    assert_eq!(placed[4].1.run_on, RunOn::Gpu(0));
    let stages = plan.map.stages().unwrap();
    assert_eq!(stages.len(), 1);
    assert_eq!(stages[0].remote, [(expert(0), on(1))]);
    // Rows go there and back where the router has chosen it.
    let rows = plan
        .step
        .hand_overs
        .iter()
        .filter(|of| of.row > Bytes::ZERO);
    let ways: Vec<_> = rows.map(|of| (of.from, of.to)).collect();
    let [own, other] = [0, 1].map(RunOn::Gpu);
    assert_eq!(ways, [(own, other), (other, own)]);
}

/// What comes before a head may be on another GPU than what comes before its table; both are computed with on one.
#[test]
fn a_tied_head_is_streamed_to_the_gpu_of_its_table() {
    let skeleton = llama(2, true);
    let map = json!({
        "model.embed_tokens": "cpu", "model.layers.0": 0, "model.layers.1": 1, "model.norm": 1
    });
    let plan = with_map(&skeleton, machine(), map).0;
    let [table, head] = [Unit::Embedding, Unit::Head].map(|unit| plan.map.get(unit));
    let streamed = Placement {
        home: Home::Ram,
        run_on: GPU,
    };
    assert_eq!((table, head), (Some(streamed), Some(streamed)));
    plan.map.stages().unwrap();
}

#[test]
fn what_is_wrong_with_a_map_is_said() {
    let (llama, gpt2) = (llama(3, false), real("gpt2"));
    let no_disk = || budgets(&[GB], GB, None);
    let cases = [
        (
            &llama,
            machine(),
            json!({"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 0, "model.norm": 0, "lm_head": 0}),
            "says nothing of `model.layers.2.input_layernorm` and 8 more modules; add it",
        ),
        (
            &llama,
            machine(),
            json!({"": 0, "lm_head": 1}),
            "names `` and `lm_head` inside it",
        ),
        (
            &llama,
            machine(),
            json!({"model": 0, "model.layers.1": 1, "lm_head": 1}),
            "names `model` and `model.layers.1` inside it; keep one",
        ),
        (
            &llama,
            machine(),
            json!({"": 2}),
            "puts `` on GPU 2, which has no budget; there is 0, 1",
        ),
        (
            &llama,
            budgets(&[], GB, None),
            json!({"": 0}),
            "there is no GPU",
        ),
        (
            &llama,
            no_disk(),
            json!({"": "disk"}),
            "name an offload folder",
        ),
        (
            &llama,
            machine(),
            json!({"": "mps"}),
            "`mps` is no device; write a GPU's number",
        ),
        (&llama, machine(), json!({"": -1}), "`-1` is no device"),
        (
            &llama,
            machine(),
            json!({"model": 0, "lm_head": 0, "model_layers": 1}),
            "names `model_layers`, which the model does not have; there is `model`, `lm_head`",
        ),
        (
            &llama,
            machine(),
            json!({"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 0, "model.layers.2": 0,
                "model.layers.3": 0, "model.norm": 0, "lm_head": 0}),
            "`model.layers.3`, which the model does not have; there is `model.layers.0`, `model.layers.1`",
        ),
        (
            &gpt2,
            machine(),
            json!({"transformer.wte": 0, "transformer.wpe": 1, "transformer.h": 0, "transformer.ln_f": 0}),
            "takes the embedding apart, `transformer.wte` and `transformer.wpe`; put both on one",
        ),
        (
            &gpt2,
            machine(),
            json!({"transformer": 0, "lm_head": "cpu"}),
            "parts `lm_head` from `transformer.wte`, whose table it uses",
        ),
        (&llama, machine(), json!({"": [0]}), "`[0]` is no device"),
    ];
    for (skeleton, budgets, map, expected) in cases {
        let message = error(skeleton, budgets, map.clone()).to_string();
        assert!(message.contains(expected), "{map}: {message}");
    }
}
