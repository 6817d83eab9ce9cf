//! Choice of experts, and rows sent through them.

mod int8;

pub(crate) use int8::cases as int8;

use std::sync::Arc;

use llm_backend::{Backend, Expert, ExpertBuffers, LinearPart, Ops, Routing};
use llm_quant::{BlockSize, Code, FourBit, Scheme, StoredWeight};
use llm_tensor::{
    Activation, ClampedGate, DType, ExpertGroups, Gate, GateOrder, GroupRank, Scoring, Weighting,
    WorkspaceShape,
};

use crate::case::{Case, EPS, sum_error};
use crate::data::{DTYPES, Device, Random, SMALL, WORKS, weight, widened};
use crate::schemes::weight_in;

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
}

#[derive(Debug, Clone, Copy)]
enum Scores {
    /// Numbers up to this magnitude.
    Within(f32),
    /// A few different numbers.
    Equal,
    /// Every third row has one that is not a number, or is infinite.
    NotNumbers,
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
                    });
                }
            }
        }
    }
    cases.extend(corrected());
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
}

impl RoutingCase {
    fn inputs(&self) -> RoutingInputs {
        let mut random = Random::new(21);
        let n_experts = self.routing.n_experts;
        let n = self.n_tokens * n_experts;
        let scores = match self.scores {
            Scores::Within(magnitude) => random.values(n, magnitude),
            Scores::Equal => (0..n).map(|_| random.below(3) as f32 - 1.0).collect(),
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
        };
        RoutingInputs {
            scores,
            x: random.values(self.n_tokens * self.width, 2.0),
            y: random.values(self.n_tokens * self.width, 2.0),
            correction: self
                .correction
                .map(|dtype| random.weight(dtype, 1, n_experts)),
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
        } = self.inputs();
        let mut device = Device::new(backend);
        let scores = device.buffer(&scores);
        let mut routes = backend.routes(&self.routing, self.n_tokens).expect(WORKS);
        let correction = correction.map(|correction| device.load(correction));
        let (correction, n_tokens) = (correction.as_ref(), self.n_tokens);
        let routed = device
            .queue
            .route(&self.routing, correction, &scores, &mut routes, n_tokens);
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
        let RoutingInputs { scores, y, .. } = self.inputs();
        let largest = y.iter().fold(0.0, |m: f64, &y| m.max(f64::from(y).abs()));
        let n_sums = self.n_tokens * self.width;
        // Weights are at most one, or with their sum of as many as are active, before they are scaled.
        let relative =
            weight_error(&self.routing, &scores) + EPS * (1.0 + self.routing.n_active as f64);
        let of_sigmoids = match (self.routing.scoring, self.routing.weighting) {
            (Scoring::Sigmoid, Weighting::Probability) => self.routing.n_active as f64,
            (Scoring::Softmax, _) | (Scoring::Sigmoid, Weighting::Normalised) => 1.0,
        };
        let relative = relative * of_sigmoids * f64::from(self.routing.scale);
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

/// Rows sent through experts, one after the other.
#[derive(Debug)]
pub(crate) struct ExpertCase {
    routing: Routing,
    n_tokens: usize,
    hidden: usize,
    width: usize,
    activation: Activation,
    /// Gates are clamped and matrices have biases.
    clamped: Option<ClampedGate>,
    scheme: Scheme,
    /// Gate and up in one matrix.
    is_fused: bool,
    /// Rows of x that are not numbers.
    nan_row: Option<usize>,
    /// Every so many-th element of x is large; 0 for none.
    outlier_every: usize,
    sent: Sent,
}

/// Calls by which rows are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// One for each expert.
    Apart,
    /// One, with buffers for so many rows of a token.
    Together(usize),
}

pub(crate) fn experts() -> Vec<ExpertCase> {
    let mut cases = Vec::new();
    for (hidden, width) in [(1, 1), (16, 40), (65, 33), (128, 96)] {
        for n_tokens in [1, 3, 17, 64] {
            for (n_experts, n_active) in [(2, 1), (4, 2), (32, 4)] {
                let i = cases.len();
                cases.push(ExpertCase {
                    routing: Routing {
                        weighting: [Weighting::Probability, Weighting::Normalised][i % 2],
                        ..Routing::softmax(n_experts, n_active)
                    },
                    n_tokens,
                    hidden,
                    width,
                    activation: [Activation::Silu, Activation::GeluTanh, Activation::Relu][i % 3],
                    clamped: None,
                    scheme: Scheme::Dense(DTYPES[i / 2 % 3]),
                    is_fused: i % 4 == 1,
                    nan_row: (i % 5 == 4).then_some(n_tokens / 2),
                    outlier_every: 0,
                    sent: Sent::Apart,
                });
            }
        }
    }
    cases
}

/// Experts with clamped gates and biases: gate and up in two matrices, or in rows that alternate in one.
pub(crate) fn clamped_experts() -> Vec<ExpertCase> {
    let mut cases = Vec::new();
    for order in [GateOrder::Halves, GateOrder::Pairs] {
        for (i, (n_tokens, n_experts, n_active, hidden, width)) in [
            (1, 4, 2, 16, 40),
            (3, 12, 4, 65, 33),
            (40, 5, 3, 128, 96),
            (2, 3, 2, 64, 64),
        ]
        .into_iter()
        .enumerate()
        {
            cases.push(ExpertCase {
                routing: Routing {
                    weighting: Weighting::Normalised,
                    ..Routing::softmax(n_experts, n_active)
                },
                n_tokens,
                hidden,
                width,
                activation: Activation::Silu,
                clamped: Some(ClampedGate {
                    alpha: 1.702,
                    limit: 2.0,
                    order,
                }),
                scheme: Scheme::Dense(DTYPES[i % 3]),
                is_fused: order == GateOrder::Pairs,
                nan_row: (i == 1).then_some(n_tokens / 2),
                outlier_every: 0,
                sent: [Sent::Together(n_active), Sent::Apart][i % 2],
            });
        }
    }
    cases
}

/// All experts of a layer in one call.
pub(crate) fn together() -> Vec<ExpertCase> {
    let four_bit = |code, block_size, double_quant| {
        Scheme::FourBit(FourBit {
            code,
            block_size: BlockSize::new(block_size).expect("a power of two from 32 to 4096"),
            double_quant,
        })
    };
    let schemes = [
        Scheme::Dense(DType::F32),
        Scheme::Dense(DType::F16),
        Scheme::Dense(DType::BF16),
        four_bit(Code::Nf4, 64, false),
        four_bit(Code::Nf4, 64, true),
        four_bit(Code::Fp4, 32, false),
    ];
    let shapes = [
        (1, 4, 2, 16, 40),
        (3, 130, 8, 64, 24),
        (11, 8, 1, 128, 96),
        (40, 5, 5, 264, 72),
        (2, 3, 2, 65, 33),
    ];
    let mut cases = Vec::new();
    for (i, scheme) in schemes.into_iter().enumerate() {
        for (j, (n_tokens, n_experts, n_active, hidden, width)) in shapes.into_iter().enumerate() {
            let activations = [
                Activation::Silu,
                Activation::GeluTanh,
                Activation::Relu,
                Activation::Gelu,
            ];
            cases.push(ExpertCase {
                routing: Routing {
                    weighting: [Weighting::Probability, Weighting::Normalised][(i + j) % 2],
                    ..Routing::softmax(n_experts, n_active)
                },
                n_tokens,
                hidden,
                width,
                activation: activations[(i + j) % 4],
                clamped: None,
                scheme,
                is_fused: i < 3 && (i + j) % 2 == 1,
                nan_row: (j == 2).then_some(n_tokens / 2),
                outlier_every: 0,
                // Where there is no room for all, they go one after the other.
                sent: Sent::Together(if (i + j) % 5 == 4 { 1 } else { n_active }),
            });
        }
    }
    cases
}

/// Experts in the formats of published files.
pub(crate) fn packed_experts(schemes: &[Scheme]) -> Vec<ExpertCase> {
    let of_scheme = |(i, &scheme): (usize, &Scheme)| ExpertCase {
        routing: Routing {
            weighting: Weighting::Normalised,
            ..Routing::softmax(5, 2)
        },
        n_tokens: [1, 3, 40][i % 3],
        hidden: 256,
        width: 512,
        activation: Activation::Silu,
        clamped: None,
        scheme,
        is_fused: false,
        nan_row: None,
        outlier_every: 0,
        sent: Sent::Together(2),
    };
    schemes.iter().enumerate().map(of_scheme).collect()
}

struct ExpertInputs {
    scores: Vec<f32>,
    x: Vec<f32>,
    /// The output before.
    before: Vec<f32>,
    /// Gate, up and down of each.
    weights: Vec<[StoredWeight; 3]>,
    /// Their biases, of clamped ones.
    biases: Vec<[Vec<f32>; 3]>,
}

impl ExpertCase {
    fn inputs(&self) -> ExpertInputs {
        let mut random = Random::new(22);
        let scores = random.values(self.n_tokens * self.routing.n_experts, 3.0);
        let mut x = random.values(self.n_tokens * self.hidden, 1.0);
        if self.outlier_every > 0 {
            for (i, x) in x.iter_mut().step_by(self.outlier_every).enumerate() {
                *x = 6.0 + 5.0 * i as f32;
            }
        }
        if let Some(row) = self.nan_row {
            x[row * self.hidden..][..self.hidden].fill(f32::NAN);
        }
        let before = random.values(self.n_tokens * self.hidden, 1.0);
        let mut expert = || {
            let (wide, narrow) = ((self.width, self.hidden), (self.hidden, self.width));
            [wide, wide, narrow].map(|shape| weight_in(&mut random, self.scheme, shape))
        };
        let weights = (0..self.routing.n_experts).map(|_| expert()).collect();
        let n_biased = self.clamped.map_or(0, |_| self.routing.n_experts);
        let widths = [self.width, self.width, self.hidden];
        let biases = (0..n_biased).map(|_| widths.map(|width| random.values(width, 1.0)));
        ExpertInputs {
            scores,
            x,
            before,
            weights,
            biases: biases.collect(),
        }
    }
}

impl Case for ExpertCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let ExpertInputs {
            scores,
            x,
            before,
            weights,
            biases,
        } = self.inputs();
        let shape = WorkspaceShape {
            n_tokens: self.n_tokens,
            cols: self.hidden.max(self.width),
            rows: self.hidden.max(2 * self.width),
            ..SMALL
        };
        let mut device = Device::with_workspace(backend, &shape);
        let scores = device.buffer(&scores);
        let x = device.buffer(&x);
        let mut out = device.buffer(&before);
        let mut routes = backend.routes(&self.routing, self.n_tokens).expect(WORKS);
        let routed = device
            .queue
            .route(&self.routing, None, &scores, &mut routes, self.n_tokens);
        routed.expect(WORKS);
        let n_rows = match self.sent {
            Sent::Apart => self.n_tokens,
            Sent::Together(n) => self.n_tokens * n,
        };
        let mut gathered = device.zeros(n_rows * self.hidden);
        let mut up = device.zeros(n_rows * 2 * self.width);
        let mut gated = device.zeros(n_rows * self.width);
        let mut delta = device.zeros(n_rows * self.hidden);
        let has_pairs = (self.clamped).is_some_and(|gate| gate.order == GateOrder::Pairs);
        let mut biases = biases.into_iter();
        let loaded: Vec<_> = weights
            .into_iter()
            .map(|[gate, up, down]| {
                let mut weights = match self.is_fused {
                    true if has_pairs => vec![alternating(self.scheme, &gate, &up)],
                    true => vec![stacked(self.scheme, &gate, &up)],
                    false => vec![gate, up],
                };
                weights.push(down);
                let of_expert = biases.next().map(|[gate, up, down]| match has_pairs {
                    true => {
                        let pairs = gate.into_iter().zip(up);
                        vec![pairs.flat_map(|(gate, up)| [gate, up]).collect(), down]
                    }
                    false => vec![gate, up, down],
                });
                let biases = of_expert.unwrap_or_default().into_iter();
                let biases = biases.map(|bias| weight(DType::F32, 1, bias.len(), &bias));
                let biases = biases.map(Some).chain(std::iter::repeat(None));
                let parts = weights.into_iter().zip(biases);
                let load = |(weight, bias): (_, Option<_>)| {
                    (device.load(weight), bias.map(|bias| device.load(bias)))
                };
                parts.map(load).collect::<Vec<_>>()
            })
            .collect();
        let parts: Vec<Vec<_>> = (loaded.iter())
            .map(|parts| {
                let part = |(weight, bias)| LinearPart { weight, bias };
                parts
                    .iter()
                    .map(|(weight, bias)| part((weight, bias.as_ref())))
                    .collect()
            })
            .collect();
        let gate = self
            .clamped
            .map_or(Gate::Of(self.activation), Gate::Clamped);
        let experts = parts.iter().enumerate();
        let experts: Vec<_> = experts
            .map(|(expert, parts)| Expert {
                expert,
                gate_up: &parts[..parts.len() - 1],
                down: parts[parts.len() - 1],
                gate,
                width: self.width,
                hidden: self.hidden,
            })
            .collect();
        // In one call, or in one each.
        let n_of_call = match self.sent {
            Sent::Apart => 1,
            Sent::Together(_) => experts.len(),
        };
        for experts in experts.chunks(n_of_call) {
            let scratch = ExpertBuffers {
                gathered: &mut gathered,
                up: &mut up,
                gated: &mut gated,
                delta: &mut delta,
            };
            let sent = match (self.sent, experts) {
                (Sent::Apart, [expert]) => {
                    device.queue.expert(expert, &x, &routes, scratch, &mut out)
                }
                _ => device
                    .queue
                    .experts(experts, &x, &routes, scratch, &mut out),
            };
            sent.expect(WORKS);
        }
        device.read(&out, self.n_tokens * self.hidden)
    }

    fn bounds(&self, _: &[f32]) -> Vec<f64> {
        if let Scheme::Int8(format) = self.scheme {
            return self.int8_bounds(format.threshold);
        }
        let ExpertInputs {
            scores,
            x,
            before,
            weights,
            biases,
        } = self.inputs();
        // Whichever experts a row goes to, with weights of one at most.
        let per_expert = weights.iter().enumerate().map(|(i, [gate, up, down])| {
            let [gate, up, down] = [gate, up, down].map(widened);
            self.expert_bounds(&x, [&gate, &up, &down], biases.get(i))
        });
        let relative = weight_error(&self.routing, &scores) + 2.0 * EPS;
        let mut largest = vec![(0f64, 0f64); before.len()];
        for of_expert in per_expert {
            for ((error, size), (new_error, new_size)) in largest.iter_mut().zip(of_expert) {
                *error = error.max(new_error);
                *size = size.max(new_size);
            }
        }
        let n_active = self.routing.n_active as f64;
        let bound = |((error, size), before): ((f64, f64), f32)| {
            let sums = EPS * (n_active * size + f64::from(before).abs());
            n_active * (error + relative * size + sums)
        };
        largest.into_iter().zip(before).map(bound).collect()
    }
}

impl ExpertCase {
    /// Distance that each of an expert's results may have from the exact one, and a magnitude that it does not exceed.
    fn expert_bounds(
        &self,
        x: &[f32],
        [gate, up, down]: [&[f32]; 3],
        biases: Option<&[Vec<f32>; 3]>,
    ) -> Vec<(f64, f64)> {
        let bias =
            |part: usize, i: usize| biases.map_or(0.0, |biases| f64::from(biases[part][i]).abs());
        // What clamped gates add to the second factor.
        let more = self.clamped.map_or(0.0, |_| 1.0);
        let mut bounds = Vec::with_capacity(x.len());
        for x in x.chunks_exact(self.hidden) {
            // No activation is larger than its argument, or steeper than 1.13; it is rounded a few times itself.
            let inner = gate
                .chunks_exact(self.hidden)
                .zip(up.chunks_exact(self.hidden));
            let inner = inner.enumerate().map(|(i, (gate, up))| {
                let gate = magnitude(gate, x) + bias(0, i);
                let up = magnitude(up, x) + bias(1, i) + more;
                let of_sums = sum_error(self.hidden + 1) * gate * up;
                ((1.13 + 1.0) * of_sums + 64.0 * EPS * gate * up, gate * up)
            });
            let inner: Vec<(f64, f64)> = inner.collect();
            bounds.extend(down.chunks_exact(self.width).enumerate().map(|(i, down)| {
                let products = down.iter().zip(&inner);
                let of_one = |(down, (error, size)): (&f32, &(f64, f64))| {
                    let down = f64::from(*down).abs();
                    (down * error, down * size)
                };
                let (error, size) = products
                    .map(of_one)
                    .fold((0.0, 0.0), |sum, new| (sum.0 + new.0, sum.1 + new.1));
                let size = size + bias(2, i);
                (error + sum_error(self.width + 1) * size, size)
            }));
        }
        bounds
    }
}

/// The sum of the products' magnitudes.
fn magnitude(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a * b).abs()).sum()
}

/// One matrix of the rows of both by turns.
fn alternating(scheme: Scheme, a: &StoredWeight, b: &StoredWeight) -> StoredWeight {
    let (of_a, of_b) = (widened(a), widened(b));
    let rows = of_a.chunks_exact(a.cols).zip(of_b.chunks_exact(a.cols));
    let values: Vec<f32> = rows.flat_map(|(a, b)| [a, b]).flatten().copied().collect();
    let dtype = scheme.elements().expect("fused weights are dense");
    weight(dtype, a.rows + b.rows, a.cols, &values)
}

/// One matrix of the rows of both.
fn stacked(scheme: Scheme, a: &StoredWeight, b: &StoredWeight) -> StoredWeight {
    let values = [widened(a), widened(b)].concat();
    let dtype = scheme.elements().expect("fused weights are dense");
    weight(dtype, a.rows + b.rows, a.cols, &values)
}
