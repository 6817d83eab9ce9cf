//! Activations in blocks of codes, of one digit of 8 bits or of three.

use llm_quant::{ACTIVATION_BLOCK, block_scale};

use crate::Cpu;
use crate::digits::Digits;
use crate::share::{MIN_ELEMENTS, Rows};
use crate::simd::{Kernel, MAX_LANES, Simd};

/// Destination of activations' codes.
pub(super) struct Rounded<'a> {
    pub(super) digits: Digits,
    pub(super) n_tokens: usize,
    pub(super) n_blocks: usize,
    /// i8 `[n_tokens, digits, n_blocks · ACTIVATION_BLOCK]`.
    pub(super) codes: &'a mut [f32],
    /// `[n_tokens, n_blocks]`.
    pub(super) scales: &'a mut [f32],
    /// `[n_tokens, 2, n_blocks]`.
    pub(super) half_sums: &'a mut [f32],
    /// `[n_tokens, n_blocks]`.
    pub(super) sums: &'a mut [f32],
}

/// Rows of activations in codes.
#[derive(Clone, Copy)]
pub(super) struct Activations<'a> {
    pub(super) digits: Digits,
    pub(super) n_tokens: usize,
    /// Blocks of a row, those beyond the last column, which are zeros, among them.
    pub(super) n_blocks: usize,
    /// `[n_tokens, digits, n_blocks · ACTIVATION_BLOCK]`, moved by the bias.
    pub(super) codes: &'a [i8],
    /// `[n_tokens, n_blocks]`.
    pub(super) scales: &'a [f32],
    /// Sums of the codes of blocks' first and second halves, times the scale: for each row, `[2, n_blocks]`.
    pub(super) half_sums: &'a [f32],
    /// The same of whole blocks, `[n_tokens, n_blocks]`.
    pub(super) sums: &'a [f32],
}

impl<'a> Activations<'a> {
    /// Rounds rows of `cols` activations into memory for as many. Codes of one digit are moved from −128..128 by a bias, 0 or 128.
    pub(super) fn round(cpu: &Cpu, x: &[f32], cols: usize, bias: u8, into: Rounded<'a>) -> Self {
        let Rounded {
            digits,
            n_tokens,
            n_blocks,
            codes,
            scales,
            half_sums,
            sums,
        } = into;
        let min_tokens = MIN_ELEMENTS.div_ceil(cols.max(1));
        let width = digits.n() * n_blocks * ACTIVATION_BLOCK;
        let memory = (
            (
                Rows::new(&mut *codes, width / size_of::<f32>()),
                Rows::new(&mut *scales, n_blocks),
            ),
            (
                Rows::new(&mut *half_sums, 2 * n_blocks),
                Rows::new(&mut *sums, n_blocks),
            ),
        );
        let pool = &cpu.pool;
        pool.split(n_tokens, min_tokens, memory, |tokens, memory| {
            let ((codes, scales), (half_sums, sums)) = memory;
            cpu.level.run(Round {
                digits,
                x: &x[tokens.start * cols..tokens.end * cols],
                cols,
                n_blocks,
                bias,
                codes: bytemuck::cast_slice_mut(codes),
                scales,
                half_sums,
                sums,
            });
        });
        Activations {
            digits,
            n_tokens,
            n_blocks,
            codes: bytemuck::cast_slice(codes),
            scales,
            half_sums,
            sums,
        }
    }

    /// Digits of one rank of a row.
    pub(super) fn width(&self) -> usize {
        self.n_blocks * ACTIVATION_BLOCK
    }
}

/// Rounds rows.
struct Round<'a> {
    digits: Digits,
    /// `[n_rows, cols]`.
    x: &'a [f32],
    cols: usize,
    n_blocks: usize,
    bias: u8,
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    half_sums: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Kernel for Round<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.digits {
            Digits::One => self.run_in::<S, 1>(simd),
            Digits::Three => self.run_in::<S, 3>(simd),
        }
    }
}

impl Round<'_> {
    /// Codes of `DIGITS` digits, one or three.
    #[inline(always)]
    fn run_in<S: Simd, const DIGITS: usize>(self, simd: S) {
        let n = self.n_blocks;
        let width = n * ACTIVATION_BLOCK;
        for (row, x) in self.x.chunks_exact(self.cols).enumerate() {
            let codes = &mut self.codes[row * DIGITS * width..][..DIGITS * width];
            let scales = &mut self.scales[row * n..][..n];
            let half_sums = &mut self.half_sums[row * 2 * n..][..2 * n];
            let sums = &mut self.sums[row * n..][..n];
            let n_whole = self.cols / ACTIVATION_BLOCK;
            for rank in codes.chunks_exact_mut(width) {
                rank[n_whole * ACTIVATION_BLOCK..].fill(self.bias as i8);
            }
            for (i, x) in x.chunks_exact(ACTIVATION_BLOCK).enumerate() {
                let codes = &mut codes[i * ACTIVATION_BLOCK..];
                scales[i] = match DIGITS {
                    1 => round_block(simd, x, codes),
                    _ => split_block(simd, x, codes, width),
                };
                let mut halves = [0; 2];
                for rank in 0..DIGITS {
                    let digits = &mut codes[rank * width..][..ACTIVATION_BLOCK];
                    let (first, second) = digits.split_at(ACTIVATION_BLOCK / 2);
                    for (sum, half) in halves.iter_mut().zip([first, second]) {
                        let of_rank: i16 = half.iter().map(|&digit| i16::from(digit)).sum();
                        *sum = (*sum << 8) + i32::from(of_rank);
                    }
                    for digit in digits {
                        *digit ^= self.bias as i8;
                    }
                }
                let [first, second] = halves;
                half_sums[i] = scales[i] * first as f32;
                half_sums[n + i] = scales[i] * second as f32;
                sums[i] = scales[i] * (first + second) as f32;
            }
            for rest in [
                &mut scales[n_whole..],
                &mut sums[n_whole..],
                &mut half_sums[n_whole..n],
            ] {
                rest.fill(0.0);
            }
            half_sums[n + n_whole..].fill(0.0);
        }
    }
}

/// The largest magnitude of a block, or NaN.
#[inline(always)]
fn largest_of<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let x = &x[..ACTIVATION_BLOCK];
    let mut largest = simd.splat(0.0);
    for at in (0..ACTIVATION_BLOCK).step_by(S::LANES) {
        largest = simd.max_magnitude(largest, simd.get(x, at));
    }
    simd.reduce_max_magnitude(largest)
}

/// Rounds a block to codes of one digit, as [`llm_quant::BlockCodes`] has them, bit by bit; returns the scale.
#[inline(always)]
fn round_block<S: Simd>(simd: S, x: &[f32], codes: &mut [i8]) -> f32 {
    let codes = &mut codes[..ACTIVATION_BLOCK];
    let (scale, factor) = block_scale(largest_of(simd, x));
    if scale.is_nan() {
        codes.fill(0);
        return scale;
    }
    let factor = simd.splat(factor);
    for at in (0..ACTIVATION_BLOCK).step_by(S::LANES) {
        let codes = &mut codes[at..][..S::LANES];
        // SAFETY: the codes are as many as there are lanes.
        unsafe { simd.store_codes(codes.as_mut_ptr(), simd.mul(simd.get(x, at), factor)) };
    }
    scale
}

/// Rounds a block to codes of three digits, whose ranks are `width` apart; returns the scale.
#[inline(always)]
fn split_block<S: Simd>(simd: S, x: &[f32], codes: &mut [i8], width: usize) -> f32 {
    let (high, rest) = codes.split_at_mut(width);
    let (middle, low) = rest.split_at_mut(width);
    let [high, middle, low] = [high, middle, low].map(|rank| &mut rank[..ACTIVATION_BLOCK]);
    let (scale, factor) = power_of_two(largest_of(simd, x));
    if scale.is_nan() {
        for rank in [high, middle, low] {
            rank.fill(0);
        }
        return scale;
    }
    let factor = simd.splat(factor);
    for at in (0..ACTIVATION_BLOCK).step_by(S::LANES) {
        let code = simd.round(simd.mul(simd.get(x, at), factor));
        // What is left of a code without its lowest digits, which are from −128 to 127, is the code plus 128, or plus
        // 128 · 257, over their range and rounded down. That is rounding of what is never in the middle: exact.
        let without = |more: f32, range: f32| {
            simd.mul(simd.add(code, simd.splat(more)), simd.splat(1.0 / range))
        };
        let ranks = [
            (&mut *low, code),
            (&mut *middle, without(0.5, 256.0)),
            (&mut *high, without(128.5, 65536.0)),
        ];
        for (rank, digits) in ranks {
            let rank = &mut rank[at..][..S::LANES];
            // SAFETY: the digits are as many as there are lanes.
            unsafe { simd.store_codes(rank.as_mut_ptr(), digits) };
        }
    }
    scale
}

/// The scale of a block of codes of three digits, and its inverse, from the largest magnitude; NaN is the largest of all.
fn power_of_two(largest: f32) -> (f32, f32) {
    let (scale, _) = block_scale(largest);
    if scale.is_nan() || scale == 0.0 {
        return (scale, 0.0);
    }
    // Of at most the largest code over it, which is not quite a power of two. Both are normal: the largest is at least 2⁻¹⁰⁰.
    let exponent = ((largest * (HALF_RANGE / LARGEST)).to_bits() >> 23) as i32 - 127;
    let power = |exponent: i32| f32::from_bits(((exponent + 127) as u32) << 23);
    (power(exponent - 22), power(22 - exponent))
}

/// The largest code: its digits are from −128 to 127, also when it is one more.
const LARGEST: f32 = 8_323_072.0;
/// What codes of 24 bits are below.
const HALF_RANGE: f32 = 8_388_608.0;
const _: () = assert!(ACTIVATION_BLOCK.is_multiple_of(MAX_LANES));
