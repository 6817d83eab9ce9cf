//! Causal convolutions of each channel for itself.

use std::ops::Range;

use llm_backend::{ConvRows, Rows, ShortConv, StateBatch};
use llm_tensor::{Activation, MAX_TAPS};

use crate::Cpu;
use crate::dense::DenseView;
use crate::math::activate;
use crate::share::{Columns, Matrix};
use crate::simd::{Kernel, Simd};

/// Convolves rows of `x`, each thread some channels of all of them.
pub(crate) fn short_conv(
    cpu: &Cpu,
    op: &ShortConv<'_, Cpu>,
    x: &[f32],
    batch: &StateBatch<'_, Cpu>,
    (state, out): (&mut [f32], &mut [f32]),
) {
    let (n, kernel) = (op.n_channels, op.kernel);
    let (taps, bias) = (op.taps.dense(), op.bias.map(|bias| bias.dense()));
    assert!((1..=MAX_TAPS).contains(&kernel), "{kernel} taps");
    assert_eq!((taps.rows, taps.cols), (n, kernel), "taps of each channel");
    assert!(bias.is_none_or(|bias| bias.cols == n), "a bias of each");
    let (input, activation) = match op.rows {
        ConvRows::Columns {
            first,
            row_width,
            activation,
        } => {
            assert!(first + n <= row_width, "{:?} of {n} channels", op.rows);
            ((None, first), activation)
        }
        ConvRows::Gated => ((Some([0, n]), 2 * n), None),
    };
    let slots = &batch.slots.as_slice()[..batch.rows.len()];
    let n_rows: usize = batch.rows.iter().map(|rows| rows.n_tokens).sum();
    let min_channels = MIN_CONVOLVED.div_ceil(kernel * n_rows.max(1));
    let memory = (Matrix::new(state, n), Matrix::new(out, n));
    let task = |channels: Range<usize>, (mut state, mut out): (Columns<'_>, Columns<'_>)| {
        for first in channels.clone().step_by(TILE) {
            cpu.level.run(Convolve {
                channels: first..channels.end.min(first + TILE),
                taps,
                bias,
                activation,
                x,
                row_width: op.row_width(),
                input,
                sequences: (batch.rows, slots),
                state: &mut state,
                out: &mut out,
            });
        }
    };
    cpu.pool.split(n, min_channels, memory, task);
}

/// Up to [`TILE`] channels of all sequences.
struct Convolve<'a, 'm> {
    channels: Range<usize>,
    /// `[n_channels, kernel]`.
    taps: DenseView<'a>,
    bias: Option<DenseView<'a>>,
    activation: Option<Activation>,
    /// `[_, row_width]`.
    x: &'a [f32],
    row_width: usize,
    /// Columns of the gates before and after the sum, if any, and of what is convolved.
    input: (Option<[usize; 2]>, usize),
    /// Rows of each sequence, and its slot.
    sequences: (&'a [Rows], &'a [u32]),
    /// `[n_slots · (kernel - 1), n_channels]`.
    state: &'a mut Columns<'m>,
    /// `[_, n_channels]`.
    out: &'a mut Columns<'m>,
}

impl Kernel for Convolve<'_, '_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let n = self.channels.len();
        let kernel = self.taps.cols;
        let (mut taps, mut bias) = ([[0.0; TILE]; MAX_TAPS], [0.0; TILE]);
        for (i, channel) in self.channels.clone().enumerate() {
            for (k, taps) in taps[..kernel].iter_mut().enumerate() {
                taps[i] = self.taps.element(channel * kernel + k);
            }
            bias[i] = self.bias.map_or(0.0, |bias| bias.element(channel));
        }
        let (rows, slots) = self.sequences;
        for (rows, &slot) in rows.iter().zip(slots) {
            let first = slot as usize * (kernel - 1);
            // What is convolved, in a ring.
            let mut window = [[0.0; TILE]; MAX_TAPS];
            if rows.start > 0 {
                for (k, window) in window[..kernel - 1].iter_mut().enumerate() {
                    let held = self.state.slice(first + k, self.channels.clone());
                    window[..n].copy_from_slice(held);
                }
            }
            let mut next = kernel - 1;
            for row in rows.first..rows.first + rows.n_tokens {
                self.take(simd, row, &mut window[next]);
                next = (next + 1) % kernel;
                self.convolve(simd, row, (&taps[..kernel], &bias), (&window, next));
            }
            for k in 0..kernel - 1 {
                let held = self.state.slice(first + k, self.channels.clone());
                held.copy_from_slice(&window[(next + 1 + k) % kernel][..n]);
            }
        }
    }
}

impl Convolve<'_, '_> {
    /// What is convolved of a row.
    #[inline(always)]
    fn take<S: Simd>(&self, simd: S, row: usize, into: &mut [f32; TILE]) {
        let (gates, x) = self.input;
        let row = &self.x[row * self.row_width..][..self.row_width];
        let part = |first: usize| &row[first..][self.channels.clone()];
        let x = part(x);
        match gates {
            None => into[..x.len()].copy_from_slice(x),
            Some([before, _]) => {
                let gate = part(before);
                for at in (0..x.len()).step_by(S::LANES) {
                    let product = simd.mul(simd.get(gate, at), simd.get(x, at));
                    simd.put(&mut into[..x.len()], at, product);
                }
            }
        }
    }

    /// The results of a row, whose oldest input is `window[oldest]`.
    #[inline(always)]
    fn convolve<S: Simd>(
        &mut self,
        simd: S,
        row: usize,
        (taps, bias): (&[[f32; TILE]], &[f32; TILE]),
        (window, oldest): (&[[f32; TILE]; MAX_TAPS], usize),
    ) {
        let ((gates, _), kernel) = (self.input, taps.len());
        let out = self.out.slice(row, self.channels.clone());
        let gate = gates.map(|[_, after]| {
            let row = &self.x[row * self.row_width..][..self.row_width];
            &row[after..][self.channels.clone()]
        });
        for at in (0..out.len()).step_by(S::LANES) {
            let mut sum = simd.get(bias, at);
            for (k, taps) in taps.iter().enumerate() {
                let x = simd.get(&window[(oldest + k) % kernel], at);
                sum = simd.fma(simd.get(taps, at), x, sum);
            }
            if let Some(activation) = self.activation {
                sum = activate(simd, activation, sum);
            }
            if let Some(gate) = gate {
                sum = simd.mul(sum, simd.get(gate, at));
            }
            simd.put(out, at, sum);
        }
    }
}

/// Channels that are convolved at a time.
const TILE: usize = 64;

/// Products below which a thread is not worth a fork.
const MIN_CONVOLVED: usize = if cfg!(miri) { 1 } else { 1 << 14 };
