//! 8-bit floating-point numbers with scales for blocks of rows and columns.

use std::ops::Range;

use llm_quant::Fp8;
use llm_tensor::{DType, le_bytes_to_f32};

use super::{PackedView, RowDecoder, Sink, Visitor};
use crate::simd::{FourBit, MAX_LANES};

/// True if the numbers and their scales are computed with.
pub(super) fn is_known(format: Fp8) -> bool {
    let is_float8 = matches!(
        format.dtype,
        DType::F8E4M3 | DType::F8E5M2 | DType::F8E4M3FNUZ | DType::F8E5M2FNUZ
    );
    let is_scale = matches!(
        format.scale,
        DType::F32 | DType::F16 | DType::BF16 | DType::U8 | DType::F8E8M0
    );
    is_float8 && is_scale && format.block.iter().all(|&n| n > 0)
}

/// Calls `visitor` with the decoder of a format.
#[inline(always)]
pub(super) fn visit(weight: PackedView<'_>, format: Fp8, visitor: impl Visitor) {
    match format.dtype {
        DType::F8E4M3 => visitor.visit(Numbers::new(weight, format, E4M3)),
        DType::F8E5M2 => visitor.visit(Numbers::new(weight, format, E5M2)),
        other => visitor.visit(Numbers::new(weight, format, Other(other))),
    }
}

/// A type of 8-bit numbers.
trait Number: Copy + Send + Sync {
    /// # Safety
    /// `src` can be read for `LANES` bytes.
    unsafe fn load<S: FourBit>(self, simd: S, src: *const u8) -> S::F32;
}

#[derive(Clone, Copy)]
struct E4M3;

impl Number for E4M3 {
    #[inline(always)]
    unsafe fn load<S: FourBit>(self, simd: S, src: *const u8) -> S::F32 {
        // SAFETY: as the caller promises.
        unsafe { simd.load_e4m3(src) }
    }
}

#[derive(Clone, Copy)]
struct E5M2;

impl Number for E5M2 {
    #[inline(always)]
    unsafe fn load<S: FourBit>(self, simd: S, src: *const u8) -> S::F32 {
        // SAFETY: as the caller promises.
        unsafe { simd.load_e5m2(src) }
    }
}

/// A type that is widened one by one.
#[derive(Clone, Copy)]
struct Other(DType);

impl Number for Other {
    #[inline(always)]
    unsafe fn load<S: FourBit>(self, simd: S, src: *const u8) -> S::F32 {
        let mut values = [0.0; MAX_LANES];
        // SAFETY: as the caller promises.
        let codes = unsafe { std::slice::from_raw_parts(src, S::LANES) };
        le_bytes_to_f32(self.0, codes, &mut values[..S::LANES]).expect("numbers of 8 bits");
        simd.get(&values, 0)
    }
}

#[derive(Clone, Copy)]
struct Numbers<'a, N> {
    number: N,
    codes: &'a [u8],
    cols: usize,
    scales: &'a [u8],
    scale: DType,
    /// Rows and columns of a block.
    block: [usize; 2],
}

impl<'a, N: Number> Numbers<'a, N> {
    #[inline(always)]
    fn new(weight: PackedView<'a>, format: Fp8, number: N) -> Self {
        // Of the whole matrix at most, hence within usize.
        let [height, width] = format.block;
        Numbers {
            number,
            codes: weight.elements,
            cols: weight.cols,
            scales: weight.scales,
            scale: format.scale,
            block: [
                height.min(weight.rows as u64) as usize,
                width.min(weight.cols as u64) as usize,
            ],
        }
    }

    /// The scale of a column's block.
    #[inline(always)]
    fn scale_at(&self, row: usize, column: usize) -> f32 {
        let [height, width] = self.block;
        let i = row / height * self.cols.div_ceil(width) + column / width;
        let at = |n: usize| &self.scales[i * n..][..n];
        match self.scale {
            DType::F32 => {
                let bytes = at(4);
                f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
            }
            DType::BF16 => {
                let bytes = at(2);
                f32::from_le_bytes([0, 0, bytes[0], bytes[1]])
            }
            DType::U8 => of_any(DType::F8E8M0, at(1)),
            other => of_any(other, at(other.size())),
        }
    }

    /// `LANES` numbers of a row from a column on, with zeros from column `end` on.
    #[inline(always)]
    fn load<S: FourBit>(&self, simd: S, row: usize, column: usize, end: usize) -> S::F32 {
        let codes = &self.codes[row * self.cols + column..row * self.cols + end];
        if codes.len() >= S::LANES {
            // SAFETY: as many bytes as lanes.
            return unsafe { self.number.load(simd, codes.as_ptr()) };
        }
        let mut padded = [0; MAX_LANES];
        padded[..codes.len()].copy_from_slice(codes);
        // SAFETY: as many bytes as lanes.
        unsafe { self.number.load(simd, padded.as_ptr()) }
    }
}

impl<N: Number> RowDecoder for Numbers<'_, N> {
    const STEP: usize = 2 * MAX_LANES;

    #[inline(always)]
    fn decode<S: FourBit>(
        self,
        simd: S,
        row: usize,
        columns: Range<usize>,
        sink: &mut impl Sink<S>,
    ) {
        let [_, width] = self.block;
        let is_aligned = width.is_multiple_of(Self::STEP) || width == self.cols;
        let mut first = columns.start;
        while first < columns.end {
            if !is_aligned {
                for at in [0, S::LANES] {
                    let column = first + at;
                    if column < columns.end {
                        let mut scales = [0.0; MAX_LANES];
                        let rest = S::LANES.min(columns.end - column);
                        for (i, scale) in scales.iter_mut().take(rest).enumerate() {
                            *scale = self.scale_at(row, column + i);
                        }
                        let values = self.load(simd, row, column, columns.end);
                        sink.take(first, at, simd.mul(values, simd.get(&scales, 0)));
                    }
                }
                first += 2 * S::LANES;
                continue;
            }
            let end = columns.end.min((first / width + 1) * width);
            let scale = simd.splat(self.scale_at(row, first));
            while first < end {
                let values = self.load(simd, row, first, end);
                sink.take(first, 0, simd.mul(values, scale));
                if first + S::LANES < end {
                    let values = self.load(simd, row, first + S::LANES, end);
                    sink.take(first, S::LANES, simd.mul(values, scale));
                }
                first += 2 * S::LANES;
            }
            first = end;
        }
    }
}

/// One number of any type.
fn of_any(dtype: DType, bytes: &[u8]) -> f32 {
    let mut value = [0.0];
    le_bytes_to_f32(dtype, bytes, &mut value).expect("scales are numbers");
    value[0]
}
