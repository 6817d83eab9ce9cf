//! Models cut into stages on several devices: the logits of one stage, and the memory that was planned for each device.
//! Backends in host memory stand in for GPUs.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

#[path = "stages/homes.rs"]
mod homes;

use std::path::Path;
use std::sync::Arc;

use llm_arch::Unit;
use llm_backend::Reference;
use llm_conformance::{Deferred, Fault};
use llm_cpu::Cpu;
use llm_plan::{
    Budgets, Costs, DeviceCosts, DeviceMap, GpuCosts, Home, Offload, Plan, Request, RunOn,
    StoredTensor, Term, Verdict, WeightDType, plan,
};
use llm_quant::{LoadIn, QuantConfig, Scalar};
use llm_runtime::{
    BoundModel, CostsOf, Device, Interrupt, Limits, LoadOptions, NotFinite, OffloadOptions,
    RuntimeError, Session, load_on,
};
use llm_tensor::{Bytes, DType};
use llm_tests::{Variant, fixture, golden, placing, relative_error, short_passes, take_back};
use serde_json::{Value, json};

/// What f32 rounding, accumulated over a few layers, may move the logits by.
const TOLERANCE: f64 = 2e-4;

/// A backend that stands in for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reference,
    Cpu,
    /// The reference, as late as it may, in an order of the seed's.
    Deferred(u64),
    /// The same with waits of one kind forgotten.
    Faulty(u64, Fault),
    /// Deferred, beside the others of this kind: their work is done in any order that copies between them allow.
    Together(u64),
}

use Kind::{Cpu as C, Deferred as D, Reference as R, Together as T};

impl Kind {
    fn device(self) -> Box<dyn Device> {
        match self {
            R => Box::new(Arc::new(Reference::new())),
            C => Box::new(Arc::new(Cpu::new(Default::default()).unwrap())),
            D(seed) => Box::new(Arc::new(Deferred::new(seed))),
            T(seed) => Box::new(Arc::new(Deferred::new(seed))),
            Kind::Faulty(seed, fault) => Box::new(Arc::new(Deferred::with_fault(seed, fault))),
        }
    }

    /// Devices of some kinds, on one machine.
    fn devices(kinds: &[(RunOn, Kind)]) -> Vec<(RunOn, Box<dyn Device>)> {
        let mut first: Option<Deferred> = None;
        let kinds = kinds.iter();
        let device = |&(on, kind): &(RunOn, Kind)| match (kind, &first) {
            (T(_), Some(first)) => (on, Box::new(Arc::new(first.beside())) as Box<dyn Device>),
            (T(seed), None) => {
                let device = Deferred::new(seed);
                let beside = device.beside();
                first = Some(device);
                (on, Box::new(Arc::new(beside)) as _)
            }
            (R | C | D(_) | Kind::Faulty(..), _) => (on, kind.device()),
        };
        kinds.map(device).collect()
    }

    /// Whose bits it computes.
    fn arithmetic(self) -> usize {
        match self {
            R | D(_) | T(_) | Kind::Faulty(..) => 0,
            C => 1,
        }
    }
}

/// The devices that compute, each of some kind.
type Kinds = [(RunOn, Kind); 3];

fn kinds([gpu_0, gpu_1, cpu]: [Kind; 3]) -> Kinds {
    [
        (RunOn::Gpu(0), gpu_0),
        (RunOn::Gpu(1), gpu_1),
        (RunOn::Cpu, cpu),
    ]
}

/// What each GPU takes, by number.
struct PerGpu<'a>([&'a dyn DeviceCosts; 2]);

impl GpuCosts for PerGpu<'_> {
    fn of(&self, number: u32) -> &dyn DeviceCosts {
        self.0[number as usize]
    }
}

/// Size of slices: of a small model most matrices are cut.
const SLICE: Bytes = Bytes::new(4096);

/// A model and how it is loaded.
struct Case<'a> {
    name: &'a str,
    model: &'a BoundModel,
    quant: Option<&'a QuantConfig>,
    folder: &'a Path,
    /// What computes with what is in RAM and on disk.
    offload: Offload,
}

impl Case<'_> {
    fn limits(&self) -> Limits {
        short_passes(self.model, 3)
    }

    /// The plan of a map that has each unit where `home` says, and a tied head with its table.
    fn plan(&self, home: &dyn Fn(Unit) -> Value, kinds: &Kinds) -> Plan {
        let (reference, cpu) = (Reference::new(), Cpu::new(Default::default()).unwrap());
        let costs: [&dyn DeviceCosts; 2] = [&CostsOf(&reference), &CostsOf(&cpu)];
        let costs = kinds.map(|(_, kind)| costs[kind.arithmetic()]);
        let [gpu_0, gpu_1, cpu] = costs;
        let stored: Vec<StoredTensor> = self.model.tensors().map(|t| t.stored()).collect();
        let request = Request {
            skeleton: self.model.skeleton(),
            stored: &stored,
            encodings: self.model.encodings(DTYPE, self.quant).unwrap(),
            kv_dtype: None,
            limits: self.limits(),
            load_piece: Bytes::mib(1),
            slice: SLICE,
            budgets: Budgets {
                gpus: [0, 1].map(|n| (n, Bytes::new(1 << 40))).into(),
                ram: Bytes::new(1 << 40),
                disk: Some(Bytes::new(1 << 40)),
            },
            strategy: placing(self.model, home),
            offload: self.offload.clone(),
            costs: Costs {
                cpu,
                gpu: &PerGpu([gpu_0, gpu_1]),
                program: Bytes::ZERO,
            },
        };
        match plan(&request).unwrap() {
            Verdict::Fits(plan) => *plan,
            refused => panic!("{}: {refused}", self.name),
        }
    }

    fn load(&self, map: &DeviceMap, kinds: &[(RunOn, Kind)]) -> Result<Session, RuntimeError> {
        let devices = Kind::devices(kinds);
        let devices: Vec<_> = devices.iter().map(|(on, d)| (*on, &**d)).collect();
        let options = LoadOptions {
            dtype: DTYPE,
            quant: self.quant,
            encoder: &Scalar,
            limits: self.limits(),
            offload: Some(OffloadOptions {
                map,
                folder: self.folder,
            }),
        };
        load_on(
            self.model,
            &devices,
            &options,
            &Interrupt::default(),
            &mut |_| (),
        )
    }

    /// Logits of all on one device of a kind.
    fn whole(&self, kind: Kind, prompt: &[u32]) -> Vec<f32> {
        let map = DeviceMap::on_one(self.model.spec(), RunOn::Gpu(3));
        let mut session = self.load(&map, &[(RunOn::Gpu(3), kind)]).unwrap();
        run(&mut session, prompt)
    }

    /// Compares the logits of a model that is cut with those of one stage.
    fn check(&self, how: &str, home: &dyn Fn(Unit) -> Value, all: [Kind; 3], whole: &Whole) {
        let kinds = kinds(all);
        let plan = self.plan(home, &kinds);
        let mut session = self.load(&plan.map, &kinds).unwrap();
        let what = format!("{} on {all:?}, {how}", self.name);
        held_as_planned(&session, &plan, &what);
        let found = run(&mut session, &whole.prompt);
        let used = plan.map.devices().into_iter();
        let used: Vec<_> = used.map(|on| kind_of(&kinds, on).arithmetic()).collect();
        match used.iter().all(|&of| of == used[0]) {
            true => assert!(found == whole.logits[used[0]], "{what}"),
            false => {
                let error = relative_error(&found, &whole.logits[0]);
                assert!(error <= TOLERANCE, "{what} is off by {error:.1e}");
            }
        }
    }
}

fn kind_of(kinds: &Kinds, run_on: RunOn) -> Kind {
    kinds.iter().find(|(on, _)| *on == run_on).unwrap().1
}

/// What one stage computes: by arithmetic.
struct Whole {
    prompt: Vec<u32>,
    logits: [Vec<f32>; 2],
}

const DTYPE: WeightDType = WeightDType::As(DType::F32);

/// A prompt in pieces, steps, a copy of the sequence that goes on beside it, and another end of it.
fn run(session: &mut Session, prompt: &[u32]) -> Vec<f32> {
    let mut all = session.prefill(0, prompt).unwrap().to_vec();
    let mut step = |session: &mut Session, tokens: &[(usize, u32)]| {
        all.extend_from_slice(session.step(tokens).unwrap());
    };
    step(session, &[(0, prompt[1])]);
    step(session, &[(0, prompt[0])]);
    session.fork(0, 1).unwrap();
    step(session, &[(1, prompt[2]), (0, prompt[3])]);
    let len = session.len(0);
    let fed = [prompt, &[prompt[1]]].concat();
    take_back(session, 0, len - 2, &fed);
    step(session, &[(0, prompt[4])]);
    step(session, &[(1, prompt[5])]);
    let mut score = |_, logits: &[f32]| -> Result<(), Box<RuntimeError>> {
        all.extend_from_slice(logits);
        Ok(())
    };
    session.score(1, &prompt[..7], &mut score).unwrap();
    // Back from further than windows reach.
    session.truncate(1, 0);
    let mark = session.mark(0, 1).unwrap();
    for &id in &prompt[..9] {
        session.step(&[(0, id)]).unwrap();
    }
    session.return_to(&mark).unwrap();
    all.extend_from_slice(session.step(&[(0, prompt[6])]).unwrap());
    session.release(mark);
    all
}

/// Each memory holds what was planned, to the byte.
fn held_as_planned(session: &Session, plan: &Plan, what: &str) {
    let allocated = session.memory().memories;
    for memory in plan.estimate.memories() {
        if memory.home == Home::Disk {
            continue;
        }
        let found = allocated.get(&memory.home).copied().unwrap_or_default();
        for term in Term::ALL {
            if !matches!(term, Term::LoadTransient | Term::Program) {
                let planned = memory.terms.get(term);
                assert_eq!(
                    planned,
                    found.get(term),
                    "{what}: {term} in {}",
                    memory.home
                );
            }
        }
    }
    assert!(
        allocated
            .keys()
            .all(|&home| plan.estimate.memory(home).is_some())
    );
    let units = session.memory().units;
    for unit in plan.estimate.units() {
        let found = units.get(&unit.unit).copied().unwrap_or_default();
        // What is on disk is in no memory, but for its keys and values.
        let held = |bytes| match unit.placement.home {
            Home::Disk => Bytes::ZERO,
            Home::Gpu(_) | Home::Ram => bytes,
        };
        let planned = [
            held(unit.weights),
            held(unit.quantization_statistics),
            unit.kv_cache,
        ];
        let terms = [Term::Weights, Term::QuantizationStatistics, Term::KvCache];
        assert_eq!(
            planned,
            terms.map(|term| found.get(term)),
            "{what}: {}",
            unit.unit
        );
    }
}

/// A model's units in the order in which they compute, without experts, which are with their layer.
fn chain(model: &BoundModel) -> Vec<Unit> {
    let map = DeviceMap::on_one(model.spec(), RunOn::Cpu);
    let units = map.iter().map(|(unit, _)| unit);
    units
        .filter(|unit| !matches!(unit, Unit::Expert { .. }))
        .collect()
}

/// Where a unit stands in the chain.
fn at(chain: &[Unit], unit: Unit) -> usize {
    let unit = match unit {
        Unit::Expert { layer, .. } => Unit::Layer(llm_arch::Side::Decoder, layer),
        unit => unit,
    };
    chain.iter().position(|&of| of == unit).unwrap()
}

fn with_model(name: &str, quant: Option<&QuantConfig>, check: impl FnOnce(&Case<'_>, &Whole)) {
    let (path, expected) = golden(name);
    let model = BoundModel::open(&path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let case = Case {
        name,
        model: &model,
        quant,
        folder: folder.path(),
        offload: Offload::Compute,
    };
    let prompt = expected.input_ids;
    let logits = [R, C].map(|kind| case.whole(kind, &prompt));
    check(&case, &Whole { prompt, logits });
}

fn all_models() -> Vec<String> {
    let entries = std::fs::read_dir(fixture("models")).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() >= 46, "{} models", names.len());
    names
}

/// Each kind of positions, windows, residuals and heads, experts, and an encoder.
const FAMILIES: [&str; 12] = [
    "bloom",
    "falcon-7b-style",
    "gemma3",
    "gemma3n",
    "gpt2",
    "llama",
    "llama4",
    "opt-350m-style",
    "phi3-longrope-short",
    "qwen3-moe-mixed",
    "t5-buckets",
    "t5-flan-style",
];

/// Cuts a chain before `first` and before `second`: on GPU 0, on `middle`, and on the third device.
fn cut(case: &Case<'_>, cuts: [usize; 2], order: [Value; 3], kinds: [Kind; 3], whole: &Whole) {
    let chain = chain(case.model);
    let home = |unit| {
        let at = at(&chain, unit);
        order[cuts.iter().filter(|&&cut| at >= cut).count()].clone()
    };
    let how = format!("cut before {cuts:?} over {order:?}");
    case.check(&how, &home, kinds, whole);
}

#[test]
fn every_model_cut_in_two_anywhere_computes_as_one_stage() {
    for name in all_models() {
        with_model(&name, None, |case, whole| {
            let n = chain(case.model).len();
            for at in 1..n {
                // Nothing is on the third device.
                cut(
                    case,
                    [at, n],
                    [json!(0), json!("cpu"), json!(1)],
                    [C, C, C],
                    whole,
                );
                cut(
                    case,
                    [at, n],
                    [json!("cpu"), json!(0), json!(1)],
                    [R, C, R],
                    whole,
                );
                let a = if at % 2 == 0 { C } else { R };
                let b = D(at as u64);
                cut(
                    case,
                    [at, n],
                    [json!(1), json!(0), json!(1)],
                    [a, b, C],
                    whole,
                );
            }
        });
    }
}

fn in_three(name: &str, mixtures: &[[Kind; 3]]) {
    with_model(name, None, |case, whole| {
        let n = chain(case.model).len();
        for first in 1..n {
            for second in first + 1..n {
                for (i, &kinds) in mixtures.iter().enumerate() {
                    let order = match (first + second + i) % 2 {
                        0 => [json!(0), json!(1), json!("cpu")],
                        _ => [json!("cpu"), json!(1), json!(0)],
                    };
                    cut(case, [first, second], order, kinds, whole);
                }
            }
        }
    });
}

#[test]
fn each_family_cut_in_three_anywhere_computes_as_one_stage() {
    for name in FAMILIES {
        in_three(name, &[[C, C, C], [R, C, R], [D(1), R, D(2)], [C, D(3), C]]);
    }
}

#[test]
#[ignore = "every model cut in three, in every mixture: minutes"]
fn every_model_cut_in_three_anywhere_computes_as_one_stage() {
    let kind = |i: usize| [R, C, D(i as u64)][i % 3];
    let mixtures = (0..27).map(|i| [kind(i / 9), kind(i / 3), kind(i)]);
    let mixtures: Vec<_> = mixtures.collect();
    for name in all_models() {
        in_three(&name, &mixtures);
    }
}

#[test]
fn units_on_devices_in_turn_compute_as_one_stage() {
    for name in all_models() {
        with_model(&name, None, |case, whole| {
            let chain = chain(case.model);
            let devices = [json!(0), json!("cpu"), json!(1)];
            let home = |unit| devices[at(&chain, unit) % 3].clone();
            case.check("in turn", &home, [C, C, C], whole);
            case.check("in turn", &home, [R, R, C], whole);
            case.check("in turn", &home, [D(4), D(5), R], whole);
        });
    }
}

#[test]
fn no_order_that_queues_allow_computes_anything_else() {
    for name in [
        "gemma3",
        "llama",
        "phi3-longrope-short",
        "qwen3-moe-mixed",
        "t5-flan-style",
    ] {
        with_model(name, None, |case, whole| {
            let chain = chain(case.model);
            let devices = [json!(0), json!(1), json!("cpu")];
            for seed in 0..20 {
                let home = |unit| devices[at(&chain, unit) % 3].clone();
                let kinds = [D(seed), D(seed + 20), D(seed + 40)];
                case.check("in turn", &home, kinds, whole);
                case.check("in turn", &home, [T(seed); 3], whole);
                let home = |_| json!(0);
                case.check("on one", &home, kinds, whole);
            }
        });
    }
}

#[test]
fn quantized_stages_compute_as_one_and_take_what_was_planned() {
    let int8 = QuantConfig::new(LoadIn::EightBit);
    let nf4_double = QuantConfig {
        bnb_4bit_use_double_quant: true,
        ..QuantConfig::new(LoadIn::FourBit)
    };
    for name in FAMILIES {
        for quant in [&int8, &nf4_double] {
            with_model(name, Some(quant), |case, whole| {
                let chain = chain(case.model);
                let devices = [json!(0), json!("cpu"), json!(1)];
                let home = |unit| devices[at(&chain, unit) % 3].clone();
                case.check("in turn", &home, [C, C, C], whole);
                case.check("in turn", &home, [R, D(8), R], whole);
            });
        }
    }
}

/// Each expert's place, by number.
type ExpertHome = fn(usize) -> Value;

#[test]
fn experts_compute_on_another_device_than_their_layer() {
    let nf4 = QuantConfig::new(LoadIn::FourBit);
    let places: [(&str, ExpertHome); 4] = [
        ("all on the CPU", |_| json!("cpu")),
        ("every other", |i| {
            if i % 2 == 0 { json!(0) } else { json!("cpu") }
        }),
        ("some on disk", |i| {
            if i % 3 == 0 {
                json!("disk")
            } else {
                json!("cpu")
            }
        }),
        ("all on disk", |_| json!("disk")),
    ];
    for name in [
        "deepseek-v4",
        "mixtral",
        "mixtral-sliding",
        "nemotron-h-moe-latent",
        "qwen3-moe",
        "qwen3-moe-mixed",
    ] {
        for quant in [None, Some(&nf4)] {
            with_model(name, quant, |case, whole| {
                let chain = chain(case.model);
                let middle = chain.len() / 2;
                for (how, expert_home) in places {
                    for last in [json!(0), json!("cpu")] {
                        let home = |unit| match unit {
                            Unit::Expert { .. }
                                if last == json!("cpu") && at(&chain, unit) >= middle =>
                            {
                                json!("disk")
                            }
                            Unit::Expert { expert, .. } => expert_home(expert),
                            unit if at(&chain, unit) < middle => json!(0),
                            _ => last.clone(),
                        };
                        let how = format!("experts {how}, other layers on {last}");
                        for kinds in [
                            [C, C, C],
                            [R, R, R],
                            [R, R, C],
                            [D(6), D(7), R],
                            [T(8), T(8), T(8)],
                        ] {
                            case.check(&how, &home, kinds, whole);
                        }
                    }
                }
            });
        }
    }
}

#[test]
fn a_stage_streams_after_another_device() {
    let int8 = QuantConfig {
        llm_int8_enable_fp32_cpu_offload: true,
        ..QuantConfig::new(LoadIn::EightBit)
    };
    for name in FAMILIES {
        with_model(name, None, |case, whole| {
            let chain = chain(case.model);
            for cut in [1, chain.len() / 2] {
                for odd in [0, 1] {
                    let home = |unit| match at(&chain, unit) {
                        at if at < cut => json!(0),
                        at if at % 2 == odd => json!("disk"),
                        _ => json!("cpu"),
                    };
                    case.check("streamed after", &home, [C, C, C], whole);
                    let home = |unit| match at(&chain, unit) {
                        at if at >= cut => json!(1),
                        at if at % 2 == odd => json!("disk"),
                        _ => json!("cpu"),
                    };
                    case.check("streamed before", &home, [R, R, C], whole);
                }
            }
        });
    }
    // What only GPUs compute with as integers is kept for each device as it computes.
    let (path, expected) = golden("llama");
    let model = BoundModel::open(&path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let case = Case {
        name: "llama",
        model: &model,
        quant: Some(&int8),
        folder: folder.path(),
        offload: Offload::Compute,
    };
    let units = chain(&model);
    let kinds = kinds([C, C, C]);
    let home = |unit| {
        if at(&units, unit) < 3 {
            json!(0)
        } else {
            json!("cpu")
        }
    };
    let plan = case.plan(&home, &kinds);
    let mut session = case.load(&plan.map, &kinds).unwrap();
    held_as_planned(&session, &plan, "int8 on a GPU alone");
    run(&mut session, &expected.input_ids);
}

/// Units of a second stage in turn in RAM and on disk, experts included.
fn half_streamed(chain: &[Unit], unit: Unit) -> Value {
    match (at(chain, unit), unit) {
        (0 | 1, _) => json!(0),
        (_, Unit::Expert { expert, .. }) if expert % 2 == 0 => json!("cpu"),
        (_, Unit::Expert { .. }) => json!("disk"),
        (at, _) if at % 2 == 0 => json!("cpu"),
        _ => json!("disk"),
    }
}

#[test]
fn streamed_weights_are_waited_for_in_any_order_that_queues_allow() {
    for name in ["gpt2", "llama", "qwen3-moe-mixed", "t5-flan-style"] {
        with_model(name, None, |case, whole| {
            let chain = chain(case.model);
            for seed in 0..20 {
                let home = |unit| half_streamed(&chain, unit);
                case.check("streamed", &home, [D(seed), R, D(seed + 20)], whole);
            }
        });
    }
}

#[test]
fn a_number_that_is_none_is_traced_through_stages() {
    for (tensor, name) in [
        ("model.layers.1.mlp.down_proj.weight", "llama"),
        ("model.norm.weight", "llama"),
        (
            "encoder.block.1.layer.0.SelfAttention.k.weight",
            "t5-v1-style",
        ),
        (
            "decoder.block.1.layer.1.EncDecAttention.v.weight",
            "t5-v1-style",
        ),
    ] {
        let mut model = Variant::of(&fixture("models").join(name));
        let (_, elements) = model.tensors.get_mut(tensor).unwrap();
        let middle = elements.len() / 2;
        elements[middle] = f32::NAN;
        let written = model.write();
        let model = BoundModel::open(written.path()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let case = Case {
            name,
            model: &model,
            quant: None,
            folder: folder.path(),
            offload: Offload::Compute,
        };
        let (chain, kinds) = (chain(&model), kinds([C, R, C]));
        let devices = [json!(0), json!(1), json!("cpu")];
        let home = |unit| devices[at(&chain, unit) % 3].clone();
        let plan = case.plan(&home, &kinds);
        let mut session = case.load(&plan.map, &kinds).unwrap();
        match session.prefill(0, &[3, 1, 4, 1, 5, 9, 2]) {
            Err(RuntimeError::NotFinite { cause }) => assert!(
                matches!(&*cause, NotFinite::Stored { tensor: t, .. } if t == tensor),
                "{cause:?}"
            ),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("{tensor}: finite"),
        }
    }
}

#[test]
fn what_cannot_be_loaded_is_refused() {
    let (path, _) = golden("llama");
    let model = BoundModel::open(&path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let case = Case {
        name: "llama",
        model: &model,
        quant: None,
        folder: folder.path(),
        offload: Offload::Compute,
    };
    let chain = chain(&model);
    let home = |unit| {
        if at(&chain, unit) == 2 {
            json!(1)
        } else {
            json!("cpu")
        }
    };
    let map = case.plan(&home, &kinds([C, C, C])).map;
    let refused = case.load(&map, &[(RunOn::Gpu(0), C), (RunOn::Cpu, C)]);
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("compute on GPU 1"), "{refused}");
}
