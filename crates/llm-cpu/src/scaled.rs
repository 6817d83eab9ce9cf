//! Weights of 8-bit floating-point numbers, and of codes in groups, as they are stored.

use llm_quant::{Fp8Rows, GroupedRows, Scheme, StoredWeight};

use crate::pieces::Pieces;

/// A matrix of codes or short numbers with scales beside them.
#[derive(Debug, Clone)]
pub(crate) struct Scaled(StoredWeight);

impl Scaled {
    /// `None` for another scheme.
    ///
    /// # Panics
    /// When a part has not as many bytes as the scheme gives it.
    pub(crate) fn of(weight: &StoredWeight) -> Option<Self> {
        if let Err(error) = weight.clone().checked() {
            panic!("{error}");
        }
        Rows::of(weight)?;
        Some(Scaled(weight.clone()))
    }

    pub(crate) fn rows(&self) -> usize {
        self.0.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.0.cols
    }

    pub(crate) fn view(&self) -> ScaledView<'_> {
        ScaledView {
            rows: self.0.rows,
            cols: self.0.cols,
            parts: Rows::of(&self.0).expect("the scheme was looked at"),
        }
    }
}

/// A [`Scaled`] whose bytes have been looked up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScaledView<'a> {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    parts: Rows<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Rows<'a> {
    Fp8(Fp8Rows<'a>),
    Grouped(GroupedRows<'a>),
}

impl<'a> Rows<'a> {
    fn of(weight: &'a StoredWeight) -> Option<Self> {
        match weight.scheme {
            Scheme::Fp8(format) => Some(Rows::Fp8(Fp8Rows::new(weight, format))),
            Scheme::Grouped(_) => GroupedRows::of(weight).map(Rows::Grouped),
            Scheme::Dense(_)
            | Scheme::Int8(_)
            | Scheme::Int8PerUse(..)
            | Scheme::FourBit(_)
            | Scheme::Ggml(_) => None,
        }
    }
}

impl Pieces for ScaledView<'_> {
    fn cols(&self) -> usize {
        self.cols
    }

    fn decode(&self, row: usize, first: usize, out: &mut [f32]) {
        match &self.parts {
            Rows::Fp8(rows) => rows.decode(row, first, out),
            Rows::Grouped(rows) => rows.decode(row, first, out),
        }
    }
}
