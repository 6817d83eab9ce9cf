//! Choice of experts, and rows sent through them.

mod experts;
mod int8;

pub(crate) use experts::{clamped_experts, experts, packed_experts, together, ungated_experts};
pub(crate) use int8::cases as int8;

use std::sync::Arc;

use llm_backend::{Backend, Ops, RouterVectors, Routing};
use llm_quant::StoredWeight;
use llm_tensor::{DType, ExpertGroups, GroupRank, Scoring, Weighting};

use crate::case::{Case, EPS, sum_error};
use crate::data::{Device, Random, WORKS, widened};

/// Rows that go to experts: their numbers, the rows themselves, and sums of what comes back.
#[derive(Debug)]
pub(crate) struct RoutingCase {
    routing: Routing,
    n_tokens: usize,
    /// Elements of a row.
    width: usize,
    scores: Scores,
    /// Element type of a correction of ranks.
    correction: Option<DType>,
    /// Element type of the weights' scales.
    scales: Option<DType>,
    /// True if experts are given, and not chosen.
    given: bool,
}

#[derive(Debug, Clone, Copy)]
enum Scores {
    /// Numbers up to this magnitude.
    Within(f32),
    /// A few different numbers.
    Equal,
    /// Multiples of a quarter up to 3.
    Quarters,
    /// Every third row has one that is not a number, or is infinite.
    NotNumbers,
}

impl Scores {
    /// `[n_tokens, n_experts]`.
    fn values(self, random: &mut Random, n_tokens: usize, n_experts: usize) -> Vec<f32> {
        let n = n_tokens * n_experts;
        match self {
            Scores::Within(magnitude) => random.values(n, magnitude),
            Scores::Equal => (0..n).map(|_| random.below(3) as f32 - 1.0).collect(),
            Scores::Quarters => (0..n)
                .map(|_| random.below(25) as f32 / 4.0 - 3.0)
                .collect(),
            Scores::NotNumbers => {
                let mut scores = random.values(n, 3.0);
                for (i, row) in scores.chunks_exact_mut(n_experts).enumerate() {
                    row[i % n_experts] = match i % 9 {
                        0 => f32::NAN,
                        3 => f32::INFINITY,
                        6 => -f32::NAN,
                        _ => continue,
                    };
                }
                scores
            }
        }
    }
}

pub(crate) fn routings() -> Vec<RoutingCase> {
    let mut cases = Vec::new();
    for (n_experts, n_active) in [(1, 1), (3, 2), (8, 2), (60, 4), (128, 8), (5, 5)] {
        for n_tokens in [1, 5, 40] {
            for scores in [
                Scores::Within(3.0),
                Scores::Within(30.0),
                Scores::Equal,
                Scores::NotNumbers,
            ] {
                for weighting in [Weighting::Probability, Weighting::Normalised] {
                    cases.push(RoutingCase {
                        routing: Routing {
                            weighting,
                            ..Routing::softmax(n_experts, n_active)
                        },
                        n_tokens,
                        width: [1, 7, 16, 33, 576][cases.len() % 5],
                        scores,
                        correction: None,
                        scales: [None, Some(DType::F32), None][cases.len() % 3],
                        given: false,
                    });
                }
            }
        }
    }
    cases.extend(corrected());
    cases.extend(near_ties());
    cases
}

/// Roots of softplus, of experts that are chosen and of ones that are given.
pub(crate) fn given() -> Vec<RoutingCase> {
    let mut cases = Vec::new();
    for (n_experts, n_active) in [(1, 1), (3, 2), (256, 6), (5, 5)] {
        for n_tokens in [1, 5, 40] {
            for scores in [
                Scores::Within(3.0),
                Scores::Within(40.0),
                Scores::NotNumbers,
            ] {
                for given in [false, true] {
                    let i = cases.len();
                    cases.push(RoutingCase {
                        routing: Routing {
                            scoring: Scoring::SqrtSoftplus,
                            weighting: Weighting::Normalised,
                            scale: [1.5, 1.0][i % 2],
                            ..Routing::softmax(n_experts, n_active)
                        },
                        n_tokens,
                        width: [16, 33, 7][i % 3],
                        scores,
                        correction: (!given && i.is_multiple_of(4)).then_some(DType::F32),
                        scales: None,
                        given,
                    });
                }
            }
        }
    }
    cases
}

/// Weights by near ties. Scores are multiples of a quarter, and no ratio of two of them is close to a tolerance.
fn near_ties() -> Vec<RoutingCase> {
    let mut cases = Vec::new();
    for (n_experts, n_active) in [(1, 1), (3, 2), (8, 2), (60, 4), (128, 2), (5, 5)] {
        for n_tokens in [1, 5, 40] {
            for scores in [Scores::Equal, Scores::Quarters, Scores::NotNumbers] {
                let i = cases.len();
                cases.push(RoutingCase {
                    routing: Routing {
                        scoring: Scoring::Plain,
                        weighting: Weighting::NearTies {
                            tolerance: [0.02, 0.26, 1.13][i % 3],
                        },
                        scale: [1.0, 2.5][i % 2],
                        ..Routing::softmax(n_experts, n_active)
                    },
                    n_tokens,
                    width: [16, 33, 7][i % 3],
                    scores,
                    correction: None,
                    scales: [None, Some(DType::F32)][i / 2 % 2],
                    given: false,
                });
            }
        }
    }
    cases
}

/// Sigmoids, corrections and groups. Ranks that are equal but for rounding are not among them: there is no right choice.
fn corrected() -> Vec<RoutingCase> {
    let groups = |n_groups, n_active, rank| {
        Some(ExpertGroups {
            n_groups,
            n_active,
            rank,
        })
    };
    let shapes = [
        (6, 2, None),
        (64, 6, None),
        (8, 2, groups(4, 2, GroupRank::FirstTwo)),
        (256, 8, groups(8, 4, GroupRank::FirstTwo)),
        (160, 6, groups(8, 3, GroupRank::First)),
        (96, 3, groups(32, 1, GroupRank::First)),
        (12, 3, groups(1, 1, GroupRank::FirstTwo)),
    ];
    let mut cases = Vec::new();
    for (n_experts, n_active, groups) in shapes {
        for scoring in [Scoring::Softmax, Scoring::Sigmoid] {
            for n_tokens in [1, 5, 40] {
                for scores in [Scores::Within(2.0), Scores::NotNumbers] {
                    let i = cases.len();
                    let corrections = [Some(DType::F32), None, Some(DType::BF16)];
                    cases.push(RoutingCase {
                        routing: Routing {
                            scoring,
                            groups,
                            weighting: [Weighting::Normalised, Weighting::Probability][i % 2],
                            eps: [0.0, 0.25][i % 2],
                            scale: [2.5, 1.0, 0.5][i % 3],
                            ..Routing::softmax(n_experts, n_active)
                        },
                        n_tokens,
                        width: [16, 33, 7][i % 3],
                        scores,
                        correction: corrections[i / 2 % 3],
                        scales: [None, Some(DType::F16), None, Some(DType::BF16)][i % 4],
                        given: false,
                    });
                }
            }
        }
    }
    cases
}

struct RoutingInputs {
    /// `[n_tokens, n_experts]`.
    scores: Vec<f32>,
    /// `[n_tokens, width]`.
    x: Vec<f32>,
    /// An expert's results: of each, the first of these rows, `[n_tokens, width]`.
    y: Vec<f32>,
    /// `[n_experts]`.
    correction: Option<StoredWeight>,
    /// The same, of weights.
    scales: Option<StoredWeight>,
    /// `[n_tokens, n_active]`.
    given: Option<Vec<f32>>,
}

impl RoutingCase {
    fn inputs(&self) -> RoutingInputs {
        let mut random = Random::new(21);
        let n_experts = self.routing.n_experts;
        RoutingInputs {
            scores: self.scores.values(&mut random, self.n_tokens, n_experts),
            x: random.values(self.n_tokens * self.width, 2.0),
            y: random.values(self.n_tokens * self.width, 2.0),
            correction: self
                .correction
                .map(|dtype| random.weight(dtype, 1, n_experts)),
            scales: self.scales.map(|dtype| random.weight(dtype, 1, n_experts)),
            given: self.given.then(|| {
                let mut all: Vec<usize> = (0..n_experts).collect();
                let mut row = |_| {
                    random.shuffle(&mut all);
                    let first = all[..self.routing.n_active].iter();
                    first.map(|&expert| expert as f32).collect::<Vec<_>>()
                };
                (0..self.n_tokens).flat_map(&mut row).collect()
            }),
        }
    }
}

impl Case for RoutingCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let RoutingInputs {
            scores,
            x,
            y,
            correction,
            scales,
            given,
        } = self.inputs();
        let mut device = Device::new(backend);
        let scores = device.buffer(&scores);
        let mut routes = backend.routes(&self.routing, self.n_tokens).expect(WORKS);
        let correction = correction.map(|correction| device.load(correction));
        let scales = scales.map(|scales| device.load(scales));
        let given = given.map(|given| device.buffer(&given));
        let vectors = RouterVectors {
            correction: correction.as_ref(),
            scales: scales.as_ref(),
            chosen: given.as_ref(),
        };
        let n_tokens = self.n_tokens;
        let routed = device
            .queue
            .route(&self.routing, vectors, &scores, &mut routes, n_tokens);
        routed.expect(WORKS);
        let mut n_rows = vec![usize::MAX; self.routing.n_experts];
        device.queue.chosen(&routes, &mut n_rows).expect(WORKS);
        let mut results: Vec<f32> = n_rows.iter().map(|&n| n as f32).collect();
        let y = device.buffer(&y);
        let x = device.buffer(&x);
        for (expert, n_rows) in n_rows.into_iter().enumerate() {
            let mut gathered = device.zeros(self.n_tokens * self.width);
            let gather = device
                .queue
                .gather_routed(&routes, expert, &x, self.width, &mut gathered);
            gather.expect(WORKS);
            results.extend(device.read(&gathered, n_rows * self.width));
        }
        let mut sums = device.zeros(self.n_tokens * self.width);
        for expert in 0..self.routing.n_experts {
            let scatter = device
                .queue
                .scatter_routed(&routes, expert, &y, self.width, &mut sums);
            scatter.expect(WORKS);
        }
        results.extend(device.read(&sums, self.n_tokens * self.width));
        results
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let RoutingInputs {
            scores, y, scales, ..
        } = self.inputs();
        let largest = y.iter().fold(0.0, |m: f64, &y| m.max(f64::from(y).abs()));
        let n_sums = self.n_tokens * self.width;
        // Weights are at most one, or with their sum of as many as are active, before they are scaled.
        let relative =
            weight_error(&self.routing, &scores) + EPS * (1.0 + self.routing.n_active as f64);
        let of_sigmoids = match (self.routing.scoring, self.routing.weighting) {
            (Scoring::Sigmoid, Weighting::Probability) => self.routing.n_active as f64,
            (Scoring::Plain | Scoring::SqrtSoftplus, Weighting::Probability) => {
                scores.iter().fold(0.0, |m, &score| {
                    f64::max(m, f64::from(score).abs()) * self.routing.n_active as f64
                })
            }
            (_, Weighting::NearTies { .. }) => self.routing.n_active as f64,
            (Scoring::Softmax, _) | (_, Weighting::Normalised) => 1.0,
        };
        let largest_scale = scales.map_or(1.0, |scales| {
            let scales = widened(&scales).into_iter();
            scales.fold(0.0, |m: f64, scale| m.max(f64::from(scale).abs()))
        });
        let relative = relative * of_sigmoids * f64::from(self.routing.scale) * largest_scale;
        let mut bounds = vec![0.0; expected.len() - n_sums];
        bounds.extend(vec![relative * largest; n_sums]);
        bounds
    }
}

/// Relative distance that a routed row's weight may have from the exact one.
fn weight_error(routing: &Routing, scores: &[f32]) -> f64 {
    let finite = scores.iter().filter(|score| score.is_finite());
    let largest = finite.fold(0.0, |m: f64, &score| m.max(f64::from(score).abs()));
    // The exponent is the difference of two, rounded; sums of exponentials and of what is chosen divide.
    let exponential = EPS * (4.0 + 2.0 * largest);
    2.0 * (exponential + sum_error(routing.n_experts))
}

/// Rows times the sigmoid of the largest of their scores.
#[derive(Debug)]
pub(crate) struct WeighedCase {
    n_scores: usize,
    width: usize,
    n_tokens: usize,
    scores: Scores,
}

pub(crate) fn weighed() -> Vec<WeighedCase> {
    let mut cases = Vec::new();
    for n_scores in [1, 16, 33, 300] {
        for width in [1, 7, 33, 576] {
            for n_tokens in [1, 3, 40] {
                cases.push(WeighedCase {
                    n_scores,
                    width,
                    n_tokens,
                    scores: [Scores::Within(3.0), Scores::Within(1e4), Scores::NotNumbers]
                        [cases.len() % 3],
                });
            }
        }
    }
    cases
}

impl Case for WeighedCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let mut random = Random::new(37);
        let scores = self
            .scores
            .values(&mut random, self.n_tokens, self.n_scores);
        let scores = device.buffer(&scores);
        let n = self.n_tokens * self.width;
        let mut x = device.buffer(&random.values(n, 2.0));
        let scaled = device.queue.scale_by_largest(
            (&scores, self.n_scores),
            &mut x,
            self.width,
            self.n_tokens,
        );
        scaled.expect(WORKS);
        device.read(&x, n)
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        // The exponential, its sum with one and the quotient, then the product; exponentials below the normal numbers are lost.
        let bound =
            |&scaled: &f32| EPS * 8.0 * f64::from(scaled).abs() + f64::from(f32::MIN_POSITIVE);
        expected.iter().map(bound).collect()
    }
}
