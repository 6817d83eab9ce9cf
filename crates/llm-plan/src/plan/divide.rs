//! Division of what no GPU holds between a GPU, to which it is streamed, and the CPU, unit by unit.
//!
//! While a GPU computes with what it holds, PCIe brings more to it in no time of its own; beyond that, what takes less time
//! on the CPU is best left to it. So there may be a number of units for either that is better than none and all.

use llm_arch::Unit;

use super::{one_way, seconds};
use crate::items::{PlacementOrder, Portions};
use crate::placement::{DividedPart, Division, Rest};
use crate::strategy::Way;
use crate::weights::Weights;
use crate::{Home, Offload, Placement, Plan, Request, Strategy, Verdict};

/// The fastest plan in which the CPU computes with some of what no GPU holds and a GPU with the rest, if the workload takes
/// less time with it than with the plan that has all on one of them, by more than speeds are measured to; else that.
pub(crate) fn divide(
    request: &Request<'_>,
    weights: &Weights,
    whole: Verdict,
    order: PlacementOrder,
) -> Verdict {
    let Some(plan) = whole.plan() else {
        return whole;
    };
    let is_open = matches!(request.offload, Offload::Fastest { only: None, .. });
    let has_gpu = !request.budgets.gpus.is_empty() && request.strategy != Strategy::Cpu;
    // What is kept in 32 bits for the CPU computes there.
    if !is_open || !has_gpu || request.encodings.keeps_cpu_in_f32() {
        return whole;
    }
    let n = n_beside(request, weights, plan, order);
    let parts: &[DividedPart] = match plan.map.tiers().disk {
        true => &[DividedPart::OnCpu, DividedPart::Streamed],
        false => &[DividedPart::OnCpu],
    };
    let enough = seconds(&whole, &request.offload).map(|seconds| seconds * (1.0 - GAIN));
    let mut best: Option<(f64, Verdict)> = None;
    for &in_ram in parts {
        let mut divided = |n_on_cpu| {
            let division = Division { n_on_cpu, in_ram };
            let rest = Rest::Divided(division);
            let verdict = one_way(request, weights, Way { rest, order }).ok()?;
            let seconds = seconds(&verdict, &request.offload)?;
            if best.as_ref().is_none_or(|(least, _)| seconds < *least) {
                best = Some((seconds, verdict));
            }
            Some(seconds)
        };
        search(n, &mut divided);
    }
    match (best, enough) {
        (Some((seconds, divided)), Some(enough)) if seconds < enough => divided,
        _ => whole,
    }
}

/// Tries numbers from 1 to `n - 1` for the one that takes least: some at equal distances, then some about the best of these,
/// until they are all that are there, or near enough. Time first falls with each unit for the CPU, then rises: a sum of what
/// takes longest on either device.
fn search(n: usize, seconds: &mut dyn FnMut(usize) -> Option<f64>) {
    // Of tens of thousands of experts a few make no difference, and a plan of them takes longer.
    let (n_probes, n_parts) = match n {
        0..=FEW => (8, n.max(1)),
        _ => (4, 16),
    };
    let finest = n.div_ceil(n_parts);
    let (mut low, mut high) = (1, n);
    loop {
        let step = (high - low.min(high)).div_ceil(n_probes).max(1);
        let probes = (low..high).step_by(step);
        let found = probes.filter_map(|n_on_cpu| Some((seconds(n_on_cpu)?, n_on_cpu)));
        let best = found.min_by(|(a, _), (b, _)| a.total_cmp(b));
        let Some((_, best)) = best.filter(|_| step > finest) else {
            return;
        };
        (low, high) = (
            best.saturating_sub(step - 1).max(low),
            (best + step).min(high),
        );
    }
}

/// Portions of units that no GPU holds in a plan.
fn n_beside(request: &Request<'_>, weights: &Weights, plan: &Plan, order: PlacementOrder) -> usize {
    let is_beside = |unit: Unit| {
        let home = plan.map.get(unit).map(|Placement { home, .. }| home);
        matches!(home, Some(Home::Ram | Home::Disk))
    };
    let units = weights.units.list();
    match request.strategy {
        Strategy::Map(_) => units.iter().filter(|&&unit| is_beside(unit)).count(),
        Strategy::Auto
        | Strategy::Balanced
        | Strategy::BalancedLow0
        | Strategy::Sequential
        | Strategy::Cpu => {
            let order = match request.strategy {
                Strategy::Auto => order,
                _ => PlacementOrder::Layers,
            };
            let portions = Portions::of(weights, order);
            let beside = |&i: &usize| {
                let mut of_portion = portions.units(i..i + 1).iter();
                of_portion.any(|&idx| is_beside(units[idx]))
            };
            (0..portions.len()).filter(beside).count()
        }
    }
}

/// Share of the time that a division has to save.
const GAIN: f64 = 0.01;

/// Portions of which the best number is found, not one near it.
const FEW: usize = 512;
