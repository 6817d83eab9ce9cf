use std::sync::Arc;

use llm_backend::{
    Backend, DeltaGates, DeltaRule, GateFunction, HeadGates, NormOp, Ops, Queue, Rows, StateBatch,
};
use llm_tensor::{DType, Norm, WorkspaceShape};

use crate::case::{Case, sum_error};
use crate::data::{Device, Random, SMALL, WORKS, weight};

/// The delta rule over sequences that are cut into passes.
#[derive(Debug)]
pub(crate) struct DeltaCase {
    /// Of keys and of values.
    n_heads: [usize; 2],
    /// Of a key and of a value.
    dims: [usize; 2],
    /// Positions of each sequence in each pass.
    passes: Vec<Vec<usize>>,
    gates: Gates,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Gates {
    Usual,
    /// That keep all or nothing, correct wholly or not at all, and keys of length zero.
    Extreme,
}

/// A prompt at once, in pieces and position by position, of one sequence and of several beside each other, of which some come
/// later and some pause.
fn passes() -> Vec<Vec<Vec<usize>>> {
    vec![
        vec![vec![37]],
        vec![vec![5], vec![1], vec![31]],
        vec![vec![1]; 9],
        vec![vec![3, 0, 34], vec![1, 70, 1], vec![2, 1, 0], vec![1, 1, 1]],
    ]
}

pub(crate) fn cases() -> Vec<DeltaCase> {
    let shapes = [
        ([1, 1], [1, 1]),
        ([1, 2], [8, 8]),
        ([2, 4], [16, 24]),
        ([1, 1], [128, 128]),
        ([2, 2], [33, 70]),
        ([1, 3], [96, 192]),
    ];
    let mut cases = Vec::new();
    for (n_heads, dims) in shapes {
        for passes in passes() {
            for gates in [Gates::Usual, Gates::Extreme] {
                cases.push(DeltaCase {
                    n_heads,
                    dims,
                    passes: passes.clone(),
                    gates,
                });
            }
        }
    }
    cases
}

/// The same prompts, cut in other ways: a backend's results may differ by roundings alone.
pub(crate) fn cuts() -> Vec<[DeltaCase; 3]> {
    let cut = |passes: Vec<Vec<usize>>| DeltaCase {
        n_heads: [2, 4],
        dims: [32, 40],
        passes,
        gates: Gates::Usual,
    };
    vec![[
        cut(vec![vec![70]]),
        cut(vec![vec![3], vec![1], vec![2], vec![64]]),
        cut(vec![vec![1]; 70]),
    ]]
}

impl DeltaCase {
    fn n_sequences(&self) -> usize {
        self.passes[0].len()
    }

    fn n_positions(&self) -> usize {
        let of = |i| self.passes.iter().map(|pass| pass[i]).sum();
        (0..self.n_sequences()).map(of).max().unwrap_or(0)
    }

    /// `[queries | keys | values]` and `[a | b]` of each position of each sequence, whatever the passes.
    fn inputs(&self) -> [Vec<Vec<f32>>; 2] {
        let [n_keys, n_values] = self.n_heads;
        let row_width = 2 * n_keys * self.dims[0] + n_values * self.dims[1];
        let n = self.n_positions();
        let mut random = Random::new(21);
        let mut x: Vec<_> = (0..self.n_sequences())
            .map(|_| random.values(n * row_width, 1.0))
            .collect();
        let magnitude = match self.gates {
            Gates::Usual => 2.0,
            Gates::Extreme => 150.0,
        };
        let gates = (0..self.n_sequences())
            .map(|_| random.values(n * 2 * n_values, magnitude))
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

    /// Results of each sequence's positions, one after the other, and the states.
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let [n_keys, n_values] = self.n_heads;
        let [key_dim, value_dim] = self.dims;
        let largest = self.passes.iter().map(|pass| pass.iter().sum());
        let shape = WorkspaceShape {
            n_tokens: largest.max().unwrap_or(1),
            head_dim: key_dim,
            ..SMALL
        };
        let mut device = Device::with_workspace(backend, &shape);
        let mut random = Random::new(22);
        let rate = weight(DType::F32, 1, n_values, &random.values(n_values, 2.7));
        let offset = weight(DType::BF16, 1, n_values, &random.values(n_values, 1.0));
        let (rate, offset) = (device.load(rate), device.load(offset));
        let op = DeltaRule::<B> {
            n_key_heads: n_keys,
            n_value_heads: n_values,
            key_dim,
            value_dim,
            norm_eps: 1e-6,
            scale: 1.0 / (key_dim as f32).sqrt(),
            rate: &rate,
            offset: &offset,
            gates: DeltaGates {
                decay: 3,
                strength: 3 + n_values,
                row_width: 2 * n_values + 5,
            },
        };
        // One slot more than sequences; theirs in another order, with what was there before.
        let n = self.n_sequences();
        let slots: Vec<u32> = (0..n as u32).map(|i| n as u32 - i).collect();
        let before = random.values((n + 1) * op.state_elements(), 9.0);
        let mut state = device.buffer(&before);
        let [x, gates] = self.inputs();
        let mut results = vec![Vec::new(); n];
        let mut starts = vec![0; n];
        for pass in &self.passes {
            let (mut rows, mut used) = (Vec::new(), Vec::new());
            let (mut pass_x, mut pass_gates) = (Vec::new(), Vec::new());
            for (i, &n_tokens) in pass.iter().enumerate().filter(|(_, n)| **n > 0) {
                let start = starts[i];
                rows.push(Rows {
                    first: pass_x.len() / op.row_width(),
                    n_tokens,
                    start,
                    n_positions: start + n_tokens,
                });
                used.push(slots[i]);
                let at = start * op.row_width()..(start + n_tokens) * op.row_width();
                pass_x.extend(&x[i][at]);
                for gates in gates[i][start * 2 * n_values..][..n_tokens * 2 * n_values]
                    .chunks_exact(2 * n_values)
                {
                    pass_gates.extend([7.0; 3]);
                    pass_gates.extend(gates);
                    pass_gates.extend([7.0; 2]);
                }
                starts[i] += n_tokens;
            }
            let words: Vec<u32> = rows.iter().flat_map(Rows::words).collect();
            let n_rows = pass_x.len() / op.row_width();
            let (index, used) = (device.index(&words), device.index(&used));
            let batch = StateBatch {
                rows: &rows,
                rows_index: &index,
                slots: &used,
            };
            let (pass_x, pass_gates) = (device.buffer(&pass_x), device.buffer(&pass_gates));
            let mut out = device.zeros(n_rows * op.out_width());
            device
                .queue
                .delta_rule(&op, (&pass_x, &pass_gates), &batch, &mut state, &mut out)
                .expect(WORKS);
            let out = device.read(&out, n_rows * op.out_width());
            let sequences = pass.iter().enumerate().filter(|(_, n)| **n > 0);
            for ((i, _), rows) in sequences.zip(&rows) {
                let at = rows.first * op.out_width()..;
                results[i].extend(&out[at][..rows.n_tokens * op.out_width()]);
            }
        }
        device.queue.finish().expect(WORKS);
        let states = device.read(&state, before.len());
        results.into_iter().flatten().chain(states).collect()
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
        let n = self.n_positions() as f64;
        let bound = 8.0 * sum_error(self.dims[0]) * (4.0 + n.sqrt()) * f64::from(largest.min(4.0));
        vec![bound; expected.len()]
    }
}

/// Heads that gates multiply.
#[derive(Debug)]
pub(crate) struct GateCase {
    norm: Option<Norm>,
    function: GateFunction,
    n_heads: usize,
    head_dim: usize,
    n_tokens: usize,
}

pub(crate) fn gates() -> Vec<GateCase> {
    let mut cases = Vec::new();
    for norm in [None, Some(Norm::Rms), Some(Norm::Layer)] {
        for function in [GateFunction::Sigmoid, GateFunction::Silu] {
            for (n_heads, head_dim, n_tokens) in [(1, 1, 1), (3, 7, 2), (4, 128, 9), (2, 300, 3)] {
                cases.push(GateCase {
                    norm,
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
        let gain = device.load(random.weight(DType::F16, 1, self.head_dim));
        let gates = device.buffer(&random.values(self.n_tokens * row_width, 20.0));
        let mut x = device.buffer(&random.values(self.n_tokens * n, 1.0));
        let norm = |norm| NormOp {
            norm,
            eps: 1e-2,
            gain_offset: 1.0,
            gain: &gain,
            bias: None,
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
