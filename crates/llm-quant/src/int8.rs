//! LLM.int8(): rows of weights and rows of activations in 8 bits, exact integer sums, outlier columns beside them.

pub(crate) mod factors;

use half::f16;
use llm_tensor::HostBytes;

use self::factors::{DEQUANTIZE, PRODUCT_SCALE, code_factor};
use crate::encoder::{Encoder, Scalar};
use crate::floats::{f32_at, largest_magnitude};
use crate::parts::{Part, Parts};
use crate::stored::StoredWeight;
use crate::{Int8, Result, Scheme};

/// A matrix in LLM.int8(), in host memory; bytes may have any alignment.
///
/// Element `[r, c]` is `codes[r · cols + c] · absmax[r] / 127`.
#[derive(Debug, Clone)]
pub struct Int8Weight {
    rows: usize,
    cols: usize,
    format: Int8,
    codes: HostBytes,
    absmax: HostBytes,
}

impl Int8Weight {
    /// The meaning of a stored weight's parts; `None` where it is in another scheme.
    ///
    /// # Panics
    /// When its parts are not as [`StoredWeight::checked`] has them.
    pub fn of(weight: &StoredWeight) -> Option<Self> {
        let Scheme::Int8(format) = weight.scheme else {
            return None;
        };
        let bytes = |part: Part| weight.part(part).clone();
        let shape = (weight.rows, weight.cols);
        let weight = Self::new(shape, format, bytes(Part::Weight), bytes(Part::Scb));
        Some(weight.unwrap_or_else(|flaw| panic!("{flaw}")))
    }

    /// Multiplied form of a weight in [`Scheme::Int8PerUse`]; `None` where it is in another scheme.
    ///
    /// # Panics
    /// When its parts are not as [`StoredWeight::checked`] has them.
    pub fn of_per_use(weight: &StoredWeight) -> Option<Self> {
        let Scheme::Int8PerUse(dtype, format) = weight.scheme else {
            return None;
        };
        let mut codes = vec![0; weight.rows * weight.cols];
        let mut absmax = vec![0.0; weight.rows];
        let elements = weight.part(Part::Weight);
        Scalar.encode_int8(dtype, elements, weight.cols, &mut codes, &mut absmax);
        let absmax: Vec<u8> = absmax.iter().flat_map(|x| x.to_le_bytes()).collect();
        Some(Int8Weight {
            rows: weight.rows,
            cols: weight.cols,
            format,
            codes: HostBytes::new(codes),
            absmax: HostBytes::new(absmax),
        })
    }

    /// A matrix whose bytes are there: `codes` i8 `[rows, cols]`, `absmax` f32 `[rows]` in little-endian.
    ///
    /// # Errors
    /// [`QuantError::Length`](crate::QuantError::Length) when there are not as many.
    pub fn new(
        (rows, cols): (usize, usize),
        format: Int8,
        codes: HostBytes,
        absmax: HostBytes,
    ) -> Result<Self> {
        let weight = Int8Weight {
            rows,
            cols,
            format,
            codes,
            absmax,
        };
        StoredWeight::from(weight.clone()).checked()?;
        Ok(weight)
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The parameters.
    pub fn format(&self) -> Int8 {
        self.format
    }

    /// i8 `[rows, cols]`.
    pub fn codes(&self) -> &HostBytes {
        &self.codes
    }

    /// The largest magnitude of each row, f32 in little-endian, at any alignment.
    pub fn absmax(&self) -> &HostBytes {
        &self.absmax
    }

    /// The largest magnitude of a row.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn scale(&self, row: usize) -> f32 {
        f32_at(&self.absmax, row)
    }

    /// The value of element `i` of all, row by row.
    ///
    /// # Panics
    /// When there is no such element.
    pub fn element(&self, i: usize) -> f32 {
        f32::from(self.codes[i] as i8) * self.scale(i / self.cols) * DEQUANTIZE
    }
}

impl From<Int8Weight> for StoredWeight {
    fn from(weight: Int8Weight) -> Self {
        StoredWeight {
            scheme: Scheme::Int8(weight.format),
            rows: weight.rows,
            cols: weight.cols,
            parts: Parts::from_iter([(Part::Weight, weight.codes), (Part::Scb, weight.absmax)]),
        }
    }
}

/// Activations `[n_tokens, cols]` as LLM.int8() multiplies them.
///
/// They are rounded to f16 first, as the references compute them. An element whose magnitude reaches the threshold is
/// an outlier, and its column an outlier column for all tokens of the call: it is left out of the integer product and
/// multiplied in full precision. A row's scale is its largest magnitude among all elements but the outliers
/// themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct Activations8 {
    /// i8 `[n_tokens, cols]`; zero in outlier columns.
    pub codes: Vec<i8>,
    /// The scale of each row.
    pub absmax: Vec<f32>,
    /// Ascending.
    pub outlier_cols: Vec<usize>,
}

impl Activations8 {
    /// Quantizes rows of `cols` activations. A threshold of 0 means no outliers; what then exceeds f16 counts as its
    /// largest number.
    pub fn quantize(x: &[f32], cols: usize, threshold: f32) -> Self {
        let is_outlier = |a: f32| threshold > 0.0 && a.abs() >= threshold;
        let outlier_cols: Vec<usize> = (0..cols)
            .filter(|&col| {
                let column = x.iter().skip(col).step_by(cols);
                column.copied().any(|a| is_outlier(through_f16(a)))
            })
            .collect();
        let mut codes = Vec::with_capacity(x.len());
        let mut absmax = Vec::with_capacity(x.len() / cols.max(1));
        for row in x.chunks_exact(cols) {
            let inliers = row
                .iter()
                .map(|&a| through_f16(a))
                .filter(|&a| !is_outlier(a));
            let scale = largest_magnitude(inliers);
            let factor = code_factor(scale);
            let first = codes.len();
            let code = |&a: &f32| (through_f16(a) * factor).round_ties_even() as i8;
            codes.extend(row.iter().map(code));
            for &col in &outlier_cols {
                codes[first + col] = 0;
            }
            absmax.push(scale);
        }
        Activations8 {
            codes,
            absmax,
            outlier_cols,
        }
    }
}

/// The activation as the references see it: f16, at most its largest number.
fn through_f16(a: f32) -> f32 {
    f16::from_f32(a).to_f32().clamp(-MAX_F16, MAX_F16)
}

/// The largest f16.
const MAX_F16: f32 = 65504.0;

impl Int8Weight {
    /// Row `row` times one row of activations: the integer product, and the outlier columns in full precision.
    ///
    /// `x` `[cols]` are the activations that `codes` and `absmax` were quantized from.
    pub fn dot(
        &self,
        row: usize,
        codes: &[i8],
        absmax: f32,
        x: &[f32],
        outlier_cols: &[usize],
    ) -> f32 {
        let weights = &self.codes[row * self.cols..][..self.cols];
        let product = weights.iter().zip(codes);
        let sum: i32 = product
            .map(|(&w, &a)| i32::from(w as i8) * i32::from(a))
            .sum();
        let scale = self.scale(row);
        let inliers = sum as f32 * (absmax * scale) * PRODUCT_SCALE;
        let outliers: f64 = outlier_cols
            .iter()
            .map(|&col| {
                let weight = f32::from(weights[col] as i8) * scale * DEQUANTIZE;
                f64::from(x[col]) * f64::from(weight)
            })
            .sum();
        inliers + outliers as f32
    }
}
