//! Checkpoint layout of a quantized matrix in bitsandbytes: `X.weight`, and other tensors beside it.
//!
//! A 4-bit matrix is its packed codes `X.weight`, whose shape says nothing about the matrix, and `X.weight.absmax`,
//! `X.weight.quant_map` (the values of the codes) and `X.weight.quant_state.bitsandbytes__nf4` or `__fp4`, a
//! [`QuantState`] in JSON. With double quantization `absmax` are 8-bit codes, and `X.weight.nested_absmax` and
//! `X.weight.nested_quant_map` give their values. An 8-bit matrix is `X.weight`, `X.SCB` (its rows' scales) and
//! `X.weight_format`.

mod state;

use llm_tensor::DType;

use crate::parts::Part;
use crate::{QuantError, Result, Scheme};

pub use state::{MAX_JSON, QuantState};

/// A tensor that a checkpoint has of a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartTensor {
    /// Its meaning.
    pub part: Part,
    /// The declared element type.
    pub dtype: DType,
    /// The declared shape. That of [`Part::State`] is what we write, [`MAX_JSON`]; others write as many bytes as there
    /// are.
    pub dims: Vec<u64>,
}

/// The tensors of a matrix `[rows, cols]`: what a writer declares, and what a reader should find. `storage` is
/// `bnb_4bit_quant_storage`, the element type that packed 4-bit codes are declared to be of.
///
/// LLM.int8() over 16-bit weights is made at each use, so that a checkpoint has them alone.
///
/// # Errors
/// [`QuantError::Storage`] when the codes' bytes are no whole number of `storage` elements, which bitsandbytes refuses,
/// too.
///
/// # Panics
/// When `rows · cols` exceeds 64 bits.
pub fn tensors(scheme: Scheme, rows: u64, cols: u64, storage: DType) -> Result<Vec<PartTensor>> {
    rows.checked_mul(cols)
        .expect("a matrix has fewer than 2^64 elements");
    let tensor = |part, dtype, dims: &[u64]| PartTensor {
        part,
        dtype,
        dims: dims.to_vec(),
    };
    let mut tensors = Vec::new();
    for (part, info) in scheme.parts(rows, cols) {
        tensors.push(match (part, scheme) {
            (Part::Weight, Scheme::FourBit(_)) => {
                let (n_bytes, size) = (info.bytes, storage.size() as u64);
                if !n_bytes.is_multiple_of(size) {
                    return Err(QuantError::Storage { n_bytes, storage });
                }
                tensor(part, storage, &[n_bytes / size, 1])
            }
            (Part::Weight, Scheme::Grouped(format)) => {
                tensor(part, info.dtype, &[rows, format.row_bytes(cols)])
            }
            (Part::Weight, _) => tensor(part, info.dtype, &[rows, cols]),
            (part, _) if part.is_in_files() => {
                tensor(part, info.dtype, &[info.bytes / info.dtype.size() as u64])
            }
            _ => continue,
        });
    }
    match scheme {
        Scheme::Dense(_)
        | Scheme::Int8PerUse(..)
        | Scheme::Ggml(_)
        | Scheme::Fp8(_)
        | Scheme::Grouped(_) => {}
        Scheme::Int8(_) => tensors.push(tensor(Part::WeightFormat, DType::U8, &[])),
        Scheme::FourBit(format) => {
            let state = Part::State(format.code);
            tensors.push(tensor(state, DType::U8, &[MAX_JSON as u64]));
        }
    }
    Ok(tensors)
}

/// Checks the one byte of [`Part::WeightFormat`]. A file that lacks it has its rows one after the other.
///
/// # Errors
/// [`QuantError::WeightFormat`] unless it says the same.
pub fn check_weight_format(format: u8) -> Result<()> {
    let found = match format {
        0 => return Ok(()),
        1 => "col32".to_owned(),
        2 => "col_turing".to_owned(),
        3 => "col_ampere".to_owned(),
        unknown => format!("number {unknown}"),
    };
    Err(QuantError::WeightFormat { found })
}

#[cfg(test)]
mod tests;
