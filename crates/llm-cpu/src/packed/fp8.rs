//! 8-bit floating-point numbers with scales for blocks of rows and columns.

use std::ops::Range;

use llm_quant::{Fp8, Part};
use llm_tensor::{DType, le_bytes_to_f32};

use super::scale::number_at;
use super::{PackedView, RowDecoder, Sink, Visitor};
use crate::simd::{E4M3_FACTOR, FourBit, MAX_LANES, Order};

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
pub(super) fn visit<S: FourBit>(weight: PackedView<'_>, format: Fp8, visitor: impl Visitor) {
    if S::IS_PORTABLE {
        return visitor.visit(Numbers::new(weight, format, Other(format.dtype)));
    }
    match format.dtype {
        DType::F8E4M3 => visitor.visit(Numbers::new(weight, format, E4M3)),
        DType::F8E5M2 => visitor.visit(Numbers::new(weight, format, E5M2)),
        other => visitor.visit(Numbers::new(weight, format, Other(other))),
    }
}

/// A type of 8-bit numbers.
trait Number: Copy + Send + Sync {
    /// What numbers are larger by than [`load`](Self::load) gives them: a power of two.
    const FACTOR: f32 = 1.0;

    /// # Safety
    /// `src` can be read for `LANES` bytes.
    unsafe fn load<S: FourBit>(self, simd: S, src: *const u8) -> S::F32;
}

#[derive(Clone, Copy)]
struct E4M3;

impl Number for E4M3 {
    const FACTOR: f32 = E4M3_FACTOR;

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
            scales: weight.stored.part(Part::Scales),
            scale: match format.scale {
                DType::U8 => DType::F8E8M0,
                other => other,
            },
            block: [
                height.min(weight.rows as u64) as usize,
                width.min(weight.cols as u64) as usize,
            ],
        }
    }

    /// A scale, counted row by row.
    #[inline(always)]
    fn scale<S: FourBit>(&self, simd: S, i: usize) -> f32 {
        number_at(simd, self.scale, self.scales, i)
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

impl<N: Number> Numbers<'_, N> {
    /// Columns that share a scale, here times the factor.
    #[inline(always)]
    fn decode_run<S: FourBit>(
        self,
        simd: S,
        row: usize,
        scale: S::F32,
        columns: Range<usize>,
        sink: &mut impl Sink<S>,
    ) {
        let codes = &self.codes[row * self.cols..][columns.clone()];
        let mut first = columns.start;
        for codes in codes.chunks_exact(2 * S::LANES) {
            // SAFETY: twice as many bytes as lanes.
            let [low, high] = unsafe {
                [
                    self.number.load(simd, codes.as_ptr()),
                    self.number.load(simd, codes.as_ptr().add(S::LANES)),
                ]
            };
            sink.take(first, 0, simd.mul(low, scale));
            sink.take(first, S::LANES, simd.mul(high, scale));
            first += 2 * S::LANES;
        }
        for at in [0, S::LANES] {
            if first + at < columns.end {
                let values = self.load(simd, row, first + at, columns.end);
                sink.take(first, at, simd.mul(values, scale));
            }
        }
    }

    /// Of blocks that end within steps: a scale is looked up for each column.
    #[inline(always)]
    fn decode_lanes<S: FourBit>(
        self,
        simd: S,
        row: usize,
        row_scales: usize,
        columns: Range<usize>,
        sink: &mut impl Sink<S>,
    ) {
        let [_, width] = self.block;
        for first in columns.clone().step_by(S::LANES) {
            let mut scales = [0.0; MAX_LANES];
            let n = S::LANES.min(columns.end - first);
            for (i, scale) in scales.iter_mut().take(n).enumerate() {
                *scale = self.scale(simd, row_scales + (first + i) / width);
            }
            let values = self.load(simd, row, first, columns.end);
            let values = simd.mul(values, simd.splat(N::FACTOR));
            sink.take(first, 0, simd.mul(values, simd.get(&scales, 0)));
        }
    }
}

impl<N: Number> RowDecoder for Numbers<'_, N> {
    const STEP: usize = 2 * MAX_LANES;
    const ORDER: Order = Order::Straight;

    #[inline(always)]
    fn decode<S: FourBit>(
        self,
        simd: S,
        row: usize,
        columns: Range<usize>,
        sink: &mut impl Sink<S>,
    ) {
        let [height, width] = self.block;
        let row_scales = row / height * self.cols.div_ceil(width);
        if !width.is_multiple_of(Self::STEP) && width != self.cols {
            return self.decode_lanes(simd, row, row_scales, columns, sink);
        }
        let mut first = columns.start;
        let mut block = first / width;
        while first < columns.end {
            let end = columns.end.min((block + 1) * width);
            let scale = self.scale(simd, row_scales + block);
            let factored = scale * N::FACTOR;
            if factored.is_infinite() && scale.is_finite() {
                self.decode_lanes(simd, row, row_scales, first..end, sink);
            } else {
                self.decode_run(simd, row, simd.splat(factored), first..end, sink);
            }
            (first, block) = (end, block + 1);
        }
    }
}
