//! Weights times few rows.

use super::{PIECE, PackedView, RowDecoder, Sink, Visitor};
use crate::matvec::FewRows;
use crate::simd::{FourBit, Kernel, Simd};
use crate::streams::{STREAM_PREFETCH_BYTES, STREAMS, Together, streams};

/// Some rows of a weight times all rows of x, which are in the weight's order.
///
/// Values are multiplied with x and summed in two registers in turn: the same operations whatever rows and tokens are computed
/// beside it.
pub(crate) struct PackedMatVec<'a> {
    pub(crate) weight: PackedView<'a>,
    pub(crate) few: FewRows<'a>,
}

impl Kernel for PackedMatVec<'_> {
    #[inline(always)]
    fn run<S: FourBit>(self, simd: S) {
        let FewRows {
            padded_cols,
            n_tokens,
            ..
        } = self.few;
        assert!(self.few.rows.end <= self.weight.rows);
        assert!(padded_cols.is_multiple_of(2 * S::LANES) && padded_cols >= self.weight.cols);
        assert!(self.few.x.len() >= n_tokens * padded_cols);
        let (weight, few) = (self.weight, &self.few);
        weight.visit::<S>(Multiply { simd, weight, few });
    }
}

struct Multiply<'a, S> {
    simd: S,
    weight: PackedView<'a>,
    few: &'a FewRows<'a>,
}

impl<S: FourBit> Visitor for Multiply<'_, S> {
    fn visit<D: RowDecoder>(self, decoder: D) {
        let product = self;
        product.simd.enter(MultiplyWith { decoder, product });
    }
}

struct MultiplyWith<'a, S, D> {
    decoder: D,
    product: Multiply<'a, S>,
}

impl<T, D: RowDecoder> Kernel for MultiplyWith<'_, T, D> {
    /// Groups of rows, each of which stays in the cache while all tokens pass.
    #[inline(always)]
    fn run<S: FourBit>(self, simd: S) {
        let FewRows {
            ref rows, n_tokens, ..
        } = *self.product.few;
        let (groups, rest) = streams(rows.clone(), STREAMS);
        let whole = groups.map(|together| (together, STREAMS));
        let single = rest.map(|row| (Together::beside(row), 1));
        for rows in whole.chain(single) {
            for token in (0..n_tokens).step_by(TOKENS) {
                if token + 1 == n_tokens {
                    self.group::<S, 1>(simd, rows, token);
                } else {
                    self.group::<S, TOKENS>(simd, rows, token);
                }
            }
        }
    }
}

impl<T, D: RowDecoder> MultiplyWith<'_, T, D> {
    /// A group's rows times `N` tokens, or as many as are left: what would be computed of others is computed of the last again.
    /// Rows take pieces of their columns in turn, so that x, which may be larger than the first-level cache, is fetched once a
    /// group.
    #[inline(always)]
    fn group<S: FourBit, const N: usize>(
        &self,
        simd: S,
        (rows, n_rows): (Together, usize),
        token: usize,
    ) {
        let Multiply { weight, few, .. } = self.product;
        let n_tokens = N.min(few.n_tokens - token);
        let x = std::array::from_fn::<_, N, _>(|t| {
            few.x[(token + t.min(n_tokens - 1)) * few.padded_cols..][..few.padded_cols].as_ptr()
        });
        let mut sums = [[[simd.splat(0.0); 2]; N]; STREAMS];
        let row_bytes = weight.row_bytes();
        let piece_bytes = row_bytes * PIECE / weight.cols.max(1);
        let mut ahead = STREAM_PREFETCH_BYTES;
        for first in (0..weight.cols).step_by(PIECE) {
            let columns = first..(first + PIECE).min(weight.cols);
            for (r, sums) in sums.iter_mut().enumerate().take(n_rows) {
                let row = rows.row(r);
                let stream = weight.elements.as_ptr().wrapping_add(row * row_bytes);
                for line in (ahead..ahead + piece_bytes).step_by(CACHE_LINE) {
                    simd.prefetch(stream.wrapping_add(line));
                }
                // In registers while the piece lasts.
                let mut products = Products {
                    simd,
                    x,
                    padded_cols: few.padded_cols,
                    sums: *sums,
                };
                self.decoder
                    .decode(simd, row, columns.clone(), &mut products);
                *sums = products.sums;
            }
            ahead += piece_bytes;
        }
        for (r, sums) in sums.into_iter().enumerate().take(n_rows) {
            for (t, [even, odd]) in sums.into_iter().enumerate().take(n_tokens) {
                let sum = simd.reduce_add(simd.add(even, odd));
                few.finish(rows.row(r), token + t, sum);
            }
        }
    }
}

/// Sums of products with `N` rows of x.
struct Products<S: Simd, const N: usize> {
    simd: S,
    /// Rows of `padded_cols`, whole registers.
    x: [*const f32; N],
    padded_cols: usize,
    sums: [[S::F32; 2]; N],
}

impl<S: Simd, const N: usize> Sink<S> for Products<S, N> {
    #[inline(always)]
    fn take(&mut self, first: usize, at: usize, values: S::F32) {
        debug_assert!(first + at + S::LANES <= self.padded_cols);
        for (sums, x) in self.sums.iter_mut().zip(self.x) {
            // SAFETY: decoders give columns of the weight, which rows of x are as long as, in whole registers.
            let x = unsafe { self.simd.load(x.add(first + at)) };
            let sum = &mut sums[at / S::LANES % 2];
            *sum = self.simd.fma(values, x, *sum);
        }
    }
}

/// Tokens that a row's values are multiplied with before they are made again.
const TOKENS: usize = 4;
/// Bytes of one prefetch.
const CACHE_LINE: usize = 64;
