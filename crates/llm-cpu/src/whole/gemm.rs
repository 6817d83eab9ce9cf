//! Weights times many rows of activations, by panels of rows.
//!
//! Some columns of 16 rows of a weight are brought into a panel, which stays in the first-level cache while all activations
//! pass: four columns of each row beside each other, as they are multiplied, and the rows' scales beside each other.

use std::ops::Range;

use llm_quant::ACTIVATION_BLOCK;

use super::activations::Activations;
use super::format::{Codes, Format, Scales, Visitor};
use super::{BlockRows, Target};
use crate::simd::dot::panel::{PANEL_ROWS, PanelKernel, PanelLevel, PanelSimd};
use crate::simd::dot::{Eight, GROUPS};

/// Some rows of a weight times all rows of activations, whose codes are moved by the bias of the instruction set.
///
/// Every result is summed in the order of the columns, whatever is computed beside it.
pub(super) struct Gemm<'a> {
    pub(super) level: PanelLevel,
    pub(super) rows: BlockRows<'a>,
    pub(super) activations: Activations<'a>,
    pub(super) target: Target<'a>,
    /// This thread's, [`SCRATCH_LEN`] long.
    pub(super) scratch: &'a mut [f32],
}

impl Visitor for Gemm<'_> {
    fn visit<F: Format>(self, format: F) {
        let product = self;
        product.level.run(GemmOf { format, product });
    }
}

struct GemmOf<'a, F> {
    format: F,
    product: Gemm<'a>,
}

impl<F: Format> PanelKernel for GemmOf<'_, F> {
    #[inline(always)]
    fn run<S: PanelSimd>(self, simd: S) {
        let _ = self.format;
        let Gemm {
            rows,
            activations,
            target,
            scratch,
            ..
        } = self.product;
        assert!(rows.cols <= activations.width());
        let mut panel = Panel::in_scratch(scratch);
        let n_blocks = rows.cols / ACTIVATION_BLOCK;
        // The columns outermost: those of all activations then stay in the second-level cache while the rows pass.
        for first in (0..n_blocks).step_by(PANEL_BLOCKS) {
            let blocks = first..(first + PANEL_BLOCKS).min(n_blocks);
            for row in rows.range.clone().step_by(PANEL_ROWS) {
                let n_rows = PANEL_ROWS.min(rows.range.end - row);
                panel.pack::<S, F>(simd, &rows, row..row + n_rows, &blocks);
                for token in (0..activations.n_tokens).step_by(TOKENS) {
                    let sums = panel.multiply::<S, F>(simd, &activations, token, &blocks);
                    for (t, sums) in sums.iter().enumerate() {
                        if token + t < activations.n_tokens {
                            target.put_rows(token + t, row, &sums[..n_rows], first == 0);
                        }
                    }
                }
            }
        }
    }
}

/// Some blocks of columns of 16 rows.
struct Panel<'a> {
    /// i8: for each four columns, those of each row.
    codes: &'a mut [u8],
    /// For each group, each row's sum of codes times minus the bias.
    begin: &'a mut [i32],
    /// For each group, each row's scale.
    scales: &'a mut [f32],
    /// For each group, each row's minimum.
    mins: &'a mut [f32],
}

impl<'a> Panel<'a> {
    fn in_scratch(scratch: &'a mut [f32]) -> Self {
        let (codes, rest) = scratch.split_at_mut(CODES_LEN);
        let (begin, rest) = rest.split_at_mut(FACTORS_LEN);
        let (scales, mins) = rest.split_at_mut(FACTORS_LEN);
        Panel {
            codes: bytemuck::cast_slice_mut(codes),
            begin: bytemuck::cast_slice_mut(begin),
            scales,
            mins: &mut mins[..FACTORS_LEN],
        }
    }
}

impl Panel<'_> {
    /// Brings blocks of rows in; rows that are missing are the last one again.
    #[inline(always)]
    fn pack<S: PanelSimd, F: Format>(
        &mut self,
        simd: S,
        rows: &BlockRows<'_>,
        range: Range<usize>,
        blocks: &Range<usize>,
    ) {
        for r in 0..PANEL_ROWS {
            let row = rows.row((range.start + r).min(range.end - 1));
            let bytes = &row[blocks.start / F::LEN * F::BYTES..blocks.end / F::LEN * F::BYTES];
            let piece_bytes = GROUPS / F::LEN * F::BYTES;
            for (i, piece) in bytes.chunks(piece_bytes).enumerate() {
                let n = piece.len() / F::BYTES * F::LEN;
                self.pack_piece::<S, F>(simd, r, i * GROUPS, piece, n);
            }
        }
    }

    /// Brings `n` blocks in, up to [`GROUPS`], as those of row `r` from block `first` on.
    #[inline(always)]
    fn pack_piece<S: PanelSimd, F: Format>(
        &mut self,
        simd: S,
        r: usize,
        first: usize,
        piece: &[u8],
        n: usize,
    ) {
        let halves = n_halves(F::SCALES);
        let factors = F::factors(simd, piece, n);
        let mut scales = [Eight([0.0; GROUPS]); 2];
        let mut mins = [Eight([0.0; GROUPS]); 2];
        for half in 0..halves {
            simd.put(&mut scales[half], factors.scales[half]);
            simd.put(&mut mins[half], factors.mins[half]);
        }
        for i in 0..n {
            let mut codes = [0u8; ACTIVATION_BLOCK];
            // SAFETY: as many bytes.
            unsafe { simd.store(codes.as_mut_ptr(), codes_of::<S, F>(simd, piece, i)) };
            if let Codes::Above(offset) = F::CODES {
                for code in &mut codes {
                    *code = code.wrapping_sub(offset);
                }
            }
            let words = codes.as_chunks::<4>().0;
            let to = &mut self.codes[(first + i) * PANEL_ROWS * ACTIVATION_BLOCK..];
            for (word, to) in words.iter().zip(to.chunks_exact_mut(4 * PANEL_ROWS)) {
                to[4 * r..4 * r + 4].copy_from_slice(word);
            }
            for half in 0..halves {
                let len = ACTIVATION_BLOCK / halves;
                let sum: i32 = codes[half * len..(half + 1) * len]
                    .iter()
                    .map(|&code| i32::from(code as i8))
                    .sum();
                let at = ((first + i) * halves + half) * PANEL_ROWS + r;
                self.begin[at] = -i32::from(S::BIAS) * sum;
                self.scales[at] = scales[half].0[i];
                self.mins[at] = mins[half].0[i];
            }
        }
    }

    /// The rows times [`TOKENS`] tokens, or as many as are left: what would be computed of others is computed of the last
    /// again.
    #[inline(always)]
    fn multiply<S: PanelSimd, F: Format>(
        &self,
        simd: S,
        activations: &Activations<'_>,
        token: usize,
        blocks: &Range<usize>,
    ) -> [[f32; PANEL_ROWS]; TOKENS] {
        let (n, width) = (activations.n_blocks, activations.width());
        let halves = n_halves(F::SCALES);
        let n_columns = ACTIVATION_BLOCK / halves;
        let groups = blocks.len() * halves;
        assert!(blocks.len() <= PANEL_BLOCKS && blocks.end <= n && activations.n_tokens > 0);
        assert!(activations.codes.len() >= activations.n_tokens * width);
        assert!(activations.scales.len() >= activations.n_tokens * n);
        assert!(activations.sums.len() >= activations.n_tokens * n);
        assert!(activations.half_sums.len() >= activations.n_tokens * 2 * n);
        let mut tokens = [token; TOKENS];
        for (t, token) in tokens.iter_mut().enumerate() {
            *token = (*token + t).min(activations.n_tokens - 1);
        }
        let mut totals = [simd.rows_of_zero(); TOKENS];
        let mut out = [[0.0; PANEL_ROWS]; TOKENS];
        // SAFETY: the panel has as many groups as it has blocks of columns at most, and their codes, as its slices are cut;
        // tokens and blocks are among those of the activations, which are as long as asserted; `out` has all rows.
        unsafe {
            let mut x = [activations.codes.as_ptr().cast::<u8>(); TOKENS];
            for t in 0..TOKENS {
                x[t] = x[t].add(tokens[t] * width + blocks.start * ACTIVATION_BLOCK);
            }
            for group in 0..groups {
                let begin = simd.load_sums(self.begin.as_ptr().add(group * PANEL_ROWS));
                let mut sums = [begin; TOKENS];
                let codes = self.codes.as_ptr().add(group * n_columns * PANEL_ROWS);
                for step in 0..n_columns / 4 {
                    let weights = simd.load_codes(codes.add(step * 4 * PANEL_ROWS));
                    for t in 0..TOKENS {
                        let x = x[t].add(group * n_columns + step * 4);
                        sums[t] = simd.multiply_codes(weights, x, sums[t]);
                    }
                }
                let scales = simd.load_f32(self.scales.as_ptr().add(group * PANEL_ROWS));
                let block = blocks.start + group / halves;
                for t in 0..TOKENS {
                    let scale = *activations.scales.get_unchecked(tokens[t] * n + block);
                    totals[t] = simd.add_scaled_rows(sums[t], scales, scale, totals[t]);
                }
                if F::HAS_MINS {
                    let mins = simd.load_f32(self.mins.as_ptr().add(group * PANEL_ROWS));
                    for t in 0..TOKENS {
                        let sum = *match F::SCALES {
                            Scales::Whole => activations.sums.get_unchecked(tokens[t] * n + block),
                            Scales::Halves => {
                                let at = tokens[t] * 2 * n + group % halves * n + block;
                                activations.half_sums.get_unchecked(at)
                            }
                        };
                        totals[t] = simd.subtract_rows(mins, sum, totals[t]);
                    }
                }
            }
            for t in 0..TOKENS {
                simd.store_f32(out[t].as_mut_ptr(), totals[t]);
            }
        }
        out
    }
}

/// The codes of a group, whose number the compiler knows.
#[inline(always)]
fn codes_of<S: PanelSimd, F: Format>(simd: S, blocks: &[u8], group: usize) -> S::Codes {
    if F::LEN == 1 {
        return F::codes(simd, blocks, group);
    }
    match group {
        0 => F::codes(simd, blocks, 0),
        1 => F::codes(simd, blocks, 1),
        2 => F::codes(simd, blocks, 2),
        3 => F::codes(simd, blocks, 3),
        4 => F::codes(simd, blocks, 4),
        5 => F::codes(simd, blocks, 5),
        6 => F::codes(simd, blocks, 6),
        _ => F::codes(simd, blocks, 7),
    }
}

const fn n_halves(scales: Scales) -> usize {
    match scales {
        Scales::Whole => 1,
        Scales::Halves => 2,
    }
}

/// Tokens that are multiplied together, as many as there are registers for.
const TOKENS: usize = if cfg!(target_arch = "aarch64") { 3 } else { 8 };
/// Blocks of columns in a panel: whole pieces.
const PANEL_BLOCKS: usize = 3 * GROUPS;
/// Words of a panel's codes.
const CODES_LEN: usize = PANEL_ROWS * PANEL_BLOCKS * ACTIVATION_BLOCK / 4;
/// Words of a panel's scales, one for each half of a block.
const FACTORS_LEN: usize = PANEL_ROWS * PANEL_BLOCKS * 2;
/// Words of a thread's scratch.
pub(super) const SCRATCH_LEN: usize = CODES_LEN + 3 * FACTORS_LEN;
