//! Units in RAM, of those that no GPU holds, and on disk.

use std::collections::BTreeSet;

use llm_arch::{Side, Unit};

use super::*;
use crate::items::{HeadAmong, Items, PlacementOrder, Portions};
use crate::needs::Needs;

/// The units in the order in which RAM takes them.
fn order_in_ram(skeleton: &Skeleton) -> Vec<Unit> {
    let stored = all_as(skeleton, DType::BF16);
    let request = request(skeleton, &stored);
    let weights = request.weights();
    let spec = &request.skeleton.spec;
    let needs = Needs::of(
        spec,
        &request.limits,
        request.kv_dtype(),
        &request.costs,
        [0],
    )
    .unwrap();
    let items = Items::new(
        &weights,
        &needs,
        Portions::of(&weights, PlacementOrder::ExpertsLast),
    )
    .evenly((0, HeadAmong::First), None);
    let units = items.units(0..items.len()).iter();
    units.map(|&idx| weights.units.list()[idx]).collect()
}

/// Of any run of layers, a share rests in RAM that is that of all layers, give or take less than three.
#[test]
fn layers_in_ram_lie_evenly_among_those_on_disk() {
    for n_layers in [2, 3, 7, 12, 22, 32, 80, 126] {
        let layers = order_in_ram(&llama(n_layers, false)).into_iter();
        let layers: Vec<usize> = layers
            .filter_map(|unit| match unit {
                Unit::Layer(Side::Decoder, i) => Some(i),
                _ => None,
            })
            .collect();
        let all: BTreeSet<_> = layers.iter().copied().collect();
        assert!(all.into_iter().eq(0..n_layers));
        for n_in_ram in 0..=n_layers {
            let in_ram: BTreeSet<_> = layers[..n_in_ram].iter().collect();
            for start in 0..n_layers {
                for end in start + 1..=n_layers {
                    let n = (start..end).filter(|i| in_ram.contains(i)).count();
                    let fair = (end - start) as f64 * n_in_ram as f64 / n_layers as f64;
                    let surplus = n as f64 - fair;
                    assert!(
                        surplus.abs() < 3.0,
                        "{n} of {start}..{end} with {n_in_ram} of {n_layers}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_a_token_reads_most_of_goes_to_ram_first() {
    let place = |order: &[Unit], unit| order.iter().position(|&u| u == unit).unwrap();
    let layer = |side, i| Unit::Layer(side, i);

    let llama = order_in_ram(&llama(3, false));
    assert_eq!(llama[..2], [Unit::FinalNorm(Side::Decoder), Unit::Head]);
    assert_eq!(llama[5..], [Unit::Embedding], "of which it reads a row");

    let tied = order_in_ram(&super::llama(3, true));
    assert_eq!(tied[0], Unit::Embedding, "which is the head");

    let mixture = order_in_ram(&mixtral(3, 4));
    let expert = |layer, expert| Unit::Expert { layer, expert };
    let experts: Vec<_> = (0..3)
        .flat_map(|l| (0..4).map(move |e| expert(l, e)))
        .collect();
    let first = experts.iter().map(|&unit| place(&mixture, unit)).min();
    let layers = (0..3).map(|i| place(&mixture, layer(Side::Decoder, i)));
    assert!(layers.max() < first);
    assert_eq!(mixture.last(), Some(&Unit::Embedding));

    let t5 = order_in_ram(&t5(3));
    let last = (0..3).map(|i| place(&t5, layer(Side::Decoder, i))).max();
    let first = (0..3).map(|i| place(&t5, layer(Side::Encoder, i))).min();
    assert!(last < first, "an encoder reads the prompt once");
}

/// With the same RAM, against the order of computing. Units differ in size, so that of a single budget the other order may
/// happen to use more, if only by what is less than the largest unit.
#[test]
fn a_token_takes_less_time_than_with_the_first_layers_in_ram() {
    let machine = speeds(1e6, 2e4, 5e4, 3e3);
    for skeleton in [
        llama_of(256, 9, false),
        mixtral_of(256, 3, 4),
        t5_of(256, 5),
    ] {
        let stored = all_as(&skeleton, DType::BF16);
        let mut request = request(&skeleton, &stored);
        request.costs = small_costs();
        let all = fits(&request);
        let units = all.estimate.units().iter();
        let largest = units.map(|unit| unit.per_pass.get()).max().unwrap();
        let all = all.estimate.memories()[0].needed().get();
        let (mut sum, mut sum_in_order) = (0.0, 0.0);
        for part in 1..=40 {
            request.budgets = budgets(&[], all * part / 40, Some(all));
            let [evenly, in_order] = [Strategy::Cpu, Strategy::Sequential].map(|strategy| {
                request.strategy = strategy;
                let verdict = plan(&request).unwrap();
                verdict.plan().map(|plan| plan.step.seconds(&machine))
            });
            let (Some(evenly), Some(in_order)) = (evenly, in_order) else {
                assert_eq!(evenly, in_order, "{part}");
                continue;
            };
            assert!(evenly - in_order <= largest as f64 / machine.disk);
            sum += evenly;
            sum_in_order += in_order;
        }
        assert!(sum < sum_in_order, "{sum} {sum_in_order}");
    }
}
