//! State spaces: rows of states are independent, each element of a head's values having its own.
//!
//! So a unit of work is a few rows of one head of one sequence, small enough for the first-level cache, through which all
//! positions of a pass go. That gives the same bits however a prompt is cut, in time that is linear in its length.

use std::ops::Range;

use llm_backend::{Rows, StateBatch, StateSpace};

use crate::Cpu;
use crate::dense::DenseView;
use crate::math::softplus;
use crate::share::Shared;
use crate::simd::{Kernel, Simd};
use crate::states::sequences;

/// Takes all sequences' rows through a state space.
pub(crate) fn state_space(
    cpu: &Cpu,
    op: &StateSpace<'_, Cpu>,
    (x, steps): (&[f32], &[f32]),
    batch: &StateBatch<'_, Cpu>,
    (state, out): (&mut [f32], &mut [f32]),
) {
    op.check();
    let vectors = [op.rate, op.offset, op.skip];
    let is_whole = vectors.iter().all(|vector| vector.cols() == op.n_heads);
    assert!(is_whole, "a rate, an offset and a skip for each head");
    let sequences = sequences(batch);
    let n_units = batch.rows.len() * op.n_heads * op.head_dim.div_ceil(TILE);
    let most = batch.rows.iter().map(|rows| rows.n_tokens).max();
    let work = most.unwrap_or(0).max(1) * TILE * op.state_dim;
    let (state, out) = (Shared::new(state), Shared::new(out));
    cpu.pool
        .split(n_units, MIN_WORK.div_ceil(work), (), |units, ()| {
            cpu.level.run(Tiles {
                op,
                vectors: vectors.map(|vector| vector.dense()),
                inputs: (x, steps),
                sequences,
                units,
                state,
                out,
            });
        });
}

/// Some rows of the states of some heads. Unit `(sequence · n_heads + head) · n_tiles + tile` is a head's rows from
/// `tile · TILE` on.
struct Tiles<'a> {
    op: &'a StateSpace<'a, Cpu>,
    /// Rates, offsets and skips.
    vectors: [DenseView<'a>; 3],
    /// `[_, x | b | c]`, and rows that steps are in.
    inputs: (&'a [f32], &'a [f32]),
    /// Rows of each sequence, and its slot, of which each has another.
    sequences: (&'a [Rows], &'a [u32]),
    /// Nobody else's.
    units: Range<usize>,
    /// `[n_slots, n_heads, head_dim, state_dim]`.
    state: Shared<'a>,
    /// `[_, n_heads · head_dim]`.
    out: Shared<'a>,
}

impl Kernel for Tiles<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Tiles {
            op,
            vectors,
            inputs: (x, steps),
            sequences: (rows, slots),
            units,
            state: memory,
            out,
        } = self;
        let (dim, values) = (op.state_dim, op.out_width());
        let n_tiles = op.head_dim.div_ceil(TILE);
        for unit in units {
            let (at, tile) = (unit / n_tiles, unit % n_tiles);
            let (sequence, head) = (at / op.n_heads, at % op.n_heads);
            let rows = rows[sequence];
            if rows.n_tokens == 0 {
                continue;
            }
            let first = head * op.head_dim + tile * TILE;
            let n = TILE.min(op.head_dim - tile * TILE);
            let slot = slots[sequence] as usize * op.state_elements();
            let state = slot + first * dim..slot + (first + n) * dim;
            // SAFETY: these rows of the sequence's slot are this unit's.
            let state = unsafe { memory.range(state) };
            if rows.start == 0 {
                state.fill(0.0);
            }
            let [rate, offset, skip] = vectors.map(|vector| vector.element(head));
            let speed = -rate.exp();
            let group = head / (op.n_heads / op.n_groups);
            for row in rows.first..rows.first + rows.n_tokens {
                let (x, by) = x[row * op.row_width()..][..op.row_width()].split_at(values);
                let (b, c) = by.split_at(op.n_groups * dim);
                let [b, c] = [b, c].map(|by| &by[group * dim..][..dim]);
                let step = steps[row * op.steps.row_width + op.steps.first + head];
                let [least, most] = op.steps.limits;
                let step = softplus(step + offset).clamp(least, most);
                let position = Position {
                    x: &x[first..first + n],
                    by: (b, c),
                    step,
                    fading: (speed * step).exp(),
                    skip,
                };
                let at = row * values + first;
                // SAFETY: these elements are this unit's.
                let out = unsafe { out.range(at..at + n) };
                position.take(simd, state, out);
            }
        }
    }
}

/// A position of a head.
struct Position<'a> {
    /// As many elements as a tile has rows.
    x: &'a [f32],
    /// `[state_dim]` each: what states are written by, and read by.
    by: (&'a [f32], &'a [f32]),
    step: f32,
    fading: f32,
    skip: f32,
}

impl Position<'_> {
    /// Rows of a state, `[x.len(), state_dim]`, and their results.
    #[inline(always)]
    fn take<S: Simd>(&self, simd: S, state: &mut [f32], out: &mut [f32]) {
        let dim = self.by.0.len();
        let whole = self.x.len() - self.x.len() % TOGETHER;
        for at in (0..whole).step_by(TOGETHER) {
            let state = &mut state[at * dim..][..TOGETHER * dim];
            self.rows::<S, TOGETHER>(simd, at, state, &mut out[at..]);
        }
        for at in whole..self.x.len() {
            let state = &mut state[at * dim..][..dim];
            self.rows::<S, 1>(simd, at, state, &mut out[at..]);
        }
    }

    /// `N` rows from row `first` of the tile on.
    #[inline(always)]
    fn rows<S: Simd, const N: usize>(
        &self,
        simd: S,
        first: usize,
        state: &mut [f32],
        out: &mut [f32],
    ) {
        let (b, c) = self.by;
        let dim = b.len();
        let mut state = state.chunks_exact_mut(dim);
        let mut state: [_; N] = std::array::from_fn(|_| state.next().expect("as many rows"));
        let fading = simd.splat(self.fading);
        let mut added = [fading; N];
        for (r, added) in added.iter_mut().enumerate() {
            *added = simd.splat(self.step * self.x[first + r]);
        }
        let mut read = [simd.splat(0.0); N];
        for at in (0..dim).step_by(S::LANES) {
            let (b, c) = (simd.get(b, at), simd.get(c, at));
            for ((row, added), read) in state.iter_mut().zip(added).zip(&mut read) {
                let s = simd.fma(added, b, simd.mul(fading, simd.get(row, at)));
                simd.put(row, at, s);
                *read = simd.fma(s, c, *read);
            }
        }
        for (r, read) in read.into_iter().enumerate() {
            out[r] = self.skip * self.x[first + r] + simd.reduce_add(read);
        }
    }
}

/// Rows of a unit: with 128 elements each half of a small first-level cache.
const TILE: usize = 32;
/// Rows that share what is read of a position.
const TOGETHER: usize = 4;
/// Elements of states times positions below which a thread is not worth a fork.
const MIN_WORK: usize = if cfg!(miri) { 1 } else { 1 << 13 };
