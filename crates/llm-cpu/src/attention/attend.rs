//! Attention blocked over queries and keys.
//!
//! The queries that share a key head, of one or many tokens, form the rows of one matrix; both products with the
//! cache go through the register tile, and the softmax is taken along the way (Milakov and Gimelshein 2018; Dao et
//! al. 2022), so scores never leave the processor's caches.

use std::ops::Range;

use half::{bf16, f16};
use llm_backend::Output;
use llm_tensor::KvValues;

use super::scores::{add_bias, bound, hide, hide_others, soften};
use super::{Keys, Queries};
use crate::dense::DenseView;
use crate::gemm::transpose_rows;
use crate::kv_pool::KvView;
use crate::share::Shared;
use crate::simd::{Element, ElementType, Kernel, MAX_PANEL, Simd};
use crate::tile::{Elements, Product, Run};

/// Some queries of one key head against some positions.
pub(super) struct Attend<'a> {
    pub(super) queries: Queries<'a>,
    /// Of positions, and of entries.
    pub(super) caches: (KvView<'a>, Option<KvView<'a>>),
    pub(super) kv_head: usize,
    /// Query `i` is that of token `i / group` and of the group's head `i % group`; at most [`QUERIES`].
    pub(super) range: Range<usize>,
    /// Those that the queries see among these positions, and these entries, from a whole panel on.
    pub(super) among: [Range<usize>; 2],
    /// Scores beside those of the positions, `[n_heads]`.
    pub(super) sinks: Option<DenseView<'a>>,
    /// This thread's, [`scratch_len`] long.
    pub(super) scratch: &'a mut [f32],
    pub(super) cells: Cells<'a>,
}

/// Destination of results: `[n_tokens, n_heads, len]`, the heads `head_stride` apart.
///
/// A cell is a head's result, or, `partial_len` long and of a single token, what [`merge`] makes one of.
#[derive(Clone, Copy)]
pub(super) struct Cells<'a> {
    pub(super) memory: Shared<'a>,
    /// First element.
    pub(super) first: usize,
    pub(super) head_stride: usize,
    pub(super) len: usize,
}

/// Most queries that are computed together.
pub(super) const QUERIES: usize = 48;
/// Positions between two looks at the softmax's maximum.
const KEYS: usize = 128;
/// Most runs of values that they lie in: one a block, of 16 positions or more.
const MAX_RUNS: usize = KEYS / 16 + 1;

/// Elements of a thread's scratch: queries, weighted sums of values, scores, maxima and totals.
pub(crate) const fn scratch_len(head_dim: usize) -> usize {
    QUERIES * (2 * head_dim + KEYS + 2)
}

/// Elements of an unmerged result: weighted sums, maximum, total.
pub(crate) const fn partial_len(head_dim: usize) -> usize {
    head_dim + 2
}

impl Kernel for Attend<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.caches.0.element() {
            ElementType::F32 => self.all::<S, f32>(simd),
            ElementType::F16 => self.all::<S, f16>(simd),
            ElementType::Bf16 => self.all::<S, bf16>(simd),
        }
    }
}

impl Attend<'_> {
    #[inline(always)]
    fn all<S: Simd, E: Element>(self, simd: S) {
        let panel = S::LANES * S::TILE_VECTORS;
        let op = self.queries.op;
        let (head_dim, value_dim) = (op.head_dim, self.caches.0.shape().value_dim());
        let n = self.range.len();
        let (queries, rest) = self.scratch.split_at_mut(QUERIES * head_dim);
        let (sums, rest) = rest.split_at_mut(QUERIES * value_dim);
        let (scores, rest) = rest.split_at_mut(QUERIES * KEYS);
        let (maxima, totals) = rest.split_at_mut(QUERIES);
        let (maxima, totals) = (&mut maxima[..n], &mut totals[..n]);

        let group = self.queries.group();
        let place = |i: usize| {
            let query = self.range.start + i;
            (query / group, self.kv_head * group + query % group)
        };
        for (i, scaled) in queries.chunks_exact_mut(head_dim).take(n).enumerate() {
            let (token, head) = place(i);
            for (scaled, q) in scaled.iter_mut().zip(self.queries.head(token, head)) {
                *scaled = q * op.scale;
            }
        }
        sums[..n * value_dim].fill(0.0);
        // Finite, so that a query may see nothing of the first positions that others do.
        maxima.fill(f32::MIN);
        totals.fill(0.0);
        if let Some(sinks) = self.sinks {
            for (i, (maximum, total)) in maxima.iter_mut().zip(&mut *totals).enumerate() {
                let (_, head) = place(i);
                (*maximum, *total) = (sinks.element(head), 1.0);
            }
        }

        let own = (Keys::OfPositions, Some(&self.caches.0));
        let beside = (Keys::OfEntries, self.caches.1.as_ref());
        for ((keys_of, cache), among) in [own, beside].into_iter().zip(&self.among) {
            let Some(cache) = cache else {
                continue;
            };
            assert!(n <= QUERIES && among.start.is_multiple_of(panel));
            assert!(cache.panel() == panel && cache.shape().head_dim == head_dim);
            let seen = |i: usize| self.queries.seen(keys_of, place(i).0);
            let start = seen(0).start.max(among.start);
            let end = seen(n - 1).end.min(among.end);
            let tokens = place(0).0..place(n - 1).0 + 1;
            for first in (start - start % panel..end).step_by(KEYS) {
                let n_keys = KEYS.min(end - first);
                // Where nothing is seen, scores are hidden, and weights zero.
                let is_seen =
                    |positions| self.queries.select_any(keys_of, tokens.clone(), positions);
                if !is_seen(first..first + n_keys) {
                    continue;
                }
                for offset in (0..n_keys).step_by(panel) {
                    if !is_seen(first + offset..first + (offset + panel).min(n_keys)) {
                        continue;
                    }
                    let keys = [Run {
                        start: cache.keys(self.kv_head, first + offset),
                        n_rows: head_dim,
                    }];
                    let product = Product {
                        a: queries.as_ptr(),
                        a_stride: head_dim,
                        b: &keys,
                        b_stride: panel,
                        c: scores[offset..].as_mut_ptr(),
                        c_stride: KEYS,
                        bias: None,
                        output: Output::Write,
                        rows: n,
                        columns: panel,
                        factors: Elements::<E>::NEW,
                    };
                    // SAFETY: whole panels of keys lie within the cache; so does the panel within a row of scores, as
                    // `KEYS` is a multiple of any panel.
                    unsafe { product.compute(simd) };
                }
                if let Some(cap) = op.soft_cap {
                    for scores in scores.chunks_exact_mut(KEYS).take(n) {
                        bound(simd, &mut scores[..n_keys], cap);
                    }
                }
                if let Some(bias) = op.bias.as_ref().filter(|_| keys_of == Keys::OfPositions) {
                    for (i, scores) in scores.chunks_exact_mut(KEYS).take(n).enumerate() {
                        let (token, head) = place(i);
                        let row = &bias.table.as_slice()[head * bias.row..][..bias.row];
                        let query = self.queries.position + token;
                        let element = (bias.zero + first) as isize - query as isize;
                        add_bias(simd, &mut scores[..n_keys], row, element);
                    }
                }
                for (i, scores) in scores.chunks_exact_mut(KEYS).take(n).enumerate() {
                    let seen = seen(i);
                    let within = |position: usize| position.saturating_sub(first).min(n_keys);
                    let scores = &mut scores[..n_keys.next_multiple_of(S::LANES)];
                    hide(scores, within(seen.start)..within(seen.end));
                    if let Some(bits) = self.queries.selected(keys_of, place(i).0) {
                        hide_others(&mut scores[..n_keys], bits, first);
                    }
                    let rescale = soften(simd, scores, &mut maxima[i], &mut totals[i]);
                    let sums = &mut sums[i * value_dim..][..value_dim];
                    for at in (0..value_dim).step_by(S::LANES) {
                        let scaled = simd.mul(simd.get(sums, at), simd.splat(rescale));
                        simd.put(sums, at, scaled);
                    }
                }
                // Values that no query sees are not even multiplied by zero, for they need not be numbers.
                let seen = first.max(start)..first + n_keys;
                let of = (cache, self.kv_head);
                match cache.shape().values {
                    KvValues::Own => add_values::<S, E>(simd, of, seen, (scores, n), sums),
                    KvValues::OfKeys(_) => {
                        add_keys::<S, E>(simd, of, seen, is_seen, (scores, n), sums)
                    }
                }
            }
        }

        for i in 0..n {
            let (token, head) = place(i);
            let sums = &sums[i * value_dim..][..value_dim];
            let cell = (token * op.n_heads + head) * self.cells.head_stride + self.cells.first;
            // SAFETY: results of these queries, and of these positions, are computed by this thread alone.
            let cell = unsafe { self.cells.memory.range(cell..cell + self.cells.len) };
            match cell.split_at_mut(value_dim) {
                (out, []) => {
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = sum / totals[i];
                    }
                }
                (out, statistics) => {
                    out.copy_from_slice(sums);
                    statistics.copy_from_slice(&[maxima[i], totals[i]]);
                }
            }
        }
    }
}

/// Adds the values of the positions `seen`, weighed by `scores` `[n, KEYS]`, whose first is that of a panel's first position, to
/// `sums` `[n, value_dim]`.
#[inline(always)]
fn add_values<S: Simd, E: Element>(
    simd: S,
    (cache, kv_head): (&KvView<'_>, usize),
    seen: Range<usize>,
    (scores, n): (&[f32], usize),
    sums: &mut [f32],
) {
    let panel = S::LANES * S::TILE_VECTORS;
    let value_dim = cache.shape().value_dim();
    let mut runs = [Run {
        start: std::ptr::null(),
        n_rows: 0,
    }; MAX_RUNS];
    let (mut n_runs, mut position) = (0, seen.start);
    while position < seen.end {
        let n_rows = (panel - position % panel).min(seen.end - position);
        runs[n_runs] = Run {
            start: cache.values(kv_head, position),
            n_rows,
        };
        n_runs += 1;
        position += n_rows;
    }
    for d in (0..value_dim).step_by(panel) {
        let product = Product {
            a: scores[seen.start % panel..].as_ptr(),
            a_stride: KEYS,
            b: &runs[..n_runs],
            b_stride: value_dim,
            c: sums[d..].as_mut_ptr(),
            c_stride: value_dim,
            bias: None,
            output: Output::Add,
            rows: n,
            columns: panel.min(value_dim - d),
            factors: Elements::<E>::NEW,
        };
        // SAFETY: runs of values lie within the pool, after whose last value a panel of elements follows; sums and
        // scores are scratch of this thread, long enough by their splits.
        unsafe { product.compute(simd) };
        runs[..n_runs].iter_mut().for_each(|run| {
            run.start = run.start.wrapping_add(panel * E::SIZE);
        });
    }
}

/// The same where the first elements of keys are the values: panels of them are transposed first, but for those in which no position
/// is seen.
#[inline(always)]
fn add_keys<S: Simd, E: Element>(
    simd: S,
    (cache, kv_head): (&KvView<'_>, usize),
    seen: Range<usize>,
    is_seen: impl Fn(Range<usize>) -> bool,
    (scores, n): (&[f32], usize),
    sums: &mut [f32],
) {
    let panel = S::LANES * S::TILE_VECTORS;
    let value_dim = cache.shape().value_dim();
    let mut turned = [0f32; MAX_PANEL * MAX_PANEL];
    let first = seen.start - seen.start % panel;
    for at in (first..seen.end).step_by(panel) {
        let keys = cache.keys(kv_head, at);
        let positions = at.max(seen.start)..(at + panel).min(seen.end);
        if !is_seen(positions.clone()) {
            continue;
        }
        for d in (0..value_dim).step_by(panel) {
            let columns = panel.min(value_dim - d);
            transpose_rows(
                simd,
                d..d + columns,
                panel,
                &mut turned,
                |row, lane, block| {
                    // SAFETY: a panel of keys has `panel` lanes of each of a head's elements, and lanes are read a register
                    // at a time.
                    unsafe {
                        let src = keys.add((row * panel + lane) * E::SIZE);
                        simd.put(block, 0, E::load(simd, src));
                    }
                },
            );
            let values = [Run {
                start: turned[(positions.start - at) * panel..].as_ptr().cast(),
                n_rows: positions.len(),
            }];
            let product = Product {
                a: scores[positions.start - first..].as_ptr(),
                a_stride: KEYS,
                b: &values,
                b_stride: panel,
                c: sums[d..].as_mut_ptr(),
                c_stride: value_dim,
                bias: None,
                output: Output::Add,
                rows: n,
                columns,
                factors: Elements::<f32>::NEW,
            };
            // SAFETY: positions lie within the panel that was turned, whose rows have all columns of a tile; sums and
            // scores are long enough by the splits of their scratch.
            unsafe { product.compute(simd) };
        }
    }
}

/// Joins the parts of each head's result, in their order, into `out` `[n_heads, value_dim]`.
pub(super) fn merge(partials: &[f32], n_parts: usize, value_dim: usize, out: &mut [f32]) {
    let len = partial_len(value_dim);
    for (parts, out) in partials
        .chunks_exact(n_parts * len)
        .zip(out.chunks_exact_mut(value_dim))
    {
        let maximum = parts
            .chunks_exact(len)
            .map(|part| part[value_dim])
            .fold(f32::NEG_INFINITY, f32::max);
        let mut total = 0.0;
        out.fill(0.0);
        for part in parts.chunks_exact(len) {
            let weight = (part[value_dim] - maximum).exp();
            total += weight * part[value_dim + 1];
            for (out, sum) in out.iter_mut().zip(part) {
                *out += weight * sum;
            }
        }
        out.iter_mut().for_each(|out| *out /= total);
    }
}
