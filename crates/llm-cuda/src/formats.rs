//! Formats of published files that there are kernels for: `kernels/packed.cuh`.

use llm_quant::{Fp8, GgmlType, GroupCode, Grouped, Scheme};
use llm_tensor::DType;

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
pub(crate) struct PackedKernels {
    /// For one row of activations, and for up to eight.
    pub(crate) rows: [Kernel; 2],
    /// At any address, and for any number of rows of the weight.
    pub(crate) any: Kernel,
    pub(crate) tile: Kernel,
    pub(crate) embed: Kernel,
    /// For the experts of a layer at once: gate and up, and down.
    pub(crate) experts: Kernel,
    /// Values as two bf16 parts.
    pub(crate) parts: Kernel,
    /// Border that elements lie on, but for `any` and `embed`.
    pub(crate) align: u64,
    /// Columns that share a scale, whose sums of activations kernels take.
    pub(crate) run: usize,
}

macro_rules! packed {
    ($format:literal, $align:literal, $run:literal) => {
        PackedKernels {
            rows: kernel![
                concat!("packed_rows_1_", $format),
                concat!("packed_rows_8_", $format)
            ],
            any: kernel!(concat!("packed_any_", $format)),
            tile: kernel!(concat!("packed_tile_", $format)),
            embed: kernel!(concat!("packed_embed_", $format)),
            experts: kernel!(concat!("packed_experts_", $format)),
            parts: kernel!(concat!("packed_parts_", $format)),
            align: $align,
            run: $run,
        }
    };
}

/// Kernels of a format, where there are any.
pub(crate) fn kernels(scheme: Scheme) -> Option<PackedKernels> {
    match scheme {
        Scheme::Ggml(ty) => ggml(ty),
        Scheme::Fp8(format) => fp8(format),
        Scheme::Grouped(format) => grouped(format),
        Scheme::Dense(_) | Scheme::Int8(_) | Scheme::Int8PerUse(..) | Scheme::FourBit(_) => None,
    }
}

/// Codes that lie in the order of columns.
fn grouped(format: Grouped) -> Option<PackedKernels> {
    let kernels = match format.code {
        GroupCode::Int4 => packed!("int4", 2, 32),
        GroupCode::E2M1 => packed!("e2m1", 2, 16),
        GroupCode::Int8 => packed!("int8", 4, 32),
    };
    (!format.order && scale_type(format.scale).is_some()).then_some(kernels)
}

/// Number of a type of scales.
pub(crate) fn scale_type(dtype: DType) -> Option<u32> {
    match dtype {
        DType::F32 => Some(0),
        DType::F16 => Some(1),
        DType::BF16 => Some(2),
        DType::U8 | DType::F8E8M0 => Some(3),
        DType::F8E4M3 => Some(4),
        _ => None,
    }
}

fn ggml(ty: GgmlType) -> Option<PackedKernels> {
    Some(match ty {
        GgmlType::Q4_0 => packed!("q4_0", 2, 32),
        GgmlType::Q4_1 => packed!("q4_1", 4, 32),
        GgmlType::Q5_0 => packed!("q5_0", 2, 32),
        GgmlType::Q5_1 => packed!("q5_1", 4, 32),
        GgmlType::Q8_0 => packed!("q8_0", 2, 32),
        GgmlType::Q2K => packed!("q2_k", 4, 16),
        GgmlType::Q3K => packed!("q3_k", 2, 16),
        GgmlType::Q4K => packed!("q4_k", 16, 32),
        GgmlType::Q5K => packed!("q5_k", 16, 32),
        GgmlType::Q6K => packed!("q6_k", 2, 16),
        GgmlType::IQ4NL => packed!("iq4_nl", 2, 32),
        GgmlType::IQ4XS => packed!("iq4_xs", 8, 32),
        GgmlType::TQ1_0 => packed!("tq1_0", 2, 32),
        GgmlType::TQ2_0 => packed!("tq2_0", 2, 32),
        GgmlType::MXFP4 => packed!("mxfp4", 1, 32),
        GgmlType::NVFP4 => packed!("nvfp4", 4, 16),
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
    let has_scales = scale_type(format.scale).is_some_and(|number| number < 4);
    let kernels = match format.dtype {
        DType::F8E4M3 => packed!("e4m3", 4, 32),
        DType::F8E5M2 => packed!("e5m2", 4, 32),
        _ => return None,
    };
    has_scales.then_some(kernels)
}
