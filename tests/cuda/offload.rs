//! Weights that rest in RAM or on disk and compute on the GPU.

use std::path::Path;

use cuda_emulator::pace::Pace;
use llm_plan::{DeviceMap, MemoryEstimate, Placement, Plan};
use llm_runtime::OffloadOptions;
use llm_tests::placing;
use serde_json::Value;

use super::*;

/// A model, how its weights are kept, and where offload files lie.
struct Case<'a> {
    model: &'a BoundModel,
    kept: (WeightDType, Option<&'a QuantConfig>),
    folder: &'a Path,
    /// Size of slices of matrices.
    slice: Bytes,
}

/// Slices so small that most matrices of a small model are cut.
const SMALL_SLICE: Bytes = Bytes::new(4096);

/// Home of a unit by its number in the order of computing, an expert's after its layer's.
type Homes<'a> = &'a dyn Fn(usize) -> &'static str;

impl Case<'_> {
    /// The plan of a map in which the GPU computes with everything.
    fn plan(&self, cuda: &Cuda, homes: Homes<'_>) -> Plan {
        let model = self.model;
        let stored: Vec<StoredTensor> = model.tensors().map(|bound| bound.stored()).collect();
        let (costs, plenty) = (CostsOf(cuda), Bytes::new(1 << 40));
        let chain = DeviceMap::on_one(model.spec(), RunOn::Gpu(0));
        let at = |unit| chain.iter().position(|(of, _)| of == unit).unwrap();
        let home = |unit| match homes(at(unit)) {
            "gpu" => Value::from(0),
            other => Value::from(other),
        };
        let request = Request {
            skeleton: model.skeleton(),
            stored: &stored,
            encodings: model.encodings(self.kept.0, self.kept.1).unwrap(),
            kv_dtype: None,
            limits: limits(model, N_TOKENS),
            load_piece: Bytes::mib(1),
            slice: self.slice,
            budgets: Budgets {
                ram: plenty,
                gpus: [(0, plenty)].into(),
                disk: Some(plenty),
            },
            strategy: placing(model, home),
            offload: Offload::Stream,
            costs: Costs {
                cpu: &costs,
                gpu: &costs,
                program: Bytes::ZERO,
            },
        };
        match plan(&request).unwrap() {
            Verdict::Fits(plan) => *plan,
            refused => panic!("{refused}"),
        }
    }

    fn in_slices_if(&self, is_cut: bool) -> Self {
        let slice = if is_cut { SMALL_SLICE } else { self.slice };
        Case { slice, ..*self }
    }

    fn load(&self, cuda: &Arc<Cuda>, map: &DeviceMap) -> Session {
        let options = LoadOptions {
            dtype: self.kept.0,
            quant: self.kept.1,
            encoder: &Scalar,
            limits: limits(self.model, N_TOKENS),
            offload: Some(OffloadOptions {
                map,
                folder: self.folder,
            }),
        };
        let devices = [(RunOn::Gpu(0), cuda as _)];
        let interrupt = Interrupt::default();
        load_on(self.model, &devices, &options, &interrupt, &mut |_| ()).unwrap()
    }

    /// Compares what it computes with weights where they are planned, and with all of them resident: the bits, or where matrices come
    /// in slices, whose rows kernels are chosen by, the values.
    fn check(&self, cuda: &Arc<Cuda>, homes: Homes<'_>, what: &str) {
        let plan = self.plan(cuda, homes);
        let whole = DeviceMap::on_one(self.model.spec(), RunOn::Gpu(0));
        let [found, expected] = [&plan.map, &whole].map(|map| run(&mut self.load(cuda, map)));
        let error = relative_error(&found, &expected);
        let most = if self.slice < DEFAULT_SLICE {
            2e-4
        } else {
            0.0
        };
        assert!(error <= most, "{what} is off by {error:.1e}");
        assert!(cuda.usage().values().all(|left| left.get() == 0), "{what}");
    }
}

const PROMPT: [u32; 5] = [3, 1, 4, 1, 5];

fn run(session: &mut Session) -> Vec<f32> {
    let mut all = session.prefill(0, &PROMPT).unwrap().to_vec();
    for id in [9, 2] {
        all.extend_from_slice(session.step(&[(0, id)]).unwrap());
    }
    all
}

fn with_case(name: &str, kept: (WeightDType, Option<&QuantConfig>), check: impl FnOnce(&Case<'_>)) {
    let model = BoundModel::open(&fixture("models").join(name)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    check(&Case {
        model: &model,
        kept,
        folder: folder.path(),
        slice: DEFAULT_SLICE,
    });
}

/// Homes in turn, beginning with one of them.
fn in_turn(first: usize) -> impl Fn(usize) -> &'static str {
    move |at| ["disk", "cpu", "gpu"][(at + first) % 3]
}

/// Of a model whose first unit and last units are on the GPU.
fn layers_in(home: &'static str, n_units: usize) -> impl Fn(usize) -> &'static str {
    move |at| match at {
        0 => "gpu",
        at if at + 2 >= n_units => "gpu",
        _ => home,
    }
}

#[test]
fn every_kind_of_unit_computes_the_same_wherever_it_rests() {
    for (i, name) in [
        "llama",
        "llama3-rope-tied",
        "opt-350m-style",
        "qwen3-moe-mixed",
        "t5-buckets",
    ]
    .into_iter()
    .enumerate()
    {
        Machine::new().seed(i as u64).counts(false).inside(|| {
            with_case(name, F32, |case| {
                for turn in 0..3 {
                    let case = case.in_slices_if(turn == 1);
                    case.check(&first(), &in_turn(turn), &format!("{name} {turn}"));
                }
            });
        });
    }
}

#[test]
fn every_scheme_computes_the_same_wherever_it_rests() {
    let int8 = QuantConfig::new(LoadIn::EightBit);
    let nf4 = |double| QuantConfig {
        bnb_4bit_quant_type: Code::Nf4,
        bnb_4bit_use_double_quant: double,
        ..QuantConfig::new(LoadIn::FourBit)
    };
    let bf16 = WeightDType::As(DType::BF16);
    let (plain, double) = (nf4(false), nf4(true));
    for (i, quant) in [None, Some(&int8), Some(&plain), Some(&double)]
        .into_iter()
        .enumerate()
    {
        Machine::new().seed(7 + i as u64).counts(false).inside(|| {
            with_case("llama", (bf16, quant), |case| {
                for turn in 1..3 {
                    let case = case.in_slices_if(turn == 1);
                    case.check(&first(), &in_turn(turn), &format!("{quant:?} {turn}"));
                }
            });
        });
    }
}

/// In any order of work that streams and events allow.
#[test]
fn no_order_of_copies_and_kernels_computes_anything_else() {
    for seed in 0..20 {
        Machine::new()
            .seed(seed)
            .counts(false)
            .races(false)
            .inside(|| {
                with_case("llama", F32, |case| {
                    let homes = |at: usize| ["cpu", "disk", "cpu"][at % 3];
                    let homes = |at| if at + 1 == 6 { "gpu" } else { homes(at) };
                    let case = case.in_slices_if(seed % 2 == 1);
                    case.check(&first(), &homes, &format!("seed {seed}"));
                });
            });
    }
}

/// What was planned is what the driver gives of its memory, and what it locks of the host's.
#[test]
fn memory_that_is_streamed_to_is_as_planned() {
    let double = QuantConfig {
        bnb_4bit_quant_type: Code::Nf4,
        bnb_4bit_use_double_quant: true,
        ..QuantConfig::new(LoadIn::FourBit)
    };
    for (name, kept) in [
        ("llama", F32),
        (
            "qwen3-moe-mixed",
            (WeightDType::As(DType::BF16), Some(&double)),
        ),
        ("opt-350m-style", (WeightDType::As(DType::BF16), None)),
    ] {
        Machine::new().counts(false).inside(|| {
            with_case(name, kept, |case| {
                // No table is in RAM beside what is brought.
                let case = case.in_slices_if(name == "llama");
                let plan = case.plan(&first(), &in_turn(0));
                let cuda = first();
                let mut session = case.load(&cuda, &plan.map);
                session.prefill(0, &PROMPT).unwrap();
                let found = report().unwrap();
                let on_gpu = planned_in(&plan.estimate, Home::Gpu(0), |_| true);
                assert_eq!(found.devices[0].asked, on_gpu, "{name}");
                // Beside a ring for what a pass uploads.
                let locked = planned_in(&plan.estimate, Home::Ram, |term| {
                    matches!(
                        term,
                        Term::Weights | Term::QuantizationStatistics | Term::Staging
                    )
                });
                assert_eq!(found.pinned.asked, locked + (1 << 20), "{name}");
                let held = session.memory();
                assert_eq!(held.pageable, Bytes::ZERO);
                for memory in plan.estimate.memories() {
                    let terms = held.memories.get(&memory.home).copied().unwrap_or_default();
                    for term in Term::ALL {
                        if !matches!(term, Term::LoadTransient | Term::Program)
                            && memory.home != Home::Disk
                        {
                            let planned = memory.terms.get(term);
                            assert_eq!(
                                planned,
                                terms.get(term),
                                "{name}: {term} in {}",
                                memory.home
                            );
                        }
                    }
                }
            });
        });
    }
}

fn planned_in(estimate: &MemoryEstimate, home: Home, counts: impl Fn(Term) -> bool) -> u64 {
    let terms = estimate.memory(home).unwrap().terms;
    let counted = Term::ALL.into_iter().filter(|&term| counts(term));
    counted.map(|term| terms.get(term).get()).sum()
}

/// Over PCIe go the weights that rest outside, once a token, and what a pass is told, no more.
#[test]
fn a_token_brings_what_rests_outside_once() {
    Machine::new().counts(false).inside(|| {
        with_case("llama", F32, |case| {
            let cuda = first();
            let n_units = DeviceMap::on_one(case.model.spec(), RunOn::Gpu(0))
                .iter()
                .count();
            let of_three_tokens = |map: &DeviceMap| {
                let mut session = case.load(&cuda, map);
                session.prefill(0, &PROMPT).unwrap();
                let mut bytes = || {
                    session.step(&[(0, 7)]).unwrap();
                    report().unwrap().bytes_to_device
                };
                let all: Vec<u64> = (0..6).map(|_| bytes()).collect();
                all[5] - all[2]
            };
            let own = of_three_tokens(&DeviceMap::on_one(case.model.spec(), RunOn::Gpu(0)));
            for home in ["cpu", "disk"] {
                let plan = case.plan(&cuda, &layers_in(home, n_units));
                let outside = |at: Placement| !at.is_resident();
                let units = plan.estimate.units().iter();
                let units = units.filter(|unit| outside(unit.placement));
                let layers: Vec<u64> = units.map(|unit| unit.per_pass.get()).collect();
                assert_eq!(layers, [layers[0]; 3]);
                let (layer, weights) = (layers[0], 3 * 3 * layers[0]);
                let brought = of_three_tokens(&plan.map) - own;
                let range = match home {
                    // With what lies between parts: nine tensors a layer.
                    "cpu" => weights..=weights + 3 * 3 * 9 * 256,
                    // How fast the file is read decides what lies in the two places when the count begins and ends: up to
                    // two layers more. While one is still read, another stays where it is and is used again: with two
                    // places for three layers in turn, of nine uses no order brings fewer than four.
                    _ => 4 * layer..=weights + 2 * layer,
                };
                assert!(range.contains(&brought), "{home}: {brought} of {range:?}");
            }
        });
    });
}

/// A model with more layers, each the same.
fn deep(n_layers: usize) -> tempfile::TempDir {
    let mut model = llm_tests::Variant::of(&fixture("models").join("llama"));
    model.set("num_hidden_layers", n_layers);
    let layer: Vec<_> = model
        .tensors
        .iter()
        .filter_map(|(name, tensor)| {
            let rest = name.strip_prefix("model.layers.0.")?;
            Some((rest.to_owned(), tensor.clone()))
        })
        .collect();
    for i in 0..n_layers {
        for (name, tensor) in &layer {
            let name = format!("model.layers.{i}.{name}");
            model.tensors.insert(name, tensor.clone());
        }
    }
    model.write()
}

/// While a layer computes the next one comes: of equal costs nine tenths are hidden, from RAM, from disk, and from both.
#[test]
fn copies_hide_behind_kernels() {
    const N_LAYERS: usize = 24;
    const LAUNCH: u64 = 1000;
    let run = |machine: Machine, home: &'static str| {
        machine.counts(false).races(false).inside(|| {
            let written = deep(N_LAYERS);
            let model = BoundModel::open(written.path()).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let case = Case {
                model: &model,
                kept: F32,
                folder: folder.path(),
                slice: DEFAULT_SLICE,
            };
            let cuda = first();
            let n_units = N_LAYERS + 3;
            let homes = |at: usize| match (layers_in("cpu", n_units)(at), home) {
                ("cpu", "both") => ["cpu", "cpu", "disk"][at % 3],
                ("cpu", home) => home,
                (at_home, _) => at_home,
            };
            let plan = case.plan(&cuda, &homes);
            let mut session = case.load(&cuda, &plan.map);
            session.prefill(0, &PROMPT).unwrap();
            let mut step = || {
                session.step(&[(0, 7)]).unwrap();
                let report = report().unwrap();
                let launches = report.kernels.values().map(|kernel| kernel.launches).sum();
                (
                    report.bytes_to_device,
                    launches,
                    report.timelines.first().cloned(),
                )
            };
            let steps: Vec<(u64, u64, _)> = (0..10).map(|_| step()).collect();
            let timelines: Option<Vec<_>> = steps.iter().map(|step| step.2.as_ref()).collect();
            if let Some(timelines) = timelines {
                let overlaps = timelines.windows(2);
                let overlaps = overlaps.map(|pair| pair[1].since(pair[0]).overlap());
                let mut overlaps: Vec<f64> = overlaps.collect();
                overlaps.sort_by(f64::total_cmp);
                // Files are read in the time of the machine that tests, which may stop a thread: the median step counts.
                let median = overlaps[overlaps.len() / 2];
                assert!(median >= 0.9, "{home}: {overlaps:?}");
            }
        })
    };
    let probe = run(Machine::new(), "cpu");
    // As many nanoseconds for the bytes as for the kernels.
    let rate = probe.map(|report| {
        let launches: u64 = report.kernels.values().map(|kernel| kernel.launches).sum();
        report.bytes_to_device * 1_000_000_000 / (launches * LAUNCH)
    });
    let pace = Pace {
        launch: LAUNCH,
        to_device: rate.unwrap_or(1).max(1),
        to_host: 1 << 40,
    };
    for home in ["cpu", "both", "disk"] {
        run(Machine::new().pace(pace), home);
    }
}

/// Where the system locks no pages, weights are copied from ordinary ones, and who asks is told.
#[test]
fn weights_in_pages_that_are_not_locked_compute_the_same() {
    Machine::new().counts(false).registers(false).inside(|| {
        with_case("llama", F32, |case| {
            let cuda = first();
            case.check(&cuda, &in_turn(0), "pageable");
            let plan = case.plan(&cuda, &in_turn(0));
            let session = case.load(&cuda, &plan.map);
            let in_ram = planned_in(&plan.estimate, Home::Ram, |term| {
                matches!(term, Term::Weights | Term::QuantizationStatistics)
            });
            assert_eq!(session.memory().pageable, Bytes::new(in_ram));
        });
    });
}
