//! Values of flags that several commands take.

use std::num::NonZeroUsize;

use llm_cuda::Compute;
use llm_plan::WeightDType;
use llm_quant::Activations;
use llm_tensor::{Bytes, DType};

pub(super) fn weight_dtype(text: &str) -> Result<WeightDType, String> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(WeightDType::Auto);
    }
    match text.parse::<DType>() {
        Ok(dtype) if dtype.is_weight() => Ok(WeightDType::As(dtype)),
        _ => Err("expected auto, f32, f16 or bf16".to_owned()),
    }
}

/// Type that devices multiply in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ComputeDType {
    /// f32, whatever a checkpoint's configuration has.
    Auto,
    /// As it is asked for.
    As(DType),
}

impl ComputeDType {
    pub(crate) fn compute(self) -> Compute {
        match self {
            ComputeDType::Auto | ComputeDType::As(DType::F32) => Compute::F32,
            ComputeDType::As(_) => Compute::Half,
        }
    }

    /// What it is to a CPU, which gains nothing from f16.
    pub(crate) fn on_cpu(self) -> llm_cpu::Compute {
        match self {
            ComputeDType::As(DType::BF16) => llm_cpu::Compute::Bf16,
            ComputeDType::Auto | ComputeDType::As(_) => llm_cpu::Compute::F32,
        }
    }
}

pub(super) fn compute_dtype(text: &str) -> Result<ComputeDType, String> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(ComputeDType::Auto);
    }
    match text.parse::<DType>() {
        Ok(dtype @ (DType::F32 | DType::F16 | DType::BF16)) => Ok(ComputeDType::As(dtype)),
        _ => Err("expected auto, f32, f16 or bf16".to_owned()),
    }
}

pub(super) fn activations(text: &str) -> Result<Activations, String> {
    match text.to_ascii_lowercase().as_str() {
        "f32" => Ok(Activations::F32),
        "q8" => Ok(Activations::Q8),
        _ => Err("expected f32 or q8".to_owned()),
    }
}

pub(super) fn shard_size(text: &str) -> Result<Bytes, String> {
    let size = text.parse::<Bytes>().map_err(|error| error.to_string())?;
    if size == Bytes::ZERO {
        return Err("expected a size above 0".to_owned());
    }
    Ok(size)
}

pub(super) fn above_zero(text: &str) -> Result<NonZeroUsize, String> {
    text.parse()
        .map_err(|_| "expected a whole number above 0".to_owned())
}

pub(super) fn token_id(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| "expected token ids, as 1,2,3".to_owned())
}

pub(super) fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("expected a text".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

pub(super) fn float_dtype(text: &str) -> Result<DType, String> {
    let dtype = text.parse::<DType>().ok().filter(|dtype| dtype.is_weight());
    dtype.ok_or_else(|| "expected f32, f16 or bf16".to_owned())
}
