//! User's options, in the words of `BitsAndBytesConfig`.

mod json;
mod skip;
#[cfg(test)]
mod tests;

use llm_tensor::DType;

use crate::fields::shortened;
use crate::{BlockSize, Code, FourBit, Int8, QuantError, Result, Scheme};

/// Quantization of a model: every option of `BitsAndBytesConfig`, under its name.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantConfig {
    /// `load_in_8bit` or `load_in_4bit`.
    pub load_in: LoadIn,
    /// Magnitude from which on an activation is an outlier.
    pub llm_int8_threshold: f32,
    /// Modules that are not quantized, instead of those that are not by default: each by the end of its name, or by a
    /// regular expression of Python's that matches the beginning of it up to a dot.
    pub llm_int8_skip_modules: Option<Vec<String>>,
    /// True if modules that compute on the CPU stay in f32 instead of being quantized.
    pub llm_int8_enable_fp32_cpu_offload: bool,
    /// True if 8-bit weights stay in 16 bits and are quantized at each use.
    pub llm_int8_has_fp16_weight: bool,
    /// Type in which 4-bit weights are multiplied; a device may compute more exactly.
    pub bnb_4bit_compute_dtype: DType,
    /// Values of the codes.
    pub bnb_4bit_quant_type: Code,
    /// True if scales are quantized themselves.
    pub bnb_4bit_use_double_quant: bool,
    /// The element type that files declare packed codes to be of.
    pub bnb_4bit_quant_storage: DType,
    /// Elements that share a scale. No option of `BitsAndBytesConfig`, which knows 64 alone; files carry it.
    pub block_size: BlockSize,
}

/// Kind of quantization that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadIn {
    /// LLM.int8().
    EightBit,
    /// NF4 or FP4.
    FourBit,
}

impl QuantConfig {
    /// The defaults of `BitsAndBytesConfig`.
    pub fn new(load_in: LoadIn) -> Self {
        QuantConfig {
            load_in,
            llm_int8_threshold: 6.0,
            llm_int8_skip_modules: None,
            llm_int8_enable_fp32_cpu_offload: false,
            llm_int8_has_fp16_weight: false,
            bnb_4bit_compute_dtype: DType::F32,
            bnb_4bit_quant_type: Code::Fp4,
            bnb_4bit_use_double_quant: false,
            bnb_4bit_quant_storage: DType::U8,
            block_size: BlockSize::DEFAULT,
        }
    }

    /// The scheme of the matrices that are quantized.
    pub fn scheme(&self) -> Scheme {
        match self.load_in {
            LoadIn::EightBit => {
                let format = Int8 {
                    threshold: self.llm_int8_threshold,
                };
                if self.llm_int8_has_fp16_weight {
                    Scheme::Int8PerUse(DType::F16, format)
                } else {
                    Scheme::Int8(format)
                }
            }
            LoadIn::FourBit => Scheme::FourBit(FourBit {
                code: self.bnb_4bit_quant_type,
                block_size: self.block_size,
                double_quant: self.bnb_4bit_use_double_quant,
            }),
        }
    }

    /// True if the user's list names a module; `None` where there is no list and the defaults hold.
    pub fn skips(&self, module: &str) -> Option<bool> {
        let patterns = self.llm_int8_skip_modules.as_ref()?;
        let is_named = |pattern: &String| skip::names(pattern, module);
        Some(patterns.iter().any(is_named))
    }

    /// Looks whether the list of modules that are not quantized is understood.
    ///
    /// # Errors
    /// [`QuantError::SkipModule`].
    pub fn check_skip_modules(modules: &[String]) -> Result<()> {
        for module in modules {
            if let Some(reason) = skip::flaw(module) {
                return Err(QuantError::SkipModule {
                    module: shortened(module.clone()),
                    reason,
                });
            }
        }
        Ok(())
    }
}
