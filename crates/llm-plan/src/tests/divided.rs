//! What no GPU holds, divided between a GPU and the CPU.

use super::*;
use crate::items::{HeadAmong, Items, PlacementOrder, Portions};
use crate::needs::Needs;
use crate::placement::{DividedPart, Division, Rest};

/// A GPU that reads its own memory twice as fast as the CPU reads RAM: meanwhile PCIe brings it a part of what it does not hold.
const SPEEDS: Speeds = speeds(1e5, 3e4, 5e4, 1e5);

const WIDE: usize = 256;

const DECODING: Workload = Workload {
    n_prompt: 0,
    n_new: 1,
};

/// The verdict with one way to compute with what no GPU holds, or with the fastest.
fn planned(request: &Request<'_>, only: Option<Rest>) -> Verdict {
    let request = Request {
        offload: Offload::Fastest {
            speeds: SPEEDS,
            workload: DECODING,
            only,
        },
        ..request.clone()
    };
    plan(&request).unwrap()
}

fn seconds_of(request: &Request<'_>, only: Option<Rest>) -> (f64, Plan) {
    match planned(request, only) {
        Verdict::Fits(plan) => (plan.step.seconds_of(DECODING, &SPEEDS), *plan),
        refused => panic!("{refused}"),
    }
}

/// Homes and devices of what no GPU holds.
fn beside(plan: &Plan) -> Vec<Placement> {
    let places = plan.map.iter().map(|(_, place)| place);
    places
        .filter(|place| !matches!(place.home, Home::Gpu(_)))
        .collect()
}

/// As many units are streamed as come while the GPU computes with what it holds; the CPU computes with the others.
#[test]
fn a_gpu_takes_as_much_as_comes_while_it_computes() {
    let skeleton = llama_of(WIDE, 40, false);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    request.costs = small_costs();
    let all = fits(&request).estimate.memories()[0].needed().get();
    request.budgets = budgets(&[all / 2], all, None);
    let (streamed, _) = seconds_of(&request, Some(Rest::Streamed));
    let (computed, _) = seconds_of(&request, Some(Rest::OnCpu));
    let (divided, plan) = seconds_of(&request, None);
    assert!(divided < 0.95 * streamed && divided < 0.95 * computed);
    let on_gpu = beside(&plan).iter().filter(|at| at.run_on == GPU).count();
    let n_held = plan.map.iter().count() - beside(&plan).len();
    // It computes ten layers of its own or others in the time in which three come.
    assert!(
        (on_gpu as f64 - n_held as f64 * 3.0 / 7.0).abs() <= 2.0,
        "{on_gpu} {n_held}"
    );
    // No other number of units is faster.
    for n_on_cpu in 1..beside(&plan).len() {
        let division = Division {
            n_on_cpu,
            in_ram: DividedPart::OnCpu,
        };
        let (other, _) = seconds_of(&request, Some(Rest::Divided(division)));
        assert!(divided <= other, "{n_on_cpu}: {divided} {other}");
    }
}

/// A plan that saves nothing by it is not divided.
#[test]
fn what_gains_nothing_is_not_divided() {
    let skeleton = llama_of(WIDE, 12, false);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    request.costs = small_costs();
    let all = fits(&request).estimate.memories()[0].needed().get();
    request.budgets = budgets(&[all / 2], all, None);
    for pcie in [2e4, 5e4] {
        request.offload = fastest(speeds(1e8, pcie, 5e4, 3e3));
        let plan = fits(&request);
        let found = beside(&plan);
        assert!(found.iter().all(|at| at.run_on == RunOn::Cpu), "{found:?}");
    }
}

/// Whatever is in RAM may compute on either device beside whatever is on disk on the other; budgets are kept, of a map of the
/// user's too.
#[test]
fn either_part_may_be_on_disk() {
    for skeleton in [
        llama_of(WIDE, 12, false),
        llama_of(WIDE, 12, true),
        mixtral_of(WIDE, 4, 4),
        t5_of(WIDE, 6),
    ] {
        let stored = all_as(&skeleton, DType::BF16);
        let mut request = request(&skeleton, &stored);
        request.costs = small_costs();
        let all = fits(&request).estimate.memories()[0].needed().get();
        request.budgets = budgets(&[all / 3], all / 2, Some(all));
        let (_, plan) = seconds_of(&request, Some(Rest::Streamed));
        let n = beside(&plan).len();
        let map = Value::Object(plan.map.hf_device_map(&skeleton)).to_string();
        // Keys and values of what the CPU computes with are in RAM, too: a map leaves no less there for them.
        for (strategy, ram) in [
            (Strategy::Auto, all / 2),
            (Strategy::Map(map.parse().unwrap()), all),
        ] {
            request.strategy = strategy;
            request.budgets = budgets(&[all / 3], ram, Some(all));
            for (in_ram, ram_on, disk_on) in [
                (DividedPart::OnCpu, RunOn::Cpu, GPU),
                (DividedPart::Streamed, GPU, RunOn::Cpu),
            ] {
                let is_apart = |n_on_cpu| {
                    let division = Division { n_on_cpu, in_ram };
                    let verdict = planned(&request, Some(Rest::Divided(division)));
                    let Some(plan) = verdict.plan() else {
                        return false;
                    };
                    for memory in plan.estimate.memories() {
                        assert!(memory.needed() <= request.budgets.of(memory.home));
                    }
                    plan.map.stages().unwrap();
                    let places = beside(plan);
                    let [in_ram, on_disk] = [(Home::Ram, ram_on), (Home::Disk, disk_on)]
                        .map(|(home, run_on)| Placement { home, run_on });
                    places.contains(&in_ram) && places.contains(&on_disk)
                };
                let n_apart = (1..n).filter(|&n_on_cpu| is_apart(n_on_cpu)).count();
                assert!(n_apart > 0, "{:?} {in_ram:?}", request.strategy);
            }
        }
    }
}

/// Every way to cut the same order into what is on the GPU, streamed to it, and for the CPU, and what of either is in RAM: none
/// that keeps the budgets is faster.
#[test]
fn no_division_is_faster() {
    let mut n_divided = 0;
    for skeleton in [
        llama_of(WIDE, 14, false),
        llama_of(WIDE, 14, true),
        mixtral_of(WIDE, 2, 3),
    ] {
        let stored = all_as(&skeleton, DType::BF16);
        let mut request = request(&skeleton, &stored);
        request.costs = small_costs();
        let all = fits(&request).estimate.memories()[0].needed().get();
        for gpu in 1..8 {
            for (ram, disk) in [(all, None), (all / 2, Some(all)), (all / 3, Some(all))] {
                request.budgets = budgets(&[all * gpu / 8], ram, disk);
                let Verdict::Fits(found) = planned(&request, None) else {
                    continue;
                };
                let devices = beside(&found);
                n_divided += usize::from(devices.iter().any(|at| at.run_on != devices[0].run_on));
                let found = found.step.seconds_of(DECODING, &SPEEDS);
                let best = fastest_division(&request, PlacementOrder::ExpertsLast);
                // What is left over where the largest number of units on the GPU is not the fastest, and what does not pay.
                let slack = 0.01 * best + all as f64 / 64.0 / SPEEDS.ram;
                assert!(
                    found <= best + slack,
                    "{found} {best} {:?}",
                    request.budgets
                );
            }
        }
    }
    assert!(n_divided > 5, "{n_divided}");
}

fn fastest_division(request: &Request<'_>, order: PlacementOrder) -> f64 {
    let weights = request.weights();
    let (spec, kv_dtype) = (&request.skeleton.spec, request.kv_dtype());
    let needs = Needs::of(spec, &request.limits, kv_dtype, &request.costs, [0]).unwrap();
    let items = Items::new(&weights, &needs, Portions::of(&weights, order));
    let n = items.len();
    let mut best = f64::INFINITY;
    for n_gpu in 0..=n {
        for n_on_cpu in 0..=n - n_gpu {
            for in_ram in [DividedPart::OnCpu, DividedPart::Streamed] {
                let division = Division { n_on_cpu, in_ram };
                for head in [HeadAmong::First, HeadAmong::Last] {
                    let ordered = items.evenly((n_gpu, head), Some(division));
                    let mut has_some = false;
                    for ram_end in n_gpu..=n {
                        let home = |portion: usize| match portion {
                            _ if portion < n_gpu => Home::Gpu(0),
                            _ if portion < ram_end => Home::Ram,
                            _ => Home::Disk,
                        };
                        let mut placements = vec![None; weights.units.list().len()];
                        for portion in 0..n {
                            for &idx in ordered.units(portion..portion + 1) {
                                let at = (0..n).find(|&i| items.units(i..i + 1).contains(&idx));
                                let run_on = match at.unwrap() + n_on_cpu < n {
                                    true => GPU,
                                    false => RunOn::Cpu,
                                };
                                let home = home(portion);
                                placements[idx] = Some(Placement { home, run_on });
                            }
                        }
                        let placements: Vec<_> = placements.into_iter().flatten().collect();
                        let estimate = MemoryEstimate::of(&weights, &needs, &placements);
                        let fits = |m: &MemoryUse| m.needed() <= request.budgets.of(m.home);
                        let has_disk = ram_end == n || request.budgets.disk.is_some();
                        if has_disk && estimate.memories().iter().all(fits) {
                            let step = StepCost::of(&weights, &needs, &estimate, &request.limits);
                            has_some |= ram_end > n_gpu;
                            best = best.min(step.seconds_of(DECODING, &SPEEDS));
                        }
                    }
                    if has_some {
                        break;
                    }
                }
            }
        }
    }
    best
}
