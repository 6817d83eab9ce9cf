//! A mixture of experts over several GPUs that do not hold all of it.

use llm_arch::Unit;

use crate::fill::{BesideGpus, Filling, Limit, Tails};
use crate::items::{Items, PlacementOrder, Portions};
use crate::ledger::Ledger;
use crate::needs::Needs;
use crate::placement::Rest;
use crate::weights::Weights;
use crate::{Budgets, Home, Placement, RunOn};

/// Each GPU gets a run of whole layers, about as large a part of the model as its budget is of all GPUs', and holds as
/// many of their experts as it can beside all that every token needs; the other experts are streamed to it, or the CPU computes
/// with them. `None` where some GPU does not hold even what every token needs of its layers, or RAM and disk do not hold the other experts.
pub(crate) fn spread(
    weights: &Weights,
    needs: &Needs,
    budgets: &Budgets,
    rest: Rest,
) -> Option<Vec<Placement>> {
    let limits: Vec<Limit> = budgets.gpus.iter().map(|(&n, b)| (n, b.get())).collect();
    let layers = Items::new(
        weights,
        needs,
        Portions::of(weights, PlacementOrder::Layers),
    );
    let (mut resident, mut left_over) = (Vec::new(), Vec::new());
    let mut start = 0;
    for (&(number, limit), end) in limits.iter().zip(ends(&layers, &limits)) {
        let run_on = RunOn::Gpu(number);
        if start == end {
            continue;
        }
        let is_expert = |idx: &usize| matches!(weights.units.list()[*idx], Unit::Expert { .. });
        let units = layers.units(start..end).iter().copied();
        let (experts, others): (Vec<_>, Vec<_>) = units.partition(is_expert);
        let n_held = n_held(weights, needs, (&others, &experts), (number, limit), rest)?;
        let (held, left) = experts.split_at(n_held);
        resident.push((number, [&others, held].concat()));
        let computes = match rest {
            Rest::Streamed | Rest::Divided(_) => run_on,
            Rest::PromptStreamed | Rest::OnCpu => RunOn::Cpu,
        };
        left_over.extend(left.iter().map(|&idx| (idx, computes)));
        start = end;
    }
    if let Rest::Divided(division) = rest {
        let first = left_over.len().saturating_sub(division.n_on_cpu);
        let last = left_over[first..].iter_mut();
        last.for_each(|(_, run_on)| *run_on = RunOn::Cpu);
    }
    let mut portions = Portions::new();
    for (_, units) in &resident {
        portions.push(units);
    }
    for &(idx, _) in &left_over {
        portions.push(&[idx]);
    }
    let items = Items::new(weights, needs, portions);
    let filling = Filling {
        items: &items,
        budgets,
        beside_gpus: BesideGpus::Evenly,
    };
    let gpus = resident.iter().enumerate();
    let ends = gpus.map(|(i, &(number, _))| (number, i + 1)).collect();
    let tail = match rest {
        Rest::Streamed | Rest::Divided(_) => RunOn::Gpu(resident.last()?.0),
        Rest::PromptStreamed | Rest::OnCpu => RunOn::Cpu,
    };
    let cut = filling.rest(ends, Tails::one(tail)).ok()?;
    let mut placements = cut.placements(&items);
    for &(idx, run_on) in &left_over {
        placements[idx].run_on = run_on;
    }
    // What comes from disk takes buffers for each of them.
    let ram = Ledger::of(weights, needs, &placements).memory(Home::Ram);
    (ram.needed() <= budgets.ram).then_some(placements)
}

/// End of each GPU's run of layers. The size of a part of the model is what it takes on the first GPU.
fn ends(layers: &Items<'_>, limits: &[Limit]) -> Vec<usize> {
    let n = layers.len();
    let on = |number, end| layers.on_gpu(RunOn::Gpu(number), 0..end, n..n);
    // What it takes beside weights, with the first item.
    let own = |number| on(number, 1) - layers.tally(RunOn::Gpu(number), 0..1).totals.weights();
    let first = limits.first().map_or(0, |&(number, _)| number);
    let own_of_first = own(first);
    let up_to = |end| u128::from(on(first, end).saturating_sub(own_of_first));
    let capacity = |&(number, limit): &Limit| u128::from(limit.saturating_sub(own(number)));
    let (model, all) = (up_to(n), limits.iter().map(capacity).sum::<u128>());
    let mut before = 0;
    let end = |limit| {
        before += capacity(limit);
        let is_within = |&end: &usize| up_to(end) * all <= model * before;
        (0..=n).rev().find(is_within).unwrap_or(0)
    };
    limits.iter().map(end).collect()
}

/// Number of experts that a GPU holds beside other units.
fn n_held(
    weights: &Weights,
    needs: &Needs,
    (others, experts): (&[usize], &[usize]),
    (number, limit): Limit,
    rest: Rest,
) -> Option<usize> {
    let mut portions = Portions::new();
    portions.push(others);
    experts.iter().for_each(|&idx| portions.push(&[idx]));
    let items = Items::new(weights, needs, portions);
    let (n, run_on) = (items.len(), RunOn::Gpu(number));
    let streamed_from = |end| match rest {
        Rest::Streamed | Rest::Divided(_) => end,
        Rest::PromptStreamed | Rest::OnCpu => n,
    };
    let fits = |end| items.on_gpu(run_on, 0..end, streamed_from(end)..n) <= limit;
    items.runs(run_on).most(1, fits).map(|end| end - 1)
}
