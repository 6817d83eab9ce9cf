//! Causal attention of one sequence, blocked over queries and keys.
//!
//! The queries that share a key head, of one or many tokens, form the rows of one matrix; both products with the
//! cache go through the register tile, and the softmax is taken along the way (Milakov and Gimelshein 2018; Dao et
//! al. 2022), so scores never leave the cache.

use std::marker::PhantomData;
use std::ops::Range;

use half::{bf16, f16};
use llm_backend::{Attention, Output};

use crate::cache::Heads;
use crate::math::exp;
use crate::memory::Shared;
use crate::simd::{Element, ElementType, Kernel, Simd};
use crate::tile::Product;

/// Appends the keys and values of some heads to the cache.
pub(crate) struct Append<'a> {
    pub(crate) heads: Heads<'a>,
    /// Nobody else accesses them meanwhile.
    pub(crate) kv_heads: Range<usize>,
    pub(crate) qkv: Qkv<'a>,
}

/// The rows of one sequence in a pass: `[q | k | v]` each.
#[derive(Clone, Copy)]
pub(crate) struct Qkv<'a> {
    pub(crate) rows: &'a [f32],
    pub(crate) n_tokens: usize,
    /// Of the first row.
    pub(crate) position: usize,
    pub(crate) op: Attention,
}

impl<'a> Qkv<'a> {
    pub(crate) fn width(&self) -> usize {
        (self.op.n_heads + 2 * self.op.n_kv_heads) * self.op.head_dim
    }

    /// Query heads that share a key head.
    pub(crate) fn group(&self) -> usize {
        self.op.n_heads / self.op.n_kv_heads
    }

    /// One head of the row `token`: the queries' heads, then the keys', then the values'.
    fn head(&self, token: usize, head: usize) -> &'a [f32] {
        &self.rows[token * self.width() + head * self.op.head_dim..][..self.op.head_dim]
    }
}

impl Kernel for Append<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        match self.heads.element {
            ElementType::F32 => self.all::<f32>(),
            ElementType::F16 => self.all::<f16>(),
            ElementType::Bf16 => self.all::<bf16>(),
        }
    }
}

impl Append<'_> {
    #[inline(always)]
    fn all<E: Element>(&self) {
        let op = &self.qkv.op;
        for kv_head in self.kv_heads.clone() {
            for token in 0..self.qkv.n_tokens {
                let key = self.qkv.head(token, op.n_heads + kv_head);
                let value = self.qkv.head(token, op.n_heads + op.n_kv_heads + kv_head);
                // SAFETY: the caller of the kernel keeps others away from these heads.
                unsafe {
                    self.heads
                        .store::<E>(kv_head, self.qkv.position + token, key, value);
                }
            }
        }
    }
}

/// Some queries of one key head against some positions.
pub(crate) struct Attend<'a> {
    pub(crate) qkv: Qkv<'a>,
    pub(crate) heads: Heads<'a>,
    pub(crate) kv_head: usize,
    /// Query `i` is that of token `i / group` and of the group's head `i % group`; at most [`QUERIES`].
    pub(crate) queries: Range<usize>,
    /// Seen as far as they are causal; from a multiple of [`KEYS`] on, and at least one by every query.
    pub(crate) positions: Range<usize>,
    /// This thread's, [`scratch_len`] long.
    pub(crate) scratch: &'a mut [f32],
    pub(crate) target: Target<'a>,
}

/// Where results go; nobody else touches those of these queries.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    /// `[n_tokens, n_heads, head_dim]`.
    Rows(Shared<'a>),
    /// `[n_heads, n_parts, partial_len]`, of a single token: to be merged by [`merge`].
    Partial {
        partials: Shared<'a>,
        part: usize,
        n_parts: usize,
    },
}

/// Most queries that are computed together.
pub(crate) const QUERIES: usize = 48;
/// Positions between two looks at the softmax's maximum.
pub(crate) const KEYS: usize = 128;

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
        match self.heads.element {
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
        let head_dim = self.qkv.op.head_dim;
        let n = self.queries.len();
        assert!(n <= QUERIES && self.positions.end <= self.heads.shape.capacity);
        assert!(self.positions.start.is_multiple_of(KEYS) && self.heads.panel == panel);
        assert!(self.heads.shape.head_dim == head_dim);
        let (queries, rest) = self.scratch.split_at_mut(QUERIES * head_dim);
        let (sums, rest) = rest.split_at_mut(QUERIES * head_dim);
        let (scores, rest) = rest.split_at_mut(QUERIES * KEYS);
        let (maxima, totals) = rest.split_at_mut(QUERIES);
        let (maxima, totals) = (&mut maxima[..n], &mut totals[..n]);

        let group = self.qkv.group();
        let place = |i: usize| {
            let query = self.queries.start + i;
            (query / group, self.kv_head * group + query % group)
        };
        let n_visible = |i: usize| self.qkv.position + place(i).0 + 1;
        for (i, scaled) in queries.chunks_exact_mut(head_dim).take(n).enumerate() {
            let (token, head) = place(i);
            for (scaled, q) in scaled.iter_mut().zip(self.qkv.head(token, head)) {
                *scaled = q * self.qkv.op.scale;
            }
        }
        sums[..n * head_dim].fill(0.0);
        maxima.fill(f32::NEG_INFINITY);
        totals.fill(0.0);

        let end = self.positions.end.min(n_visible(n - 1));
        for first in (self.positions.start..end).step_by(KEYS) {
            let n_keys = KEYS.min(end - first);
            for offset in (0..n_keys).step_by(panel) {
                let product = Product::<E> {
                    a: queries.as_ptr(),
                    a_stride: head_dim,
                    b: self
                        .heads
                        .keys(self.kv_head)
                        .wrapping_add((first + offset) * head_dim * E::SIZE),
                    b_stride: panel,
                    c: scores[offset..].as_mut_ptr(),
                    c_stride: KEYS,
                    bias: None,
                    output: Output::Write,
                    rows: n,
                    depth: head_dim,
                    columns: panel,
                    element: PhantomData,
                };
                // SAFETY: the panels of the positions lie within the cache, whose capacity is rounded up to whole
                // panels; so does the panel within a row of scores, as `KEYS` is a multiple of any panel.
                unsafe { product.compute(simd) };
            }
            for (i, scores) in scores.chunks_exact_mut(KEYS).take(n).enumerate() {
                let n_seen = n_visible(i).saturating_sub(first).min(n_keys);
                let (whole, masked) = (n_keys.next_multiple_of(S::LANES), n_seen);
                scores[masked..whole].fill(f32::NEG_INFINITY);
                let rescale = soften(simd, &mut scores[..whole], &mut maxima[i], &mut totals[i]);
                let sums = &mut sums[i * head_dim..][..head_dim];
                for at in (0..head_dim).step_by(S::LANES) {
                    let scaled = simd.mul(simd.get(sums, at), simd.splat(rescale));
                    simd.put(sums, at, scaled);
                }
            }
            for d in (0..head_dim).step_by(panel) {
                let product = Product::<E> {
                    a: scores.as_ptr(),
                    a_stride: KEYS,
                    b: self
                        .heads
                        .values(self.kv_head)
                        .wrapping_add((first * head_dim + d) * E::SIZE),
                    b_stride: head_dim,
                    c: sums[d..].as_mut_ptr(),
                    c_stride: head_dim,
                    bias: None,
                    output: Output::Add,
                    rows: n,
                    depth: n_keys,
                    columns: panel.min(head_dim - d),
                    element: PhantomData,
                };
                // SAFETY: the positions lie within the cache, after whose last value a panel of elements follows;
                // sums and scores are scratch of this thread, long enough by their splits.
                unsafe { product.compute(simd) };
            }
        }

        for i in 0..n {
            let (token, head) = place(i);
            let sums = &sums[i * head_dim..][..head_dim];
            match self.target {
                Target::Rows(out) => {
                    let at = (token * self.qkv.op.n_heads + head) * head_dim;
                    // SAFETY: the caller of the kernel owns the results of these queries.
                    let out = unsafe { out.range(at..at + head_dim) };
                    for (out, sum) in out.iter_mut().zip(sums) {
                        *out = sum / totals[i];
                    }
                }
                Target::Partial {
                    partials,
                    part,
                    n_parts,
                } => {
                    let len = partial_len(head_dim);
                    let at = (head * n_parts + part) * len;
                    // SAFETY: as above.
                    let out = unsafe { partials.range(at..at + len) };
                    out[..head_dim].copy_from_slice(sums);
                    out[head_dim..].copy_from_slice(&[maxima[i], totals[i]]);
                }
            }
        }
    }
}

/// Replaces scores by their exponentials relative to the new maximum and updates maximum and total; returns what
/// earlier sums are to be multiplied with.
///
/// A whole number of registers; masked scores are -∞ and become 0.
#[inline(always)]
fn soften<S: Simd>(simd: S, scores: &mut [f32], maximum: &mut f32, total: &mut f32) -> f32 {
    let mut largest = simd.splat(*maximum);
    for at in (0..scores.len()).step_by(S::LANES) {
        largest = simd.max(largest, simd.get(scores, at));
    }
    let largest = simd.reduce_max(largest);
    let mut sum = simd.splat(0.0);
    for at in (0..scores.len()).step_by(S::LANES) {
        let e = exp(simd, simd.sub(simd.get(scores, at), simd.splat(largest)));
        simd.put(scores, at, e);
        sum = simd.add(sum, e);
    }
    let rescale = (*maximum - largest).exp();
    *maximum = largest;
    *total = *total * rescale + simd.reduce_add(sum);
    rescale
}

/// Joins the parts of each head's result, in their order, into `out` `[n_heads, head_dim]`.
pub(crate) fn merge(partials: &[f32], n_parts: usize, head_dim: usize, out: &mut [f32]) {
    let len = partial_len(head_dim);
    for (parts, out) in partials
        .chunks_exact(n_parts * len)
        .zip(out.chunks_exact_mut(head_dim))
    {
        let maximum = parts
            .chunks_exact(len)
            .map(|part| part[head_dim])
            .fold(f32::NEG_INFINITY, f32::max);
        let mut total = 0.0;
        out.fill(0.0);
        for part in parts.chunks_exact(len) {
            let weight = (part[head_dim] - maximum).exp();
            total += weight * part[head_dim + 1];
            for (out, sum) in out.iter_mut().zip(part) {
                *out += weight * sum;
            }
        }
        out.iter_mut().for_each(|out| *out /= total);
    }
}
