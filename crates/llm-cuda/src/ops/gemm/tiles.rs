//! Kernels that multiply by tiles: which for which weight and card, and how blocks share a product.

use llm_backend::LinearPart;
use llm_quant::{Part, Scheme};
use llm_tensor::DType;

use crate::choose;
use crate::formats::PackedKernels;
use crate::module::{Kernel, kernel};
use crate::ops::general::element;
use crate::ops::packed;
use crate::{Compute, Cuda};

/// Kernels for a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tiles {
    /// By f32 FMA.
    Plain(DType),
    /// On tensor cores, activations split into 16-bit parts.
    Dense(Split),
    /// The same, with values that are looked up.
    FourBit(Compute),
    /// On tensor cores, codes of a format of published files.
    Packed(PackedTiles),
    /// On tensor cores of integers, or by their four-element products.
    Int8 { tiled: bool },
}

/// The kernel for a format of published files, and the columns that share a scale there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackedTiles {
    kernel: Kernel,
    pub(super) run: usize,
}

#[cfg(test)]
impl PackedTiles {
    pub(super) const EXAMPLE: Self = PackedTiles {
        kernel: kernel!("packed_tile_q6_k"),
        run: 16,
    };
}

/// Form of activations that tensor cores multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) struct Split {
    pub(super) form: Form,
    pub(super) compute: Compute,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) enum Form {
    /// Parts of 11 bits, rows scaled.
    F16,
    /// Parts of 8 bits.
    Bf16,
    /// Like `F16`, columns in the order of 4-bit codes.
    F16OfCodes,
}

/// How blocks share a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocks {
    /// Tokens of a block.
    pub(super) tokens: usize,
    /// Pieces of the columns.
    pub(super) n_pieces: usize,
}

impl Tiles {
    /// The fastest that take a weight as it lies, if any.
    pub(super) fn of(
        part: &LinearPart<'_, Cuda>,
        capability: (u32, u32),
        compute: Compute,
    ) -> Option<Self> {
        let weight = part.weight;
        let at = |part| weight.part(part);
        let bias_lies = part.bias.is_none_or(|bias| {
            let size = bias.dense().size() as u64;
            bias.part(Part::Weight).is_aligned(size)
        });
        if !bias_lies {
            return None;
        }
        let (cols, tensor_cores) = (weight.cols(), capability >= (8, 0));
        match weight.scheme() {
            Scheme::Dense(dtype) => {
                let elements = at(Part::Weight);
                let forms = [(DType::F16, Form::F16), (DType::BF16, Form::Bf16)];
                let form = forms.into_iter().find(|(of, _)| *of == dtype);
                let tiled = tensor_cores && cols.is_multiple_of(8) && elements.is_aligned(16);
                match form.filter(|_| tiled) {
                    Some((_, form)) => Some(Tiles::Dense(Split { form, compute })),
                    None => elements
                        .is_aligned(dtype.size() as u64)
                        .then_some(Tiles::Plain(dtype)),
                }
            }
            Scheme::FourBit(format) => {
                let words: &[Part] = match format.double_quant {
                    false => &[Part::Absmax, Part::QuantMap],
                    true => &[
                        Part::QuantMap,
                        Part::NestedAbsmax,
                        Part::NestedQuantMap,
                        Part::NestedOffset,
                    ],
                };
                let fits = cols.is_multiple_of(32)
                    && at(Part::Weight).is_aligned(16)
                    && words.iter().all(|&part| at(part).is_aligned(4));
                let compute = if tensor_cores { compute } else { Compute::F32 };
                fits.then_some(Tiles::FourBit(compute))
            }
            Scheme::Int8(_) => {
                let (codes, scb) = (at(Part::Weight), at(Part::Scb));
                let tiled = tensor_cores && cols.is_multiple_of(16) && codes.is_aligned(16);
                let fits = tiled || cols.is_multiple_of(4) && codes.is_aligned(4);
                (fits && scb.is_aligned(4)).then_some(Tiles::Int8 { tiled })
            }
            Scheme::Ggml(_) | Scheme::Fp8(_) | Scheme::Grouped(_) => {
                let kernels =
                    packed::kernels(weight).filter(|&kernels| packed::takes(kernels, weight));
                kernels.map(|PackedKernels { tile, run, .. }| {
                    Tiles::Packed(PackedTiles { kernel: tile, run })
                })
            }
            Scheme::Int8PerUse(..) => None,
        }
    }

    /// The form that activations are brought to before.
    pub(super) fn split(self) -> Option<Split> {
        match self {
            Tiles::Plain(_) | Tiles::Packed(_) | Tiles::Int8 { .. } => None,
            Tiles::Dense(split) => Some(split),
            Tiles::FourBit(compute) => Some(Split {
                form: Form::F16OfCodes,
                compute,
            }),
        }
    }

    /// The kernel for blocks of so many tokens.
    pub(super) fn kernel(self, tokens: usize) -> Kernel {
        // Of those for 32, 64 and 128 tokens.
        let of = (tokens / 32).max(1).ilog2() as usize;
        match self {
            Tiles::Plain(dtype) => TILE[element(dtype) as usize],
            Tiles::Packed(packed) => packed.kernel,
            Tiles::Dense(split) => match (split.form, split.compute) {
                (Form::F16 | Form::F16OfCodes, Compute::F32) => DENSE_F16[of],
                (Form::F16 | Form::F16OfCodes, Compute::Half) => DENSE_F16_HALF[of],
                (Form::Bf16, Compute::F32) => DENSE_BF16[of],
                (Form::Bf16, Compute::Half) => DENSE_BF16_HALF[of],
            },
            Tiles::FourBit(compute) => {
                let of = match tokens {
                    0..=16 => 0,
                    17..=32 => 1,
                    33.. => 2,
                };
                match compute {
                    Compute::F32 => FOUR_BIT[of],
                    Compute::Half => FOUR_BIT_HALF[of],
                }
            }
            Tiles::Int8 { tiled: true } => INT8[of],
            Tiles::Int8 { tiled: false } => kernel!("gemm_tile_int8"),
        }
    }

    /// Rows of the weight that a block multiplies by.
    pub(super) fn block_rows(self) -> usize {
        match self {
            Tiles::Plain(_) | Tiles::Int8 { tiled: false } => 64,
            Tiles::Packed(packed) => choose::TILE_ROWS * packed.kernel.n_warps(),
            Tiles::Dense(_) | Tiles::FourBit(_) | Tiles::Int8 { tiled: true } => 128,
        }
    }

    /// Threads of a block.
    pub(super) fn threads(self) -> usize {
        match self {
            Tiles::Packed(packed) => 32 * packed.kernel.n_warps(),
            Tiles::Plain(_) | Tiles::Dense(_) | Tiles::FourBit(_) | Tiles::Int8 { .. } => 256,
        }
    }

    /// Bytes of shared memory that a launch adds.
    pub(super) fn shared(self, tokens: usize) -> usize {
        let lines = |n_parts| n_parts * tokens * STAGE_BYTES;
        let weight = self.block_rows() * STAGE_BYTES;
        let codes = self.block_rows() * (16 + size_of::<f32>());
        STAGES
            * match self {
                Tiles::Plain(_) | Tiles::Packed(_) | Tiles::Int8 { tiled: false } => 0,
                Tiles::Dense(split) => lines(split.n_parts()) + weight,
                Tiles::FourBit(Compute::F32) => lines(2) + codes,
                Tiles::FourBit(Compute::Half) => lines(1) + codes,
                Tiles::Int8 { tiled: true } => lines(1) + weight,
            }
    }

    /// For `n` tokens and a weight `[rows, cols]`.
    pub(super) fn blocks(
        self,
        n: usize,
        (rows, cols): (usize, usize),
        n_multiprocessors: usize,
    ) -> Blocks {
        let (smaller, step): (&[usize], usize) = match self {
            Tiles::Plain(_) => (&[64], 16),
            Tiles::Packed(_) => (&[PACKED_TOKENS], 256),
            Tiles::Dense(_) => (&[32, 64], 32),
            Tiles::FourBit(_) => (&[16, 32], 32),
            Tiles::Int8 { tiled: true } => (&[32, 64], STAGE_BYTES),
            // It has no pieces.
            Tiles::Int8 { tiled: false } => (&[64], usize::MAX),
        };
        let largest = match self {
            Tiles::Plain(_) | Tiles::Int8 { tiled: false } => 64,
            Tiles::Packed(_) => PACKED_TOKENS,
            Tiles::Dense(_) | Tiles::FourBit(_) | Tiles::Int8 { tiled: true } => 128,
        };
        let tokens = smaller.iter().copied().find(|&tokens| n <= tokens);
        let tokens = tokens.unwrap_or(largest);
        let n_blocks = rows.div_ceil(self.block_rows()) * n.div_ceil(tokens);
        let wanted = n_multiprocessors.min(MAX_MULTIPROCESSORS) * if tokens < 128 { 2 } else { 1 };
        let least = match self {
            Tiles::Packed(_) => 1,
            Tiles::Plain(_) | Tiles::Dense(_) | Tiles::FourBit(_) | Tiles::Int8 { .. } => MIN_STEPS,
        };
        let most = cols.div_ceil(step) / least;
        Blocks {
            tokens,
            n_pieces: (wanted / n_blocks.max(1)).clamp(1, most.max(1)),
        }
    }
}

impl Blocks {
    /// Results of all pieces, of `n` in the end.
    pub(super) fn n_piece_results(self, n: usize, tiles: Tiles) -> usize {
        let beside = usize::from(matches!(tiles, Tiles::Int8 { .. }));
        match self.n_pieces {
            1 => 0,
            n_pieces => (n_pieces + beside) * n,
        }
    }
}

impl Split {
    pub(super) fn kernel(self) -> Kernel {
        match (self.form, self.compute) {
            (Form::F16 | Form::F16OfCodes, Compute::F32) => kernel!("gemm_split_f16_2"),
            (Form::F16 | Form::F16OfCodes, Compute::Half) => kernel!("gemm_split_f16_1"),
            (Form::Bf16, Compute::F32) => kernel!("gemm_split_bf16_3"),
            (Form::Bf16, Compute::Half) => kernel!("gemm_split_bf16_2"),
        }
    }

    pub(super) fn n_parts(self) -> usize {
        match (self.form, self.compute) {
            (Form::F16 | Form::F16OfCodes, Compute::F32) => 2,
            (Form::F16 | Form::F16OfCodes, Compute::Half) => 1,
            (Form::Bf16, Compute::F32) => 3,
            // Of 8 bits one is not enough: golden models err by up to 1e-2 then.
            (Form::Bf16, Compute::Half) => 2,
        }
    }
}

/// By element type.
const TILE: [Kernel; 3] = kernel!["gemm_tile_f32", "gemm_tile_f16", "gemm_tile_bf16"];
// By tokens of a block.
const DENSE_F16: [Kernel; 3] = kernel![
    "gemm_dense_f16_2_32",
    "gemm_dense_f16_2_64",
    "gemm_dense_f16_2_128"
];
const DENSE_BF16: [Kernel; 3] = kernel![
    "gemm_dense_bf16_3_32",
    "gemm_dense_bf16_3_64",
    "gemm_dense_bf16_3_128"
];
const DENSE_F16_HALF: [Kernel; 3] = kernel![
    "gemm_dense_f16_1_32",
    "gemm_dense_f16_1_64",
    "gemm_dense_f16_1_128"
];
const DENSE_BF16_HALF: [Kernel; 3] = kernel![
    "gemm_dense_bf16_2_32",
    "gemm_dense_bf16_2_64",
    "gemm_dense_bf16_2_128"
];
// By 16, 32 and 128 tokens.
const FOUR_BIT_HALF: [Kernel; 3] = kernel![
    "gemm_four_bit_1_16",
    "gemm_four_bit_1_32",
    "gemm_four_bit_1_128"
];
const FOUR_BIT: [Kernel; 3] = kernel![
    "gemm_four_bit_2_16",
    "gemm_four_bit_2_32",
    "gemm_four_bit_2_128"
];
const INT8: [Kernel; 3] = kernel!["gemm_int8_32", "gemm_int8_64", "gemm_int8_128"];

/// Tokens of a block of those for formats of published files.
const PACKED_TOKENS: usize = 32;

/// Bytes of a line that a block brings at a time, and how often it is ahead.
const STAGE_BYTES: usize = 64;
const STAGES: usize = 3;

/// Steps through the columns that a piece has at least.
pub(super) const MIN_STEPS: usize = 8;

/// Multiprocessors that pieces are made for: the scratch memory is the same on all cards.
pub(super) const MAX_MULTIPROCESSORS: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    const DENSE: Tiles = Tiles::Dense(Split {
        form: Form::Bf16,
        compute: Compute::F32,
    });
    const FOUR_BIT: Tiles = Tiles::FourBit(Compute::F32);

    #[test]
    fn blocks_are_as_high_as_there_are_tokens_and_keep_a_card_busy() {
        let cases = [
            (DENSE, 9, (4096, 14336), 32, 8),
            (DENSE, 33, (4096, 14336), 64, 8),
            (DENSE, 512, (4096, 14336), 128, 1),
            (DENSE, 65, (1024, 4096), 128, 16),
            (DENSE, 20, (128, 64), 32, 1),
            (FOUR_BIT, 16, (14336, 4096), 16, 2),
            (FOUR_BIT, 17, (14336, 4096), 32, 2),
            (FOUR_BIT, 64, (4096, 14336), 128, 4),
            (Tiles::Plain(DType::F32), 9, (4096, 4096), 64, 4),
        ];
        for (tiles, n, size, tokens, n_pieces) in cases {
            let expected = Blocks { tokens, n_pieces };
            assert_eq!(
                tiles.blocks(n, size, 132),
                expected,
                "{tiles:?} {n} {size:?}"
            );
        }
    }
}
