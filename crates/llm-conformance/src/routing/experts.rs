//! Rows sent through experts.

use std::sync::Arc;

use llm_backend::{Backend, Expert, ExpertBuffers, LinearPart, Ops, RouterVectors, Routing};
use llm_quant::{BlockSize, Code, FourBit, Scheme, StoredWeight};
use llm_tensor::{Activation, ClampedGate, DType, Gate, GateOrder, Weighting, WorkspaceShape};

use super::weight_error;
use crate::case::{Case, EPS, sum_error};
use crate::data::{DTYPES, Device, Random, SMALL, WORKS, weight, widened};
use crate::schemes::weight_in;

/// Rows sent through experts, one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpertCase {
    pub(super) routing: Routing,
    pub(super) n_tokens: usize,
    pub(super) hidden: usize,
    pub(super) width: usize,
    pub(super) activation: Activation,
    /// Gates are clamped,
    pub(super) clamped: Option<ClampedGate>,
    /// and matrices have biases.
    pub(super) has_biases: bool,
    /// There are no gates, only `up`.
    pub(super) is_ungated: bool,
    pub(super) scheme: Scheme,
    /// Gate and up in one matrix.
    pub(super) is_fused: bool,
    /// Rows of x that are not numbers.
    pub(super) nan_row: Option<usize>,
    /// Every so many-th element of x is large; 0 for none.
    pub(super) outlier_every: usize,
    pub(super) sent: Sent,
}

/// Calls by which rows are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
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
                    has_biases: false,
                    is_ungated: false,
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

/// Experts with clamped gates and mostly biases: gate and up in two matrices, in one after the other, or in rows that alternate in one.
pub(crate) fn clamped_experts() -> Vec<ExpertCase> {
    let mut cases = Vec::new();
    for (order, is_fused) in [
        (GateOrder::Halves, false),
        (GateOrder::Halves, true),
        (GateOrder::Pairs, true),
    ] {
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
                    added: [1.0, 0.0][i % 2],
                    ..clamped(order)
                }),
                has_biases: i < 3,
                is_ungated: false,
                scheme: Scheme::Dense(DTYPES[i % 3]),
                is_fused,
                nan_row: (i == 1).then_some(n_tokens / 2),
                outlier_every: 0,
                sent: match i {
                    1 => Sent::Apart,
                    _ => Sent::Together(n_active),
                },
            });
        }
    }
    cases
}

/// Experts without gates.
pub(crate) fn ungated_experts() -> Vec<ExpertCase> {
    let shapes = [
        (1, 4, 2, 16, 40),
        (3, 12, 4, 65, 33),
        (40, 5, 3, 128, 96),
        (9, 8, 6, 64, 65),
    ];
    let case = |(i, (n_tokens, n_experts, n_active, hidden, width))| ExpertCase {
        routing: Routing {
            weighting: Weighting::Normalised,
            ..Routing::sigmoid(n_experts, n_active)
        },
        n_tokens,
        hidden,
        width,
        // Whether max(0, NaN) is NaN differs among processors.
        activation: match i {
            1 => Activation::GeluTanh,
            _ => Activation::ReluSquared,
        },
        clamped: None,
        has_biases: false,
        is_ungated: true,
        scheme: Scheme::Dense(DTYPES[i % 3]),
        is_fused: false,
        nan_row: (i == 1).then_some(n_tokens / 2),
        outlier_every: 0,
        sent: [Sent::Together(n_active), Sent::Apart][i % 2],
    };
    shapes.into_iter().enumerate().map(case).collect()
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
                has_biases: false,
                is_ungated: false,
                scheme,
                is_fused: (i + j) % 2 == 1,
                nan_row: (j == 2).then_some(n_tokens / 2),
                outlier_every: 0,
                // Where there is no room for all, they go one after the other.
                sent: Sent::Together(if (i + j) % 5 == 4 { 1 } else { n_active }),
            });
            let n = cases.len();
            cases.push(ExpertCase {
                clamped: Some(clamped(GateOrder::Pairs)),
                has_biases: true,
                is_fused: true,
                sent: Sent::Together(n_active),
                ..cases[n - 1]
            });
        }
    }
    cases
}

/// Experts in the formats of published files: gated, and with clamped gates and biases.
pub(crate) fn packed_experts(schemes: &[Scheme]) -> Vec<ExpertCase> {
    let case = |scheme, n_tokens, clamped| ExpertCase {
        routing: Routing {
            weighting: Weighting::Normalised,
            ..Routing::softmax(5, 2)
        },
        n_tokens,
        hidden: 256,
        width: 512,
        activation: Activation::Silu,
        clamped,
        has_biases: clamped.is_some(),
        is_ungated: false,
        scheme,
        is_fused: clamped.is_some(),
        nan_row: None,
        outlier_every: 0,
        sent: Sent::Together(2),
    };
    let of_scheme = |(i, &scheme): (usize, &Scheme)| {
        [
            case(scheme, [1, 3, 40][i % 3], None),
            case(scheme, [3, 1][i % 2], Some(clamped(GateOrder::Pairs))),
        ]
    };
    schemes.iter().enumerate().flat_map(of_scheme).collect()
}

fn clamped(order: GateOrder) -> ClampedGate {
    ClampedGate {
        alpha: 1.702,
        limit: 2.0,
        added: 1.0,
        order,
    }
}

pub(super) struct ExpertInputs {
    pub(super) scores: Vec<f32>,
    pub(super) x: Vec<f32>,
    /// The output before.
    pub(super) before: Vec<f32>,
    pub(super) experts: Vec<OfExpert>,
}

pub(super) struct OfExpert {
    /// One matrix or two.
    pub(super) gate_up: Vec<StoredWeight>,
    pub(super) down: StoredWeight,
    /// Values of gate and of up, row by row.
    pub(super) values: [Vec<f32>; 2],
    /// Biases of gate, up and down.
    pub(super) biases: Option<[Vec<f32>; 3]>,
}

impl OfExpert {
    /// Biases as they lie beside the matrices, in pairs where gate and up alternate.
    fn stored_biases(&self, has_pairs: bool) -> Vec<StoredWeight> {
        let Some([gate, up, down]) = &self.biases else {
            return Vec::new();
        };
        let pairs = || gate.iter().zip(up).flat_map(|(gate, up)| [*gate, *up]);
        let biases = match (has_pairs, self.gate_up.len()) {
            (true, _) => vec![pairs().collect(), down.clone()],
            (false, 1) => vec![[&gate[..], up].concat(), down.clone()],
            (false, _) => vec![gate.clone(), up.clone(), down.clone()],
        };
        let stored = |bias: &Vec<f32>| weight(DType::F32, 1, bias.len(), bias);
        biases.iter().map(stored).collect()
    }
}

impl ExpertCase {
    pub(super) fn inputs(&self) -> ExpertInputs {
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
        let experts = (0..self.routing.n_experts).map(|_| self.expert(&mut random));
        ExpertInputs {
            scores,
            x,
            before,
            experts: experts.collect(),
        }
    }

    fn expert(&self, random: &mut Random) -> OfExpert {
        let (width, hidden) = (self.width, self.hidden);
        let mut draw = |rows, cols| weight_in(random, self.scheme, (rows, cols));
        let gate_up = match self.is_fused {
            _ if self.is_ungated => vec![draw(width, hidden)],
            true => vec![draw(2 * width, hidden)],
            false => vec![draw(width, hidden), draw(width, hidden)],
        };
        let down = draw(hidden, width);
        let all: Vec<f32> = gate_up.iter().flat_map(widened).collect();
        let mut values = [Vec::new(), Vec::new()];
        for (i, row) in all.chunks_exact(hidden).enumerate() {
            let is_up = match self.has_pairs() {
                true => i % 2,
                false => i / width,
            };
            values[is_up].extend(row);
        }
        if self.is_ungated {
            // A square is a feature times itself.
            values[1] = values[0].clone();
        }
        let biases = self.has_biases.then(|| {
            let widths = [width, width, hidden];
            widths.map(|width| random.values(width, 1.0))
        });
        OfExpert {
            gate_up,
            down,
            values,
            biases,
        }
    }

    /// True where rows of gate and up alternate in one matrix.
    fn has_pairs(&self) -> bool {
        let order = self.clamped.map(|gate| gate.order);
        order == Some(GateOrder::Pairs)
    }
}

impl Case for ExpertCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let ExpertInputs {
            scores,
            x,
            before,
            experts,
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
        let routed = device.queue.route(
            &self.routing,
            RouterVectors::NONE,
            &scores,
            &mut routes,
            self.n_tokens,
        );
        routed.expect(WORKS);
        let n_rows = match self.sent {
            Sent::Apart => self.n_tokens,
            Sent::Together(n) => self.n_tokens * n,
        };
        let mut gathered = device.zeros(n_rows * self.hidden);
        let mut up = device.zeros(n_rows * 2 * self.width);
        let mut gated = device.zeros(n_rows * self.width);
        let mut delta = device.zeros(n_rows * self.hidden);
        let load = |expert: OfExpert| {
            let biases = expert.stored_biases(self.has_pairs()).into_iter();
            let biases = biases.map(Some).chain(std::iter::repeat_with(|| None));
            let weights = expert.gate_up.into_iter().chain([expert.down]);
            let load = |(weight, bias): (_, Option<_>)| {
                (device.load(weight), bias.map(|bias| device.load(bias)))
            };
            weights.zip(biases).map(load).collect::<Vec<_>>()
        };
        let loaded: Vec<_> = experts.into_iter().map(load).collect();
        let parts: Vec<Vec<_>> = (loaded.iter())
            .map(|parts| {
                let part = |(weight, bias)| LinearPart { weight, bias };
                parts
                    .iter()
                    .map(|(weight, bias)| part((weight, bias.as_ref())))
                    .collect()
            })
            .collect();
        let gate = match self.clamped {
            Some(gate) => Gate::Clamped(gate),
            None if self.is_ungated => Gate::Absent(self.activation),
            None => Gate::Of(self.activation),
        };
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
            experts,
        } = self.inputs();
        // Whichever experts a row goes to, with weights of one at most.
        let per_expert = experts.iter().map(|expert| self.expert_bounds(&x, expert));
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
    fn expert_bounds(&self, x: &[f32], expert: &OfExpert) -> Vec<(f64, f64)> {
        let [gate, up] = &expert.values;
        let down = widened(&expert.down);
        let biases = expert.biases.as_ref();
        let bias =
            |part: usize, i: usize| biases.map_or(0.0, |biases| f64::from(biases[part][i]).abs());
        // What clamped gates add to the second factor.
        let more = self.clamped.map_or(0.0, |gate| f64::from(gate.added));
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
