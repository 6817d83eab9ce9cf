//! Choice of experts.

use llm_backend::{Allocation, Routing};
use llm_tensor::{Bytes, ExpertGroups, GroupRank, Scoring, Weighting};

use crate::Buffer;
use crate::dense::DenseView;
use crate::math::softplus;

/// Rows of a pass by the expert that they go to.
#[derive(Debug)]
pub struct Routes {
    n_experts: usize,
    n_active: usize,
    /// Begin of each expert's rows, and the end of the last one's, `[n_experts + 1]`.
    starts: Buffer<u32>,
    /// Rows expert by expert, ascending, and the weights of their results, `[n_tokens · n_active]`.
    rows: Buffer<u32>,
    weights: Buffer,
    /// Experts of each row and the weights of their results, `[n_tokens, n_active]`.
    chosen: Buffer<u32>,
    chosen_weights: Buffer,
    /// Of one row, `[n_experts]`.
    probabilities: Buffer,
    /// Of one row, `[n_experts]`.
    ranks: Buffer,
    /// Experts by rank, `[n_experts]`.
    order: Buffer<u32>,
}

/// Bytes that [`Routes::new`] allocates.
pub(crate) fn bytes(routing: &Routing, n_tokens: usize) -> Bytes {
    let n_elements = 4 * routing.n_experts + 1 + 4 * n_tokens * routing.n_active;
    Bytes::new((n_elements * size_of::<u32>()) as u64)
}

impl Routes {
    /// # Errors
    /// What was asked for, when the system does not give it.
    pub(crate) fn new(routing: &Routing, n_tokens: usize) -> Result<Self, Bytes> {
        let Routing {
            n_experts,
            n_active,
            ..
        } = *routing;
        let n_chosen = n_tokens * n_active;
        Ok(Routes {
            n_experts,
            n_active,
            starts: Buffer::zeroed(n_experts + 1)?,
            rows: Buffer::zeroed(n_chosen)?,
            weights: Buffer::zeroed(n_chosen)?,
            chosen: Buffer::zeroed(n_chosen)?,
            chosen_weights: Buffer::zeroed(n_chosen)?,
            probabilities: Buffer::zeroed(n_experts)?,
            ranks: Buffer::zeroed(n_experts)?,
            order: Buffer::zeroed(n_experts)?,
        })
    }

    /// Chooses the experts of rows of `scores` `[n_tokens, n_experts]`, with a correction `[n_experts]` of their ranks.
    pub(crate) fn choose(
        &mut self,
        op: &Routing,
        ([correction, scales], given): ([Option<DenseView<'_>>; 2], Option<&[f32]>),
        scores: &[f32],
        n_tokens: usize,
    ) {
        let (n_experts, n_active) = (self.n_experts, self.n_active);
        assert!(
            (op.n_experts, op.n_active) == (n_experts, n_active) && n_active <= n_experts,
            "{op:?}"
        );
        let n_chosen = n_tokens * n_active;
        let chosen = &mut self.chosen.as_mut_slice()[..n_chosen];
        let weights = &mut self.chosen_weights.as_mut_slice()[..n_chosen];
        let probabilities = self.probabilities.as_mut_slice();
        let ranks = self.ranks.as_mut_slice();
        let order = self.order.as_mut_slice();
        let scores = scores[..n_tokens * n_experts].chunks_exact(n_experts);
        let of_rows = chosen.chunks_exact_mut(n_active);
        let of_rows = of_rows.zip(weights.chunks_exact_mut(n_active));
        for (row, (scores, (chosen, weights))) in scores.zip(of_rows).enumerate() {
            match op.scoring {
                Scoring::Softmax => softmax(scores, probabilities),
                Scoring::Sigmoid => {
                    for (probability, &score) in probabilities.iter_mut().zip(scores) {
                        *probability = sigmoid(score);
                    }
                }
                Scoring::SqrtSoftplus => {
                    for (probability, &score) in probabilities.iter_mut().zip(scores) {
                        *probability = softplus(score).sqrt();
                    }
                }
                Scoring::Plain => probabilities.copy_from_slice(scores),
            }
            ranks.copy_from_slice(probabilities);
            if let Some(correction) = correction {
                let elements = ranks.iter_mut().enumerate();
                elements.for_each(|(expert, rank)| *rank += correction.element(expert));
            }
            let are_numbers = ranks.iter().all(|rank| !rank.is_nan());
            if !are_numbers {
                ranks.fill(f32::NAN);
            } else if let Some(groups) = &op.groups {
                close(groups, ranks);
            }
            order
                .iter_mut()
                .zip(0..)
                .for_each(|(entry, expert)| *entry = expert);
            // Among equals the first, as the references' top-k has it; where one is not a number none is.
            order.sort_unstable_by(|&a, &b| {
                let [of_a, of_b] = [a, b].map(|expert| ranks[expert as usize]);
                let by_rank = of_b.partial_cmp(&of_a);
                by_rank.map_or(a.cmp(&b), |order| order.then(a.cmp(&b)))
            });
            if let Some(given) = given {
                let given = &given[row * n_active..][..n_active];
                for (entry, &expert) in order.iter_mut().zip(given) {
                    *entry = expert as u32;
                }
            }
            chosen.copy_from_slice(&order[..n_active]);
            let active = || chosen.iter().map(|&expert| probabilities[expert as usize]);
            let total = active().sum::<f32>() + op.eps;
            for (k, (weight, probability)) in weights.iter_mut().zip(active()).enumerate() {
                let own = match op.weighting {
                    Weighting::Probability => probability,
                    Weighting::Normalised => probability / total,
                    Weighting::NearTies { tolerance } => {
                        share(probabilities, &order[k..], tolerance)
                    }
                };
                *weight = match are_numbers {
                    true => own * op.scale,
                    false => f32::NAN,
                };
            }
            if let Some(scales) = scales {
                for (weight, &expert) in weights.iter_mut().zip(&*chosen) {
                    *weight *= scales.element(expert as usize);
                }
            }
        }
        self.sort(n_chosen);
    }

    /// Lists the rows of each expert by the experts of each row.
    fn sort(&mut self, n_chosen: usize) {
        let chosen = &self.chosen.as_slice()[..n_chosen];
        let starts = self.starts.as_mut_slice();
        starts.fill(0);
        for &expert in chosen {
            starts[expert as usize + 1] += 1;
        }
        for expert in 0..self.n_experts {
            starts[expert + 1] += starts[expert];
        }
        let (rows, weights) = (self.rows.as_mut_slice(), self.weights.as_mut_slice());
        // From the last row to the first, so that what is filled from an expert's end on is ascending. The end of an expert
        // is where the next one starts until that one's rows have been taken: `next` counts down from there.
        let next = self.order.as_mut_slice();
        next.copy_from_slice(&starts[1..]);
        let choices = chosen.iter().zip(self.chosen_weights.as_slice());
        for (i, (&expert, &weight)) in choices.enumerate().rev() {
            let next = &mut next[expert as usize];
            *next -= 1;
            rows[*next as usize] = (i / self.n_active) as u32;
            weights[*next as usize] = weight;
        }
    }

    /// Rows of an expert, ascending, and the weights of its results in them.
    pub(crate) fn of(&self, expert: usize) -> (&[u32], &[f32]) {
        let starts = self.starts.as_slice();
        let range = starts[expert] as usize..starts[expert + 1] as usize;
        let weights = &self.weights.as_slice()[range.clone()];
        (&self.rows.as_slice()[range], weights)
    }
}

impl Allocation for Routes {
    fn bytes(&self) -> Bytes {
        let indices = [&self.starts, &self.rows, &self.chosen, &self.order];
        let floats = [
            &self.weights,
            &self.chosen_weights,
            &self.probabilities,
            &self.ranks,
        ];
        let indices: Bytes = indices.map(Allocation::bytes).into_iter().sum();
        indices + floats.map(Allocation::bytes).into_iter().sum()
    }
}

/// Makes the ranks of all experts infinitely low whose group is out.
fn close(groups: &ExpertGroups, ranks: &mut [f32]) {
    let ExpertGroups {
        n_groups, n_active, ..
    } = *groups;
    assert!(n_groups <= ExpertGroups::MOST, "{groups:?}");
    let mut of_groups = [f32::NEG_INFINITY; ExpertGroups::MOST];
    let of_groups = &mut of_groups[..n_groups];
    let size = ranks.len() / n_groups;
    for (of_group, ranks) in of_groups.iter_mut().zip(ranks.chunks_exact(size)) {
        let [mut first, mut second] = [f32::NEG_INFINITY; 2];
        for &rank in ranks {
            second = second.max(first.min(rank));
            first = first.max(rank);
        }
        *of_group = match groups.rank {
            GroupRank::First => first,
            GroupRank::FirstTwo => first + second,
        };
    }
    for (group, ranks) in ranks.chunks_exact_mut(size).enumerate() {
        let precedes = |other: usize| match of_groups[other] == of_groups[group] {
            true => other < group,
            false => of_groups[other] > of_groups[group],
        };
        if (0..n_groups).filter(|&other| precedes(other)).count() >= n_active {
            ranks.fill(f32::NEG_INFINITY);
        }
    }
}

/// The share of the first of `order` in the softmax over those of them that are nearly as good.
fn share(probabilities: &[f32], order: &[u32], tolerance: f32) -> f32 {
    let best = probabilities[order[0] as usize];
    let of_order = order.iter().map(|&expert| probabilities[expert as usize]);
    // Of zeros alone the distance is not a number, and they are near.
    let near = of_order.filter(|p| {
        let is_far = (best - p) / p.abs().max(best) > tolerance;
        !is_far
    });
    1.0 / near.map(|p| (p - best).exp()).sum::<f32>()
}

/// The sigmoid of the largest; not a number where one is not.
pub(crate) fn of_largest(scores: &[f32]) -> f32 {
    match scores.iter().any(|score| score.is_nan()) {
        true => f32::NAN,
        false => sigmoid(scores.iter().copied().fold(f32::NEG_INFINITY, f32::max)),
    }
}

pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn softmax(scores: &[f32], probabilities: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for (probability, score) in probabilities.iter_mut().zip(scores) {
        *probability = (score - max).exp();
        total += *probability;
    }
    for probability in probabilities {
        *probability /= total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_to_their_best_experts_with_weights_that_sum_to_one() {
        let routing = Routing {
            weighting: Weighting::Normalised,
            ..Routing::softmax(3, 2)
        };
        let mut routes = Routes::new(&routing, 4).unwrap();
        assert_eq!(bytes(&routing, 4), routes.bytes());
        let scores = [0.0, 2.0, 1.0, /**/ 5.0, 5.0, 5.0];
        routes.choose(&routing, ([None; 2], None), &scores, 2);
        let rows = [0, 1, 2].map(|expert| routes.of(expert).0.to_vec());
        assert_eq!(rows, [vec![1], vec![0, 1], vec![0]]);
        let weights = routes.of(1).1;
        assert!(
            (weights[0] - 1.0 / (1.0 + (-1f32).exp())).abs() < 1e-6,
            "{weights:?}"
        );
        assert_eq!(weights[1], 0.5);
    }

    #[test]
    fn what_is_not_a_number_goes_to_the_first() {
        let routing = Routing::softmax(4, 2);
        let mut routes = Routes::new(&routing, 1).unwrap();
        for scores in [
            [1.0, 2.0, f32::NAN, 4.0],
            [1.0, 2.0, -f32::NAN, 4.0],
            [0.0, f32::INFINITY, 0.0, 1.0],
        ] {
            routes.choose(&routing, ([None; 2], None), &scores, 1);
            for expert in 0..4 {
                let (rows, weights) = routes.of(expert);
                assert_eq!(rows.len(), usize::from(expert < 2), "{scores:?}");
                assert!(weights.iter().all(|weight| weight.is_nan()));
            }
        }
    }
}
