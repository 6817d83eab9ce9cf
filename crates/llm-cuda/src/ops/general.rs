//! Products with weights in any scheme, of any shape, at any address: slow, and what the fast kernels are held against.

use llm_backend::{LinearPart, Output, Result};
use llm_quant::{Int8, Part, Scheme};
use llm_tensor::{DType, WorkspaceShape};

use super::packed;
use crate::launch::Launch;
use crate::memory::{NumRows, Span, bytes_of};
use crate::module::kernel;
use crate::{Cuda, CudaQueue, CudaWeight, workspace};

/// `Stored` of `general.cuh`: six addresses and six numbers of 32 bits.
pub(super) type Stored = [u64; 9];

/// No weight.
const NONE: Stored = [0; 9];

/// Products whose results lie in columns from `first` on of rows of `width`.
pub(super) fn multiply(
    queue: &CudaQueue,
    parts: &[LinearPart<'_, Cuda>],
    x: Span<'_>,
    (output, out, (width, mut first)): (Output, Span<'_>, (usize, usize)),
    n: NumRows<'_>,
) -> Result<()> {
    for part in parts {
        let (weight, rows) = (part.weight, part.weight.rows());
        if let Some(bias) = part.bias {
            assert_eq!(bias.cols(), rows, "a bias for every output");
        }
        let x = x.holding(bytes_of(n.0 * weight.cols()));
        let (stored_weight, stored_bias) = (stored(weight), part.bias.map_or(NONE, stored));
        let launch = match int8(weight.scheme()) {
            None => {
                let launch = queue.launch(kernel!("general_linear"));
                let launch = launch.structure(&stored_weight).structure(&stored_bias);
                launch.pointer(x)
            }
            Some(format) => {
                let [codes, absmax, outliers] = quantize(queue, (x, weight.cols()), format, n)?;
                let launch = queue.launch(kernel!("general_int8_linear"));
                let launch = launch.structure(&stored_weight).structure(&stored_bias);
                let launch = launch.pointer(x).pointer(codes).pointer(absmax);
                launch.pointer(outliers)
            }
        };
        let launch = launch.pointer_or_null(n.1).int(n.0);
        let launch = launch.int(usize::from(output == Output::Add)).pointer(out);
        let launch = launch.int(width).int(first);
        launch
            .grid([rows.div_ceil(256), n.0, 1])
            .threads(256)
            .run()?;
        first += rows;
    }
    Ok(())
}

/// Codes, scales and outlier columns of rows of activations.
fn quantize<'q>(
    queue: &'q CudaQueue,
    (x, cols): (Span<'_>, usize),
    format: Int8,
    n: NumRows<'_>,
) -> Result<[Span<'q>; 3]> {
    let areas = queue.workspace.areas(areas(n.0, cols));
    let [codes, absmax, outliers] = areas;
    let find = queue.launch(kernel!("general_int8_outliers"));
    let find = find.pointer(x).pointer_or_null(n.1).int(n.0).int(cols);
    let find = find.float(format.threshold).pointer(outliers);
    find.grid([cols.div_ceil(256), 1, 1]).threads(256).run()?;
    let encode = queue.launch(kernel!("general_int8_quantize"));
    let encode = encode.pointer(x).pointer_or_null(n.1).int(n.0).int(cols);
    let encode = encode.float(format.threshold).pointer(outliers);
    let encode = encode.pointer(codes).pointer(absmax);
    encode.grid([n.0, 1, 1]).threads(256).run()?;
    Ok(areas)
}

pub(super) fn scratch_bytes(shape: &WorkspaceShape) -> usize {
    workspace::bytes(areas(shape.n_tokens, shape.cols))
}

/// Bytes of codes, scales and outlier columns.
fn areas(n_tokens: usize, cols: usize) -> [usize; 3] {
    [n_tokens * cols, bytes_of(n_tokens), cols]
}

fn int8(scheme: Scheme) -> Option<Int8> {
    match scheme {
        Scheme::Int8(format) | Scheme::Int8PerUse(_, format) => Some(format),
        Scheme::Dense(_)
        | Scheme::FourBit(_)
        | Scheme::Ggml(_)
        | Scheme::Fp8(_)
        | Scheme::Grouped(_) => None,
    }
}

/// A weight as the kernels are told of it.
pub(super) fn stored(weight: &CudaWeight) -> Stored {
    let (addresses, block_size) = addresses(weight);
    let (kind, dtype) = match weight.scheme() {
        Scheme::Dense(dtype) => (element(dtype), 0),
        Scheme::Int8PerUse(dtype, _) => (6, element(dtype)),
        Scheme::Int8(_) => (3, 0),
        Scheme::FourBit(format) => (4 + u32::from(format.double_quant), 0),
        Scheme::Ggml(_) | Scheme::Fp8(_) => unreachable!("such weights have kernels of their own"),
        Scheme::Grouped(_) => unreachable!("such weights are not loaded"),
    };
    let number = |n: usize| u32::try_from(n).expect("sizes of weights fit 31 bits");
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let [a, b, c, d, e, f] = addresses;
    let shape = pair(number(weight.cols()), number(block_size));
    [
        a,
        b,
        c,
        d,
        e,
        f,
        pair(kind, number(weight.rows())),
        shape,
        pair(dtype, 0),
    ]
}

/// Addresses of a weight's elements, scales, map, and nested scales, their map and offset, and elements of a block. What the
/// scheme does not have is null.
pub(super) fn addresses(weight: &CudaWeight) -> ([u64; 6], usize) {
    let of = |part| weight.part(part).address();
    let elements = of(Part::Weight);
    match weight.scheme() {
        Scheme::Dense(_) | Scheme::Int8PerUse(..) => ([elements, 0, 0, 0, 0, 0], 1),
        Scheme::Int8(_) => ([elements, of(Part::Scb), 0, 0, 0, 0], 1),
        Scheme::FourBit(format) => {
            let nested = [Part::NestedAbsmax, Part::NestedQuantMap, Part::NestedOffset];
            let [absmax, map, offset] = match format.double_quant {
                true => nested.map(of),
                false => [0; 3],
            };
            let (scales, code) = (of(Part::Absmax), of(Part::QuantMap));
            let block_size = format.block_size.get();
            ([elements, scales, code, absmax, map, offset], block_size)
        }
        Scheme::Ggml(_) | Scheme::Fp8(_) | Scheme::Grouped(_) => (packed::words(weight), 1),
    }
}

/// Tells a kernel of a dense vector and of the type of its elements; of null and 0 where there is none.
pub(super) fn vector<'a>(launch: Launch<'a>, vector: Option<&CudaWeight>) -> Launch<'a> {
    let launch = launch.pointer_or_null(vector.map(|vector| vector.part(Part::Weight)));
    launch.bits(vector.map_or(0, |vector| element(vector.dense())))
}

/// An element type's number.
pub(super) fn element(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::BF16 => 2,
        other => unreachable!("elements of {other}"),
    }
}
