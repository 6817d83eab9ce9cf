use std::ops::Range;

use half::{bf16, f16};
use llm_backend::{DenseWeight, Output};
use llm_quant::{Int8, Int8Weight, Weight4Bit};
use llm_tensor::HostBytes;

use crate::arrange::Order;
use crate::four_bit::FourBitView;
use crate::simd::{Element, ElementType, Kernel, Simd};
use crate::workspace::{GEMM_TOKENS, GEMM_TOKENS_4BIT};

/// A weight where it was found: the bytes stay in the file's mapping or in the heap, in their encoding and alignment.
#[derive(Debug, Clone)]
pub struct Weight(pub(crate) Encoding);

/// How a weight is kept, and thereby how it is multiplied.
#[derive(Debug, Clone)]
pub(crate) enum Encoding {
    Dense(Dense),
    FourBit(Weight4Bit),
    Int8(Int8Weight),
    /// Encoded at each use.
    Int8PerUse(Dense, Int8),
}

impl Weight {
    /// Output features.
    pub(crate) fn rows(&self) -> usize {
        match &self.0 {
            Encoding::Dense(weight) | Encoding::Int8PerUse(weight, _) => weight.rows,
            Encoding::FourBit(weight) => weight.rows(),
            Encoding::Int8(weight) => weight.rows(),
        }
    }

    /// Input features.
    pub(crate) fn cols(&self) -> usize {
        match &self.0 {
            Encoding::Dense(weight) | Encoding::Int8PerUse(weight, _) => weight.cols,
            Encoding::FourBit(weight) => weight.cols(),
            Encoding::Int8(weight) => weight.cols(),
        }
    }

    /// The weight, if it is multiplied with activations in f32.
    pub(crate) fn floats(&self) -> Option<Floats<'_>> {
        match &self.0 {
            Encoding::Dense(weight) => Some(Floats::Dense(weight.view())),
            Encoding::FourBit(weight) => Some(Floats::FourBit(FourBitView::new(weight))),
            Encoding::Int8(_) | Encoding::Int8PerUse(..) => None,
        }
    }

    /// The elements of a table, a gain or a bias.
    ///
    /// # Panics
    /// When the weight is quantized, as none of these ever is.
    pub(crate) fn dense(&self) -> DenseView<'_> {
        match &self.0 {
            Encoding::Dense(weight) => weight.view(),
            quantized => panic!("tables, gains and biases are not quantized: {quantized:?}"),
        }
    }
}

/// A weight that is multiplied as the numbers that it stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Floats<'a> {
    Dense(DenseView<'a>),
    FourBit(FourBitView<'a>),
}

impl Floats<'_> {
    /// Output features.
    pub(crate) fn rows(&self) -> usize {
        match self {
            Floats::Dense(weight) => weight.rows,
            Floats::FourBit(weight) => weight.rows,
        }
    }

    /// Input features.
    pub(crate) fn cols(&self) -> usize {
        match self {
            Floats::Dense(weight) => weight.cols,
            Floats::FourBit(weight) => weight.cols,
        }
    }

    /// The tokens from which on panels of the weight pay.
    pub(crate) fn gemm_tokens(&self) -> usize {
        match self {
            Floats::FourBit(weight) if weight.is_aligned() => GEMM_TOKENS_4BIT,
            Floats::Dense(_) | Floats::FourBit(_) => GEMM_TOKENS,
        }
    }

    /// How a product with few rows reads them.
    pub(crate) fn order(&self) -> Order {
        match self {
            Floats::Dense(weight) => weight.element.order(),
            Floats::FourBit(weight) => weight.order(),
        }
    }
}

/// A matrix `[rows, cols]` one element after the other.
#[derive(Debug, Clone)]
pub(crate) struct Dense {
    element: ElementType,
    rows: usize,
    cols: usize,
    bytes: HostBytes,
}

impl Dense {
    /// `None` where elements of the type are not computed with.
    ///
    /// # Panics
    /// When there are not as many bytes as the matrix has.
    pub(crate) fn new(weight: DenseWeight) -> Option<Self> {
        let DenseWeight {
            dtype,
            rows,
            cols,
            bytes,
        } = weight;
        assert_eq!(
            bytes.len(),
            rows * cols * dtype.size(),
            "a weight of [{rows}, {cols}] {dtype}"
        );
        Some(Dense {
            element: ElementType::of(dtype)?,
            rows,
            cols,
            bytes,
        })
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

/// Widens a row of a weight, times `scale`, into `out`, or adds it.
pub(crate) struct CopyRow<'a> {
    pub(crate) row: DenseView<'a>,
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
