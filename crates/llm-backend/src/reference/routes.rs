//! Choice of experts.

use llm_tensor::{Bytes, GroupRank, Scoring, Weighting};

use super::scalar::{sigmoid, softplus};
use crate::{Allocation, Routing};

/// Experts of each row, `[n_tokens, n_active]`, and the weights of their results.
#[derive(Debug)]
pub struct ReferenceRoutes {
    experts: Vec<u32>,
    weights: Vec<f32>,
    n_active: usize,
    /// Rows of the pass.
    n_tokens: usize,
}

impl ReferenceRoutes {
    pub(super) fn new(routing: &Routing, n_tokens: usize) -> Self {
        let n = n_tokens * routing.n_active;
        ReferenceRoutes {
            experts: vec![0; n],
            weights: vec![0.0; n],
            n_active: routing.n_active,
            n_tokens: 0,
        }
    }

    pub(super) fn planned_bytes(routing: &Routing, n_tokens: usize) -> Bytes {
        let each = size_of::<u32>() + size_of::<f32>();
        Bytes::new((n_tokens * routing.n_active * each) as u64)
    }

    pub(super) fn choose(
        &mut self,
        op: &Routing,
        [correction, scales, given]: [Option<&[f32]>; 3],
        scores: &[f32],
        n_tokens: usize,
    ) {
        assert_eq!(op.n_active, self.n_active, "experts of a row");
        self.n_tokens = n_tokens;
        let rows = scores.chunks_exact(op.n_experts).take(n_tokens);
        let chosen = self.experts.chunks_exact_mut(op.n_active);
        let weights = self.weights.chunks_exact_mut(op.n_active);
        for (row, ((scores, chosen), weights)) in rows.zip(chosen).zip(weights).enumerate() {
            let probabilities = match op.scoring {
                Scoring::Softmax => softmax(scores),
                Scoring::Sigmoid => scores
                    .iter()
                    .map(|&score| sigmoid(f64::from(score)))
                    .collect(),
                Scoring::SqrtSoftplus => scores
                    .iter()
                    .map(|&score| softplus(f64::from(score)).sqrt())
                    .collect(),
                Scoring::Plain => scores.iter().map(|&score| f64::from(score)).collect(),
            };
            let ranks = ranks(op, correction, &probabilities);
            let order = match given {
                None => falling(&ranks),
                Some(given) => {
                    let given = &given[row * op.n_active..][..op.n_active];
                    given.iter().map(|&expert| expert as usize).collect()
                }
            };
            let active = &order[..op.n_active];
            let are_numbers = ranks.iter().all(|rank| !rank.is_nan());
            let of_chosen = active.iter().map(|&expert| probabilities[expert]);
            let total = of_chosen.sum::<f64>() + f64::from(op.eps);
            let choices = chosen.iter_mut().zip(weights).zip(active).enumerate();
            for (k, ((chosen, weight), &expert)) in choices {
                *chosen = expert as u32;
                let scale = scales.map_or(1.0, |scales| f64::from(scales[expert]));
                let own = match op.weighting {
                    Weighting::Probability => probabilities[expert],
                    Weighting::Normalised => probabilities[expert] / total,
                    Weighting::NearTies { tolerance } => {
                        share(&probabilities, &order[k..], f64::from(tolerance))
                    }
                };
                *weight = match are_numbers {
                    true => (own * f64::from(op.scale) * scale) as f32,
                    false => f32::NAN,
                };
            }
        }
    }

    /// Rows of an expert, in order, and the weight of its result in each.
    pub(super) fn of(&self, expert: usize) -> impl Iterator<Item = (usize, f32)> {
        let n = self.n_tokens * self.n_active;
        let choices = self.experts[..n].iter().zip(&self.weights).enumerate();
        choices
            .filter(move |(_, (chosen, _))| **chosen as usize == expert)
            .map(|(i, (_, weight))| (i / self.n_active, *weight))
    }
}

impl Allocation for ReferenceRoutes {
    fn bytes(&self) -> Bytes {
        self.experts.bytes() + self.weights.bytes()
    }
}

/// Ranks of experts; infinitely low where their group is out. All are not a number where one is.
fn ranks(op: &Routing, correction: Option<&[f32]>, probabilities: &[f64]) -> Vec<f64> {
    let corrected = |(expert, probability): (usize, &f64)| {
        probability + correction.map_or(0.0, |correction| f64::from(correction[expert]))
    };
    let mut ranks: Vec<f64> = probabilities.iter().enumerate().map(corrected).collect();
    if ranks.iter().any(|rank| rank.is_nan()) {
        return vec![f64::NAN; ranks.len()];
    }
    let Some(groups) = op.groups else {
        return ranks;
    };
    let size = op.n_experts / groups.n_groups;
    let of_group = |ranks: &[f64]| {
        let order = falling(ranks);
        let n = match groups.rank {
            GroupRank::First => 1,
            GroupRank::FirstTwo => 2,
        };
        order.iter().take(n).map(|&expert| ranks[expert]).sum()
    };
    let of_groups: Vec<f64> = ranks.chunks_exact(size).map(of_group).collect();
    for &group in &falling(&of_groups)[groups.n_active..] {
        ranks[group * size..][..size].fill(f64::NEG_INFINITY);
    }
    ranks
}

/// The share of the first of `order` in the softmax over those of them that are nearly as good.
fn share(probabilities: &[f64], order: &[usize], tolerance: f64) -> f64 {
    let best = probabilities[order[0]];
    let of_order = order.iter().map(|&expert| probabilities[expert]);
    // Of zeros alone the distance is not a number, and they are near.
    let near = of_order.filter(|p| {
        let is_far = (best - p) / p.abs().max(best) > tolerance;
        !is_far
    });
    1.0 / near.map(|p| (p - best).exp()).sum::<f64>()
}

/// Indices by falling value. A stable sort: the first among equals, and among those that cannot be compared.
fn falling(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (values[a], values[b]);
        b.partial_cmp(&a).unwrap_or(std::cmp::Ordering::Equal)
    });
    order
}

/// All are not a number where one is.
fn softmax(scores: &[f32]) -> Vec<f64> {
    let scores = scores.iter().map(|&score| f64::from(score));
    let max = scores.clone().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = scores.map(|score| (score - max).exp()).collect();
    let total: f64 = exponentials.iter().sum();
    exponentials.into_iter().map(|e| e / total).collect()
}
