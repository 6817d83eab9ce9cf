//! Weights as the reference holds them, and their products in integers.

use llm_quant::{Activations8, Encoder, Int8, Int8Weight, PRODUCT_SCALE, Scalar};
use llm_tensor::{HostBytes, le_bytes_to_f32};

use super::Reference;
use crate::{BackendError, DenseWeight, Result};

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
    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..][..self.cols]
    }
}

impl Reference {
    pub(super) fn widened(&self, weight: &DenseWeight) -> Result<ReferenceWeight> {
        let DenseWeight {
            dtype,
            rows,
            cols,
            ref bytes,
        } = *weight;
        assert_eq!(
            bytes.len(),
            rows * cols * dtype.size(),
            "a weight of [{rows}, {cols}] {dtype}"
        );
        let mut values = vec![0.0; rows * cols];
        le_bytes_to_f32(dtype, bytes, &mut values).map_err(|_| {
            BackendError::UnsupportedWeight {
                device: self.info.name.clone(),
                dtype,
            }
        })?;
        Ok(ReferenceWeight {
            rows,
            cols,
            values,
            int8: None,
        })
    }
}

/// A dense weight in LLM.int8().
pub(crate) fn encoded(weight: &DenseWeight, format: Int8) -> Int8Weight {
    let mut codes = vec![0; weight.rows * weight.cols];
    let mut absmax = vec![0f32; weight.rows];
    Scalar.encode_int8(
        weight.dtype,
        &weight.bytes,
        weight.cols,
        &mut codes,
        &mut absmax,
    );
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
