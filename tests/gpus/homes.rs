//! Weights in RAM and on disk beside one GPU and two, computed by GPUs, by the CPU, or some by either: the logits of weights
//! that are resident where they compute, and memory as it was planned.

use llm_plan::{
    Budgets, DividedPart, Division, GpuSpeed, MemoryUse, Placement, Rest, Speeds, Workload,
};
use llm_quant::Code;
use llm_tests::{GOLDENS, Packed, Written, fixture, published};

use super::*;

/// A model, how its weights are kept, and where offload files lie.
#[derive(Clone)]
struct Kept<'a> {
    model: &'a BoundModel,
    dtype: WeightDType,
    quant: Option<&'a QuantConfig>,
    folder: &'a Path,
    /// Size of slices of matrices.
    slice: Bytes,
    what: String,
}

/// Slices so small that most matrices of a small model are cut.
const SMALL_SLICE: Bytes = Bytes::new(4096);

/// Device of what no GPU holds.
#[derive(Debug, Clone, Copy)]
enum Beside {
    /// The GPU of what comes before.
    Streamed,
    /// The CPU for what is in RAM, a GPU for what is on disk.
    DiskStreamed,
    /// The CPU for what is on disk, a GPU for what is in RAM.
    RamStreamed,
    /// The CPU.
    Cpu,
}

impl Beside {
    const ALL: [Beside; 4] = [
        Beside::Streamed,
        Beside::DiskStreamed,
        Beside::RamStreamed,
        Beside::Cpu,
    ];

    fn offload(self, n_in_ram: usize, n_on_disk: usize) -> Offload {
        let divided = |in_ram, n_on_cpu| Offload::Fastest {
            speeds: speeds(),
            workload: Workload::default(),
            only: Some(Rest::Divided(Division { n_on_cpu, in_ram })),
        };
        match self {
            Beside::Streamed => Offload::Stream,
            Beside::DiskStreamed => divided(DividedPart::OnCpu, n_in_ram),
            Beside::RamStreamed => divided(DividedPart::Streamed, n_on_disk),
            Beside::Cpu => Offload::Compute,
        }
    }

    /// Device that computes with what rests there, if no GPU holds it: true for the CPU.
    fn is_on_cpu(self, home: Home) -> bool {
        match (self, home) {
            (_, Home::Gpu(_)) | (Beside::Streamed, _) => false,
            (Beside::DiskStreamed, home) => home == Home::Ram,
            (Beside::RamStreamed, home) => home == Home::Disk,
            (Beside::Cpu, _) => true,
        }
    }
}

/// Of no consequence where the way is given.
fn speeds() -> Speeds {
    let gpu = GpuSpeed {
        memory: 1e12,
        pcie: 1e10,
        products: 1e13,
        launch: 1e-6,
        hand_over: 1e-5,
    };
    Speeds {
        gpu,
        gpus: Default::default(),
        links: Default::default(),
        ram: 1e10,
        cpu_products: 1e11,
        disk: 1e9,
    }
}

impl Kept<'_> {
    fn limits(&self) -> Limits {
        short_passes(self.model, 2)
    }

    /// The same with matrices in slices.
    fn cut(&self) -> Self {
        Kept {
            slice: SMALL_SLICE,
            what: format!("{}, in slices", self.what),
            ..self.clone()
        }
    }

    fn plan(&self, devices: &Devices, offload: Offload, home: &dyn Fn(Unit) -> Value) -> Plan {
        let stored: Vec<StoredTensor> = self.model.tensors().map(|t| t.stored()).collect();
        let plenty = Bytes::new(1 << 40);
        let request = Request {
            skeleton: self.model.skeleton(),
            stored: &stored,
            encodings: self.model.encodings(self.dtype, self.quant).unwrap(),
            kv_dtype: None,
            limits: self.limits(),
            load_piece: Bytes::mib(1),
            slice: self.slice,
            budgets: Budgets {
                gpus: (0..2).map(|number| (number, plenty)).collect(),
                ram: plenty,
                disk: Some(plenty),
            },
            strategy: placing(self.model, home),
            offload,
            costs: Costs {
                cpu: &CostsOf(&*devices.cpu),
                gpu: &CostsOf(&*devices.gpus[0]),
                program: Bytes::ZERO,
            },
        };
        match plan(&request).unwrap() {
            Verdict::Fits(plan) => *plan,
            refused => panic!("{}: {refused}", self.what),
        }
    }

    /// The logits that it computes, once all its memory is as planned.
    fn run(&self, devices: &Devices, plan: &Plan, what: &str) -> Vec<f32> {
        let what = format!("{}, {what}", self.what);
        let options = LoadOptions {
            dtype: self.dtype,
            quant: self.quant,
            encoder: &Scalar,
            limits: self.limits(),
            offload: Some(OffloadOptions {
                map: &plan.map,
                folder: self.folder,
            }),
        };
        let interrupt = Interrupt::default();
        let list = devices.list();
        let session = load_on(self.model, &list, &options, &interrupt, &mut |_| ());
        let mut session = session.unwrap_or_else(|error| panic!("{what}: {error}"));
        let held = session.memory().memories;
        for MemoryUse { home, terms, .. } in plan.estimate.memories() {
            let counts = |&term: &Term| match *home {
                Home::Disk => false,
                Home::Ram => !matches!(term, Term::LoadTransient | Term::Program),
                Home::Gpu(_) => term != Term::GpuContext,
            };
            let allocated = held.get(home).copied().unwrap_or_default();
            for term in Term::ALL.into_iter().filter(counts) {
                let planned = terms.get(term);
                assert_eq!(planned, allocated.get(term), "{what}: {term} in {home}");
            }
            if let Home::Gpu(number) = *home {
                let terms = Term::ALL.into_iter().filter(counts);
                let planned: Bytes = terms.map(|term| terms_of(plan, *home, term)).sum();
                let asked = report().unwrap().devices[number as usize].asked;
                assert_eq!(Bytes::new(asked), planned, "{what}: {home}");
            }
        }
        let vocab = self.model.spec().vocab as u32;
        let ids = [3, 1, 4, 1, 5, 9, 2].map(|id| id % vocab);
        let mut all = session.prefill(0, &ids[..4]).unwrap().to_vec();
        for &id in &ids[4..] {
            all.extend_from_slice(session.step(&[(0, id)]).unwrap());
        }
        drop(session);
        for gpu in &devices.gpus {
            assert!(gpu.usage().values().all(|left| left.get() == 0), "{what}");
        }
        all
    }

    /// Compares weights at home where `home` says with the same on the same devices, all resident.
    fn check(&self, devices: &Devices, beside: Beside, home: &dyn Fn(Unit) -> Value) {
        // Experts are counted one by one, a tied head with its table.
        let placed = self.plan(devices, Offload::Compute, home).map;
        let n = |wanted: Home| {
            let at_home = placed.iter().filter(|(unit, placement)| {
                let is_counted = !(placed.is_tied() && *unit == Unit::Head);
                is_counted && placement.home == wanted
            });
            at_home.count()
        };
        let plan = self.plan(devices, beside.offload(n(Home::Ram), n(Home::Disk)), home);
        for (unit, Placement { home, run_on }) in plan.map.iter() {
            let is_on_cpu = beside.is_on_cpu(home);
            let what = &self.what;
            assert_eq!(run_on == RunOn::Cpu, is_on_cpu, "{what} {beside:?}: {unit}");
        }
        let resident = |unit| match plan.map.get(unit).unwrap().run_on {
            RunOn::Gpu(number) => json!(number),
            RunOn::Cpu => json!("cpu"),
        };
        let whole = self.plan(devices, Offload::Compute, &resident);
        let expected = self.run(devices, &whole, "resident");
        let found = self.run(devices, &plan, &format!("{beside:?}"));
        // Experts that are all resident compute together, by kernels that round 4-bit weights' sums in another order. So do
        // kernels that are chosen by the rows of a matrix, where it comes in slices.
        let layers = &self.model.spec().decoder.layers;
        let has_experts = layers.iter().any(|layer| layer.mlp.experts().is_some());
        let tolerance = match has_experts || self.slice < DEFAULT_SLICE {
            true => TOLERANCE,
            false => 0.0,
        };
        let error = relative_error(&found, &expected);
        let what = &self.what;
        assert!(
            error <= tolerance,
            "{what}: {beside:?} is off by {error:.1e}"
        );
    }
}

fn terms_of(plan: &Plan, home: Home, term: Term) -> Bytes {
    let memory = plan.estimate.memory(home);
    memory.map_or(Bytes::ZERO, |memory| memory.terms.get(term))
}

fn with_model(
    path: &Path,
    (dtype, quant): (WeightDType, Option<&QuantConfig>),
    check: impl FnOnce(&Kept<'_>),
) {
    let model = BoundModel::open(path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    check(&Kept {
        model: &model,
        dtype,
        quant,
        folder: folder.path(),
        slice: DEFAULT_SLICE,
        what: format!("{} {dtype:?} {quant:?}", path.display()),
    });
}

/// Homes in turn, an expert's after its layer's: where two GPUs are, both have some, and what is beside them.
fn homes(model: &BoundModel, n_gpus: usize, turn: usize) -> impl Fn(Unit) -> Value + use<> {
    let all: Vec<Unit> = DeviceMap::on_one(model.spec(), RunOn::Cpu)
        .iter()
        .map(|(unit, _)| unit)
        .collect();
    let last_gpu = n_gpus - 1;
    let homes = [json!(0), json!("cpu"), json!(last_gpu), json!("disk")];
    move |unit| {
        let at = all.iter().position(|&of| of == unit).unwrap();
        homes[(at + turn) % 4].clone()
    }
}

/// Every other turn in slices.
fn check_turns(devices: &Devices, kept: &Kept<'_>, n_gpus: usize, beside: &[Beside]) {
    for (turn, &beside) in beside.iter().enumerate() {
        let cut = (turn % 2 == 1).then(|| kept.cut());
        let kept = cut.as_ref().unwrap_or(kept);
        kept.check(devices, beside, &homes(kept.model, n_gpus, turn));
    }
}

fn nf4(double: bool) -> QuantConfig {
    QuantConfig {
        bnb_4bit_quant_type: Code::Nf4,
        bnb_4bit_use_double_quant: double,
        ..QuantConfig::new(LoadIn::FourBit)
    }
}

/// Each way to compute with what two GPUs do not hold, in each family.
#[test]
fn families_compute_the_same_on_gpus_and_cpu_wherever_they_rest() {
    for (i, name) in FAMILIES.into_iter().enumerate() {
        let machine = Machine::new().devices(2).seed(i as u64).counts(false);
        machine.races(false).inside(|| {
            let devices = Devices::open(2);
            with_model(&golden(name).0, (DTYPE, None), |kept| {
                let beside = [Beside::ALL[i % 4], Beside::ALL[(i + 1) % 4]];
                check_turns(&devices, kept, 1 + i % 2, &beside);
            });
        });
    }
}

/// Formats of published files: GGUF's blocks, those of stacked experts among them, codes in groups, scaled fp8, MXFP4.
#[test]
fn published_formats_compute_the_same_on_two_gpus_wherever_they_rest() {
    Machine::new()
        .devices(2)
        .seed(3)
        .counts(false)
        .races(false)
        .inside(|| {
            let devices = Devices::open(2);
            for name in ["gptq", "mxfp4-experts", "compressed-nvfp4"] {
                let path = fixture("packed").join(name);
                with_model(&path, (WeightDType::Auto, None), |kept| {
                    check_turns(&devices, &kept.cut(), 2, &[Beside::Streamed]);
                });
            }
            let path = fixture("faults/fp8-block-scales/model");
            with_model(&path, (WeightDType::Auto, None), |kept| {
                check_turns(&devices, kept, 2, &[Beside::DiskStreamed]);
            });
        });
}

/// Matrices in GGUF's blocks, every type in turn, also of stacked experts.
#[test]
fn blocks_compute_the_same_on_two_gpus_wherever_they_rest() {
    for (seed, packed) in Packed::ALL.into_iter().enumerate() {
        let machine = Machine::new().devices(2).seed(seed as u64).counts(false);
        machine.races(false).inside(|| {
            let devices = Devices::open(2);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("packed.gguf");
            packed.write(&path, Written::Blocks);
            with_model(&path, (WeightDType::Auto, None), |kept| {
                let turn = homes(kept.model, 2, seed);
                kept.cut().check(&devices, Beside::Streamed, &turn);
            });
        });
    }
}

/// In any order that streams and events allow, in one scheme and way after the other.
#[test]
fn no_order_of_streams_beside_two_gpus_computes_anything_else() {
    let (int8, double) = (QuantConfig::new(LoadIn::EightBit), nf4(true));
    let bf16 = WeightDType::As(DType::BF16);
    let published = |name| fixture("packed").join(name);
    let llama = golden("llama").0;
    let all = [
        (llama.clone(), (DTYPE, None)),
        (llama.clone(), (bf16, Some(&int8))),
        (llama, (bf16, Some(&double))),
        (published("gptq"), (WeightDType::Auto, None)),
        (published("mxfp4-experts"), (WeightDType::Auto, None)),
    ];
    for seed in 0..20 {
        let n = seed as usize;
        let machine = Machine::new().devices(2).peers(seed % 2 == 0);
        machine.seed(seed).counts(false).races(false).inside(|| {
            let devices = Devices::open(2);
            let (path, kept) = &all[n % 5];
            with_model(path, *kept, |kept| {
                let beside = Beside::ALL[n % 3];
                let cut = (n % 2 == 1).then(|| kept.cut());
                let kept = cut.as_ref().unwrap_or(kept);
                kept.check(&devices, beside, &homes(kept.model, 1 + n / 5 % 2, n % 4));
            });
        });
    }
}

/// All golden models, with one GPU and two, in every turn and way.
#[test]
#[ignore = "takes minutes: every model, home and way"]
fn every_model_computes_the_same_wherever_it_rests() {
    for (i, name) in GOLDENS.into_iter().enumerate() {
        for n_gpus in [1, 2] {
            let machine = Machine::new().devices(2).seed(i as u64).counts(false);
            machine.races(false).inside(|| {
                let devices = Devices::open(2);
                with_model(&golden(name).0, (DTYPE, None), |kept| {
                    check_turns(&devices, kept, n_gpus, &Beside::ALL);
                });
            });
        }
    }
}

/// Every scheme that is quantized to here, and every format of published files, in a family each, in every turn and way.
#[test]
#[ignore = "takes minutes: every scheme, home and way"]
fn every_scheme_computes_the_same_wherever_it_rests() {
    let bf16 = WeightDType::As(DType::BF16);
    let quants = [
        None,
        Some(QuantConfig::new(LoadIn::EightBit)),
        Some(nf4(false)),
        Some(nf4(true)),
        Some(QuantConfig::new(LoadIn::FourBit)),
    ];
    for (seed, quant) in quants.iter().enumerate() {
        for name in FAMILIES {
            on_one_and_two(seed as u64, &golden(name).0, (bf16, quant.as_ref()));
        }
    }
    for (seed, path) in published().iter().enumerate() {
        on_one_and_two(seed as u64, path, (WeightDType::Auto, None));
    }
    for (seed, packed) in Packed::ALL.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("packed.gguf");
        packed.write(&path, Written::Blocks);
        on_one_and_two(seed as u64, &path, (WeightDType::Auto, None));
    }
}

fn on_one_and_two(seed: u64, path: &Path, kept: (WeightDType, Option<&QuantConfig>)) {
    for n_gpus in [1, 2] {
        let machine = Machine::new().devices(2).seed(seed).counts(false);
        machine.races(false).inside(|| {
            let devices = Devices::open(2);
            with_model(path, kept, |kept| {
                check_turns(&devices, kept, n_gpus, &Beside::ALL);
            });
        });
    }
}
