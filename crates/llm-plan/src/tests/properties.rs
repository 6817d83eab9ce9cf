//! Properties of every plan.

use llm_arch::Unit;
use llm_quant::{LoadIn, QuantConfig};
use proptest::prelude::{Just, ProptestConfig, Strategy as Generator, any, prop, prop_oneof};
use proptest::{prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::placement::Rest;

fn models() -> [Skeleton; 4] {
    [
        llama_of(WIDE, 6, false),
        llama_of(WIDE, 5, true),
        mixtral_of(WIDE, 3, 4),
        t5_of(WIDE, 3),
    ]
}

/// Wide enough that a tensor is more than the padding around it, and a disk of use.
const WIDE: usize = 256;

/// Fast memory before slow.
fn tier(home: Home) -> usize {
    match home {
        Home::Gpu(_) => 0,
        Home::Ram => 1,
        Home::Disk => 2,
    }
}

/// Budgets as shares, in percent, of what the whole model takes in RAM.
#[derive(Debug, Clone)]
struct Shares {
    gpus: Vec<u64>,
    ram: u64,
    disk: Option<u64>,
}

impl Shares {
    fn budgets(&self, all: u64) -> Budgets {
        let gpus: Vec<_> = self.gpus.iter().map(|share| all * share / 100).collect();
        budgets(
            &gpus,
            all * self.ram / 100,
            self.disk.map(|share| all * share / 100),
        )
    }
}

fn shares() -> impl Generator<Value = Shares> {
    let share = || 0..140u64;
    (
        prop::collection::vec(share(), 0..4),
        share(),
        prop::option::of(share()),
    )
        .prop_map(|(gpus, ram, disk)| Shares { gpus, ram, disk })
}

/// Machines of all kinds: PCIe may be slower than RAM and faster.
fn any_speeds() -> impl Generator<Value = Speeds> {
    let rate = || 1..200u32;
    (rate(), rate(), rate()).prop_map(|(pcie, ram, disk)| {
        speeds(
            1e6,
            f64::from(pcie) * 1e3,
            f64::from(ram) * 1e3,
            f64::from(disk) * 1e2,
        )
    })
}

#[derive(Debug, Clone)]
struct Case {
    model: usize,
    is_quantized: bool,
    stored_f16: bool,
    offload: Offload,
    strategy: Strategy,
    shares: Shares,
    more: Shares,
}

fn cases() -> impl Generator<Value = Case> {
    let offload = prop_oneof![
        Just(Offload::Stream),
        Just(Offload::Compute),
        any_speeds().prop_map(fastest),
    ];
    let strategy = prop_oneof![
        Just(Strategy::Auto),
        Just(Strategy::Sequential),
        Just(Strategy::Balanced),
        Just(Strategy::BalancedLow0),
        Just(Strategy::Cpu),
    ];
    let more = shares();
    (
        0..4usize,
        any::<bool>(),
        any::<bool>(),
        offload,
        strategy,
        shares(),
        more,
    )
        .prop_map(
            |(model, is_quantized, stored_f16, offload, strategy, shares, more)| Case {
                model,
                is_quantized,
                stored_f16,
                offload,
                strategy,
                shares,
                more,
            },
        )
}

fn with_case<T>(case: &Case, test: impl FnOnce(Request<'_>, u64) -> T) -> T {
    let skeleton = &models()[case.model];
    let quant = QuantConfig::new(LoadIn::EightBit);
    let dtype = if case.stored_f16 {
        DType::F16
    } else {
        DType::BF16
    };
    let stored = all_as(skeleton, dtype);
    let mut request = request(skeleton, &stored);
    request.encodings.dtype = WeightDType::As(DType::BF16);
    request.encodings.quant = case.is_quantized.then_some(&quant);
    request.costs = small_costs();
    let all = fits(&request).estimate.memories()[0].needed().get();
    request.offload = case.offload.clone();
    request.strategy = case.strategy.clone();
    test(request, all)
}

/// Seconds of a step in which rows are on their way.
fn handed_over(plan: &Plan, speeds: &Speeds) -> f64 {
    let hand_overs = plan.step.hand_overs.iter();
    hand_overs
        .map(|of| of.seconds(plan.step.n_sequences as f64, speeds))
        .sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn budgets_are_kept_and_every_unit_has_one_place(case in cases()) {
        with_case(&case, |mut request, all| {
            request.budgets = case.shares.budgets(all);
            let verdict = plan(&request).unwrap();
            let plan = match verdict {
                Verdict::Fits(plan) => plan,
                Verdict::DoesNotFit(Refusal { shortfalls, on_cpu }) => {
                    prop_assert!(!shortfalls.is_empty());
                    let all = shortfalls.iter().chain(&on_cpu);
                    prop_assert!(all.clone().all(|s| s.missing() > Bytes::ZERO));
                    return Ok(());
                }
            };
            for memory in plan.estimate.memories() {
                prop_assert!(memory.needed() <= request.budgets.of(memory.home));
            }
            let mut units: Vec<_> = plan.map.iter().map(|(unit, _)| unit).collect();
            let mut of_slots: Vec<_> = request.skeleton.slots.iter().map(|s| s.unit).collect();
            of_slots.push(Unit::Head);
            for list in [&mut units, &mut of_slots] {
                list.sort_unstable();
            }
            of_slots.dedup();
            prop_assert_eq!(units, of_slots);
            if plan.map.is_tied() {
                prop_assert_eq!(plan.map.get(Unit::Embedding), plan.map.get(Unit::Head));
            }
            // Printed and read again, it is the same map.
            let printed = Value::Object(plan.map.hf_device_map(request.skeleton)).to_string();
            let weights = request.weights();
            let map: HfMap = printed.parse().unwrap();
            let placements = map.placements(request.skeleton, &weights, &request.budgets, Rest::Streamed);
            let found = placements.unwrap().into_iter().map(|place| place.home);
            let expected = weights.units.list().iter().map(|&unit| plan.map.get(unit).unwrap().home);
            prop_assert!(found.eq(expected), "{}", printed);
            // What the units have of their own is all there is.
            let weights: Bytes = plan.estimate.units().iter().map(|u| u.weights).sum();
            prop_assert_eq!(weights, plan.estimate.total(Term::Weights));
            let kv: Bytes = plan.estimate.units().iter().map(|u| u.kv_cache).sum();
            let kv = kv + plan.estimate.encoder_kv_cache();
            prop_assert_eq!(kv, plan.estimate.total(Term::KvCache));
            Ok(())
        })?;
    }

    #[test]
    fn more_budget_demotes_no_unit(case in cases()) {
        with_case(&case, |mut request, all| {
            request.budgets = case.shares.budgets(all);
            let Some(less) = plan(&request).unwrap().plan().cloned() else {
                return Ok(());
            };
            let mut larger = case.shares.clone();
            larger.ram += case.more.ram;
            larger.disk = larger.disk.map(|disk| disk + case.more.disk.unwrap_or(0));
            larger.gpus.resize(larger.gpus.len().max(case.more.gpus.len()), 0);
            for (share, more) in larger.gpus.iter_mut().zip(&case.more.gpus) {
                *share += more;
            }
            // Over several GPUs experts follow their layers, which another budget may move.
            let is_mixture = case.model == 2;
            if is_mixture {
                larger.gpus.truncate(1);
                if case.shares.gpus.len() > 1 {
                    return Ok(());
                }
            }
            request.budgets = larger.budgets(all);
            let verdict = plan(&request).unwrap();
            let more = verdict.plan();
            prop_assert!(more.is_some(), "{}", verdict);
            // Where the faster way is taken it may be another one, and what a unit is then moved for is the others' sake.
            if let Offload::Fastest { speeds, .. } = &request.offload {
                let seconds = |plan: &Plan| plan.step.seconds_at_full_context(speeds);
                let (before, after) = (seconds(&less), more.map_or(0.0, seconds));
                // More devices hand over more.
                let handed_over = more.map_or(0.0, |plan| handed_over(plan, speeds));
                prop_assert!(after <= before * (1.0 + 1e-9) + handed_over, "{} {}", before, after);
                return Ok(());
            }
            for (unit, place) in more.into_iter().flat_map(|plan| plan.map.iter()) {
                let before = less.map.get(unit).unwrap();
                prop_assert!(tier(place.home) <= tier(before.home), "{}", unit);
            }
            Ok(())
        })?;
    }

    #[test]
    fn the_faster_way_is_taken(case in cases(), speeds in any_speeds()) {
        with_case(&case, |mut request, all| {
            request.budgets = case.shares.budgets(all);
            let seconds = |request: &Request<'_>| {
                let verdict = plan(request).unwrap();
                verdict.plan().map(|plan| plan.step.seconds_at_full_context(&speeds))
            };
            request.offload = fastest(speeds.clone());
            let found = seconds(&request);
            let ways = [Offload::Stream, Offload::Compute].map(|offload| {
                let request = Request { offload, ..request.clone() };
                seconds(&request)
            });
            let best = ways.into_iter().flatten().min_by(f64::total_cmp);
            // Another order of filling may be faster, or fit where these do not.
            let is_as_fast = match (found, best) {
                (Some(found), Some(best)) => found <= best,
                (_, None) => true,
                (None, Some(_)) => false,
            };
            prop_assert!(is_as_fast, "{:?} {:?}", found, best);
            Ok(())
        })?;
    }

    #[test]
    fn nothing_spills_that_fits(case in cases()) {
        with_case(&case, |mut request, all| {
            // A GPU that is as large as the model is in RAM, and what a GPU takes for itself.
            let mut budgets = case.shares.budgets(all);
            budgets.gpus.insert(0, Bytes::new(all + 1000));
            budgets.ram = Bytes::new(all);
            request.budgets = budgets;
            let plan = fits(&request);
            for (unit, place) in plan.map.iter() {
                let expected = if case.strategy == Strategy::Cpu { 1 } else { 0 };
                prop_assert_eq!(tier(place.home), expected, "{}", unit);
            }
            Ok(())
        })?;
    }
}

/// The order in which units are filled in must not depend on it.
#[test]
fn a_gpu_without_room_changes_nothing() {
    for skeleton in [llama_of(WIDE, 6, false), t5_of(WIDE, 3)] {
        let stored = all_as(&skeleton, DType::BF16);
        let mut request = request(&skeleton, &stored);
        request.costs = small_costs();
        let all = fits(&request).estimate.memories()[0].needed().get();
        for offload in [Offload::Stream, Offload::Compute] {
            request.offload = offload;
            for share in 0..100 {
                let mut home = |gpus: &[u64]| {
                    let gpus: Vec<_> = gpus.iter().map(|share| all * share / 100).collect();
                    request.budgets = budgets(&gpus, all * 44 / 100, Some(0));
                    let verdict = plan(&request).unwrap();
                    verdict
                        .plan()
                        .map(|plan| plan.map.iter().collect::<Vec<_>>())
                };
                assert_eq!(home(&[share]), home(&[share, 0]), "{share}");
            }
        }
    }
}

#[test]
fn balanced_gpus_are_equally_full_and_the_first_is_spared() {
    let skeleton = llama(12, false);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    request.costs = small_costs();
    let all = fits(&request).estimate.memories()[0].needed().get();
    request.budgets = budgets(&[2 * all, 2 * all, 2 * all], all, None);
    let used = |strategy: Strategy| {
        request.strategy = strategy;
        let memories = fits(&request).estimate.memories().to_vec();
        let gpus = memories.iter().filter(|m| tier(m.home) == 0);
        gpus.map(|m| (m.home, m.needed().get())).collect::<Vec<_>>()
    };
    let [mut sequential, mut balanced, mut spared] = [
        Strategy::Sequential,
        Strategy::Balanced,
        Strategy::BalancedLow0,
    ]
    .map(used);
    for gpus in [&mut sequential, &mut balanced, &mut spared] {
        gpus.sort_unstable();
    }
    assert_eq!(sequential.len(), 1);
    let sizes = |gpus: &[(Home, u64)]| gpus.iter().map(|gpu| gpu.1).collect::<Vec<_>>();
    let (least, most) = (
        sizes(&balanced).into_iter().min(),
        sizes(&balanced).into_iter().max(),
    );
    assert_eq!(balanced.len(), 3);
    let unit = 2 * (32 + 16 + 16 + 32 + 3 * 96) * 32;
    assert!(most.unwrap() - least.unwrap() <= 2 * unit, "{balanced:?}");
    assert_eq!(
        spared.iter().map(|gpu| gpu.0).collect::<Vec<_>>(),
        [Home::Gpu(1), Home::Gpu(2)]
    );
}
