//! How bitsandbytes lays a quantized matrix into a checkpoint: `X.weight`, and other tensors beside it.
//!
//! A 4-bit matrix is its packed codes `X.weight`, whose shape says nothing about the matrix, and `X.weight.absmax`,
//! `X.weight.quant_map` (the values of the codes) and `X.weight.quant_state.bitsandbytes__nf4` or `__fp4`, a
//! [`QuantState`] in JSON. With double quantization `absmax` are 8-bit codes, and `X.weight.nested_absmax` and
//! `X.weight.nested_quant_map` give their values. An 8-bit matrix is `X.weight`, `X.SCB` (its rows' scales) and
//! `X.weight_format`.

mod state;

use llm_tensor::DType;

use crate::double::NESTED_BLOCK;
use crate::{Code, QuantError, Result, Scheme};

pub use state::{MAX_JSON, QuantState};

/// What a tensor is of a matrix that is kept in a [`Scheme`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The elements, or their codes.
    Weight,
    /// The scales of 4-bit blocks, or their codes.
    Absmax,
    /// The value of each 4-bit code.
    QuantMap,
    /// The scales of groups of doubly quantized scales.
    NestedAbsmax,
    /// The value of each code of a doubly quantized scale.
    NestedQuantMap,
    /// A [`QuantState`] in JSON.
    State(Code),
    /// The scales of 8-bit rows.
    Scb,
    /// The order that 8-bit elements lie in: see [`check_weight_format`].
    WeightFormat,
}

/// A part with what a checkpoint declares of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartInfo {
    /// Which.
    pub part: Part,
    /// The declared element type.
    pub dtype: DType,
    /// The declared shape. That of [`Part::State`] is what we write, [`MAX_JSON`]; others write as many bytes as there
    /// are.
    pub dims: Vec<u64>,
}

impl Part {
    /// All, the weight last, since it is what no other is.
    pub const ALL: [Part; 9] = [
        Part::Absmax,
        Part::QuantMap,
        Part::NestedAbsmax,
        Part::NestedQuantMap,
        Part::State(Code::Nf4),
        Part::State(Code::Fp4),
        Part::Scb,
        Part::WeightFormat,
        Part::Weight,
    ];

    /// What stands behind the name of the module, `X.`.
    const fn suffix(self) -> &'static str {
        match self {
            Part::Weight => "weight",
            Part::Absmax => "weight.absmax",
            Part::QuantMap => "weight.quant_map",
            Part::NestedAbsmax => "weight.nested_absmax",
            Part::NestedQuantMap => "weight.nested_quant_map",
            Part::State(Code::Nf4) => "weight.quant_state.bitsandbytes__nf4",
            Part::State(Code::Fp4) => "weight.quant_state.bitsandbytes__fp4",
            Part::Scb => "SCB",
            Part::WeightFormat => "weight_format",
        }
    }

    /// The name of the part of the matrix `weight`.
    ///
    /// # Panics
    /// When that is not called `X.weight`; only such matrices are quantized.
    pub fn name(self, weight: &str) -> String {
        let module = weight.strip_suffix(Part::Weight.suffix());
        let module = module.filter(|module| module.is_empty() || module.ends_with('.'));
        let module = module.unwrap_or_else(|| panic!("`{weight}` is not called X.weight"));
        format!("{module}{}", self.suffix())
    }

    /// The matrix that a tensor belongs to, `X.weight`, and as what; `None` for what no quantized matrix has.
    pub fn of_name(name: &str) -> Option<(String, Part)> {
        Part::ALL.into_iter().find_map(|part| {
            let module = name.strip_suffix(part.suffix())?;
            let whole = module.is_empty() || module.ends_with('.');
            whole.then(|| (format!("{module}{}", Part::Weight.suffix()), part))
        })
    }
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
pub fn parts(scheme: Scheme, rows: u64, cols: u64, storage: DType) -> Result<Vec<PartInfo>> {
    let n = rows
        .checked_mul(cols)
        .expect("a matrix has fewer than 2^64 elements");
    let info = |part, dtype, dims: &[u64]| PartInfo {
        part,
        dtype,
        dims: dims.to_vec(),
    };
    Ok(match scheme {
        Scheme::Dense(dtype) | Scheme::Int8PerUse(dtype, _) => {
            vec![info(Part::Weight, dtype, &[rows, cols])]
        }
        Scheme::Int8(_) => vec![
            info(Part::Weight, DType::I8, &[rows, cols]),
            info(Part::Scb, DType::F32, &[rows]),
            info(Part::WeightFormat, DType::U8, &[]),
        ],
        Scheme::FourBit(format) => {
            let (n_bytes, size) = (n.div_ceil(2), storage.size() as u64);
            if !n_bytes.is_multiple_of(size) {
                return Err(QuantError::Storage { n_bytes, storage });
            }
            let n_blocks = format.n_blocks(n);
            let scales = if format.double_quant {
                DType::U8
            } else {
                DType::F32
            };
            let mut parts = vec![
                info(Part::Weight, storage, &[n_bytes / size, 1]),
                info(Part::Absmax, scales, &[n_blocks]),
                info(Part::QuantMap, DType::F32, &[16]),
            ];
            if format.double_quant {
                let n_groups = n_blocks.div_ceil(NESTED_BLOCK as u64);
                parts.push(info(Part::NestedAbsmax, DType::F32, &[n_groups]));
                parts.push(info(Part::NestedQuantMap, DType::F32, &[256]));
            }
            parts.push(info(
                Part::State(format.code),
                DType::U8,
                &[MAX_JSON as u64],
            ));
            parts
        }
    })
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
