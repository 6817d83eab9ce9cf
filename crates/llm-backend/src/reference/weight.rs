//! Weights as the reference holds them, and products with them.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use llm_quant::{
    ACTIVATION_BLOCK, Activations, Activations8, BlockCodes, Int8Weight, PRODUCT_SCALE, Scheme,
    StoredWeight,
};
use llm_tensor::{DType, HostBytes, PageBuf};

use super::scalar::dot;
use crate::Output;

/// A weight, decoded when it is loaded, or at each use where it lies in a place.
#[derive(Debug)]
pub enum ReferenceWeight {
    /// Decoded.
    Loaded(Decoded),
    /// In a place.
    Placed {
        /// The place's pages.
        pages: Arc<RwLock<PageBuf>>,
        /// Its parts, as ranges of them.
        weight: StoredWeight<Range<usize>>,
        /// The type of activations that it is multiplied with.
        activations: Activations,
    },
}

/// A weight widened to f32.
#[derive(Debug, Clone)]
pub struct Decoded {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) values: Vec<f32>,
    /// Codes that are multiplied in integers; `values` then count in outlier columns.
    int8: Option<Int8Weight>,
    /// True if activations are rounded to blocks of codes before they are multiplied.
    takes_rounded: bool,
}

impl ReferenceWeight {
    /// Its elements, now.
    pub(super) fn decoded(&self) -> Cow<'_, Decoded> {
        match self {
            ReferenceWeight::Loaded(decoded) => Cow::Borrowed(decoded),
            ReferenceWeight::Placed {
                pages,
                weight,
                activations,
            } => {
                let pages = pages.read().unwrap_or_else(PoisonError::into_inner);
                let copied = |_, range: Range<usize>| HostBytes::new(pages[range].to_vec());
                Cow::Owned(Decoded::new(&weight.clone().map(copied), *activations))
            }
        }
    }
}

impl ReferenceWeight {
    /// Some elements of a vector.
    pub(super) fn elements(&self, range: Range<usize>) -> Self {
        match self {
            ReferenceWeight::Loaded(vector) => ReferenceWeight::Loaded(Decoded {
                rows: 1,
                cols: range.len(),
                values: vector.values[range].to_vec(),
                int8: None,
                takes_rounded: false,
            }),
            ReferenceWeight::Placed {
                pages,
                weight,
                activations,
            } => ReferenceWeight::Placed {
                pages: Arc::clone(pages),
                weight: weight.elements(range, |part, bytes| {
                    part.start + bytes.start..part.start + bytes.end
                }),
                activations: *activations,
            },
        }
    }

    /// An element of a vector.
    pub(super) fn element(&self, i: usize) -> f64 {
        f64::from(self.decoded().values[i])
    }
}

impl Decoded {
    /// Of a scheme that [`is_supported`].
    pub(super) fn new(weight: &StoredWeight, activations: Activations) -> Self {
        let values = weight.values();
        Decoded {
            rows: weight.rows,
            cols: weight.cols,
            values: values.expect("the scheme is supported"),
            int8: Int8Weight::of(weight).or_else(|| Int8Weight::of_per_use(weight)),
            takes_rounded: activations.are_rounded_for(weight.scheme),
        }
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..][..self.cols]
    }

    /// Rows of `x` `[n_tokens, cols]` times the weight and plus `bias`, to columns `first..` of `out`
    /// `[n_tokens, out_width]`.
    pub(super) fn multiply(
        &self,
        bias: Option<&Decoded>,
        x: &[f32],
        output: Output,
        (out, out_width, first): (&mut [f32], usize, usize),
    ) {
        let quantized = self.int8.as_ref().map(|int8| {
            let threshold = int8.format().threshold;
            (int8, Activations8::quantize(x, self.cols, threshold))
        });
        for (token, x) in x.chunks_exact(self.cols).enumerate() {
            let out = &mut out[token * out_width + first..][..self.rows];
            let rounded = self.takes_rounded.then(|| rounded(x));
            for (row, out) in out.iter_mut().enumerate() {
                let product = match (&rounded, &quantized) {
                    (Some(rounded), _) => {
                        let products = rounded.iter().zip(self.row(row));
                        products.map(|(x, &w)| x * f64::from(w)).sum()
                    }
                    (None, None) => dot(x, self.row(row)),
                    (None, Some((int8, activations))) => {
                        int8_dot(int8, activations, token, row, x, self.row(row))
                    }
                };
                let sum = product + bias.map_or(0.0, |bias| f64::from(bias.values[row]));
                match output {
                    Output::Write => *out = sum as f32,
                    Output::Add => *out = (f64::from(*out) + sum) as f32,
                }
            }
        }
    }
}

/// Schemes whose elements are numbers that are computed with.
pub(super) fn is_supported(scheme: Scheme) -> bool {
    scheme.elements().is_none_or(DType::is_weight)
}

/// A row of activations as blocks of codes stand for them.
fn rounded(x: &[f32]) -> Vec<f64> {
    let blocks = x.chunks(ACTIVATION_BLOCK).flat_map(|x| {
        let block = BlockCodes::of(x);
        (0..x.len()).map(move |i| block.value(i))
    });
    blocks.collect()
}

/// Row `row` of a weight times row `token` of the activations: integers, but for outlier columns, which take `x` and
/// `wide`.
fn int8_dot(
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
