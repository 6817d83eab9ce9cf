//! Costs of a step beside its weights: rows that are handed over, kernels that are started, products of many rows.

use llm_arch::{Side, Slot, Unit};
use llm_quant::{LoadIn, QuantConfig};

use super::*;
use crate::{LinkSpeed, UnitUse};

/// A device that starts its operations itself, and a GPU whose kernels the host starts.
struct Launching;

impl DeviceCosts for Launching {
    fn kv_pool_bytes(&self, shape: &KvShape) -> Bytes {
        Plain { fixed: 100 }.kv_pool_bytes(shape)
    }

    fn kv_block_len(&self, shape: &KvShape) -> usize {
        Plain { fixed: 100 }.kv_block_len(shape)
    }

    fn routes_bytes(&self, experts: &ExpertsSpec, n_tokens: usize) -> Bytes {
        Plain { fixed: 100 }.routes_bytes(experts, n_tokens)
    }

    fn workspace_bytes(&self, shape: &WorkspaceShape) -> Bytes {
        Plain { fixed: 100 }.workspace_bytes(shape)
    }

    fn fixed_bytes(&self) -> Bytes {
        Bytes::new(100)
    }

    fn launches(&self) -> Launches {
        Launches {
            layer: 10,
            expert: 3,
            other: 1,
        }
    }
}

/// A row of the small models.
const ROW: Bytes = Bytes::new(32 * 4);

pub(super) fn placed(request: &Request<'_>, map: Value) -> Plan {
    let mut request = request.clone();
    request.strategy = map.to_string().parse().unwrap();
    request.budgets = budgets(&[GB, GB], GB, Some(GB));
    request.offload = Offload::Compute;
    fits(&request)
}

/// `from` to `to`, bytes of a row, times.
pub(super) fn hand_overs(plan: &Plan) -> Vec<(RunOn, RunOn, Bytes, f64)> {
    let list = plan.step.hand_overs.iter();
    list.map(|of| (of.from, of.to, of.row, of.times)).collect()
}

#[test]
fn rows_are_handed_over_where_devices_change() {
    let skeleton = llama(4, false);
    let stored = all_as(&skeleton, DType::BF16);
    let request = request(&skeleton, &stored);
    let map = |layers: [Value; 4], rest: Value| {
        let [a, b, c, d] = layers;
        let map = json!({"model.embed_tokens": rest, "model.layers.0": a, "model.layers.1": b, "model.layers.2": c,
            "model.layers.3": d, "model.norm": rest, "lm_head": rest});
        hand_overs(&placed(&request, map))
    };
    let [zero, one, cpu] = [json!(0), json!(1), json!("cpu")];
    let all = |device: &Value| [(); 4].map(|()| device.clone());
    let read = |from| (from, RunOn::Cpu, Bytes::ZERO, 1.0);
    assert_eq!(map(all(&cpu), cpu.clone()), []);
    // The host reads which token it is.
    assert_eq!(map(all(&zero), zero.clone()), [read(GPU)]);
    let in_turns = [&zero, &cpu, &zero, &cpu].map(Clone::clone);
    assert_eq!(
        map(in_turns, cpu.clone()),
        [(RunOn::Cpu, GPU, ROW, 2.0), (GPU, RunOn::Cpu, ROW, 2.0)]
    );
    let second = RunOn::Gpu(1);
    let halves = [&zero, &zero, &one, &one].map(Clone::clone);
    assert_eq!(
        map(halves, zero.clone()),
        [(GPU, second, ROW, 1.0), (second, GPU, ROW, 1.0), read(GPU)]
    );
}

#[test]
fn experts_elsewhere_take_rows_and_send_them_back() {
    let skeleton = mixtral(2, 8);
    let stored = all_as(&skeleton, DType::BF16);
    let request = request(&skeleton, &stored);
    // Four experts of the first layer are on the CPU.
    let expert = |i: usize| format!("model.layers.0.block_sparse_moe.experts.{i}");
    let mut map = json!({"model.embed_tokens": 0, "model.layers.0.input_layernorm": 0, "model.layers.0.self_attn": 0,
        "model.layers.0.post_attention_layernorm": 0, "model.layers.0.block_sparse_moe.gate": 0, "model.layers.1": 0,
        "model.norm": 0, "lm_head": 0});
    for i in 0..8 {
        map[expert(i)] = if i < 4 { json!("cpu") } else { json!(0) };
    }
    let found = hand_overs(&placed(&request, map));
    let [asked, there, back] = found[..] else {
        panic!("{found:?}");
    };
    // Once for the router's choice, once for the token.
    assert_eq!(asked, (GPU, RunOn::Cpu, Bytes::ZERO, 2.0));
    // Two of eight are chosen: none of four in 3 of 14 times.
    let chance = 1.0 - 3.0 / 14.0;
    for (of, from, to) in [(there, GPU, RunOn::Cpu), (back, RunOn::Cpu, GPU)] {
        assert_eq!((of.0, of.1, of.2), (from, to, ROW));
        assert!((of.3 - chance).abs() < 1e-12, "{of:?}");
    }
}

#[test]
fn a_step_waits_for_kernels_and_for_rows() {
    let skeleton = mixtral(2, 8);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    request.costs = Costs {
        gpu: &Launching,
        ..small_costs()
    };
    request.budgets = budgets(&[GB], GB, None);
    let step = fits(&request).step;
    // A table, a norm and a head; two layers; of each two experts.
    let n = 3.0 + 2.0 * 10.0 + 2.0 * 2.0 * 3.0;
    assert_eq!(step.launches.len(), 1);
    let (run_on, found) = step.launches[0];
    assert_eq!(run_on, GPU);
    assert!((found - n).abs() < 1e-9, "{found}");
    let mut machine = speeds(1e9, 1e8, 1e8, 1e7);
    let without = step.seconds(&machine);
    machine.gpu.launch = 0.5;
    let more = step.seconds(&machine) - without;
    assert!((more - 0.5 * n).abs() < 1e-9, "{more}");
    machine.gpu.hand_over = 100.0;
    let more = step.seconds(&machine) - without;
    assert!((more - 0.5 * n - 100.0).abs() < 1e-9, "{more}");
}

#[test]
fn rows_between_gpus_take_their_own_way_where_it_is_known() {
    let skeleton = llama(2, false);
    let stored = all_as(&skeleton, DType::BF16);
    let request = request(&skeleton, &stored);
    let map = json!({"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1, "model.norm": 1, "lm_head": 0});
    let step = placed(&request, map).step;
    // Where nothing is read, a step takes what handing over does: through the host by the slower way.
    let mut machine = speeds(f64::INFINITY, 1e3, f64::INFINITY, f64::INFINITY);
    machine.gpu.hand_over = 1.0;
    let row = 4.0 * skeleton.spec.hidden as f64;
    let to_host = 1.0;
    let seconds = step.seconds(&machine);
    assert!(
        (seconds - to_host - 2.0 * (1.0 + row / 1e3)).abs() < 1e-9,
        "{seconds}"
    );
    let link = |rate, hand_over| LinkSpeed { rate, hand_over };
    machine.links = BTreeMap::from([((0, 1), link(1e6, 0.25)), ((1, 0), link(1e4, 0.5))]);
    let seconds = step.seconds(&machine);
    let expected = to_host + 0.25 + row / 1e6 + 0.5 + row / 1e4;
    assert!((seconds - expected).abs() < 1e-9, "{seconds}");
}

#[test]
fn each_gpu_has_its_own_speed() {
    let skeleton = llama(4, false);
    let stored = all_as(&skeleton, DType::BF16);
    let request = request(&skeleton, &stored);
    let map = json!({"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 0, "model.layers.2": 1,
        "model.layers.3": 1, "model.norm": 1, "lm_head": 1});
    let plan = placed(&request, map);
    let bytes = |number| {
        let units = plan.estimate.units().iter();
        let there = units.filter(move |unit| unit.placement.run_on == RunOn::Gpu(number));
        there.map(|unit| unit.per_pass.get() as f64).sum::<f64>()
    };
    let mut machine = speeds(1000.0, f64::INFINITY, 1e9, 1.0);
    machine.gpus = BTreeMap::from([(
        1,
        GpuSpeed {
            memory: 50.0,
            ..machine.gpu
        },
    )]);
    let handed_over = 128.0 / 1e9;
    let expected = bytes(0) / 1000.0 + bytes(1) / 50.0 + handed_over;
    let found = plan.step.seconds(&machine);
    assert!(
        (found - expected).abs() < 1e-9 * expected,
        "{found} {expected}"
    );
}

/// In decoding the CPU reads RAM faster than PCIe brings weights; in a long prompt the GPU computes faster.
#[test]
fn the_workload_says_which_device_computes() {
    let skeleton = llama_of(256, 8, false);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    request.costs = small_costs();
    request.limits = Limits {
        n_tokens: 64,
        ..ONE_SEQUENCE
    };
    let all = fits(&request).estimate.memories()[0].needed().get();
    request.budgets = budgets(&[all / 2], all, None);
    let mut machine = speeds(1e6, 2e4, 5e4, 3e3);
    machine.cpu_products = 1e4;
    machine.gpu.products = 1e8;
    let mut devices = |n_prompt, n_new| {
        request.offload = Offload::Fastest {
            speeds: machine.clone(),
            workload: Workload { n_prompt, n_new },
            only: None,
        };
        fits(&request).map.devices()
    };
    assert_eq!(devices(0, 16), [GPU, RunOn::Cpu]);
    assert_eq!(devices(16, 1), [GPU]);
    // What both together take decides: here the prompt's products.
    assert_eq!(devices(16, 2000), [GPU, RunOn::Cpu]);
}

/// Experts on the CPU save most bytes, whole layers most hand-overs.
#[test]
fn dear_hand_overs_keep_layers_whole() {
    let skeleton = mixtral_of(256, 6, 8);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    request.costs = small_costs();
    let all = fits(&request).estimate.memories()[0].needed().get();
    request.budgets = budgets(&[all / 2], all, None);
    let mut machine = speeds(1e6, 2e4, 5e4, 3e3);
    let mut apart = |hand_over| {
        machine.gpu.hand_over = hand_over;
        request.offload = fastest(machine.clone());
        let plan = fits(&request);
        let stages = plan.map.stages().unwrap();
        stages.iter().map(|stage| stage.remote.len()).sum::<usize>()
    };
    assert!(apart(0.0) > 2 * 8);
    assert_eq!(apart(1e6), 0);
}

/// What is kept in 32 bits for the CPU is not streamed to a GPU, which has no room for that.
#[test]
fn what_stays_in_32_bits_computes_on_the_cpu() {
    let quant = QuantConfig {
        llm_int8_enable_fp32_cpu_offload: true,
        ..QuantConfig::new(LoadIn::EightBit)
    };
    let skeleton = llama_of(256, 8, false);
    let stored = all_as(&skeleton, DType::F16);
    let mut request = request(&skeleton, &stored);
    request.costs = small_costs();
    request.encodings.quant = Some(&quant);
    let all = fits(&request).estimate.memories()[0].needed().get();
    for disk in [None, Some(all)] {
        request.budgets = budgets(&[all / 8], if disk.is_some() { all / 2 } else { all }, disk);
        for offload in [
            Offload::Stream,
            fastest(speeds(1e6, 1e5, 1e4, 1e3)),
            Offload::Compute,
        ] {
            request.offload = offload;
            let plan = fits(&request);
            assert_eq!(plan.map.devices(), [GPU, RunOn::Cpu]);
            let layer = |unit: &&UnitUse| matches!(unit.unit, Unit::Layer(..));
            for unit in plan.estimate.units().iter().filter(layer) {
                // Four projections of 256 or 128 rows, three of 768, two norms of two bytes an element.
                let elements = (2 * 256 + 2 * 128 + 3 * 768) * 256;
                let expected = match unit.placement.run_on {
                    RunOn::Cpu => 4 * elements,
                    RunOn::Gpu(_) => elements,
                };
                assert_eq!(unit.weights.get(), expected + 2 * 2 * 256, "{}", unit.unit);
            }
        }
    }
}

/// A table of which a token reads a row, and an encoder that reads the prompt once, leave the GPU to what every token reads.
#[test]
fn what_every_token_reads_comes_first() {
    let on_gpu = |skeleton: &Skeleton, workload| {
        let stored = all_as(skeleton, DType::BF16);
        let mut request = request(skeleton, &stored);
        request.costs = small_costs();
        let all = fits(&request).estimate.memories()[0].needed().get();
        request.budgets = budgets(&[all * 3 / 4], all, None);
        let mut machine = speeds(1e6, 2e4, 5e4, 3e3);
        machine.cpu_products = 1e4;
        machine.gpu.products = 1e8;
        request.offload = Offload::Fastest {
            speeds: machine,
            workload,
            only: None,
        };
        let plan = fits(&request);
        move |unit| plan.map.get(unit).is_some_and(|place| place.run_on == GPU)
    };
    let [decoding, reading] =
        [(0, 16), (16, 1)].map(|(n_prompt, n_new)| Workload { n_prompt, n_new });
    let is_on_gpu = on_gpu(&llama_of(256, 4, false), decoding);
    assert!(!is_on_gpu(Unit::Embedding));
    let t5 = t5_of(256, 4);
    let layer = |side| move |i| Unit::Layer(side, i);
    let is_on_gpu = on_gpu(&t5, decoding);
    assert!((0..4).map(layer(Side::Decoder)).all(&is_on_gpu));
    assert!(!(0..4).map(layer(Side::Encoder)).all(&is_on_gpu));
    // A long prompt for a single token is read by the GPU.
    let is_on_gpu = on_gpu(&t5, reading);
    assert!((0..4).map(layer(Side::Encoder)).all(&is_on_gpu));
}

#[test]
fn what_is_made_of_an_encoders_result_is_read_once_a_prompt() {
    let skeleton = t5_of(256, 4);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    request.costs = small_costs();
    let plan = fits(&request);
    let slots = skeleton.slots.iter();
    let n_bytes = |slot: &Slot| 2 * slot.n_elements();
    let of_encoded: u64 = slots.filter(|s| s.role.reads_encoded()).map(n_bytes).sum();
    assert!(of_encoded > 0);
    let is_read = |unit: &&UnitUse| {
        !matches!(
            unit.unit,
            Unit::Layer(Side::Encoder, _) | Unit::FinalNorm(Side::Encoder)
        )
    };
    let units = plan.estimate.units().iter().filter(is_read);
    let per_pass: u64 = units.map(|unit| unit.per_pass.get()).sum();
    let read: u64 = plan.step.weights.iter().map(|(_, n)| n.get()).sum();
    assert_eq!(read, per_pass - of_encoded);
}

/// An encoder that no GPU holds is brought to it once a prompt, where decoder layers would be for every token.
#[test]
fn an_encoder_is_streamed_beside_a_decoder_on_the_cpu() {
    let skeleton = t5_of(256, 6);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    request.costs = small_costs();
    let all = fits(&request).estimate.memories()[0].needed().get();
    request.budgets = budgets(&[all / 2], all, Some(all));
    let mut machine = speeds(1e6, 2e4, 5e4, 3e3);
    machine.cpu_products = 1e4;
    machine.gpu.products = 1e8;
    let workload = Workload {
        n_prompt: 16,
        n_new: 16,
    };
    for only in [None, Some(Rest::PromptStreamed)] {
        request.offload = Offload::Fastest {
            speeds: machine.clone(),
            workload,
            only,
        };
        let plan = fits(&request);
        let mut beside = (false, false);
        for (unit, place) in plan.map.iter().filter(|(_, place)| place.home == Home::Ram) {
            match unit {
                Unit::Layer(Side::Encoder, _) => beside.0 = true,
                Unit::Layer(Side::Decoder, _) => beside.1 = true,
                _ => continue,
            }
            let is_encoder = matches!(unit, Unit::Layer(Side::Encoder, _));
            let expected = if is_encoder { GPU } else { RunOn::Cpu };
            assert_eq!(place.run_on, expected, "{unit}");
        }
        assert_eq!(beside, (true, true));
    }
    // What is in RAM and on disk in turn computes alike.
    request.budgets = budgets(&[all / 3], all * 6 / 10, Some(all));
    for (unit, place) in fits(&request).map.iter() {
        if matches!(place.home, Home::Ram | Home::Disk) {
            let is_encoder = matches!(
                unit,
                Unit::Layer(Side::Encoder, _) | Unit::FinalNorm(Side::Encoder)
            );
            assert_eq!(place.run_on == GPU, is_encoder, "{unit}");
        }
    }
}
