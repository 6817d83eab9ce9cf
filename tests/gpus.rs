//! Models cut over several emulated GPUs, alike and unlike, and the CPU: the logits of one GPU, and memory as it was planned.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

#[path = "gpus/homes.rs"]
mod homes;

use std::path::Path;
use std::sync::Arc;

use cuda_emulator::harness::{Machine, report};
use cuda_emulator::pace::Pace;
use cuda_emulator::report::TimelineReport;
use llm_arch::{Side, Unit};
use llm_cpu::Cpu;
use llm_cuda::Cuda;
use llm_plan::{
    Budgets, Costs, DEFAULT_SLICE, DeviceMap, Home, Offload, Plan, Request, RunOn, StoredTensor,
    Term, Verdict, WeightDType, plan,
};
use llm_quant::{LoadIn, QuantConfig, Scalar};
use llm_runtime::{
    BoundModel, CostsOf, Device, Interrupt, Limits, LoadOptions, OffloadOptions, Session, load_on,
};
use llm_tensor::{Bytes, DType};
use llm_tests::{golden, placing, relative_error, short_passes};
use serde_json::{Value, json};

/// Each kind of positions, residuals and heads, experts, an encoder, and layers that share a selection.
const FAMILIES: [&str; 8] = [
    "bloom",
    "falcon-7b-style",
    "gemma3",
    "glm-moe-dsa-sparse",
    "gpt2",
    "llama",
    "qwen3-moe-mixed",
    "t5-buckets",
];

/// Logits in f32 may be off by this of the norm: sums are rounded in another order.
const TOLERANCE: f64 = 2e-4;

const DTYPE: WeightDType = WeightDType::As(DType::F32);

/// A golden model, and its prompt.
struct Case {
    name: &'static str,
    model: BoundModel,
    prompt: Vec<u32>,
    quant: Option<QuantConfig>,
}

/// GPUs in the order of their numbers, and the CPU.
struct Devices {
    gpus: Vec<Arc<Cuda>>,
    cpu: Arc<Cpu>,
}

impl Devices {
    fn open(n_gpus: usize) -> Self {
        let gpus = (0..n_gpus).map(|number| Arc::new(Cuda::new(number).unwrap()));
        Devices {
            gpus: gpus.collect(),
            cpu: Arc::new(Cpu::new(Default::default()).unwrap()),
        }
    }

    fn list(&self) -> Vec<(RunOn, &dyn Device)> {
        let gpus = self.gpus.iter().zip(0..);
        let gpus = gpus.map(|(gpu, number)| (RunOn::Gpu(number), gpu as &dyn Device));
        gpus.chain([(RunOn::Cpu, &self.cpu as &dyn Device)])
            .collect()
    }
}

impl Case {
    fn open(name: &'static str, quant: Option<QuantConfig>) -> Self {
        let (path, expected) = golden(name);
        Case {
            name,
            model: BoundModel::open(&path).unwrap(),
            prompt: expected.input_ids,
            quant,
        }
    }

    fn limits(&self) -> Limits {
        short_passes(&self.model, 2)
    }

    /// Units in the order in which they compute, without experts, which are with their layer.
    fn chain(&self) -> Vec<Unit> {
        let map = DeviceMap::on_one(self.model.spec(), RunOn::Cpu);
        let units = map.iter().map(|(unit, _)| unit);
        units
            .filter(|unit| !matches!(unit, Unit::Expert { .. }))
            .collect()
    }

    /// The plan that has each unit on its device, and a tied head with its table.
    fn plan(&self, devices: &Devices, home: &dyn Fn(Unit) -> Value) -> Plan {
        let stored: Vec<StoredTensor> = self.model.tensors().map(|t| t.stored()).collect();
        let plenty = Bytes::new(1 << 40);
        let request = Request {
            skeleton: self.model.skeleton(),
            stored: &stored,
            encodings: self.model.encodings(DTYPE, self.quant.as_ref()).unwrap(),
            kv_dtype: None,
            limits: self.limits(),
            load_piece: Bytes::mib(1),
            slice: DEFAULT_SLICE,
            budgets: Budgets {
                gpus: (0..3).map(|number| (number, plenty)).collect(),
                ram: plenty,
                disk: None,
            },
            strategy: placing(&self.model, home),
            offload: Offload::Compute,
            costs: Costs {
                cpu: &CostsOf(&*devices.cpu),
                gpu: &CostsOf(&*devices.gpus[0]),
                program: Bytes::ZERO,
            },
        };
        match plan(&request).unwrap() {
            Verdict::Fits(plan) => *plan,
            refused => panic!("{}: {refused}", self.name),
        }
    }

    fn load(&self, devices: &Devices, plan: &Plan) -> Session {
        let options = LoadOptions {
            dtype: DTYPE,
            quant: self.quant.as_ref(),
            encoder: &Scalar,
            limits: self.limits(),
            offload: Some(OffloadOptions {
                map: &plan.map,
                folder: Path::new(""),
            }),
        };
        let interrupt = Interrupt::default();
        let devices = devices.list();
        let session = load_on(&self.model, &devices, &options, &interrupt, &mut |_| ());
        session.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// Logits of a model that is cut, once all its memory is as planned.
    fn run(&self, devices: &Devices, what: &str, home: &dyn Fn(Unit) -> Value) -> Vec<f32> {
        let plan = self.plan(devices, home);
        let what = format!("{}, {what}", self.name);
        let mut session = self.load(devices, &plan);
        let used = plan.map.devices();
        for (number, gpu) in (0..).zip(&devices.gpus) {
            let is_used = used.contains(&RunOn::Gpu(number));
            let planned = plan.estimate.memory(Home::Gpu(number));
            let planned = planned.map_or(Bytes::ZERO, |memory| {
                let terms = Term::ALL.iter().filter(|&&term| term != Term::GpuContext);
                terms.map(|&term| memory.terms.get(term)).sum()
            });
            let allocated: Bytes = gpu.usage().into_values().sum();
            assert_eq!(allocated, planned, "{what}: GPU {number}");
            assert_eq!(is_used, allocated > Bytes::ZERO, "{what}: GPU {number}");
            let asked = report().unwrap().devices[number as usize].asked;
            assert_eq!(Bytes::new(asked), planned, "{what}: GPU {number}");
        }
        let logits = continued(&mut session, &self.prompt);
        drop(session);
        for gpu in &devices.gpus {
            assert!(gpu.usage().values().all(|left| left.get() == 0), "{what}");
        }
        logits
    }
}

/// A prompt in pieces, a step, a copy of the sequence, and a step of both.
fn continued(session: &mut Session, prompt: &[u32]) -> Vec<f32> {
    let mut all = session.prefill(0, prompt).unwrap().to_vec();
    let mut step = |session: &mut Session, tokens: &[(usize, u32)]| {
        all.extend_from_slice(session.step(tokens).unwrap());
    };
    step(session, &[(0, prompt[1])]);
    session.fork(0, 1).unwrap();
    step(session, &[(1, prompt[2]), (0, prompt[3])]);
    all
}

/// The layer that an expert is of.
fn with_layer(unit: Unit) -> Unit {
    match unit {
        Unit::Expert { layer, .. } => Unit::Layer(Side::Decoder, layer),
        unit => unit,
    }
}

/// Units in runs, as long as each other, on devices one after the other.
fn in_runs<'a>(chain: &'a [Unit], devices: &'a [Value]) -> impl Fn(Unit) -> Value + 'a {
    move |unit| {
        let unit = with_layer(unit);
        let at = chain.iter().position(|&of| of == unit).unwrap();
        devices[at * devices.len() / chain.len()].clone()
    }
}

/// Units on devices in turn.
fn in_turn<'a>(chain: &'a [Unit], devices: &'a [Value]) -> impl Fn(Unit) -> Value + 'a {
    move |unit| {
        let unit = with_layer(unit);
        let at = chain.iter().position(|&of| of == unit).unwrap();
        devices[at % devices.len()].clone()
    }
}

fn on_first(_: Unit) -> Value {
    json!(0)
}

#[test]
fn alike_gpus_compute_what_one_does() {
    let report = Machine::new().devices(3).counts(false).inside(|| {
        let devices = Devices::open(3);
        let [two, three] = [vec![json!(0), json!(1)], vec![json!(2), json!(0), json!(1)]];
        for name in FAMILIES {
            let case = Case::open(name, None);
            let chain = case.chain();
            let one = case.run(&devices, "on one", &on_first);
            let found = case.run(&devices, "over two", &in_runs(&chain, &two));
            assert!(found == one, "{name} over two");
            let found = case.run(&devices, "over three, in turn", &in_turn(&chain, &three));
            assert!(found == one, "{name} over three");
        }
    });
    if let Some(report) = report {
        assert!(report.bytes_between_devices > 0 && report.bytes_staged == 0);
    }
}

#[test]
fn quantized_weights_on_two_gpus_compute_what_they_do_on_one() {
    let double = QuantConfig {
        bnb_4bit_use_double_quant: true,
        ..QuantConfig::new(LoadIn::FourBit)
    };
    let quants = [QuantConfig::new(LoadIn::EightBit), double];
    Machine::new().devices(2).counts(false).inside(|| {
        let devices = Devices::open(2);
        let two = [json!(0), json!(1)];
        for name in ["llama", "qwen3-moe-mixed"] {
            for quant in &quants {
                let case = Case::open(name, Some(quant.clone()));
                let chain = case.chain();
                let one = case.run(&devices, "on one", &on_first);
                let found = case.run(&devices, "in turn", &in_turn(&chain, &two));
                assert!(found == one, "{name}, {quant:?}");
            }
        }
    });
}

#[test]
fn unlike_gpus_and_the_cpu_compute_together() {
    let machine = Machine::new().devices(2).computes(&[80, 75]);
    machine.counts(false).inside(|| {
        let devices = Devices::open(2);
        let two = [json!(0), json!(1)];
        let three = [json!(1), json!("cpu"), json!(0)];
        for name in FAMILIES {
            let case = Case::open(name, None);
            let chain = case.chain();
            let one = case.run(&devices, "on one", &on_first);
            for (what, found) in [
                (
                    "two",
                    case.run(&devices, "over two", &in_turn(&chain, &two)),
                ),
                (
                    "three",
                    case.run(&devices, "over three", &in_runs(&chain, &three)),
                ),
            ] {
                let error = relative_error(&found, &one);
                assert!(
                    error <= TOLERANCE,
                    "{name} over {what} is off by {error:.1e}"
                );
            }
        }
    });
}

/// Rows of layers on either GPU go to the CPU's experts, and their results come back.
#[test]
fn experts_of_layers_on_two_gpus_compute_on_the_cpu() {
    let report = Machine::new().devices(2).counts(false).inside(|| {
        let devices = Devices::open(2);
        let two = [json!(0), json!(1)];
        for name in ["mixtral", "qwen3-moe-mixed"] {
            let case = Case::open(name, None);
            let chain = case.chain();
            let in_turn = in_turn(&chain, &two);
            let home = |unit| match unit {
                Unit::Expert { expert, .. } if expert % 2 == 1 => json!("cpu"),
                unit => in_turn(unit),
            };
            let one = case.run(&devices, "on one", &on_first);
            let found = case.run(&devices, "odd experts on the CPU", &home);
            let error = relative_error(&found, &one);
            assert!(error <= TOLERANCE, "{name} is off by {error:.1e}");
        }
    });
    if let Some(report) = report {
        assert!(report.bytes_between_devices > 0 && report.bytes_staged == 0);
    }
}

/// Rows of a layer go straight to experts on the other GPU, and their results come back.
#[test]
fn experts_compute_on_another_gpu_than_their_layer() {
    for (seed, peers) in [(0, true), (5, false)] {
        let machine = Machine::new().devices(2).seed(seed).peers(peers);
        let report = machine.counts(false).inside(|| {
            let devices = Devices::open(2);
            for name in ["mixtral", "qwen3-moe-mixed"] {
                let case = Case::open(name, None);
                let one = case.run(&devices, "on one", &on_first);
                let chain = case.chain();
                let two = [json!(0), json!(1)];
                let in_turn = in_turn(&chain, &two);
                let odd = |unit| match unit {
                    Unit::Expert { expert, .. } if expert % 2 == 1 => json!(1),
                    _ => json!(0),
                };
                let swapped = |unit| match (unit, in_turn(unit) == json!(0)) {
                    (Unit::Expert { .. }, true) => json!(1),
                    (Unit::Expert { .. }, false) => json!(0),
                    _ => in_turn(unit),
                };
                for (what, home) in [
                    ("odd experts on the second", &odd as &dyn Fn(Unit) -> Value),
                    ("all experts on the other", &swapped),
                ] {
                    let found = case.run(&devices, what, home);
                    let error = relative_error(&found, &one);
                    assert!(error <= TOLERANCE, "{name}, {what}, is off by {error:.1e}");
                }
            }
        });
        if let Some(report) = report {
            assert!(report.bytes_between_devices > 0);
            assert_eq!(report.bytes_staged > 0, !peers);
        }
    }
}

/// In any order that streams and events allow, and whether GPUs reach each other's memory or not.
#[test]
fn no_order_of_streams_of_two_gpus_computes_anything_else() {
    for seed in 0..20 {
        let machine = Machine::new().devices(2).peers(seed % 2 == 0);
        machine.seed(seed).counts(false).inside(|| {
            let devices = Devices::open(2);
            let case = Case::open("llama", None);
            let chain = case.chain();
            let one = case.run(&devices, "on one", &on_first);
            let found = case.run(&devices, "in turn", &in_turn(&chain, &[json!(0), json!(1)]));
            assert!(found == one, "seed {seed}");
        });
    }
}

/// A step takes one wait for the logits and one to see that no GPU failed, however often rows cross.
#[test]
fn the_host_waits_no_more_for_two_gpus_than_for_one() {
    Machine::new().devices(2).counts(false).inside(|| {
        let devices = Devices::open(2);
        let case = Case::open("llama", None);
        let chain = case.chain();
        let two = [json!(0), json!(1)];
        let in_turn = in_turn(&chain, &two);
        let mut n_waits = [&on_first as &dyn Fn(Unit) -> Value, &in_turn].map(|home| {
            let plan = case.plan(&devices, home);
            let mut session = case.load(&devices, &plan);
            session.prefill(0, &case.prompt).unwrap();
            let before = report().unwrap().host_synchronizations;
            session.step(&[(0, case.prompt[1])]).unwrap();
            report().unwrap().host_synchronizations - before
        });
        // The wait for what the other GPU has done by then.
        n_waits[0] += 1;
        assert_eq!(n_waits[1], n_waits[0]);
    });
}

/// While the second GPU computes a piece of a long prompt, the first has the next.
#[test]
fn pieces_of_a_prompt_are_computed_by_two_gpus_at_a_time() {
    let pace = Pace {
        launch: 1000,
        to_device: 1_000_000_000_000,
        to_host: 1_000_000_000_000,
    };
    let machine = Machine::new().devices(2).pace(pace);
    machine.counts(false).inside(|| {
        let devices = Devices::open(2);
        let case = Case::open("llama", None);
        let n_layers = case.model.spec().decoder.layers.len();
        let home = |unit| match unit {
            Unit::Layer(_, layer) if layer < n_layers / 2 => json!(0),
            Unit::Embedding => json!(0),
            _ => json!(1),
        };
        let plan = case.plan(&devices, &home);
        let mut session = case.load(&devices, &plan);
        let prompt: Vec<u32> = case.prompt.iter().cycle().take(40).copied().collect();
        let before = report().unwrap().timelines;
        session.prefill(0, &prompt).unwrap();
        let after = report().unwrap().timelines;
        let compute = |gpu: usize| after[gpu].compute - before[gpu].compute;
        let end = |timelines: &[TimelineReport]| timelines.iter().map(|of| of.end).max().unwrap();
        let took = end(&after) - end(&before);
        let [first, second] = [0, 1].map(compute);
        assert!(first > 0 && second > 0);
        // Of eight pieces, all but one of the GPU that has less to do are behind those of the other.
        let hidden = (first + second) as f64 - took as f64;
        let share = hidden / first.min(second) as f64;
        assert!(share > 0.8, "{first} and {second} ns took {took}");
    });
}
