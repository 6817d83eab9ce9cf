use half::{bf16, f16};
use llm_backend::Output;
use llm_tensor::HostBytes;

use crate::simd::{Element, ElementType, Kernel, Simd};

/// A weight where it was found: the bytes stay in the file's mapping or in the heap, in their encoding and alignment.
#[derive(Debug, Clone)]
pub struct Weight {
    pub(crate) element: ElementType,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) bytes: HostBytes,
}

impl Weight {
    pub(crate) fn view(&self) -> WeightView<'_> {
        WeightView {
            element: self.element,
            rows: self.rows,
            cols: self.cols,
            bytes: &self.bytes,
        }
    }
}

/// A [`Weight`] whose bytes have been looked up: `bytes` is `rows · cols` elements long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WeightView<'a> {
    pub(crate) element: ElementType,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    bytes: &'a [u8],
}

impl<'a> WeightView<'a> {
    /// Row `row` alone.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) fn row(self, row: usize) -> WeightView<'a> {
        let n_bytes = self.cols * self.element.size();
        WeightView {
            rows: 1,
            bytes: &self.bytes[row * n_bytes..][..n_bytes],
            ..self
        }
    }

    /// The elements from `at` on, as many as there are up to a register; zeros beyond.
    #[inline(always)]
    pub(crate) fn get<S: Simd>(self, simd: S, at: usize) -> S::F32 {
        let rest = &self.bytes[at * self.element.size()..];
        let n = rest.len() / self.element.size();
        // SAFETY: `rest` holds `n` elements.
        unsafe {
            match self.element {
                ElementType::F32 => f32::load_part(simd, rest.as_ptr(), n),
                ElementType::F16 => f16::load_part(simd, rest.as_ptr(), n),
                ElementType::Bf16 => bf16::load_part(simd, rest.as_ptr(), n),
            }
        }
    }

    /// One element of all, counted row by row.
    ///
    /// # Panics
    /// When there is none.
    #[inline(always)]
    pub(crate) fn element(self, at: usize) -> f32 {
        let rest = &self.bytes[at * self.element.size()..][..self.element.size()];
        // SAFETY: `rest` is one element.
        unsafe {
            match self.element {
                ElementType::F32 => f32::read(rest.as_ptr()),
                ElementType::F16 => f16::read(rest.as_ptr()),
                ElementType::Bf16 => bf16::read(rest.as_ptr()),
            }
        }
    }

    /// The first byte.
    pub(crate) fn as_ptr(self) -> *const u8 {
        self.bytes.as_ptr()
    }
}

/// Widens a row of a weight, times `scale`, into `out`, or adds it.
pub(crate) struct CopyRow<'a> {
    pub(crate) row: WeightView<'a>,
    pub(crate) scale: f32,
    pub(crate) output: Output,
    /// As wide as the row.
    pub(crate) out: &'a mut [f32],
}

impl Kernel for CopyRow<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for at in (0..self.row.cols).step_by(S::LANES) {
            let x = simd.mul(self.row.get(simd, at), simd.splat(self.scale));
            let x = match self.output {
                Output::Write => x,
                Output::Add => simd.add(simd.get(self.out, at), x),
            };
            simd.put(self.out, at, x);
        }
    }
}
