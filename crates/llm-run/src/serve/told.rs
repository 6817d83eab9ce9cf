//! What a server's clients are told of loading and of memory.

use llm_arch::ModelSpec;
use llm_plan::{Home, MemoryUse as Planned, Term};
use llm_runtime::Event;
use llm_server::{Amount, MemoryMap, MemoryUse, ModelPart, Progress};
use llm_tensor::Bytes;

use crate::placement::placed::Placed;
use crate::plan::{UnitGroup, groups};

/// Progress of loading.
pub(super) fn progress(event: Event) -> Progress {
    let (doing, amount) = match event {
        Event::Waiting => (
            "waiting for another run that writes the same offload files",
            None,
        ),
        Event::Offloading(at) => ("writing offload files", Some(at)),
        Event::Loading(at) => ("loading", Some(at)),
    };
    Progress {
        doing,
        amount: amount.map(|at| Amount {
            done: at.done.get(),
            total: at.total.get(),
            unit: at.unit.to_string(),
            n_units: at.n_units,
            total_units: at.total_units,
        }),
    }
}

/// Memory of a model that was loaded.
pub(super) fn memory(spec: &ModelSpec, placed: &Placed) -> MemoryMap {
    let estimate = &placed.plan.estimate;
    let groups = groups(spec, estimate.units());
    MemoryMap {
        memories: estimate
            .memories()
            .iter()
            .map(|planned| of_memory(planned, placed))
            .collect(),
        parts: groups.into_iter().map(part).collect(),
    }
}

fn of_memory(planned: &Planned, placed: &Placed) -> MemoryUse {
    let home = planned.home;
    let get = |term| planned.terms.get(term).get();
    let weights = get(Term::Weights) + get(Term::QuantizationStatistics);
    let kv_cache = get(Term::KvCache);
    let streamed = placed.plan.step.weights.iter();
    let streamed = streamed.filter(|(path, _)| path.home == home && !path.is_resident());
    MemoryUse {
        name: home.to_string(),
        budget: match home {
            Home::Gpu(_) | Home::Ram => Some(placed.budgets.of(home).get()),
            Home::Disk => None,
        },
        weights,
        kv_cache,
        other: planned.peak_in_generation().get() - weights - kv_cache,
        streamed: streamed.map(|&(_, bytes)| bytes).sum::<Bytes>().get(),
    }
}

fn part(group: UnitGroup) -> ModelPart {
    ModelPart {
        name: group.name,
        rests_in: group.placement.home.to_string(),
        computes_on: group.placement.run_on.to_string(),
        weights: (group.weights + group.statistics).get(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use llm_cpu::{Cpu, CpuOptions};
    use llm_plan::WeightDType;
    use llm_runtime::{LoadOptions, load};

    use super::*;
    use crate::cli::KeyArgs;
    use crate::open;
    use crate::placement::request::limits;

    #[test]
    fn loading_ends_with_all_bytes_and_all_units() {
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models");
        for name in ["llama", "gemma2", "gemma3n", "olmoe", "t5-v1-style"] {
            let path = Path::new(fixtures).join(name);
            let model = open::bind(&path, &KeyArgs::default()).unwrap();
            let cpu = Arc::new(Cpu::new(CpuOptions::default()).unwrap());
            let options = LoadOptions {
                dtype: WeightDType::Auto,
                quant: None,
                encoder: &*cpu,
                limits: limits(model.spec(), 16, 1, 1),
                offload: None,
            };
            let mut told = Vec::new();
            let mut tell = |event| told.push(progress(event));
            load(&model, &cpu, &options, &mut tell).unwrap();
            let amounts: Vec<_> = told.into_iter().filter_map(|told| told.amount).collect();
            assert!(amounts.is_sorted_by_key(|amount| (amount.done, amount.n_units)));
            let last = amounts.last().unwrap();
            assert!(last.total > 0 && last.total_units > 2, "{name}: {last:?}");
            assert_eq!(
                (last.done, last.n_units),
                (last.total, last.total_units),
                "{name}: {last:?}"
            );
        }
    }
}
