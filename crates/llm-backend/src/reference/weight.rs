//! Weights as the reference holds them, and their products in integers.

use llm_quant::{
    Activations8, Encoder, Int8, Int8Weight, PRODUCT_SCALE, Part, Scalar, Scheme, StoredWeight,
};
use llm_tensor::{DType, HostBytes};

/// A weight widened to f32.
#[derive(Debug)]
pub struct ReferenceWeight {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) values: Vec<f32>,
    /// What is multiplied in integers; `values` then count in outlier columns.
    pub(super) int8: Option<Int8Weight>,
}

impl ReferenceWeight {
    /// `None` where its elements are no numbers.
    pub(super) fn new(weight: &StoredWeight) -> Option<Self> {
        Some(ReferenceWeight {
            rows: weight.rows,
            cols: weight.cols,
            values: weight.values().ok()?,
            int8: match weight.scheme {
                Scheme::Int8(_) => Int8Weight::of(weight),
                Scheme::Int8PerUse(dtype, format) => Some(encoded(weight, dtype, format)),
                Scheme::Dense(_) | Scheme::FourBit(_) => None,
            },
        })
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..][..self.cols]
    }
}

/// A weight of dense elements of `dtype` in LLM.int8().
pub(crate) fn encoded(weight: &StoredWeight, dtype: DType, format: Int8) -> Int8Weight {
    let mut codes = vec![0; weight.rows * weight.cols];
    let mut absmax = vec![0f32; weight.rows];
    let elements = weight.part(Part::Weight);
    Scalar.encode_int8(dtype, elements, weight.cols, &mut codes, &mut absmax);
    let absmax: Vec<u8> = absmax
        .iter()
        .flat_map(|scale| scale.to_le_bytes())
        .collect();
    let (codes, absmax) = (HostBytes::new(codes), HostBytes::new(absmax));
    Int8Weight::new((weight.rows, weight.cols), format, codes, absmax)
        .expect("as many codes as elements")
}

/// Row `row` of a weight times row `token` of the activations: integers, but for outlier columns, which take `x` and
/// `wide`.
pub(super) fn int8_dot(
    weight: &Int8Weight,
    activations: &Activations8,
    token: usize,
    row: usize,
    x: &[f32],
    wide: &[f32],
) -> f64 {
    let cols = weight.cols();
    let codes = &activations.codes[token * cols..][..cols];
    let weights = &weight.codes()[row * cols..][..cols];
    let products = weights.iter().zip(codes);
    let sum: i64 = products
        .map(|(&w, &a)| i64::from(w as i8) * i64::from(a))
        .sum();
    let scales = f64::from(activations.absmax[token]) * f64::from(weight.scale(row));
    let outliers = activations.outlier_cols.iter();
    let outliers: f64 = outliers
        .map(|&col| f64::from(x[col]) * f64::from(wide[col]))
        .sum();
    sum as f64 * scales * f64::from(PRODUCT_SCALE) + outliers
}
