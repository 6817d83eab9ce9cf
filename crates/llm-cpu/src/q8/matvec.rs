//! Weights times rows of activations, along the columns.

use llm_quant::ACTIVATION_BLOCK;

use super::activations::Activations;
use super::format::{Codes, Format, Scales, Visitor};
use super::{BlockRows, Target};
use crate::simd::dot::{DotKernel, DotLevel, DotSimd, GROUPS, MAX_TOKENS};

/// Some rows of a weight times all rows of activations.
///
/// Every result is summed in the order of the columns, in the same lanes, whatever is computed beside it.
#[derive(Clone, Copy)]
pub(super) struct MatVec<'a> {
    pub(super) level: DotLevel,
    pub(super) rows: BlockRows<'a>,
    pub(super) activations: Activations<'a>,
    pub(super) target: Target<'a>,
}

impl Visitor for MatVec<'_> {
    fn visit<F: Format>(self, format: F) {
        let product = self;
        self.level.run(MatVecOf { format, product });
    }
}

struct MatVecOf<'a, F> {
    format: F,
    product: MatVec<'a>,
}

impl<F: Format> DotKernel for MatVecOf<'_, F> {
    #[inline(always)]
    fn run<S: DotSimd>(self, simd: S) {
        let MatVec {
            rows, activations, ..
        } = self.product;
        assert!(rows.cols <= activations.width());
        let _ = self.format;
        for row in rows.range.clone().step_by(ROWS) {
            for token in (0..activations.n_tokens).step_by(S::TOKENS) {
                if S::TOKENS == 1 || token + 1 == activations.n_tokens {
                    tile::<S, F, 1>(simd, &self.product, row, token);
                } else if S::TOKENS == 2 {
                    tile::<S, F, 2>(simd, &self.product, row, token);
                } else {
                    tile::<S, F, MAX_TOKENS>(simd, &self.product, row, token);
                }
            }
        }
    }
}

/// [`ROWS`] rows times `T` tokens, or as many as are left: what would be computed of others is computed of the last again.
#[inline(always)]
fn tile<S: DotSimd, F: Format, const T: usize>(
    simd: S,
    product: &MatVec<'_>,
    row: usize,
    token: usize,
) {
    let MatVec {
        ref rows,
        ref activations,
        target,
        ..
    } = *product;
    let n_rows = ROWS.min(rows.range.end - row);
    let n_tokens = T.min(activations.n_tokens - token);
    let weights = std::array::from_fn::<_, ROWS, _>(|r| rows.row(row + r.min(n_rows - 1)));
    let x = std::array::from_fn(|t| Row::of(activations, token + t.min(n_tokens - 1)));
    let mut sums = [[simd.zero(); T]; ROWS];
    // Linearly through the rows, so that the memory sees one stream.
    let mut ahead = weights[0].as_ptr().wrapping_add(PREFETCH_BYTES);
    let piece_bytes = F::BYTES * (GROUPS / F::LEN);
    let n_groups = rows.cols / ACTIVATION_BLOCK;
    for first in (0..n_groups - n_groups % GROUPS).step_by(GROUPS) {
        for line in (0..ROWS * piece_bytes).step_by(CACHE_LINE) {
            simd.prefetch(ahead.wrapping_add(line));
        }
        ahead = ahead.wrapping_add(ROWS * piece_bytes);
        let pieces = weights.map(|row| &row[first / F::LEN * F::BYTES..][..piece_bytes]);
        piece::<S, F, T>(simd, &pieces, &x, first, GROUPS, &mut sums);
    }
    let n_left = n_groups % GROUPS;
    if F::LEN == 1 && n_left > 0 {
        let first = n_groups - n_left;
        let pieces = weights.map(|row| &row[first * F::BYTES..][..n_left * F::BYTES]);
        piece::<S, F, T>(simd, &pieces, &x, first, n_left, &mut sums);
    }
    for (r, sums) in sums.into_iter().enumerate().take(n_rows) {
        for (t, sum) in sums.into_iter().enumerate().take(n_tokens) {
            target.put(token + t, row + r, simd.reduce(sum));
        }
    }
}

/// A row of activations.
#[derive(Clone, Copy)]
struct Row<'a> {
    codes: &'a [i8],
    scales: &'a [f32],
    half_sums: [&'a [f32]; 2],
    sums: &'a [f32],
}

impl<'a> Row<'a> {
    #[inline(always)]
    fn of(activations: &Activations<'a>, token: usize) -> Self {
        let (n, width) = (activations.n_blocks, activations.width());
        let (first, second) = activations.half_sums[token * 2 * n..][..2 * n].split_at(n);
        Row {
            codes: &activations.codes[token * width..][..width],
            scales: &activations.scales[token * n..][..n],
            half_sums: [first, second],
            sums: &activations.sums[token * n..][..n],
        }
    }
}

/// `n` groups from `first` on, [`GROUPS`] at most.
#[inline(always)]
fn piece<S: DotSimd, F: Format, const T: usize>(
    simd: S,
    weights: &[&[u8]; ROWS],
    x: &[Row<'_>; T],
    first: usize,
    n: usize,
    sums: &mut [[S::F32; T]; ROWS],
) {
    let mut scales = [[[[0f32; GROUPS]; 2]; T]; ROWS];
    for (r, weights) in weights.iter().enumerate() {
        let factors = F::factors(simd, weights, n);
        for (t, x) in x.iter().enumerate() {
            let scales_x = eight(x.scales, first);
            for half in 0..n_halves(F::SCALES) {
                scales[r][t][half] = std::array::from_fn(|i| factors.scales[half][i] * scales_x[i]);
            }
            if F::HAS_MINS {
                let sum = &mut sums[r][t];
                match F::SCALES {
                    Scales::Whole => {
                        *sum = simd.subtract(&factors.mins[0], eight(x.sums, first), *sum);
                    }
                    Scales::Halves => {
                        for (mins, sums) in factors.mins.iter().zip(x.half_sums) {
                            *sum = simd.subtract(mins, eight(sums, first), *sum);
                        }
                    }
                }
            }
        }
    }
    for group in 0..n {
        let codes: [S::Codes; T] = std::array::from_fn(|t| {
            let codes = &x[t].codes[(first + group) * ACTIVATION_BLOCK..][..ACTIVATION_BLOCK];
            // SAFETY: as many bytes.
            unsafe { simd.load(codes.as_ptr().cast()) }
        });
        let begin = codes.map(|codes| match F::CODES {
            Codes::Above(0) => simd.none(),
            Codes::Above(offset) => simd.less(codes, offset),
            Codes::Signed => simd.begin_signed(codes),
        });
        for r in 0..ROWS {
            let weights = F::codes(simd, weights[r], group);
            for t in 0..T {
                let products = match F::CODES {
                    Codes::Above(_) => simd.multiply(weights, codes[t], begin[t]),
                    Codes::Signed => simd.multiply_signed(weights, codes[t], begin[t]),
                };
                let [low, high] = &scales[r][t];
                sums[r][t] = match F::SCALES {
                    Scales::Whole => simd.add_scaled(products, low[group], sums[r][t]),
                    Scales::Halves => {
                        simd.add_halves(products, [low[group], high[group]], sums[r][t])
                    }
                };
            }
        }
    }
}

/// Numbers of groups from one on.
#[inline(always)]
fn eight(numbers: &[f32], first: usize) -> &[f32; GROUPS] {
    numbers[first..]
        .first_chunk()
        .expect("rows of whole pieces")
}

const fn n_halves(scales: Scales) -> usize {
    match scales {
        Scales::Whole => 1,
        Scales::Halves => 2,
    }
}

/// Rows that are multiplied together.
pub(super) const ROWS: usize = 4;
/// Distance ahead of the loads at which codes are prefetched.
const PREFETCH_BYTES: usize = 4096;
/// Bytes of one prefetch.
const CACHE_LINE: usize = 64;
