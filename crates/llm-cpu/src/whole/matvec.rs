//! Weights times rows of activations, along the columns.

use llm_quant::ACTIVATION_BLOCK;

use super::activations::Activations;
use super::format::{Codes, Format, Scales, Visitor};
use super::{BlockRows, Target};
use crate::digits::Digits;
use crate::simd::dot::{DotKernel, DotLevel, DotSimd, Eight, GROUPS, MAX_TOKENS};
use crate::streams::{STREAM_PREFETCH_BYTES, Together, streams};

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
        match self.activations.digits {
            Digits::One => self.level.run(MatVecOf::<F, 1> { format, product }),
            Digits::Three => {
                if const { matches!(F::CODES, Codes::Signed) } {
                    unreachable!("sums of three digits would not fit");
                } else {
                    self.level.run(MatVecOf::<F, 3> { format, product });
                }
            }
        }
    }
}

/// With activations of `D` digits.
struct MatVecOf<'a, F, const D: usize> {
    format: F,
    product: MatVec<'a>,
}

impl<F: Format, const D: usize> DotKernel for MatVecOf<'_, F, D> {
    #[inline(always)]
    fn run<S: DotSimd>(self, simd: S) {
        let MatVec {
            rows, activations, ..
        } = self.product;
        assert!(rows.cols <= activations.width() && activations.digits.n() == D);
        let step = const { at_a_time::<S>(D) };
        let _ = self.format;
        let (groups, rest) = streams(rows.range.clone(), ROWS);
        let whole = groups.map(|together| (together, ROWS));
        let single = rest.map(|row| (Together::beside(row), 1));
        for (together, n_rows) in whole.chain(single) {
            for token in (0..activations.n_tokens).step_by(step) {
                let is_last = token + 1 == activations.n_tokens;
                // Constants, so that only tiles that are called are compiled.
                if const { at_a_time::<S>(D) == 1 } || is_last {
                    tile::<S, F, D, 1>(simd, &self.product, together, n_rows, token);
                } else if const { at_a_time::<S>(D) == 1 } {
                    unreachable!("one token is taken at a time");
                } else if const { at_a_time::<S>(D) == 2 } {
                    tile::<S, F, D, 2>(simd, &self.product, together, n_rows, token);
                } else {
                    tile::<S, F, D, MAX_TOKENS>(simd, &self.product, together, n_rows, token);
                }
            }
        }
    }
}

/// Tokens that a tile has: as many as there are registers for.
const fn at_a_time<S: DotSimd>(n_digits: usize) -> usize {
    match n_digits {
        1 => S::TOKENS,
        _ if S::TOKENS > 1 => S::TOKENS / 2,
        _ => 1,
    }
}

/// `n_rows` rows, [`ROWS`] or one, times `T` tokens, or as many as are left: what would be computed of others is computed of the last again.
#[inline(always)]
fn tile<S: DotSimd, F: Format, const D: usize, const T: usize>(
    simd: S,
    product: &MatVec<'_>,
    together: Together,
    n_rows: usize,
    token: usize,
) {
    let MatVec {
        ref rows,
        ref activations,
        target,
        ..
    } = *product;
    let n_tokens = T.min(activations.n_tokens - token);
    let mut tile = Tile {
        simd,
        weights: std::array::from_fn(|r| rows.row(together.row(r.min(n_rows - 1)))),
        x: std::array::from_fn(|t| Row::of(activations, token + t.min(n_tokens - 1))),
        scales: [[[Eight([0.0; GROUPS]); 2]; T]; ROWS],
    };
    // In registers: what is beside scales, which are not, would be in memory as they are.
    let mut sums = [[simd.zero(); T]; ROWS];
    let piece_bytes = F::BYTES * (GROUPS / F::LEN);
    let mut at = STREAM_PREFETCH_BYTES;
    let n_groups = rows.cols / ACTIVATION_BLOCK;
    for first in (0..n_groups - n_groups % GROUPS).step_by(GROUPS) {
        for weights in &tile.weights {
            for line in (at..at + piece_bytes).step_by(CACHE_LINE) {
                simd.prefetch(weights.as_ptr().wrapping_add(line));
            }
        }
        at += piece_bytes;
        tile.multiply::<F, D>(&mut sums, first, GROUPS);
    }
    let n_left = n_groups % GROUPS;
    if F::LEN == 1 && n_left > 0 {
        tile.multiply::<F, D>(&mut sums, n_groups - n_left, n_left);
    }
    for (r, sums) in sums.into_iter().enumerate().take(n_rows) {
        for (t, sum) in sums.into_iter().enumerate().take(n_tokens) {
            target.put(token + t, together.row(r), simd.reduce(sum));
        }
    }
}

/// A row of activations.
#[derive(Clone, Copy)]
struct Row<'a> {
    /// Those of each rank, as many.
    digits: &'a [i8],
    scales: &'a [f32],
    half_sums: [&'a [f32]; 2],
    sums: &'a [f32],
}

impl<'a> Row<'a> {
    #[inline(always)]
    fn of(activations: &Activations<'a>, token: usize) -> Self {
        let n = activations.n_blocks;
        let width = activations.digits.n() * activations.width();
        let (first, second) = activations.half_sums[token * 2 * n..][..2 * n].split_at(n);
        Row {
            digits: &activations.codes[token * width..][..width],
            scales: &activations.scales[token * n..][..n],
            half_sums: [first, second],
            sums: &activations.sums[token * n..][..n],
        }
    }
}

/// Rows that are multiplied with each other.
struct Tile<'a, S: DotSimd, const T: usize> {
    simd: S,
    weights: [&'a [u8]; ROWS],
    x: [Row<'a>; T],
    /// Of the piece at hand, of weights times those of activations; read from memory one by one.
    scales: [[[Eight; 2]; T]; ROWS],
}

/// A piece of a row of activations.
#[derive(Clone, Copy)]
struct Piece<'a, const D: usize> {
    /// By rank.
    digits: [&'a [i8; GROUPS * ACTIVATION_BLOCK]; D],
    scales: &'a [f32; GROUPS],
    half_sums: [&'a [f32; GROUPS]; 2],
    sums: &'a [f32; GROUPS],
}

impl<'a> Row<'a> {
    /// [`GROUPS`] groups from one on.
    #[inline(always)]
    fn piece<const D: usize>(&self, first: usize) -> Piece<'a, D> {
        const WHOLE: &str = "rows of whole pieces";
        let [low, high] = self.half_sums;
        let mut digits = [&[0; GROUPS * ACTIVATION_BLOCK]; D];
        let width = self.digits.len() / D;
        for (rank, digits) in digits.iter_mut().enumerate() {
            let of_rank = &self.digits[rank * width..][..width];
            *digits = of_rank[first * ACTIVATION_BLOCK..]
                .first_chunk()
                .expect(WHOLE);
        }
        Piece {
            digits,
            scales: self.scales[first..].first_chunk().expect(WHOLE),
            half_sums: [
                low[first..].first_chunk().expect(WHOLE),
                high[first..].first_chunk().expect(WHOLE),
            ],
            sums: self.sums[first..].first_chunk().expect(WHOLE),
        }
    }
}

/// No closures and no loops over rows of weights here: what is called or left a loop would keep sums in memory.
impl<S: DotSimd, const T: usize> Tile<'_, S, T> {
    /// Adds the products of `n` groups from one on, a piece or what is left of one.
    #[inline(always)]
    fn multiply<F: Format, const D: usize>(
        &mut self,
        sums: &mut [[S::F32; T]; ROWS],
        first: usize,
        n: usize,
    ) {
        let mut x = [self.x[0].piece::<D>(first); T];
        for (piece, x) in x.iter_mut().zip(&self.x).skip(1) {
            *piece = x.piece(first);
        }
        let n_bytes = F::BYTES * (n / F::LEN);
        let at = first / F::LEN * F::BYTES;
        let weights = [
            &self.weights[0][at..][..n_bytes],
            &self.weights[1][at..][..n_bytes],
            &self.weights[2][at..][..n_bytes],
            &self.weights[3][at..][..n_bytes],
        ];
        self.scale::<F, D>(0, &mut sums[0], weights[0], &x, n);
        self.scale::<F, D>(1, &mut sums[1], weights[1], &x, n);
        self.scale::<F, D>(2, &mut sums[2], weights[2], &x, n);
        self.scale::<F, D>(3, &mut sums[3], weights[3], &x, n);
        if n == GROUPS {
            self.multiply_group::<F, D>(sums, weights, &x, 0);
            self.multiply_group::<F, D>(sums, weights, &x, 1);
            self.multiply_group::<F, D>(sums, weights, &x, 2);
            self.multiply_group::<F, D>(sums, weights, &x, 3);
            self.multiply_group::<F, D>(sums, weights, &x, 4);
            self.multiply_group::<F, D>(sums, weights, &x, 5);
            self.multiply_group::<F, D>(sums, weights, &x, 6);
            self.multiply_group::<F, D>(sums, weights, &x, 7);
        } else {
            for group in 0..n {
                self.multiply_group::<F, D>(sums, weights, &x, group);
            }
        }
    }

    /// Brings a row's scales into place, and subtracts its minimums.
    #[inline(always)]
    fn scale<F: Format, const D: usize>(
        &mut self,
        r: usize,
        sums: &mut [S::F32; T],
        weights: &[u8],
        x: &[Piece<'_, D>; T],
        n: usize,
    ) {
        let simd = self.simd;
        let factors = F::factors(simd, weights, n);
        for (t, x) in x.iter().enumerate() {
            let scales = simd.get(x.scales);
            let [low, high] = &mut self.scales[r][t];
            simd.put(low, simd.mul(factors.scales[0], scales));
            if F::SCALES == Scales::Halves {
                simd.put(high, simd.mul(factors.scales[1], scales));
            }
            if F::HAS_MINS {
                let sum = &mut sums[t];
                let [low, high] = factors.mins;
                match F::SCALES {
                    Scales::Whole => {
                        *sum = simd.subtract_product(low, simd.get(x.sums), *sum);
                    }
                    Scales::Halves => {
                        let [of_low, of_high] = x.half_sums;
                        *sum = simd.subtract_product(low, simd.get(of_low), *sum);
                        *sum = simd.subtract_product(high, simd.get(of_high), *sum);
                    }
                }
            }
        }
    }

    /// Adds the products of a group, counted from the piece's first.
    #[inline(always)]
    fn multiply_group<F: Format, const D: usize>(
        &mut self,
        sums: &mut [[S::F32; T]; ROWS],
        weights: [&[u8]; ROWS],
        x: &[Piece<'_, D>; T],
        group: usize,
    ) {
        let simd = self.simd;
        let mut digits = [[simd.where_set(0, 0); D]; T];
        // What products of all rows begin with, or of three digits what is taken from them.
        let mut begin = [simd.none(); T];
        for t in 0..T {
            for (digits, of_rank) in digits[t].iter_mut().zip(x[t].digits) {
                let block = &of_rank[group * ACTIVATION_BLOCK..][..ACTIVATION_BLOCK];
                // SAFETY: as many bytes.
                let block = unsafe { simd.load(block.as_ptr().cast()) };
                *digits = block;
                begin[t] = match F::CODES {
                    Codes::Above(0) => begin[t],
                    Codes::Above(offset) if D == 1 => simd.less(block, offset),
                    Codes::Above(offset) => {
                        let offsets = simd.where_set(u32::MAX, offset);
                        simd.multiply(offsets, block, simd.one_rank_up(begin[t]))
                    }
                    Codes::Signed => simd.begin_signed(block),
                };
            }
        }
        self.multiply_row::<F, D>(0, &mut sums[0], weights[0], &digits, &begin, group);
        self.multiply_row::<F, D>(1, &mut sums[1], weights[1], &digits, &begin, group);
        self.multiply_row::<F, D>(2, &mut sums[2], weights[2], &digits, &begin, group);
        self.multiply_row::<F, D>(3, &mut sums[3], weights[3], &digits, &begin, group);
    }

    #[inline(always)]
    fn multiply_row<F: Format, const D: usize>(
        &mut self,
        r: usize,
        sums: &mut [S::F32; T],
        weights: &[u8],
        digits: &[[S::Codes; D]; T],
        begin: &[S::Sums; T],
        group: usize,
    ) {
        let simd = self.simd;
        let weights = F::codes(simd, weights, group);
        for t in 0..T {
            // The highest rank first, so that a rank's sums are added to those of the ones above it.
            let mut products = begin[t];
            if D == 3 {
                products = simd.multiply(weights, digits[t][0], simd.none());
                products = simd.multiply(weights, digits[t][1], simd.one_rank_up(products));
                products = simd.one_rank_up(products);
                if F::CODES != Codes::Above(0) {
                    products = simd.sub_sums(products, begin[t]);
                }
            }
            let lowest = digits[t][D - 1];
            let products = match F::CODES {
                Codes::Above(_) => simd.multiply(weights, lowest, products),
                Codes::Signed => simd.multiply_signed(weights, lowest, products),
            };
            let [Eight(low), Eight(high)] = &self.scales[r][t];
            let sum = &mut sums[t];
            *sum = match F::SCALES {
                Scales::Whole => simd.add_scaled(products, low[group], *sum),
                Scales::Halves => simd.add_halves(products, [low[group], high[group]], *sum),
            };
        }
    }
}

/// Rows that are multiplied together.
pub(super) const ROWS: usize = 4;
/// Bytes of one prefetch.
const CACHE_LINE: usize = 64;
