//! Scores of a query, between the product with the keys and that with the values.

use std::ops::Range;

use llm_backend::Selection;

use crate::math::{exp, tanh};
use crate::simd::Simd;

/// Replaces each score by `cap · tanh(score / cap)`.
#[inline(always)]
pub(super) fn bound<S: Simd>(simd: S, scores: &mut [f32], cap: f32) {
    let (cap, inverse) = (simd.splat(cap), simd.splat(1.0 / cap));
    for at in (0..scores.len()).step_by(S::LANES) {
        let ratio = simd.mul(simd.get(scores, at), inverse);
        simd.put(scores, at, simd.mul(cap, tanh(simd, ratio)));
    }
}

/// Adds elements of `row` to scores, `element` and those that follow it; the nearest where there is none.
#[inline(always)]
pub(super) fn add_bias<S: Simd>(simd: S, scores: &mut [f32], row: &[f32], element: isize) {
    let n = scores.len() as isize;
    let below = (-element).clamp(0, n) as usize;
    let within = (row.len() as isize - element).clamp(0, n) as usize;
    let (scores, above) = scores.split_at_mut(within);
    let (below, scores) = scores.split_at_mut(below);
    add_splat(simd, below, row[0]);
    add_splat(simd, above, row[row.len() - 1]);
    if !scores.is_empty() {
        let row = &row[element.max(0) as usize..];
        for at in (0..scores.len()).step_by(S::LANES) {
            let sum = simd.add(simd.get(scores, at), simd.get(row, at));
            simd.put(scores, at, sum);
        }
    }
}

#[inline(always)]
fn add_splat<S: Simd>(simd: S, scores: &mut [f32], x: f32) {
    for at in (0..scores.len()).step_by(S::LANES) {
        let sum = simd.add(simd.get(scores, at), simd.splat(x));
        simd.put(scores, at, sum);
    }
}

/// Makes the scores outside `seen` -∞.
#[inline(always)]
pub(super) fn hide(scores: &mut [f32], seen: Range<usize>) {
    scores[..seen.start].fill(f32::NEG_INFINITY);
    scores[seen.end..].fill(f32::NEG_INFINITY);
}

/// Makes the scores of positions from `first` on -∞ whose bits are not set.
#[inline(always)]
pub(super) fn hide_others(scores: &mut [f32], bits: &[f32], first: usize) {
    for (position, score) in (first..).zip(scores) {
        let (word, bit) = Selection::bit(position);
        if bits[word].to_bits() & bit == 0 {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// Replaces scores by their exponentials relative to the new maximum and updates maximum and total; returns what
/// earlier sums are to be multiplied with.
///
/// A whole number of registers; hidden scores are -∞ and become 0.
#[inline(always)]
pub(super) fn soften<S: Simd>(
    simd: S,
    scores: &mut [f32],
    maximum: &mut f32,
    total: &mut f32,
) -> f32 {
    debug_assert!(scores.len().is_multiple_of(S::LANES));
    let mut largest = simd.splat(*maximum);
    for scores in scores.chunks_exact(S::LANES) {
        // SAFETY: a chunk is a register.
        largest = simd.max(largest, unsafe { simd.load(scores.as_ptr()) });
    }
    let largest = simd.reduce_max(largest);
    let subtrahend = simd.splat(largest);
    let mut sum = simd.splat(0.0);
    for scores in scores.chunks_exact_mut(S::LANES) {
        // SAFETY: as above.
        unsafe {
            let e = exp(simd, simd.sub(simd.load(scores.as_ptr()), subtrahend));
            simd.store(scores.as_mut_ptr(), e);
            sum = simd.add(sum, e);
        }
    }
    let rescale = (*maximum - largest).exp();
    *maximum = largest;
    *total = *total * rescale + simd.reduce_add(sum);
    rescale
}
