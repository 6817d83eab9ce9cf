//! The JSON beside a 4-bit matrix.

use llm_tensor::DType;
use serde_json::{Map, Value};

use crate::double::NESTED_BLOCK;
use crate::fields::{Fields, dtype_among};
use crate::{BlockSize, Code, FourBit, QuantError, Result};

/// Bytes that the JSON of any [`QuantState`] takes at most, and those that [`QuantState::to_json_padded`] has.
pub const MAX_JSON: usize = 256;

/// State of a 4-bit matrix in a checkpoint, as JSON in a tensor of bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantState {
    /// Values of the codes.
    pub code: Code,
    /// Elements that share a scale.
    pub block_size: BlockSize,
    /// Original element type: f32, f16 or bf16.
    pub dtype: DType,
    /// Output and input features; their product fits 64 bits.
    pub shape: [u64; 2],
    /// Offset of all scales with double quantization; finite. Groups of scales are always of [`NESTED_BLOCK`].
    pub nested_offset: Option<f32>,
}

impl QuantState {
    /// Reads what [`QuantState::to_json`] writes, in any order and with any white space.
    ///
    /// # Errors
    /// [`QuantError::NoState`], [`QuantError::UnknownKey`], [`QuantError::BadValue`].
    pub fn parse(json: &[u8]) -> Result<Self> {
        let no_state = |reason: String| QuantError::NoState {
            limit: MAX_PARSED,
            reason,
        };
        if json.len() > MAX_PARSED {
            return Err(no_state(format!("it has {}", json.len())));
        }
        let object: Map<String, Value> =
            serde_json::from_slice(json).map_err(|error| no_state(error.to_string()))?;
        let fields = Fields(&object);
        fields.check_keys(&[&KEYS[..], &NESTED_KEYS[..]].concat())?;
        let [quant_type, block_size, dtype, shape] = KEYS;
        Ok(QuantState {
            code: fields.required(quant_type, "nf4 or fp4", |v| v.as_str()?.parse().ok())?,
            block_size: fields.required(block_size, BlockSize::EXPECTED, |v| {
                BlockSize::new(v.as_u64()?)
            })?,
            dtype: fields.required(dtype, "float32, float16 or bfloat16", |v| {
                dtype_among(v, &[DType::F32, DType::F16, DType::BF16])
            })?,
            shape: fields.required(shape, "two extents of fewer than 2^64 elements", extents)?,
            nested_offset: nested_offset(fields)?,
        })
    }

    /// The JSON, byte for byte as Python's `json.dumps` has it.
    ///
    /// # Panics
    /// When the offset is not finite.
    pub fn to_json(&self) -> Vec<u8> {
        let QuantState {
            code,
            block_size,
            dtype,
            shape: [rows, cols],
            nested_offset,
        } = self;
        let dtype = dtype.torch_name();
        let nested = nested_offset.map_or_else(String::new, |offset| {
            assert!(offset.is_finite(), "an offset of {offset} has no JSON");
            let offset = python_repr(offset.into());
            format!(
                r#", "nested_blocksize": {NESTED_BLOCK}, "nested_dtype": "float32", "nested_offset": {offset}"#
            )
        });
        let json = format!(
            r#"{{"quant_type": "{code}", "blocksize": {block_size}, "dtype": "{dtype}", "shape": [{rows}, {cols}]{nested}}}"#
        );
        json.into_bytes()
    }

    /// [`QuantState::to_json`] with spaces behind it, [`MAX_JSON`] bytes in all, so that a tensor can be given its place
    /// before the offset is known. JSON parsers pass over them.
    ///
    /// # Panics
    /// When the offset is not finite.
    pub fn to_json_padded(&self) -> Vec<u8> {
        let mut json = self.to_json();
        assert!(json.len() <= MAX_JSON, "the longest state fits");
        json.resize(MAX_JSON, b' ');
        json
    }

    /// The encoding.
    pub fn format(&self) -> FourBit {
        FourBit {
            code: self.code,
            block_size: self.block_size,
            double_quant: self.nested_offset.is_some(),
        }
    }
}

/// The keys of double quantization are there together or not at all.
fn nested_offset(fields: Fields<'_>) -> Result<Option<f32>> {
    if !NESTED_KEYS.iter().any(|&key| fields.0.contains_key(key)) {
        return Ok(None);
    }
    let [block_size, dtype, offset] = NESTED_KEYS;
    fields.required(block_size, "256", |v| {
        (v.as_u64()? == NESTED_BLOCK as u64).then_some(())
    })?;
    fields.required(dtype, "float32", |v| dtype_among(v, &[DType::F32]))?;
    let offset = fields.required(offset, "a number that fits 32 bits", |v| {
        let offset = v.as_f64()? as f32;
        offset.is_finite().then_some(offset)
    })?;
    Ok(Some(offset))
}

fn extents(value: &Value) -> Option<[u64; 2]> {
    let [rows, cols] = value.as_array()?.as_slice() else {
        return None;
    };
    let (rows, cols) = (rows.as_u64()?, cols.as_u64()?);
    rows.checked_mul(cols).map(|_| [rows, cols])
}

/// A finite number as Python prints it: the fewest digits that read back as the same, with an exponent of at least two
/// digits below 1e-4 and from 1e16 on.
fn python_repr(x: f64) -> String {
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific
        .split_once('e')
        .expect("Rust writes the exponent");
    let exponent: i32 = exponent.parse().expect("Rust writes a whole exponent");
    if (-4..16).contains(&exponent) {
        return format!("{x:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

const KEYS: [&str; 4] = ["quant_type", "blocksize", "dtype", "shape"];
const NESTED_KEYS: [&str; 3] = ["nested_blocksize", "nested_dtype", "nested_offset"];

/// Longer than anyone writes it, with any white space.
const MAX_PARSED: usize = 4096;

#[cfg(test)]
mod tests;
