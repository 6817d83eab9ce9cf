//! Weights that are not quantized.

use std::ops::Range;

use half::{bf16, f16};
use llm_quant::{Part, StoredWeight};
use llm_tensor::{DType, HostBytes};

use crate::simd::{Element, ElementType, Simd};

/// A matrix `[rows, cols]` one element after the other.
#[derive(Debug, Clone)]
pub(crate) struct Dense {
    pub(crate) element: ElementType,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    bytes: HostBytes,
}

impl Dense {
    /// `None` where elements of the type are not computed with.
    ///
    /// # Panics
    /// When there are not as many bytes as the matrix has.
    pub(crate) fn of(weight: &StoredWeight, dtype: DType) -> Option<Self> {
        let (rows, cols, bytes) = (weight.rows, weight.cols, weight.part(Part::Weight));
        assert_eq!(
            bytes.len(),
            rows * cols * dtype.size(),
            "a weight of [{rows}, {cols}] {dtype}"
        );
        Some(Dense {
            element: ElementType::of(dtype)?,
            rows,
            cols,
            bytes: bytes.clone(),
        })
    }

    /// Some elements, as a vector.
    ///
    /// # Panics
    /// When there are not so many.
    pub(crate) fn elements(&self, range: Range<usize>) -> Self {
        let size = self.element.size();
        Dense {
            element: self.element,
            rows: 1,
            cols: range.len(),
            bytes: self.bytes.slice(range.start * size..range.end * size),
        }
    }

    pub(crate) fn view(&self) -> DenseView<'_> {
        DenseView {
            element: self.element,
            rows: self.rows,
            cols: self.cols,
            bytes: &self.bytes,
        }
    }
}

/// A [`Dense`] whose bytes have been looked up: `bytes` is `rows · cols` elements long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DenseView<'a> {
    pub(crate) element: ElementType,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    bytes: &'a [u8],
}

impl<'a> DenseView<'a> {
    /// Elements.
    pub(crate) fn n_elements(self) -> usize {
        self.rows * self.cols
    }

    /// Row `row` alone.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) fn row(self, row: usize) -> DenseView<'a> {
        let n_bytes = self.cols * self.element.size();
        DenseView {
            rows: 1,
            bytes: &self.bytes[row * n_bytes..][..n_bytes],
            ..self
        }
    }

    /// A matrix of half as many columns whose elements are pairs of bf16 in a word: to be moved, not computed with. `None`
    /// where there are no pairs.
    pub(crate) fn pairs_as_words(self) -> Option<DenseView<'a>> {
        match self.element {
            ElementType::Bf16 if self.cols.is_multiple_of(2) => Some(DenseView {
                element: ElementType::F32,
                cols: self.cols / 2,
                ..self
            }),
            ElementType::F32 | ElementType::F16 | ElementType::Bf16 => None,
        }
    }

    /// The elements of some rows.
    ///
    /// # Panics
    /// When there are no such rows.
    pub(crate) fn bytes_of(self, rows: Range<usize>) -> &'a [u8] {
        let n_bytes = self.cols * self.element.size();
        &self.bytes[rows.start * n_bytes..rows.end * n_bytes]
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
