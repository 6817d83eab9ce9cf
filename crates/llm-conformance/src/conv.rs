//! Short convolutions: prompts at once, in pieces and position by position, of several sequences in a pass.

use std::sync::Arc;

use llm_backend::{Backend, ConvRows, Ops, Rows, ShortConv, StateBatch};
use llm_quant::StoredWeight;
use llm_tensor::{Activation, DType};

use crate::case::{Case, EPS, sum_error};
use crate::data::{DTYPES, Device, Random, WORKS, widened};

/// Sequences that are convolved in some passes.
#[derive(Debug, Clone)]
pub(crate) struct ConvCase {
    dtype: DType,
    with_bias: bool,
    n_channels: usize,
    kernel: usize,
    rows: ConvRows,
    /// Of each pass: sequences, and how many of their rows.
    passes: Vec<Vec<(usize, usize)>>,
    /// Copies of states before the last pass, from and to.
    copies: Vec<(usize, usize)>,
}

/// States, of which the last is nobody's.
const N_SLOTS: usize = 4;

pub(crate) fn cases() -> Vec<ConvCase> {
    let divisions: [&[&[(usize, usize)]]; 7] = [
        &[&[(0, 1)]],
        &[&[(2, 40)]],
        &[&[(1, 2)], &[(1, 1)], &[(1, 1)], &[(1, 15)]],
        &[&[(0, 17), (2, 1)], &[(2, 33), (0, 1), (1, 5)]],
        &[&[(2, 3), (1, 1), (0, 2)], &[(0, 1), (1, 1), (2, 1)]],
        &[&[(1, 100)], &[(0, 31), (1, 1)], &[(1, 20), (0, 20)]],
        &[&[(0, 4)], &[(1, 16)], &[(1, 3), (0, 48)]],
    ];
    let columns = |first, row_width, activation| ConvRows::Columns {
        first,
        row_width,
        activation,
    };
    let mut cases = Vec::new();
    for (i, (n_channels, kernel)) in [
        (1, 3),
        (7, 1),
        (33, 2),
        (64, 3),
        (100, 4),
        (130, 5),
        (300, 8),
    ]
    .into_iter()
    .enumerate()
    {
        for (k, passes) in divisions.iter().enumerate() {
            let rows = [
                ConvRows::Gated,
                columns(0, n_channels, None),
                columns(3, n_channels + 5, Some(Activation::Silu)),
                columns(1, n_channels + 1, Some(Activation::Gelu)),
            ];
            cases.push(ConvCase {
                dtype: DTYPES[(i + k) % 3],
                with_bias: (i + k / 2).is_multiple_of(2),
                n_channels,
                kernel,
                rows: rows[(i + 3 * k) % 4],
                passes: passes.iter().map(|pass| pass.to_vec()).collect(),
                copies: Vec::new(),
            });
        }
    }
    // A copy goes on from where the other was, and the other is as it was.
    for rows in [ConvRows::Gated, columns(0, 66, Some(Activation::Silu))] {
        cases.push(ConvCase {
            dtype: DType::F32,
            with_bias: true,
            n_channels: 66,
            kernel: 4,
            rows,
            passes: vec![vec![(0, 9)], vec![(1, 2)], vec![(0, 3), (1, 20), (2, 1)]],
            copies: vec![(0, 1), (1, 2)],
        });
    }
    cases
}

struct Inputs {
    taps: StoredWeight,
    bias: Option<StoredWeight>,
    /// Of each sequence.
    x: Vec<Vec<f32>>,
}

impl ConvCase {
    fn row_width(&self) -> usize {
        match self.rows {
            ConvRows::Columns { row_width, .. } => row_width,
            ConvRows::Gated => 3 * self.n_channels,
        }
    }

    /// Positions of a sequence after all passes, if it were never a copy.
    fn n_rows(&self, sequence: usize) -> usize {
        let passes = self.passes.iter().flatten();
        let own = passes.filter(|(of, _)| *of == sequence);
        own.map(|(_, n)| n).sum()
    }

    fn inputs(&self) -> Inputs {
        let mut random = Random::new(31);
        let row_width = self.row_width();
        let bias = |random: &mut Random| random.weight(self.dtype, 1, self.n_channels);
        Inputs {
            taps: random.weight(self.dtype, self.n_channels, self.kernel),
            bias: self.with_bias.then(|| bias(&mut random)),
            x: (0..N_SLOTS)
                .map(|sequence| random.values(self.n_rows(sequence) * row_width, 2.0))
                .collect(),
        }
    }

    /// Where nothing was copied, what each sequence's rows came to, in whatever passes.
    #[cfg(test)]
    fn by_position<B: Backend>(&self, backend: &Arc<B>) -> Vec<Vec<f32>> {
        let results = self.run(backend);
        let mut results = results.chunks_exact(self.n_channels);
        let mut found = vec![Vec::new(); N_SLOTS];
        for &(sequence, n) in self.passes.iter().flatten() {
            let rows = results.by_ref().take(n);
            found[sequence].extend(rows.flatten());
        }
        found
    }
}

impl Case for ConvCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let mut device = Device::new(backend);
        let Inputs { taps, bias, x } = self.inputs();
        let (taps, bias) = (device.load(taps), bias.map(|bias| device.load(bias)));
        let op = ShortConv {
            taps: &taps,
            bias: bias.as_ref(),
            n_channels: self.n_channels,
            kernel: self.kernel,
            rows: self.rows,
        };
        let (row_width, n_held) = (self.row_width(), op.state_elements());
        // What a sequence that begins finds there does not matter.
        let mut states = device.buffer(&vec![f32::NAN; N_SLOTS * n_held]);
        let (mut taken, mut starts) = ([0; N_SLOTS], [0; N_SLOTS]);
        let mut results = Vec::new();
        for (i, pass) in self.passes.iter().enumerate() {
            if i + 1 == self.passes.len() {
                for &(from, to) in &self.copies {
                    let copied = device.queue.copy_slot(&mut states, n_held, (from, to));
                    copied.expect(WORKS);
                    starts[to] = starts[from];
                }
            }
            let (mut of_pass, mut rows, mut slots) = (Vec::new(), Vec::new(), Vec::new());
            for &(sequence, n_tokens) in pass {
                rows.push(Rows {
                    first: of_pass.len() / row_width,
                    n_tokens,
                    start: starts[sequence],
                    n_positions: starts[sequence] + n_tokens,
                });
                slots.push(sequence as u32);
                let own = &x[sequence][taken[sequence] * row_width..];
                of_pass.extend(&own[..n_tokens * row_width]);
                taken[sequence] += n_tokens;
                starts[sequence] += n_tokens;
            }
            let n_rows = of_pass.len() / row_width;
            let (on_device, slots) = (device.buffer(&of_pass), device.index(&slots));
            let words: Vec<u32> = rows.iter().flat_map(Rows::words).collect();
            let rows_index = device.index(&words);
            let batch = StateBatch {
                rows: &rows,
                rows_index: &rows_index,
                slots: &slots,
            };
            let mut out = device.zeros(n_rows * self.n_channels);
            let convolved = device
                .queue
                .short_conv(&op, &on_device, &batch, &mut states, &mut out);
            convolved.expect(WORKS);
            results.extend(device.read(&out, n_rows * self.n_channels));
        }
        // What nobody took stays what it was.
        results.extend(device.read(&states, N_SLOTS * n_held));
        results
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        let Inputs { taps, bias, x } = self.inputs();
        let most = |values: &[f32]| values.iter().fold(0f64, |m, &v| m.max(f64::from(v).abs()));
        let x = x.iter().map(|x| most(x)).fold(0.0, f64::max);
        let bias = bias.map_or(0.0, |bias| most(&widened(&bias)));
        let (taken, after) = match self.rows {
            // GELU and SiLU are steeper than a line, but not by much.
            ConvRows::Columns { .. } => (x, 1.2),
            ConvRows::Gated => (x * x, x),
        };
        let magnitude = (most(&widened(&taps)) * taken * self.kernel as f64 + bias) * after;
        let bound = magnitude * (sum_error(self.kernel) + 8.0 * EPS);
        vec![bound; expected.len()]
    }
}

#[cfg(test)]
mod tests {
    use llm_backend::Reference;

    use super::*;

    #[test]
    fn no_division_into_passes_changes_a_bit() {
        let reference = Arc::new(Reference::new());
        for case in cases().into_iter().filter(|case| case.copies.is_empty()) {
            let found = case.by_position(&reference);
            let sequences = (0..N_SLOTS).filter(|&s| case.n_rows(s) > 0);
            let at_once: Vec<_> = sequences.map(|s| (s, case.n_rows(s))).collect();
            let whole = ConvCase {
                passes: vec![at_once.clone()],
                ..case.clone()
            };
            assert_eq!(whole.by_position(&reference), found, "{case:?}");
            let n_steps = at_once.iter().map(|&(_, n)| n).max().unwrap_or(0);
            let step = |i: usize| {
                let going = at_once.iter().filter(|(_, n)| *n > i);
                going.map(|&(sequence, _)| (sequence, 1)).collect()
            };
            let steps = ConvCase {
                passes: (0..n_steps).map(step).collect(),
                ..case.clone()
            };
            assert_eq!(steps.by_position(&reference), found, "{case:?}");
        }
    }
}
