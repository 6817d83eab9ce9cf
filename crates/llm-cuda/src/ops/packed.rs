//! What kernels for weights in the formats of published files are told: `kernels/packed.cuh`.

use std::num::NonZeroU64;

use llm_backend::Result;
use llm_quant::{Fp8, GlobalScale, Grouped, Part, Scheme};

use crate::formats::{self, PackedKernels, scale_type};
use crate::launch::Launch;
use crate::memory::{NumRows, Span, bytes_of};
use crate::module::kernel;
use crate::{Compute, CudaQueue, CudaWeight};

/// Kernels of the format that a weight is in.
pub(super) fn kernels(weight: &CudaWeight) -> Option<PackedKernels> {
    formats::kernels(weight.scheme())
}

/// True if the weight lies, and has columns, so that more than single bytes of it may be read.
pub(super) fn takes(kernels: PackedKernels, weight: &CudaWeight) -> bool {
    let cols = weight.cols();
    // Elements that are multiplied together share a scale.
    let is_of_runs = |len: u64| len.is_multiple_of(kernels.run as u64) || len >= cols as u64;
    let are_runs = match weight.scheme() {
        Scheme::Fp8(Fp8 { block, .. }) => cols.is_multiple_of(COLS) && is_of_runs(block[1]),
        Scheme::Grouped(Grouped { group, .. }) => {
            let are_groups = group.is_none_or(|group| is_of_runs(group.get()));
            cols.is_multiple_of(COLS) && are_groups
        }
        Scheme::Ggml(_)
        | Scheme::Dense(_)
        | Scheme::Int8(_)
        | Scheme::Int8PerUse(..)
        | Scheme::FourBit(_) => true,
    };
    are_runs && cols < MOST_COLS && weight.part(Part::Weight).is_aligned(kernels.align)
}

/// Columns that rows of elements without blocks of their own have a multiple of.
const COLS: usize = 32;
/// Columns whose bytes of 16 rows are numbered in 31 bits.
const MOST_COLS: usize = 1 << 24;

/// Bytes of rows of activations as kernels for several take them: their parts, sums of runs of columns, and scales.
pub(super) fn split_areas(n: usize, cols: usize, run: usize) -> [usize; 3] {
    let n_padded = n.next_multiple_of(N_TILE);
    [
        2 * 2 * n * cols,
        bytes_of(cols.div_ceil(run) * n_padded),
        bytes_of(n_padded),
    ]
}

/// The fewest columns that share a scale in any format.
pub(super) const SHORTEST_RUN: usize = 16;
/// Rows of activations in a tensor product.
const N_TILE: usize = 8;

/// Splits rows of activations into areas of [`split_areas`]; `SplitX` of `packed_mma.cuh`.
pub(super) fn split(
    queue: &CudaQueue,
    x: Span<'_>,
    (n, bounds): NumRows<'_>,
    skip: usize,
    (cols, run): (usize, usize),
    [parts, sums, scale]: [Span<'_>; 3],
) -> Result<[u64; 5]> {
    let n_padded = n.next_multiple_of(N_TILE);
    let launch = queue.launch(kernel!("packed_split")).pointer(x.aligned(16));
    let launch = launch.pointer_or_null(bounds.map(|bounds| bounds.holding(8)));
    let n_parts = match queue.card.compute {
        Compute::F32 => 2,
        Compute::Half => 1,
    };
    let launch = launch.int(n).int(skip).int(cols).int(run).int(n_parts);
    let launch = launch.pointer(parts).pointer(sums).pointer(scale);
    launch.grid([n_padded, 1, 1]).threads(1024).run()?;
    Ok([
        parts.address(),
        sums.address(),
        scale.address(),
        n as u64 | (n_padded as u64) << 32,
        n_parts as u64,
    ])
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

/// Words that tell a kernel of an expert's weight: the first of [`words`].
pub(super) fn n_words(scheme: Scheme) -> usize {
    match scheme {
        Scheme::Grouped(_) => 6,
        Scheme::Fp8(_) => 4,
        Scheme::Ggml(_)
        | Scheme::Dense(_)
        | Scheme::Int8(_)
        | Scheme::Int8PerUse(..)
        | Scheme::FourBit(_) => 1,
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
