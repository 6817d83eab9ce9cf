//! The filling against every way to cut the same order of units.

use llm_arch::{Side, Unit};
use llm_quant::{LoadIn, QuantConfig};

use super::*;
use crate::items::{HeadAmong, Items, PlacementOrder, Portions};
use crate::needs::Needs;

/// Wide enough that a tensor is more than the padding around it, and a disk of use.
const WIDE: usize = 256;

const SPEEDS: Speeds = speeds(1e6, 2e4, 5e4, 3e3);

fn needs(request: &Request<'_>) -> Needs {
    let (spec, kv_dtype) = (&request.skeleton.spec, request.kv_dtype());
    Needs::of(spec, &request.limits, kv_dtype, &request.costs, [0]).unwrap()
}

/// Every map that cuts the items, in their order and in RAM's, into what is on GPU 0, in RAM and on disk, by the estimate
/// alone: the fastest that keeps the budgets.
fn fastest(request: &Request<'_>, order: PlacementOrder) -> Option<f64> {
    let weights = request.weights();
    let needs = needs(request);
    let items = Items::new(&weights, &needs, Portions::of(&weights, order));
    let n = items.len();
    let has_gpu = !request.budgets.gpus.is_empty();
    let is_streamed = request.offload == Offload::Stream;
    let mut best: Option<f64> = None;
    for n_gpu in 0..=(if has_gpu { n } else { 0 }) {
        for tail in [RunOn::Gpu(0), RunOn::Cpu] {
            // Where weights are streamed, the CPU computes only where the GPU does nothing.
            let is_shared = tail == RunOn::Cpu && n_gpu > 0;
            if (is_shared && is_streamed) || (tail != RunOn::Cpu && !has_gpu) {
                continue;
            }
            for head in [HeadAmong::First, HeadAmong::Last] {
                let mut has_some = false;
                for ram_end in n_gpu..=n {
                    if ram_end < n && request.budgets.disk.is_none() {
                        continue;
                    }
                    let placements = cut(&items, (n_gpu, head), ram_end, tail);
                    let estimate = MemoryEstimate::of(&weights, &needs, &placements);
                    let fits = |m: &MemoryUse| m.needed() <= request.budgets.of(m.home);
                    if !estimate.memories().iter().all(fits) {
                        continue;
                    }
                    has_some |= ram_end > n_gpu;
                    let step = StepCost::of(&weights, &needs, &estimate, &request.limits);
                    let seconds = seconds(request, &step, tail == RunOn::Cpu && n_gpu == 0);
                    best = Some(best.map_or(seconds, |best: f64| best.min(seconds)));
                }
                // The head comes last only where it has no room.
                if has_some {
                    break;
                }
            }
        }
    }
    best
}

/// Cost to minimize. A GPU that can be streamed to is used where weights are streamed, whatever the CPU could do:
/// prompts are long.
fn seconds(request: &Request<'_>, step: &StepCost, is_cpu_alone: bool) -> f64 {
    match request.offload {
        Offload::Stream if is_cpu_alone && !request.budgets.gpus.is_empty() => {
            step.seconds(&SPEEDS) + 1e6
        }
        Offload::Stream => step.seconds(&SPEEDS),
        Offload::Compute => panic!("not compared"),
        Offload::Fastest { ref speeds, .. } => step.seconds_at_full_context(speeds),
    }
}

/// Items up to `n_gpu` on GPU 0; of the others, in RAM's order, those up to `ram_end` there, the rest on disk; `tail`
/// computes with what no GPU holds.
fn cut(
    items: &Items<'_>,
    (n_gpu, head): (usize, HeadAmong),
    ram_end: usize,
    tail: RunOn,
) -> Vec<Placement> {
    let items = items.evenly((n_gpu, head), None);
    let n = items.len();
    let mut placements = vec![None; items.units(0..n).len()];
    let runs = [
        (0..n_gpu, Home::Gpu(0), RunOn::Gpu(0)),
        (n_gpu..ram_end, Home::Ram, tail),
        (ram_end..n, Home::Disk, tail),
    ];
    for (run, home, run_on) in runs {
        for &idx in items.units(run) {
            placements[idx] = Some(Placement { home, run_on });
        }
    }
    placements.into_iter().flatten().collect()
}

fn check(request: &Request<'_>, order: PlacementOrder) {
    let found = plan(request).unwrap();
    let seconds = found.plan().map(|plan| {
        let is_cpu_alone = plan.map.devices() == [RunOn::Cpu];
        seconds(request, &plan.step, is_cpu_alone)
    });
    // Where the faster way is taken, that may be another order.
    let orders = match request.offload {
        Offload::Fastest { .. } => vec![order, PlacementOrder::MostReadFirst],
        Offload::Stream | Offload::Compute => vec![order],
    };
    let best = orders
        .into_iter()
        .filter_map(|order| fastest(request, order));
    match (seconds, best.min_by(f64::total_cmp)) {
        (Some(found), Some(best)) => {
            let late = found - best;
            assert!(
                -1e-9 * best < late && late < 1e-9 * best + of_use_to_the_cpu(request),
                "{found} {best} {:?}",
                request.budgets
            )
        }
        (found, best) => assert_eq!(found, best, "{:?}", request.budgets),
    }
}

/// Seconds that a step might save with less on a GPU than this holds: a CPU that waits for the disk could read meanwhile
/// what the GPU reads before it. No more than the GPU takes for that.
fn of_use_to_the_cpu(request: &Request<'_>) -> f64 {
    match request.offload {
        Offload::Stream => 0.0,
        Offload::Compute => panic!("not compared"),
        Offload::Fastest { ref speeds, .. } => {
            let gpus = request.budgets.gpus.values();
            gpus.map(|budget| budget.get() as f64).sum::<f64>() / speeds.gpu.memory
        }
    }
}

#[test]
fn no_prefix_map_is_faster() {
    let models = [
        llama_of(WIDE, 5, false),
        llama_of(WIDE, 4, true),
        mixtral_of(WIDE, 2, 4),
        t5_of(WIDE, 3),
    ];
    for skeleton in &models {
        let stored = all_as(skeleton, DType::BF16);
        let f16 = all_as(skeleton, DType::F16);
        for stored in [&stored, &f16] {
            let mut request = request(skeleton, stored);
            request.encodings.dtype = WeightDType::As(DType::BF16);
            request.costs = small_costs();
            let all = fits(&request).estimate.memories()[0].needed().get();
            let parts = |n: u64| (0..=n).map(move |i| all * 5 / 4 * i / n);
            for gpu in [None].into_iter().chain(parts(12).map(Some)) {
                for ram in parts(6) {
                    for disk in [None, Some(all / 3), Some(all)] {
                        let gpus: Vec<_> = gpu.into_iter().collect();
                        request.budgets = budgets(&gpus, ram, disk);
                        request.offload = Offload::Stream;
                        check(&request, PlacementOrder::ExpertsLast);
                        if gpu.is_none() {
                            continue;
                        }
                        for pcie in [2e4, 2.0 * SPEEDS.ram] {
                            request.offload = super::fastest(speeds(1e6, pcie, 5e4, 3e3));
                            check(&request, PlacementOrder::ExpertsLast);
                        }
                    }
                }
            }
        }
    }
}

/// Budgets that a cut fills to the last byte, and such as lack one.
#[test]
fn budgets_are_used_to_the_byte() {
    let models = [
        llama_of(WIDE, 3, false),
        llama_of(WIDE, 3, true),
        opt_of(WIDE, 2),
        mixtral_of(WIDE, 2, 3),
        t5_of(WIDE, 2),
    ];
    let int8 = QuantConfig::new(LoadIn::EightBit);
    let mut n_on_disk = 0;
    for skeleton in &models {
        let stored = all_as(skeleton, DType::F16);
        for quant in [None, Some(&int8)] {
            let mut request = request(skeleton, &stored);
            request.encodings.dtype = WeightDType::As(DType::BF16);
            request.encodings.quant = quant;
            request.costs = small_costs();
            let order = PlacementOrder::ExpertsLast;
            for budgets in filled(&request, order) {
                for home in [Home::Gpu(0), Home::Ram, Home::Disk] {
                    let budget = budgets.of(home).get();
                    for lacking in [0, 1] {
                        let budget = Bytes::new(budget.saturating_sub(lacking));
                        request.budgets = match home {
                            Home::Gpu(_) if budgets.gpus.is_empty() => budgets.clone(),
                            home => budgets.with(home, budget),
                        };
                        check(&request, order);
                        let verdict = plan(&request).unwrap();
                        let tiers = verdict.plan().map(|plan| plan.map.tiers());
                        n_on_disk += usize::from(tiers.is_some_and(|tiers| tiers.disk));
                    }
                }
            }
        }
    }
    assert!(n_on_disk > 200, "{n_on_disk}");
}

/// For every cut between RAM and disk what it takes, on the CPU alone and on a GPU that holds some of it.
fn filled(request: &Request<'_>, order: PlacementOrder) -> Vec<Budgets> {
    let weights = request.weights();
    let needs = needs(request);
    let items = Items::new(&weights, &needs, Portions::of(&weights, order));
    let n = items.len();
    let mut all = Vec::new();
    for (n_gpu, tail) in [(0, RunOn::Cpu), (0, RunOn::Gpu(0)), (n / 2, RunOn::Gpu(0))] {
        for ram_end in n_gpu..=n {
            let placements = cut(&items, (n_gpu, HeadAmong::First), ram_end, tail);
            let estimate = MemoryEstimate::of(&weights, &needs, &placements);
            let mut filled = budgets(&[], 0, Some(0));
            for memory in estimate.memories() {
                filled = filled.with(memory.home, memory.needed());
            }
            all.push(filled);
        }
    }
    all
}

#[test]
fn experts_leave_gpus_first() {
    let skeleton = mixtral(6, 8);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    request.costs = small_costs();
    let all = fits(&request).estimate.memories()[0].needed().get();
    for gpus in [
        &[all * 3 / 4][..],
        &[all / 4, all / 2],
        &[all / 4, all / 4, all / 4],
    ] {
        request.budgets = budgets(gpus, all, None);
        let plan = fits(&request);
        assert_eq!(plan.map.devices().len(), gpus.len());
        let is_on_gpu = |place: Placement| matches!(place.home, Home::Gpu(_));
        let (mut experts, mut others) = (Vec::new(), Vec::new());
        for (unit, place) in plan.map.iter() {
            match unit {
                Unit::Expert { .. } => experts.push(is_on_gpu(place)),
                _ => others.push(is_on_gpu(place)),
            }
        }
        assert!(others.iter().all(|&on_gpu| on_gpu));
        assert!(experts.contains(&true) && experts.contains(&false));
        for (unit, place) in plan.map.iter() {
            if let Unit::Expert { layer, .. } = unit {
                let layer = plan.map.get(Unit::Layer(Side::Decoder, layer)).unwrap();
                assert_eq!(place.run_on, layer.run_on, "{unit}");
            }
        }
        // No GPU has room for another layer.
        let layer = 2 * (8 * 3 * 48 + 8 + 32 + 16 + 16 + 32 + 2) * 32;
        for (&gpu, number) in gpus.iter().zip(0..) {
            let used = plan.estimate.memory(Home::Gpu(number)).unwrap().needed();
            assert!(used.get() + layer > gpu, "{number}");
        }
    }
}
