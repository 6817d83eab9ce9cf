//! GPUs that take different amounts for the same.

use super::*;

/// GPU 0 is modest; every other one takes more before anything is asked of it, and pads its keys and values.
struct Unlike {
    modest: Plain,
    greedy: Greedy,
}

struct Greedy;

impl DeviceCosts for Greedy {
    fn kv_pool_bytes(&self, shape: &KvShape) -> Bytes {
        Plain { fixed: 0 }.kv_pool_bytes(shape) + Bytes::new(100)
    }

    fn kv_block_len(&self, shape: &KvShape) -> usize {
        Plain { fixed: 0 }.kv_block_len(shape)
    }

    fn routes_bytes(&self, experts: &ExpertsSpec, n_tokens: usize) -> Bytes {
        Plain { fixed: 0 }.routes_bytes(experts, n_tokens)
    }

    fn workspace_bytes(&self, shape: &WorkspaceShape) -> Bytes {
        Plain { fixed: 0 }.workspace_bytes(shape) + Bytes::new(7)
    }

    fn fixed_bytes(&self) -> Bytes {
        Bytes::new(5000)
    }
}

impl GpuCosts for Unlike {
    fn of(&self, number: u32) -> &dyn DeviceCosts {
        match number {
            0 => &self.modest,
            _ => &self.greedy,
        }
    }
}

const UNLIKE: Unlike = Unlike {
    modest: Plain { fixed: 100 },
    greedy: Greedy,
};

fn on(plan: &Plan, home: Home) -> MemoryUse {
    *plan.estimate.memory(home).unwrap()
}

#[test]
fn each_gpu_takes_what_its_own_kind_does() {
    let skeleton = llama(4, false);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    request.costs = Costs {
        gpu: &UNLIKE,
        ..small_costs()
    };
    request.strategy = Strategy::Balanced;
    request.budgets = budgets(&[GB, GB, GB], GB, None);
    let plan = fits(&request);
    let terms = [0, 1, 2].map(|number| on(&plan, Home::Gpu(number)).terms);
    let contexts = terms.map(|terms| terms.get(Term::GpuContext).get());
    assert_eq!(contexts, [100, 5000, 5000]);
    let [modest, greedy, _] = terms.map(|terms| terms.get(Term::Workspace).get());
    assert_eq!(greedy, modest + 7);
    let on_gpu = |number| {
        let units = plan.estimate.units().iter();
        units.filter(move |unit| unit.placement.home == Home::Gpu(number))
    };
    let kv_cache = |number| on_gpu(number).map(|unit| unit.kv_cache.get()).max();
    assert_eq!(kv_cache(1), kv_cache(0).map(|n| n + 100));
}

/// A plan's use of each GPU is the least that it must have.
#[test]
fn unlike_gpus_are_filled_to_the_byte() {
    let skeleton = llama(6, false);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    request.costs = Costs {
        gpu: &UNLIKE,
        ..small_costs()
    };
    request.strategy = Strategy::Sequential;
    let all = fits(&request).estimate.memories()[0].needed().get();
    request.budgets = budgets(&[all * 2 / 3, all], all, None);
    let plan = fits(&request);
    let [first, second] = [0, 1].map(|number| on(&plan, Home::Gpu(number)).needed());
    assert_eq!(plan.map.tiers().to_string(), "GPU");
    request.budgets = budgets(&[first.get(), second.get()], all, None);
    assert_eq!(fits(&request).map, plan.map);
    for lacking in [
        [first.get() - 1, second.get()],
        [first.get(), second.get() - 1],
    ] {
        request.budgets = budgets(&lacking, all, None);
        assert!(fits(&request).map.tiers().ram, "{lacking:?}");
    }
}

/// Not by their numbers.
#[test]
fn gpus_are_filled_in_the_order_of_their_budgets() {
    let skeleton = llama(6, false);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    request.costs = small_costs();
    let all = fits(&request).estimate.memories()[0].needed();
    let half = Bytes::new(all.get() * 2 / 3);
    let first = |strategy, order: [u32; 3]| {
        let mut request = request.clone();
        request.strategy = strategy;
        request.budgets.gpus = order.map(|number| (number, half)).into();
        let plan = fits(&request);
        let unit = plan.map.iter().next().unwrap();
        (unit.1.home, plan.map.devices())
    };
    for order in [[0, 1, 2], [2, 0, 1]] {
        for strategy in [Strategy::Auto, Strategy::Sequential, Strategy::Balanced] {
            let (home, devices) = first(strategy, order);
            assert_eq!(home, Home::Gpu(order[0]));
            assert!(devices.contains(&RunOn::Gpu(order[1])));
        }
    }
    // All of it fits one.
    request.budgets.gpus = [(3, all), (1, all)].into();
    assert_eq!(fits(&request).map.devices(), [RunOn::Gpu(3)]);
}

/// A mixture of experts is spread by what each GPU has left beside its own needs.
#[test]
fn experts_are_spread_over_unlike_gpus() {
    let skeleton = mixtral_of(64, 6, 8);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    request.costs = Costs {
        gpu: &UNLIKE,
        ..small_costs()
    };
    let all = fits(&request).estimate.memories()[0].needed().get();
    let mut n_spread = 0;
    for share in 1..10 {
        let gpu = all * share / 10;
        request.budgets = budgets(&[gpu, gpu], all, None);
        if let Verdict::Fits(plan) = plan(&request).unwrap() {
            for memory in plan.estimate.memories() {
                assert!(memory.needed() <= request.budgets.of(memory.home));
            }
            let devices = plan.map.devices();
            n_spread += usize::from(devices == [RunOn::Gpu(0), RunOn::Gpu(1)]);
        }
    }
    assert!(n_spread > 3, "{n_spread}");
}
