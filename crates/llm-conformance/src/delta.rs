use std::sync::Arc;

use llm_backend::{
    Backend, Decays, DeltaGates, DeltaRule, GateFunction, HeadGates, HeadNorm, NormOp, NormOrder,
    Ops,
};
use llm_tensor::{DType, Norm, WorkspaceShape};

use crate::case::{Case, sum_error};
use crate::data::{Device, Random, SMALL, WORKS, weight};
use crate::states::{self, Passes, n_positions, n_rows, over_passes, passes};

/// The delta rule over sequences that are cut into passes.
#[derive(Debug)]
pub(crate) struct DeltaCase {
    /// Of keys and of values.
    n_heads: [usize; 2],
    /// Heads of values in a row that share one of keys.
    n_together: usize,
    /// Of a key and of a value.
    dims: [usize; 2],
    /// Positions of each sequence in each pass.
    passes: Passes,
    gates: Gates,
    decays: Decays,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Gates {
    Usual,
    /// That keep all or nothing, correct wholly or not at all, and keys of length zero.
    Extreme,
}

pub(crate) fn cases() -> Vec<DeltaCase> {
    let shapes = [
        ([1, 1], [1, 1]),
        ([1, 2], [8, 8]),
        ([2, 4], [16, 24]),
        ([2, 6], [16, 24]),
        ([1, 1], [128, 128]),
        ([2, 2], [33, 70]),
        ([1, 3], [96, 192]),
        ([1, 2], [160, 24]),
    ];
    let mut cases = Vec::new();
    for (n_heads, dims) in shapes {
        for passes in passes() {
            for (gates, decays) in [
                (Gates::Usual, Decays::Head),
                (Gates::Extreme, Decays::Head),
                (Gates::Usual, Decays::Channel),
                (Gates::Extreme, Decays::Channel),
            ] {
                // Six share theirs one by one.
                let n_together = if n_heads[1] == 6 {
                    1
                } else {
                    n_heads[1] / n_heads[0]
                };
                cases.push(DeltaCase {
                    n_heads,
                    n_together,
                    dims,
                    passes: passes.clone(),
                    gates,
                    decays,
                });
            }
        }
    }
    cases
}

/// The same prompts, cut in other ways: a backend's results may differ by roundings alone.
pub(crate) fn cuts() -> Vec<[DeltaCase; 3]> {
    let cut = |passes, decays| DeltaCase {
        n_heads: [2, 4],
        n_together: 2,
        dims: [32, 40],
        passes,
        gates: Gates::Usual,
        decays,
    };
    let of_decays = |decays| states::cuts().map(|passes| cut(passes, decays));
    vec![of_decays(Decays::Head), of_decays(Decays::Channel)]
}

impl DeltaCase {
    /// `[queries | keys | values]` and `[_ | a | b | _]` of each position of each sequence, whatever the passes.
    fn inputs(&self) -> [Vec<Vec<f32>>; 2] {
        let [n_keys, n_values] = self.n_heads;
        let row_width = 2 * n_keys * self.dims[0] + n_values * self.dims[1];
        let n = n_positions(&self.passes);
        let n_sequences = self.passes[0].len();
        let mut random = Random::new(21);
        let mut x: Vec<_> = (0..n_sequences)
            .map(|_| random.values(n * row_width, 1.0))
            .collect();
        let magnitude = match self.gates {
            Gates::Usual => 2.0,
            Gates::Extreme => 150.0,
        };
        let gates = (0..n_sequences)
            .map(|_| random.values(n * (n_values + self.n_decays() + 5), magnitude))
            .collect();
        if self.gates == Gates::Extreme {
            for x in &mut x {
                for row in x.chunks_exact_mut(row_width).step_by(5) {
                    row[..2 * n_keys * self.dims[0]].fill(0.0);
                }
            }
        }
        [x, gates]
    }

    fn n_decays(&self) -> usize {
        match self.decays {
            Decays::Head => self.n_heads[1],
            Decays::Channel => self.n_heads[1] * self.dims[0],
        }
    }

    /// Results of each sequence's positions, one after the other, and the states.
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let [n_keys, n_values] = self.n_heads;
        let [key_dim, value_dim] = self.dims;
        let shape = WorkspaceShape {
            n_tokens: n_rows(&self.passes),
            head_dim: key_dim,
            ..SMALL
        };
        let mut device = Device::with_workspace(backend, &shape);
        let mut random = Random::new(22);
        let rate = weight(DType::F32, 1, n_values, &random.values(n_values, 2.7));
        let n_decays = self.n_decays();
        let offset = weight(DType::BF16, 1, n_decays, &random.values(n_decays, 1.0));
        let (rate, offset) = (device.load(rate), device.load(offset));
        let op = DeltaRule::<B> {
            n_key_heads: n_keys,
            n_value_heads: n_values,
            n_together: self.n_together,
            key_dim,
            value_dim,
            norm_eps: 1e-6,
            scale: 1.0 / (key_dim as f32).sqrt(),
            rate: &rate,
            offset: &offset,
            decays: self.decays,
            gates: DeltaGates {
                decay: 3,
                strength: 3 + n_decays,
                row_width: n_values + n_decays + 5,
            },
        };
        let [x, gates] = self.inputs();
        over_passes(
            &mut device,
            &self.passes,
            [(&x, op.row_width()), (&gates, op.gates.row_width)],
            (op.state_elements(), op.out_width()),
            |queue, ([x, gates], batch, state, out)| {
                let done = queue.delta_rule(&op, (x, gates), batch, state, out);
                done.expect(WORKS);
            },
        )
    }
}

impl Case for DeltaCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        DeltaCase::run(self, backend)
    }

    /// A position's roundings are those of sums over a key; what it leaves in a state shrinks, as corrections do not
    /// lengthen it, so that errors add up over positions at most. Slots of no sequence stay as they are.
    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let largest = expected.iter().fold(1.0f32, |most, x| most.max(x.abs()));
        let n = n_positions(&self.passes) as f64;
        let bound = 8.0 * sum_error(self.dims[0]) * (4.0 + n.sqrt()) * f64::from(largest.min(4.0));
        vec![bound; expected.len()]
    }
}

/// Elements of a norm's gain.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Gain {
    OfHead,
    OfAllHeads,
}

/// Heads that gates multiply.
#[derive(Debug)]
pub(crate) struct GateCase {
    norm: Option<(Norm, NormOrder)>,
    gain: Gain,
    function: GateFunction,
    n_heads: usize,
    head_dim: usize,
    n_tokens: usize,
}

pub(crate) fn gates() -> Vec<GateCase> {
    use NormOrder::{AfterGates, BeforeGates};
    let norms = [
        (None, Gain::OfHead),
        (Some((Norm::Rms, BeforeGates)), Gain::OfHead),
        (Some((Norm::Layer, BeforeGates)), Gain::OfHead),
        (Some((Norm::Rms, BeforeGates)), Gain::OfAllHeads),
        (Some((Norm::Rms, AfterGates)), Gain::OfHead),
        (Some((Norm::Rms, AfterGates)), Gain::OfAllHeads),
        (Some((Norm::Layer, AfterGates)), Gain::OfAllHeads),
    ];
    let mut cases = Vec::new();
    for (norm, gain) in norms {
        for function in [
            GateFunction::Identity,
            GateFunction::Sigmoid,
            GateFunction::Silu,
        ] {
            for (n_heads, head_dim, n_tokens) in
                [(1, 1, 1), (3, 7, 2), (4, 128, 9), (2, 300, 3), (2, 2500, 2)]
            {
                cases.push(GateCase {
                    norm,
                    gain,
                    function,
                    n_heads,
                    head_dim,
                    n_tokens,
                });
            }
        }
    }
    cases
}

impl Case for GateCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let mut random = Random::new(23);
        let (first, n) = (3, self.n_heads * self.head_dim);
        let row_width = first + n + 2;
        let n_gains = match self.gain {
            Gain::OfHead => self.head_dim,
            Gain::OfAllHeads => n,
        };
        let gain = device.load(random.weight(DType::F16, 1, n_gains));
        let gates = device.buffer(&random.values(self.n_tokens * row_width, 20.0));
        let mut x = device.buffer(&random.values(self.n_tokens * n, 1.0));
        let norm = |(norm, order)| HeadNorm {
            op: NormOp {
                norm,
                eps: 1e-2,
                gain_offset: 1.0,
                gain: &gain,
                bias: None,
            },
            order,
        };
        let op = HeadGates {
            norm: self.norm.map(norm),
            function: self.function,
            n_heads: self.n_heads,
            head_dim: self.head_dim,
            first,
            row_width,
        };
        device
            .queue
            .gate_heads(&op, &gates, &mut x, self.n_tokens)
            .expect(WORKS);
        device.read(&x, self.n_tokens * n)
    }

    /// Normalised elements are as large as a few deviations at most, and gates as 20.
    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let bound = |x: &f32| 8.0 * sum_error(self.head_dim) * (1.0 + 20.0 + f64::from(x.abs()));
        expected.iter().map(bound).collect()
    }
}
