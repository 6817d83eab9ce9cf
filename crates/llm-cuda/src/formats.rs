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
    /// Values as two bf16 parts.
    pub(crate) parts: Kernel,
    /// Border that elements lie on, but for `any` and `embed`: words are the most that is read at once.
    pub(crate) align: u64,
}

macro_rules! packed {
    ($rows_1:literal, $rows_8:literal, $any:literal, $tile:literal, $embed:literal, $parts:literal, $align:literal) => {
        PackedKernels {
            rows: kernel![$rows_1, $rows_8],
            any: kernel!($any),
            tile: kernel!($tile),
            embed: kernel!($embed),
            parts: kernel!($parts),
            align: $align,
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
        GroupCode::Int4 => packed!(
            "packed_rows_1_int4",
            "packed_rows_8_int4",
            "packed_any_int4",
            "packed_tile_int4",
            "packed_embed_int4",
            "packed_parts_int4",
            2
        ),
        GroupCode::E2M1 => packed!(
            "packed_rows_1_e2m1",
            "packed_rows_8_e2m1",
            "packed_any_e2m1",
            "packed_tile_e2m1",
            "packed_embed_e2m1",
            "packed_parts_e2m1",
            2
        ),
        GroupCode::Int8 => packed!(
            "packed_rows_1_int8",
            "packed_rows_8_int8",
            "packed_any_int8",
            "packed_tile_int8",
            "packed_embed_int8",
            "packed_parts_int8",
            4
        ),
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
        GgmlType::Q4_0 => packed!(
            "packed_rows_1_q4_0",
            "packed_rows_8_q4_0",
            "packed_any_q4_0",
            "packed_tile_q4_0",
            "packed_embed_q4_0",
            "packed_parts_q4_0",
            2
        ),
        GgmlType::Q4_1 => packed!(
            "packed_rows_1_q4_1",
            "packed_rows_8_q4_1",
            "packed_any_q4_1",
            "packed_tile_q4_1",
            "packed_embed_q4_1",
            "packed_parts_q4_1",
            4
        ),
        GgmlType::Q5_0 => packed!(
            "packed_rows_1_q5_0",
            "packed_rows_8_q5_0",
            "packed_any_q5_0",
            "packed_tile_q5_0",
            "packed_embed_q5_0",
            "packed_parts_q5_0",
            2
        ),
        GgmlType::Q5_1 => packed!(
            "packed_rows_1_q5_1",
            "packed_rows_8_q5_1",
            "packed_any_q5_1",
            "packed_tile_q5_1",
            "packed_embed_q5_1",
            "packed_parts_q5_1",
            4
        ),
        GgmlType::Q8_0 => packed!(
            "packed_rows_1_q8_0",
            "packed_rows_8_q8_0",
            "packed_any_q8_0",
            "packed_tile_q8_0",
            "packed_embed_q8_0",
            "packed_parts_q8_0",
            2
        ),
        GgmlType::Q2K => packed!(
            "packed_rows_1_q2_k",
            "packed_rows_8_q2_k",
            "packed_any_q2_k",
            "packed_tile_q2_k",
            "packed_embed_q2_k",
            "packed_parts_q2_k",
            4
        ),
        GgmlType::Q3K => packed!(
            "packed_rows_1_q3_k",
            "packed_rows_8_q3_k",
            "packed_any_q3_k",
            "packed_tile_q3_k",
            "packed_embed_q3_k",
            "packed_parts_q3_k",
            2
        ),
        GgmlType::Q4K => packed!(
            "packed_rows_1_q4_k",
            "packed_rows_8_q4_k",
            "packed_any_q4_k",
            "packed_tile_q4_k",
            "packed_embed_q4_k",
            "packed_parts_q4_k",
            4
        ),
        GgmlType::Q5K => packed!(
            "packed_rows_1_q5_k",
            "packed_rows_8_q5_k",
            "packed_any_q5_k",
            "packed_tile_q5_k",
            "packed_embed_q5_k",
            "packed_parts_q5_k",
            4
        ),
        GgmlType::Q6K => packed!(
            "packed_rows_1_q6_k",
            "packed_rows_8_q6_k",
            "packed_any_q6_k",
            "packed_tile_q6_k",
            "packed_embed_q6_k",
            "packed_parts_q6_k",
            2
        ),
        GgmlType::IQ4NL => packed!(
            "packed_rows_1_iq4_nl",
            "packed_rows_8_iq4_nl",
            "packed_any_iq4_nl",
            "packed_tile_iq4_nl",
            "packed_embed_iq4_nl",
            "packed_parts_iq4_nl",
            2
        ),
        GgmlType::IQ4XS => packed!(
            "packed_rows_1_iq4_xs",
            "packed_rows_8_iq4_xs",
            "packed_any_iq4_xs",
            "packed_tile_iq4_xs",
            "packed_embed_iq4_xs",
            "packed_parts_iq4_xs",
            4
        ),
        GgmlType::TQ1_0 => packed!(
            "packed_rows_1_tq1_0",
            "packed_rows_8_tq1_0",
            "packed_any_tq1_0",
            "packed_tile_tq1_0",
            "packed_embed_tq1_0",
            "packed_parts_tq1_0",
            2
        ),
        GgmlType::TQ2_0 => packed!(
            "packed_rows_1_tq2_0",
            "packed_rows_8_tq2_0",
            "packed_any_tq2_0",
            "packed_tile_tq2_0",
            "packed_embed_tq2_0",
            "packed_parts_tq2_0",
            2
        ),
        GgmlType::MXFP4 => packed!(
            "packed_rows_1_mxfp4",
            "packed_rows_8_mxfp4",
            "packed_any_mxfp4",
            "packed_tile_mxfp4",
            "packed_embed_mxfp4",
            "packed_parts_mxfp4",
            1
        ),
        GgmlType::NVFP4 => packed!(
            "packed_rows_1_nvfp4",
            "packed_rows_8_nvfp4",
            "packed_any_nvfp4",
            "packed_tile_nvfp4",
            "packed_embed_nvfp4",
            "packed_parts_nvfp4",
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
    let has_scales = scale_type(format.scale).is_some_and(|number| number < 4);
    let kernels = match format.dtype {
        DType::F8E4M3 => packed!(
            "packed_rows_1_e4m3",
            "packed_rows_8_e4m3",
            "packed_any_e4m3",
            "packed_tile_e4m3",
            "packed_embed_e4m3",
            "packed_parts_e4m3",
            4
        ),
        DType::F8E5M2 => packed!(
            "packed_rows_1_e5m2",
            "packed_rows_8_e5m2",
            "packed_any_e5m2",
            "packed_tile_e5m2",
            "packed_embed_e5m2",
            "packed_parts_e5m2",
            4
        ),
        _ => return None,
    };
    has_scales.then_some(kernels)
}
