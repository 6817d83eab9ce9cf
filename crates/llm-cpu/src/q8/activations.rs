//! Activations in blocks of 8-bit codes.

use llm_quant::{ACTIVATION_BLOCK, block_scale};

use crate::Cpu;
use crate::share::Rows;
use crate::simd::{Kernel, MAX_LANES, Simd};

/// Destination of rounded activations.
pub(super) struct Rounded<'a> {
    pub(super) n_tokens: usize,
    pub(super) n_blocks: usize,
    /// i8 `[n_tokens, n_blocks · ACTIVATION_BLOCK]`.
    pub(super) codes: &'a mut [f32],
    /// `[n_tokens, n_blocks]`.
    pub(super) scales: &'a mut [f32],
    /// `[n_tokens, 2, n_blocks]`.
    pub(super) half_sums: &'a mut [f32],
    /// `[n_tokens, n_blocks]`.
    pub(super) sums: &'a mut [f32],
}

/// Rows of activations as [`llm_quant::BlockCodes`] has them, bit by bit.
#[derive(Clone, Copy)]
pub(super) struct Activations<'a> {
    pub(super) n_tokens: usize,
    /// Blocks of a row, those beyond the last column, which are zeros, among them.
    pub(super) n_blocks: usize,
    /// `[n_tokens, n_blocks · ACTIVATION_BLOCK]`, moved by the bias.
    pub(super) codes: &'a [i8],
    /// `[n_tokens, n_blocks]`.
    pub(super) scales: &'a [f32],
    /// Sums of the codes of blocks' first and second halves, times the scale: for each row, `[2, n_blocks]`.
    pub(super) half_sums: &'a [f32],
    /// The same of whole blocks, `[n_tokens, n_blocks]`.
    pub(super) sums: &'a [f32],
}

impl<'a> Activations<'a> {
    /// Rounds rows of `cols` activations into memory for as many. Codes are moved from −128..128 by a bias, 0 or 128.
    pub(super) fn round(cpu: &Cpu, x: &[f32], cols: usize, bias: u8, into: Rounded<'a>) -> Self {
        let Rounded {
            n_tokens,
            n_blocks,
            codes,
            scales,
            half_sums,
            sums,
        } = into;
        let min_tokens = MIN_ELEMENTS.div_ceil(cols.max(1));
        let width = n_blocks * ACTIVATION_BLOCK;
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
            n_tokens,
            n_blocks,
            codes: bytemuck::cast_slice(codes),
            scales,
            half_sums,
            sums,
        }
    }

    /// Codes of a row.
    pub(super) fn width(&self) -> usize {
        self.n_blocks * ACTIVATION_BLOCK
    }
}

/// Rounds rows.
struct Round<'a> {
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
        let n = self.n_blocks;
        for (row, x) in self.x.chunks_exact(self.cols).enumerate() {
            let codes = &mut self.codes[row * n * ACTIVATION_BLOCK..][..n * ACTIVATION_BLOCK];
            let scales = &mut self.scales[row * n..][..n];
            let half_sums = &mut self.half_sums[row * 2 * n..][..2 * n];
            let sums = &mut self.sums[row * n..][..n];
            let (whole, rest) = codes.split_at_mut(self.cols / ACTIVATION_BLOCK * ACTIVATION_BLOCK);
            rest.fill(self.bias as i8);
            let n_whole = whole.len() / ACTIVATION_BLOCK;
            let blocks = x.chunks_exact(ACTIVATION_BLOCK);
            for (i, (x, codes)) in blocks
                .zip(whole.chunks_exact_mut(ACTIVATION_BLOCK))
                .enumerate()
            {
                scales[i] = round_block(simd, x, codes);
                let (first, second) = codes.split_at(ACTIVATION_BLOCK / 2);
                let [first, second] = [first, second].map(|half| {
                    let sum: i16 = half.iter().map(|&code| i16::from(code)).sum();
                    f32::from(sum)
                });
                half_sums[i] = scales[i] * first;
                half_sums[n + i] = scales[i] * second;
                sums[i] = scales[i] * (first + second);
                for code in codes {
                    *code ^= self.bias as i8;
                }
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

/// Rounds a block, as long as its codes are; returns the scale.
#[inline(always)]
fn round_block<S: Simd>(simd: S, x: &[f32], codes: &mut [i8]) -> f32 {
    let (x, codes) = (&x[..ACTIVATION_BLOCK], &mut codes[..ACTIVATION_BLOCK]);
    let mut largest = simd.splat(0.0);
    for at in (0..ACTIVATION_BLOCK).step_by(S::LANES) {
        largest = simd.max_magnitude(largest, simd.get(x, at));
    }
    let (scale, factor) = block_scale(simd.reduce_max_magnitude(largest));
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

const _: () = assert!(ACTIVATION_BLOCK.is_multiple_of(MAX_LANES));
/// Activations below which a thread is not worth a fork.
const MIN_ELEMENTS: usize = if cfg!(miri) { 1 } else { 1 << 13 };
