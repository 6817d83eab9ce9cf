//! The gated delta rule on some columns of states.

use std::ops::Range;

use llm_backend::{Decays, DeltaRule, Rows};

use crate::Cpu;
use crate::dense::DenseView;
use crate::isa::Geometry;
use crate::math::softplus;
use crate::share::Shared;
use crate::simd::{Kernel, Simd};

/// Some columns of the states of some heads. Unit `(sequence · n_value_heads + head) · n_tiles + tile` is a head's columns
/// from `tile · width` on.
pub(super) struct Columns<'a> {
    pub(super) op: &'a DeltaRule<'a, Cpu>,
    pub(super) rate: DenseView<'a>,
    pub(super) offset: DenseView<'a>,
    /// `[_, queries | keys | values]`.
    pub(super) x: &'a [f32],
    pub(super) gates: &'a [f32],
    /// Rows of each sequence, and its slot, of which each has another.
    pub(super) sequences: (&'a [Rows], &'a [u32]),
    /// Nobody else's.
    pub(super) units: Range<usize>,
    /// This thread's, [`scratch_len`] long.
    pub(super) scratch: &'a mut [f32],
    /// `[n_slots, n_value_heads, key_dim, value_dim]`.
    pub(super) state: Shared<'a>,
    /// `[_, n_value_heads · value_dim]`.
    pub(super) out: Shared<'a>,
}

/// Columns of a unit.
pub(super) fn width(geometry: Geometry) -> usize {
    VECTORS * geometry.lanes
}

/// Elements of a thread's scratch: keys, queries and gates of some positions, and the columns.
pub(super) fn scratch_len(n_tokens: usize, key_dim: usize, width: usize) -> usize {
    n_tokens.min(POSITIONS) * (N_ROWS * key_dim + N_GATES) + key_dim * width
}

/// What is known of some positions before any column is.
struct Prepared<'a> {
    /// `[n_tokens, key_dim]`, of length one.
    keys: &'a [f32],
    /// What states are multiplied by, as they were before they decay: keys and queries, the latter scaled. Where channels
    /// decay by themselves, their decays are in both.
    held_by: &'a [f32],
    read_by: &'a [f32],
    /// Decays of channels, `[n_tokens, key_dim]`; none where heads decay.
    channels: Option<&'a [f32]>,
    /// `[n_tokens]` each: a head's decay, or one, the correction's strength, and the product of query and key.
    decays: &'a [f32],
    strengths: &'a [f32],
    products: &'a [f32],
}

/// Columns of a head of a sequence.
#[derive(Clone, Copy)]
struct Tile {
    head: usize,
    /// Index of the first element in the states, and elements there.
    state: usize,
    /// The first column of the head, and how many.
    column: usize,
    n_columns: usize,
}

impl Kernel for Columns<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Columns {
            op,
            rate,
            offset,
            x,
            gates,
            sequences: (rows, slots),
            units,
            scratch,
            state,
            out,
        } = self;
        let width = VECTORS * S::LANES;
        let (n_heads, n_tiles) = (op.n_value_heads, op.value_dim.div_ceil(width));
        let inputs = Inputs {
            op,
            rate,
            offset,
            x,
            gates,
        };
        let mut unit = units.start;
        while unit < units.end {
            let (at, tile) = (unit / n_tiles, unit % n_tiles);
            let tiles = tile..n_tiles.min(tile + units.end - unit);
            unit += tiles.len();
            let (sequence, head) = (at / n_heads, at % n_heads);
            let rows = rows[sequence];
            let slot = slots[sequence] as usize * op.state_elements();
            for first in (0..rows.n_tokens).step_by(POSITIONS) {
                let n_tokens = POSITIONS.min(rows.n_tokens - first);
                let row = rows.first + first;
                let (prepared, memory) = inputs.prepare(simd, head, row..row + n_tokens, scratch);
                for tile in tiles.clone() {
                    let column = tile * width;
                    let tile = Tile {
                        head,
                        state: slot + head * op.key_dim * op.value_dim + column,
                        column,
                        n_columns: width.min(op.value_dim - column),
                    };
                    let states = (state, rows.start + first == 0);
                    inputs.tile(simd, (tile, row), &prepared, states, memory, out);
                }
            }
        }
    }
}

/// What the rule reads beside states.
struct Inputs<'a> {
    op: &'a DeltaRule<'a, Cpu>,
    rate: DenseView<'a>,
    offset: DenseView<'a>,
    x: &'a [f32],
    gates: &'a [f32],
}

impl Inputs<'_> {
    /// Keys, queries and gates of a head in some rows; the rest of the scratch is for columns.
    #[inline(always)]
    fn prepare<'s, S: Simd>(
        &self,
        simd: S,
        head: usize,
        rows: Range<usize>,
        scratch: &'s mut [f32],
    ) -> (Prepared<'s>, &'s mut [f32]) {
        let (op, n) = (self.op, rows.len());
        let (keys, rest) = scratch.split_at_mut(n * op.key_dim);
        let (queries, rest) = rest.split_at_mut(n * op.key_dim);
        let (faded, rest) = rest.split_at_mut(n * op.key_dim);
        let (channels, rest) = rest.split_at_mut(n * op.key_dim);
        let (decays, rest) = rest.split_at_mut(n);
        let (strengths, rest) = rest.split_at_mut(n);
        let (products, memory) = rest.split_at_mut(n);
        let key_head = op.key_head(head);
        let speed = -self.rate.element(head).exp();
        let of_head = match op.decays {
            Decays::Head => Some(self.offset.element(head)),
            Decays::Channel => None,
        };
        for (i, row) in rows.enumerate() {
            let x = &self.x[row * op.row_width()..][..op.row_width()];
            let (query, key) = x.split_at(op.n_key_heads * op.key_dim);
            let at = key_head * op.key_dim..(key_head + 1) * op.key_dim;
            let key_out = &mut keys[i * op.key_dim..][..op.key_dim];
            let query_out = &mut queries[i * op.key_dim..][..op.key_dim];
            unit(simd, &key[at.clone()], (op.norm_eps, 1.0), key_out);
            unit(simd, &query[at], (op.norm_eps, op.scale), query_out);
            products[i] = dot(simd, key_out, query_out);
            let gates = &self.gates[row * op.gates.row_width..][..op.gates.row_width];
            decays[i] = match of_head {
                Some(offset) => (speed * softplus(gates[op.gates.decay + head] + offset)).exp(),
                None => {
                    let first = head * op.key_dim;
                    let steps = &gates[op.gates.decay + first..][..op.key_dim];
                    let at = i * op.key_dim..(i + 1) * op.key_dim;
                    let rows = faded[at.clone()].iter_mut().zip(&mut channels[at]);
                    let rows = rows.zip(key_out.iter().zip(query_out));
                    for (c, ((faded, channel), (&key, query))) in rows.enumerate() {
                        let step = steps[c] + self.offset.element(first + c);
                        *channel = (speed * softplus(step)).exp();
                        *faded = key * *channel;
                        *query *= *channel;
                    }
                    1.0
                }
            };
            strengths[i] = 1.0 / (1.0 + (-gates[op.gates.strength + head]).exp());
        }
        let is_by_channel = of_head.is_none();
        let prepared = Prepared {
            keys,
            held_by: if is_by_channel { faded } else { keys },
            read_by: queries,
            channels: is_by_channel.then_some(channels),
            decays,
            strengths,
            products,
        };
        (prepared, memory)
    }

    /// A tile's columns over rows from `row` on, of states that are fresh, or as they lie there.
    ///
    /// With `h = Sᵀk` and `r = Sᵀq` of the state before a position, its correction is `c = β (v − γ h)` and its result
    /// `γ r + (k·q) c`. So one way through the columns corrects them for a position, and finds h and r for the next.
    #[inline(always)]
    fn tile<S: Simd>(
        &self,
        simd: S,
        (tile, row): (Tile, usize),
        prepared: &Prepared<'_>,
        (state, is_fresh): (Shared<'_>, bool),
        memory: &mut [f32],
        out: Shared<'_>,
    ) {
        let op = self.op;
        let width = VECTORS * S::LANES;
        let memory = &mut memory[..op.key_dim * width];
        let n = prepared.decays.len();
        let mut sums = if is_fresh {
            memory.fill(0.0);
            Sums::zero(simd)
        } else {
            read(simd, tile, op, state, prepared.position(0), memory)
        };
        for i in 0..n {
            let values = 2 * op.n_key_heads * op.key_dim + tile.head * op.value_dim + tile.column;
            let values = &self.x[(row + i) * op.row_width() + values..][..tile.n_columns];
            let [decay, strength, product] =
                [prepared.decays, prepared.strengths, prepared.products].map(|x| simd.splat(x[i]));
            let at = (row + i) * op.out_width() + tile.head * op.value_dim + tile.column;
            // SAFETY: these columns are this unit's.
            let out = unsafe { out.range(at..at + tile.n_columns) };
            let mut corrections = [simd.splat(0.0); VECTORS];
            for (v, correction) in corrections.iter_mut().enumerate() {
                let at = v * S::LANES;
                if at < tile.n_columns {
                    let missing = simd.sub(simd.get(values, at), simd.mul(decay, sums.held[v]));
                    *correction = simd.mul(strength, missing);
                    let result = simd.mul(decay, sums.read[v]);
                    simd.put(out, at, simd.fma(product, *correction, result));
                }
            }
            let at = i * op.key_dim..(i + 1) * op.key_dim;
            let key = &prepared.keys[at.clone()];
            let fades = match prepared.channels {
                None => Fades::Head(decay),
                Some(channels) => Fades::Channels(&channels[at]),
            };
            if i + 1 < n {
                let next = prepared.position(i + 1);
                sums = correct(simd, (key, fades, corrections), next, memory);
            } else {
                write(simd, tile, op, state, (key, fades, corrections), memory);
            }
        }
    }
}

impl Prepared<'_> {
    /// What a position multiplies states by.
    #[inline(always)]
    fn position(&self, i: usize) -> (&[f32], &[f32]) {
        let key_dim = self.keys.len() / self.decays.len();
        let at = i * key_dim..(i + 1) * key_dim;
        (&self.held_by[at.clone()], &self.read_by[at])
    }
}

/// Decays of columns' rows at a position.
#[derive(Clone, Copy)]
enum Fades<'a, S: Simd> {
    /// The same of all.
    Head(S::F32),
    Channels(&'a [f32]),
}

impl<S: Simd> Fades<'_, S> {
    #[inline(always)]
    fn at(self, simd: S, row: usize) -> S::F32 {
        match self {
            Fades::Head(decay) => decay,
            Fades::Channels(decays) => simd.splat(decays[row]),
        }
    }
}

/// Products of columns with a position's key, and with its query.
struct Sums<S: Simd> {
    held: [S::F32; VECTORS],
    read: [S::F32; VECTORS],
}

impl<S: Simd> Sums<S> {
    #[inline(always)]
    fn zero(simd: S) -> Self {
        Sums {
            held: [simd.splat(0.0); VECTORS],
            read: [simd.splat(0.0); VECTORS],
        }
    }

    #[inline(always)]
    fn add(&mut self, simd: S, s: [S::F32; VECTORS], (key, query): (f32, f32)) {
        let (key, query) = (simd.splat(key), simd.splat(query));
        let sums = self.held.iter_mut().zip(&mut self.read);
        for ((held, read), s) in sums.zip(s) {
            *held = simd.fma(key, s, *held);
            *read = simd.fma(query, s, *read);
        }
    }
}

/// Brings columns of a state to `memory`.
#[inline(always)]
fn read<S: Simd>(
    simd: S,
    tile: Tile,
    op: &DeltaRule<'_, Cpu>,
    state: Shared<'_>,
    (key, query): (&[f32], &[f32]),
    memory: &mut [f32],
) -> Sums<S> {
    let mut sums = Sums::zero(simd);
    let rows = memory.chunks_exact_mut(VECTORS * S::LANES);
    for (i, (row, (&key, &query))) in rows.zip(key.iter().zip(query)).enumerate() {
        let at = tile.state + i * op.value_dim;
        // SAFETY: these columns are this unit's.
        let stored = unsafe { state.range(at..at + tile.n_columns) };
        // The columns of the next tile.
        simd.prefetch(stored.as_ptr().wrapping_add(row.len()).cast());
        let s = if stored.len() == row.len() {
            row_of(simd, stored)
        } else {
            row.fill(0.0);
            row[..stored.len()].copy_from_slice(stored);
            row_of(simd, row)
        };
        put_row(simd, s, row);
        sums.add(simd, s, (key, query));
    }
    sums
}

/// Corrects columns for one position, and multiplies them by key and query of the next.
#[inline(always)]
fn correct<S: Simd>(
    simd: S,
    (key, fades, corrections): (&[f32], Fades<'_, S>, [S::F32; VECTORS]),
    (next_key, next_query): (&[f32], &[f32]),
    memory: &mut [f32],
) -> Sums<S> {
    let mut sums = Sums::zero(simd);
    let rows = memory.chunks_exact_mut(VECTORS * S::LANES).zip(key);
    let rows = rows.zip(next_key.iter().zip(next_query)).enumerate();
    for (i, ((row, &key), (&next_key, &next_query))) in rows {
        let by = (key, fades.at(simd, i), corrections);
        let s = corrected(simd, row_of(simd, row), by);
        put_row(simd, s, row);
        sums.add(simd, s, (next_key, next_query));
    }
    sums
}

/// Corrects columns for the last position, and takes them back to their state.
#[inline(always)]
fn write<S: Simd>(
    simd: S,
    tile: Tile,
    op: &DeltaRule<'_, Cpu>,
    state: Shared<'_>,
    (key, fades, corrections): (&[f32], Fades<'_, S>, [S::F32; VECTORS]),
    memory: &mut [f32],
) {
    let rows = memory.chunks_exact_mut(VECTORS * S::LANES);
    for (i, (row, &key)) in rows.zip(key).enumerate() {
        let at = tile.state + i * op.value_dim;
        // SAFETY: these columns are this unit's.
        let stored = unsafe { state.range(at..at + tile.n_columns) };
        let by = (key, fades.at(simd, i), corrections);
        let s = corrected(simd, row_of(simd, row), by);
        if stored.len() == row.len() {
            put_row(simd, s, stored);
        } else {
            put_row(simd, s, row);
            stored.copy_from_slice(&row[..stored.len()]);
        }
    }
}

#[inline(always)]
fn corrected<S: Simd>(
    simd: S,
    s: [S::F32; VECTORS],
    (key, decay, corrections): (f32, S::F32, [S::F32; VECTORS]),
) -> [S::F32; VECTORS] {
    let (key, mut corrected) = (simd.splat(key), s);
    for v in 0..VECTORS {
        corrected[v] = simd.fma(key, corrections[v], simd.mul(decay, s[v]));
    }
    corrected
}

/// A row of whole registers.
#[inline(always)]
fn row_of<S: Simd>(simd: S, row: &[f32]) -> [S::F32; VECTORS] {
    debug_assert_eq!(row.len(), VECTORS * S::LANES);
    let mut s = [simd.splat(0.0); VECTORS];
    for (s, row) in s.iter_mut().zip(row.chunks_exact(S::LANES)) {
        // SAFETY: a chunk is a register.
        *s = unsafe { simd.load(row.as_ptr()) };
    }
    s
}

#[inline(always)]
fn put_row<S: Simd>(simd: S, s: [S::F32; VECTORS], row: &mut [f32]) {
    for (s, row) in s.into_iter().zip(row.chunks_exact_mut(S::LANES)) {
        // SAFETY: a chunk is a register.
        unsafe { simd.store(row.as_mut_ptr(), s) };
    }
}

/// `x` at length one, times `scale`, into `out`.
#[inline(always)]
fn unit<S: Simd>(simd: S, x: &[f32], (eps, scale): (f32, f32), out: &mut [f32]) {
    let factor = simd.splat(scale / (dot(simd, x, x) + eps).sqrt());
    for at in (0..x.len()).step_by(S::LANES) {
        simd.put(out, at, simd.mul(simd.get(x, at), factor));
    }
}

#[inline(always)]
fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let mut sum = simd.splat(0.0);
    for at in (0..a.len()).step_by(S::LANES) {
        sum = simd.fma(simd.get(a, at), simd.get(b, at), sum);
    }
    simd.reduce_add(sum)
}

/// Registers beside each other in a unit's columns.
const VECTORS: usize = 2;
/// Positions that are prepared together.
const POSITIONS: usize = 32;
/// Rows of a position as long as its key: this, what holds and what reads, and its channels' decays.
const N_ROWS: usize = 4;
/// Numbers of a position beside those.
const N_GATES: usize = 3;
