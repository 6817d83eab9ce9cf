//! Kernels for weights in the formats of published files: `kernels/packed.cuh`.

use std::num::NonZeroU64;

use llm_quant::{Fp8, GgmlType, GlobalScale, GroupCode, Grouped, Part, Scheme};
use llm_tensor::DType;

use super::general::element;
use crate::CudaWeight;
use crate::launch::Launch;
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
    /// Values as two bf16 parts.
    pub(super) parts: Kernel,
    /// Border that elements lie on, but for `any` and `embed`: words are the most that is read at once.
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
            Scheme::Grouped(Grouped { group, .. }) => {
                let are_groups = group.is_none_or(|group| {
                    group.get().is_multiple_of(4) || group.get() >= cols as u64
                });
                cols.is_multiple_of(4) && are_groups
            }
            Scheme::Ggml(_)
            | Scheme::Dense(_)
            | Scheme::Int8(_)
            | Scheme::Int8PerUse(..)
            | Scheme::FourBit(_) => true,
        };
        are_words && weight.part(Part::Weight).is_aligned(self.align)
    }
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

fn kernels(scheme: Scheme) -> Option<PackedKernels> {
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
fn scale_type(dtype: DType) -> Option<u32> {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => Some(element(dtype)),
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

/// The argument that tells a kernel of a weight: `Packed` of `packed.cuh`, or `GroupedWeight` of `grouped.cuh`.
pub(super) fn told<'a>(launch: Launch<'a>, weight: &CudaWeight) -> Launch<'a> {
    let [a, b, c, d, e, f] = words(weight);
    match weight.scheme() {
        Scheme::Grouped(_) => launch.structure(&[a, b, c, d, e, f]),
        Scheme::Ggml(_)
        | Scheme::Fp8(_)
        | Scheme::Dense(_)
        | Scheme::Int8(_)
        | Scheme::Int8PerUse(..)
        | Scheme::FourBit(_) => launch.structure(&[a, b, c, d]),
    }
}

/// The same as parts of products are told: addresses, and pairs of numbers.
pub(super) fn words(weight: &CudaWeight) -> [u64; 6] {
    let at = |part| weight.part(part).address();
    let (rows, cols) = (weight.rows() as u64, weight.cols() as u64);
    let number = |n: u64| {
        assert!(i32::try_from(n).is_ok(), "{n} is not below 2^31");
        n
    };
    let pair = |low: u64, high: u64| number(low) | number(high) << 32;
    let of_scales = |dtype| u64::from(scale_type(dtype).expect("a format that has kernels"));
    let elements = at(Part::Weight);
    match weight.scheme() {
        Scheme::Fp8(format) => {
            // A block that is larger than the matrix is one for all of it.
            let [height, width] = format.block;
            let block = pair(height.min(rows.max(1)), width.min(cols.max(1)));
            let [_, n_scales] = format.grid(rows, cols);
            let of_scales = pair(n_scales, of_scales(format.scale));
            [elements, at(Part::Scales), block, of_scales, 0, 0]
        }
        Scheme::Grouped(format) => {
            let group = format.group.map_or(u64::MAX, NonZeroU64::get);
            let groups = pair(group.min(cols.max(1)), format.n_groups(cols));
            let zeros = if format.zeros { at(Part::Zeros) } else { 0 };
            let (global, divides) = match format.global {
                None => (0, 0),
                Some(GlobalScale::Factor) => (at(Part::GlobalScale), 0),
                Some(GlobalScale::Divisor) => (at(Part::GlobalScale), 1),
            };
            let of_scales = pair(of_scales(format.scale), divides);
            [elements, at(Part::Scales), zeros, global, groups, of_scales]
        }
        Scheme::Ggml(_)
        | Scheme::Dense(_)
        | Scheme::Int8(_)
        | Scheme::Int8PerUse(..)
        | Scheme::FourBit(_) => [elements, 0, pair(1, 1), 0, 0, 0],
    }
}
