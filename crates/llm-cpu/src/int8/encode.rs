//! Weights in 8 bits.

use std::ops::Range;

use half::{bf16, f16};
use llm_quant::code_factor;
use llm_tensor::DType;

use super::rows::CodeRows;
use crate::dense::DenseView;
use crate::isa::Level;
use crate::simd::{Element, ElementType, Kernel, MAX_LANES, Simd};

/// Encoding as [`llm_quant::Encoder::encode_int8`] describes it.
///
/// # Panics
/// When `codes` or `absmax` are not as long as that takes, or the dtype is no weight's.
pub(crate) fn encode_int8(
    level: Level,
    dtype: DType,
    elements: &[u8],
    cols: usize,
    codes: &mut [u8],
    absmax: &mut [f32],
) {
    let Some(element) = ElementType::of(dtype) else {
        panic!("elements of {dtype} are not encoded");
    };
    level.run(EncodeRows {
        element,
        elements,
        cols,
        codes,
        absmax,
    });
}

/// Some rows of a weight, encoded into the start of `codes` and `absmax`.
pub(super) fn encode_rows<'a>(
    level: Level,
    weight: DenseView<'a>,
    rows: Range<usize>,
    codes: &'a mut [u8],
    absmax: &'a mut [f32],
) -> CodeRows<'a> {
    let codes = &mut codes[..rows.len() * weight.cols];
    let absmax = &mut absmax[..rows.len()];
    level.run(EncodeRows {
        element: weight.element,
        elements: weight.bytes_of(rows.clone()),
        cols: weight.cols,
        codes,
        absmax,
    });
    CodeRows {
        codes,
        absmax: bytemuck::cast_slice(absmax),
        cols: weight.cols,
        first: rows.start,
        dense: Some(weight),
    }
}

/// Encodes rows of a matrix, through f16.
struct EncodeRows<'a> {
    element: ElementType,
    /// `[n_rows, cols]`, at any alignment.
    elements: &'a [u8],
    cols: usize,
    /// i8 `[n_rows, cols]`.
    codes: &'a mut [u8],
    /// `[n_rows]`: not finite where an element is not, or is not in f16.
    absmax: &'a mut [f32],
}

impl Kernel for EncodeRows<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.element {
            ElementType::F32 => self.all::<S, f32>(simd),
            ElementType::F16 => self.all::<S, f16>(simd),
            ElementType::Bf16 => self.all::<S, bf16>(simd),
        }
    }
}

impl EncodeRows<'_> {
    #[inline(always)]
    fn all<S: Simd, E: Element>(self, simd: S) {
        let n_elements = self.elements.len() / E::SIZE;
        assert_eq!(self.codes.len(), n_elements, "a byte an element");
        assert_eq!(self.absmax.len() * self.cols, n_elements, "a scale a row");
        if n_elements == 0 {
            return;
        }
        let rows = self.elements.chunks_exact(self.cols * E::SIZE);
        let codes = self.codes.chunks_exact_mut(self.cols);
        for ((row, codes), absmax) in rows.zip(codes).zip(self.absmax) {
            // The largest of rounded magnitudes is the largest magnitude, rounded.
            *absmax = f16::from_f32(largest_magnitude::<S, E>(simd, row)).to_f32();
            encode_row::<S, E>(simd, row, simd.splat(code_factor(*absmax)), codes);
        }
    }
}

/// Of which NaN is the largest.
#[inline(always)]
fn largest_magnitude<S: Simd, E: Element>(simd: S, row: &[u8]) -> f32 {
    let n = row.len() / E::SIZE;
    // Two, so that one comparison need not wait for the other.
    let mut largest = [simd.splat(0.0); 2];
    for (i, at) in (0..n).step_by(S::LANES).enumerate() {
        let src = row[at * E::SIZE..].as_ptr();
        simd.prefetch(src.wrapping_add(PREFETCH_BYTES));
        // SAFETY: `n - at` elements are left.
        let x = unsafe { E::load_part(simd, src, n - at) };
        largest[i % 2] = simd.max_magnitude(largest[i % 2], x);
    }
    simd.reduce_max_magnitude(simd.max_magnitude(largest[0], largest[1]))
}

#[inline(always)]
fn encode_row<S: Simd, E: Element>(simd: S, row: &[u8], factor: S::F32, codes: &mut [u8]) {
    let n = codes.len();
    for at in (0..n).step_by(S::LANES) {
        let rest = n - at;
        // SAFETY: `rest` elements and codes are left; fewer than a register of codes pass through one that is long
        // enough.
        unsafe {
            let x = E::load_part(simd, row[at * E::SIZE..].as_ptr(), rest);
            let x = simd.mul(simd.through_f16(x), factor);
            let dst = codes[at..].as_mut_ptr().cast();
            if rest >= S::LANES {
                simd.store_codes(dst, x);
            } else {
                let mut piece = [0; MAX_LANES];
                simd.store_codes(piece.as_mut_ptr(), x);
                std::ptr::copy_nonoverlapping(piece.as_ptr(), dst, rest);
            }
        }
    }
}

/// Distance ahead of the loads at which a row is prefetched.
const PREFETCH_BYTES: usize = 4096;
