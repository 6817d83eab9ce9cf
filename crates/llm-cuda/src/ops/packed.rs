//! What kernels for weights in the formats of published files are told: `kernels/packed.cuh`.

use std::num::NonZeroU64;

use llm_quant::{Fp8, GlobalScale, Grouped, Part, Scheme};

use crate::CudaWeight;
use crate::formats::{self, PackedKernels, scale_type};
use crate::launch::Launch;

/// Kernels of the format that a weight is in.
pub(super) fn kernels(weight: &CudaWeight) -> Option<PackedKernels> {
    formats::kernels(weight.scheme())
}

/// True if the weight lies, and has columns, so that more than single bytes of it may be read.
pub(super) fn takes(kernels: PackedKernels, weight: &CudaWeight) -> bool {
    let cols = weight.cols();
    let are_words = match weight.scheme() {
        // Elements that are read together share a scale.
        Scheme::Fp8(Fp8 { block, .. }) => {
            let are_blocks = block[1].is_multiple_of(4) || block[1] >= cols as u64;
            cols.is_multiple_of(4) && are_blocks
        }
        Scheme::Grouped(Grouped { group, .. }) => {
            let are_groups = group
                .is_none_or(|group| group.get().is_multiple_of(4) || group.get() >= cols as u64);
            cols.is_multiple_of(4) && are_groups
        }
        Scheme::Ggml(_)
        | Scheme::Dense(_)
        | Scheme::Int8(_)
        | Scheme::Int8PerUse(..)
        | Scheme::FourBit(_) => true,
    };
    are_words && weight.part(Part::Weight).is_aligned(kernels.align)
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
