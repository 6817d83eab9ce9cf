//! Kernels for weights in the formats of published files: `kernels/packed.cuh`.

use bytemuck::{Pod, Zeroable};
use llm_quant::{Fp8, GgmlType, Part, Scheme};
use llm_tensor::DType;

use super::general::element;
use crate::CudaWeight;
use crate::module::{Kernel, kernel};

/// True of a matrix in a format of published files that there are kernels for.
pub(crate) fn is_supported(scheme: Scheme, cols: usize) -> bool {
    let are_blocks_whole = match scheme {
        Scheme::Ggml(ty) => cols.is_multiple_of(ty.block_len()),
        Scheme::Fp8(_)
        | Scheme::Dense(_)
        | Scheme::Int8(_)
        | Scheme::Int8PerUse(..)
        | Scheme::FourBit(_)
        | Scheme::Grouped(_) => true,
    };
    are_blocks_whole && kernels(scheme).is_some()
}

/// The kernels of one format.
#[derive(Debug, Clone, Copy)]
pub(super) struct PackedKernels {
    /// For one row of activations, and for up to eight.
    pub(super) rows: [Kernel; 2],
    /// At any address, and for any number of rows of the weight.
    pub(super) any: Kernel,
    pub(super) tile: Kernel,
    pub(super) embed: Kernel,
    /// Border that elements lie on, but for `any` and `embed`.
    align: u64,
}

impl PackedKernels {
    /// Those that read a weight as it lies.
    pub(super) fn of(weight: &CudaWeight) -> Option<Self> {
        kernels(weight.scheme())
    }

    /// True if the weight lies, and has columns, so that more than single bytes of it may be read.
    pub(super) fn takes(self, weight: &CudaWeight) -> bool {
        let cols = weight.cols();
        let are_words = match weight.scheme() {
            // Elements that are read together share a scale.
            Scheme::Fp8(Fp8 { block, .. }) => {
                let are_blocks = block[1].is_multiple_of(4) || block[1] >= cols as u64;
                cols.is_multiple_of(4) && are_blocks
            }
            Scheme::Ggml(_)
            | Scheme::Dense(_)
            | Scheme::Int8(_)
            | Scheme::Int8PerUse(..)
            | Scheme::FourBit(_)
            | Scheme::Grouped(_) => true,
        };
        are_words && weight.part(Part::Weight).is_aligned(self.align)
    }
}

macro_rules! packed {
    ($rows_1:literal, $rows_8:literal, $any:literal, $tile:literal, $embed:literal, $align:literal) => {
        PackedKernels {
            rows: kernel![$rows_1, $rows_8],
            any: kernel!($any),
            tile: kernel!($tile),
            embed: kernel!($embed),
            align: $align,
        }
    };
}

fn kernels(scheme: Scheme) -> Option<PackedKernels> {
    match scheme {
        Scheme::Ggml(ty) => ggml(ty),
        Scheme::Fp8(format) => fp8(format),
        Scheme::Dense(_)
        | Scheme::Int8(_)
        | Scheme::Int8PerUse(..)
        | Scheme::FourBit(_)
        | Scheme::Grouped(_) => None,
    }
}

fn ggml(ty: GgmlType) -> Option<PackedKernels> {
    Some(match ty {
        GgmlType::Q4_0 => packed!(
            "packed_rows_1_q4_0",
            "packed_rows_8_q4_0",
            "packed_any_q4_0",
            "packed_tile_q4_0",
            "packed_embed_q4_0",
            2
        ),
        GgmlType::Q4_1 => packed!(
            "packed_rows_1_q4_1",
            "packed_rows_8_q4_1",
            "packed_any_q4_1",
            "packed_tile_q4_1",
            "packed_embed_q4_1",
            4
        ),
        GgmlType::Q5_0 => packed!(
            "packed_rows_1_q5_0",
            "packed_rows_8_q5_0",
            "packed_any_q5_0",
            "packed_tile_q5_0",
            "packed_embed_q5_0",
            2
        ),
        GgmlType::Q5_1 => packed!(
            "packed_rows_1_q5_1",
            "packed_rows_8_q5_1",
            "packed_any_q5_1",
            "packed_tile_q5_1",
            "packed_embed_q5_1",
            4
        ),
        GgmlType::Q8_0 => packed!(
            "packed_rows_1_q8_0",
            "packed_rows_8_q8_0",
            "packed_any_q8_0",
            "packed_tile_q8_0",
            "packed_embed_q8_0",
            2
        ),
        GgmlType::Q2K => packed!(
            "packed_rows_1_q2_k",
            "packed_rows_8_q2_k",
            "packed_any_q2_k",
            "packed_tile_q2_k",
            "packed_embed_q2_k",
            4
        ),
        GgmlType::Q3K => packed!(
            "packed_rows_1_q3_k",
            "packed_rows_8_q3_k",
            "packed_any_q3_k",
            "packed_tile_q3_k",
            "packed_embed_q3_k",
            2
        ),
        GgmlType::Q4K => packed!(
            "packed_rows_1_q4_k",
            "packed_rows_8_q4_k",
            "packed_any_q4_k",
            "packed_tile_q4_k",
            "packed_embed_q4_k",
            16
        ),
        GgmlType::Q5K => packed!(
            "packed_rows_1_q5_k",
            "packed_rows_8_q5_k",
            "packed_any_q5_k",
            "packed_tile_q5_k",
            "packed_embed_q5_k",
            16
        ),
        GgmlType::Q6K => packed!(
            "packed_rows_1_q6_k",
            "packed_rows_8_q6_k",
            "packed_any_q6_k",
            "packed_tile_q6_k",
            "packed_embed_q6_k",
            2
        ),
        GgmlType::IQ4NL => packed!(
            "packed_rows_1_iq4_nl",
            "packed_rows_8_iq4_nl",
            "packed_any_iq4_nl",
            "packed_tile_iq4_nl",
            "packed_embed_iq4_nl",
            2
        ),
        GgmlType::IQ4XS => packed!(
            "packed_rows_1_iq4_xs",
            "packed_rows_8_iq4_xs",
            "packed_any_iq4_xs",
            "packed_tile_iq4_xs",
            "packed_embed_iq4_xs",
            8
        ),
        GgmlType::TQ1_0 => packed!(
            "packed_rows_1_tq1_0",
            "packed_rows_8_tq1_0",
            "packed_any_tq1_0",
            "packed_tile_tq1_0",
            "packed_embed_tq1_0",
            2
        ),
        GgmlType::TQ2_0 => packed!(
            "packed_rows_1_tq2_0",
            "packed_rows_8_tq2_0",
            "packed_any_tq2_0",
            "packed_tile_tq2_0",
            "packed_embed_tq2_0",
            2
        ),
        GgmlType::MXFP4 => packed!(
            "packed_rows_1_mxfp4",
            "packed_rows_8_mxfp4",
            "packed_any_mxfp4",
            "packed_tile_mxfp4",
            "packed_embed_mxfp4",
            1
        ),
        GgmlType::NVFP4 => packed!(
            "packed_rows_1_nvfp4",
            "packed_rows_8_nvfp4",
            "packed_any_nvfp4",
            "packed_tile_nvfp4",
            "packed_embed_nvfp4",
            4
        ),
        // Codes that name points of a grid.
        GgmlType::IQ2XXS
        | GgmlType::IQ2XS
        | GgmlType::IQ2S
        | GgmlType::IQ3XXS
        | GgmlType::IQ3S
        | GgmlType::IQ1S
        | GgmlType::IQ1M => return None,
    })
}

fn fp8(format: Fp8) -> Option<PackedKernels> {
    let has_scales = matches!(
        format.scale,
        DType::F32 | DType::F16 | DType::BF16 | DType::U8 | DType::F8E8M0
    );
    let kernels = match format.dtype {
        DType::F8E4M3 => packed!(
            "packed_rows_1_e4m3",
            "packed_rows_8_e4m3",
            "packed_any_e4m3",
            "packed_tile_e4m3",
            "packed_embed_e4m3",
            4
        ),
        DType::F8E5M2 => packed!(
            "packed_rows_1_e5m2",
            "packed_rows_8_e5m2",
            "packed_any_e5m2",
            "packed_tile_e5m2",
            "packed_embed_e5m2",
            4
        ),
        _ => return None,
    };
    has_scales.then_some(kernels)
}

/// `Packed` of `packed.cuh`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Packed {
    elements: u64,
    scales: u64,
    /// Rows and columns that share a scale, scales of a line of such blocks, and their type.
    numbers: [u32; 4],
}

impl Packed {
    pub(super) fn of(weight: &CudaWeight) -> Self {
        let at = |part| weight.part(part).address();
        let (scales, numbers) = match weight.scheme() {
            Scheme::Fp8(format) => (at(Part::Scales), numbers(format, weight)),
            Scheme::Ggml(_)
            | Scheme::Dense(_)
            | Scheme::Int8(_)
            | Scheme::Int8PerUse(..)
            | Scheme::FourBit(_)
            | Scheme::Grouped(_) => (0, [1, 1, 0, 0]),
        };
        Packed {
            elements: at(Part::Weight),
            scales,
            numbers,
        }
    }

    /// The same as parts of products are told of it: `packed_of` of `packed.cuh`.
    pub(super) fn addresses(self) -> [u64; 6] {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let [height, width, n_scales, scale_type] = self.numbers;
        let (block, of_scales) = (pair(height, width), pair(n_scales, scale_type));
        [self.elements, self.scales, block, of_scales, 0, 0]
    }
}

fn numbers(format: Fp8, weight: &CudaWeight) -> [u32; 4] {
    let (rows, cols) = (weight.rows() as u64, weight.cols() as u64);
    // A block that is larger than the matrix is one for all of it.
    let [height, width] = [
        format.block[0].min(rows.max(1)),
        format.block[1].min(cols.max(1)),
    ];
    let [_, n_scales] = format.grid(rows, cols);
    let number = |n: u64| u32::try_from(n).expect("sizes of weights fit 31 bits");
    let scale_type = match format.scale {
        DType::U8 | DType::F8E8M0 => 3,
        dtype => element(dtype),
    };
    [number(height), number(width), number(n_scales), scale_type]
}
