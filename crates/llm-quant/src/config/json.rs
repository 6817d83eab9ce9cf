//! The `quantization_config` of `config.json`.

use llm_tensor::DType;
use serde_json::{Map, Value, json};

use super::{LoadIn, QuantConfig};
use crate::fields::{Fields, bad_value, dtype_among, shortened};
use crate::{BlockSize, QuantError, Result};

impl QuantConfig {
    /// Reads what [`QuantConfig::to_json`] writes, and what older versions of the references wrote; `None` where neither
    /// `load_in_4bit` nor `load_in_8bit` is true. A key that is absent has its default.
    ///
    /// # Errors
    /// [`QuantError::UnknownMethod`], [`QuantError::UnknownKey`], [`QuantError::BadValue`].
    pub fn from_json(json: &Map<String, Value>) -> Result<Option<Self>> {
        let fields = Fields(json);
        check_method(fields)?;
        fields.check_keys(&KEYS)?;
        let wanted = |name| load_in(fields, name);
        let load_in = match (wanted(LOAD_IN_4BIT)?, wanted(LOAD_IN_8BIT)?) {
            (true, true) => {
                let expected = format!("false beside a true `{LOAD_IN_4BIT}`");
                return Err(bad_value(LOAD_IN_8BIT, "true".to_owned(), &expected));
            }
            (true, false) => Some(LoadIn::FourBit),
            (false, true) => Some(LoadIn::EightBit),
            (false, false) => None,
        };
        // What is wrong is wrong, even where it would not be used.
        let default = QuantConfig::new(load_in.unwrap_or(LoadIn::EightBit));
        let config = QuantConfig {
            load_in: default.load_in,
            llm_int8_threshold: fields
                .optional(THRESHOLD, "a number from 0 on", threshold)?
                .unwrap_or(default.llm_int8_threshold),
            llm_int8_skip_modules: fields
                .optional(
                    SKIP_MODULES,
                    "null or a list of at most 4096 modules' names",
                    skip_modules,
                )?
                .flatten(),
            llm_int8_enable_fp32_cpu_offload: fields.flag(CPU_OFFLOAD)?,
            llm_int8_has_fp16_weight: fields.flag(FP16_WEIGHT)?,
            bnb_4bit_compute_dtype: fields
                .optional(COMPUTE_DTYPE, &names(&COMPUTE_DTYPES), |value| {
                    or_null(value, |value| dtype_among(value, &COMPUTE_DTYPES))
                })?
                .flatten()
                .unwrap_or(default.bnb_4bit_compute_dtype),
            bnb_4bit_quant_type: fields
                .optional(QUANT_TYPE, "nf4 or fp4", |value| {
                    value.as_str()?.parse().ok()
                })?
                .unwrap_or(default.bnb_4bit_quant_type),
            bnb_4bit_use_double_quant: fields.flag(DOUBLE_QUANT)?,
            bnb_4bit_quant_storage: fields
                .optional(QUANT_STORAGE, &names(&STORAGE_DTYPES), |value| {
                    or_null(value, |value| dtype_among(value, &STORAGE_DTYPES))
                })?
                .flatten()
                .unwrap_or(default.bnb_4bit_quant_storage),
            block_size: fields
                .optional(BLOCK_SIZE, BlockSize::EXPECTED, |value| {
                    BlockSize::new(value.as_u64()?)
                })?
                .unwrap_or(default.block_size),
        };
        let skipped = config.llm_int8_skip_modules.as_deref();
        Self::check_skip_modules(skipped.unwrap_or_default())?;
        Ok(load_in.map(|_| config))
    }

    /// JSON of `save_pretrained` in transformers 5.23: the same keys in the same order. The block size, which it does
    /// not know, is there only when it is not the default.
    pub fn to_json(&self) -> Value {
        let four_bit = self.load_in == LoadIn::FourBit;
        let block_size = (self.block_size != BlockSize::DEFAULT)
            .then(|| (BLOCK_SIZE, json!(self.block_size.get())));
        let entries = [
            ("_load_in_4bit", json!(four_bit)),
            ("_load_in_8bit", json!(!four_bit)),
        ]
        .into_iter()
        .chain(block_size)
        .chain([
            (
                COMPUTE_DTYPE,
                json!(self.bnb_4bit_compute_dtype.torch_name()),
            ),
            (
                QUANT_STORAGE,
                json!(self.bnb_4bit_quant_storage.torch_name()),
            ),
            (QUANT_TYPE, json!(self.bnb_4bit_quant_type.name())),
            (DOUBLE_QUANT, json!(self.bnb_4bit_use_double_quant)),
            (CPU_OFFLOAD, json!(self.llm_int8_enable_fp32_cpu_offload)),
            (FP16_WEIGHT, json!(self.llm_int8_has_fp16_weight)),
            (SKIP_MODULES, json!(self.llm_int8_skip_modules)),
            (THRESHOLD, json!(shortest(self.llm_int8_threshold))),
            (LOAD_IN_4BIT, json!(four_bit)),
            (LOAD_IN_8BIT, json!(!four_bit)),
            (QUANT_METHOD, json!(BITSANDBYTES)),
        ]);
        entries
            .map(|(key, value)| (key.to_owned(), value))
            .collect::<Map<_, _>>()
            .into()
    }
}

fn check_method(fields: Fields<'_>) -> Result<()> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match fields.optional(QUANT_METHOD, BITSANDBYTES, text)? {
        Some(found) if found != BITSANDBYTES => Err(QuantError::UnknownMethod {
            found: shortened(found),
        }),
        _ => Ok(()),
    }
}

/// A wish, which newer files hold a second time, with an underscore before its name.
fn load_in(fields: Fields<'_>, name: &str) -> Result<bool> {
    let wanted = fields.flag(name)?;
    let expected = format!("{wanted}, as `{name}` is");
    fields.optional(&format!("_{name}"), &expected, |value| {
        (value.as_bool()? == wanted).then_some(())
    })?;
    Ok(wanted)
}

fn threshold(value: &Value) -> Option<f32> {
    let threshold = value.as_f64()? as f32;
    (threshold >= 0.0 && threshold.is_finite()).then_some(threshold)
}

fn skip_modules(value: &Value) -> Option<Option<Vec<String>>> {
    let name = |value: &Value| value.as_str().map(str::to_owned);
    or_null(value, |value| {
        let list = value.as_array().filter(|list| list.len() <= MAX_SKIPPED)?;
        list.iter().map(name).collect()
    })
}

/// Ten times as many as the longest lists have: each is tried on each matrix.
const MAX_SKIPPED: usize = 4096;

fn or_null<T>(value: &Value, parse: impl FnOnce(&Value) -> Option<T>) -> Option<Option<T>> {
    if value.is_null() {
        return Some(None);
    }
    parse(value).map(Some)
}

fn names(dtypes: &[DType]) -> String {
    let names: Vec<_> = dtypes.iter().map(|dtype| dtype.torch_name()).collect();
    format!("one of {}", names.join(", "))
}

/// The number that has the fewest digits of those that are `x` in f32: 3.3, not 3.299999952316284.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

const QUANT_METHOD: &str = "quant_method";
const BITSANDBYTES: &str = "bitsandbytes";
const LOAD_IN_4BIT: &str = "load_in_4bit";
const LOAD_IN_8BIT: &str = "load_in_8bit";
const THRESHOLD: &str = "llm_int8_threshold";
const SKIP_MODULES: &str = "llm_int8_skip_modules";
const CPU_OFFLOAD: &str = "llm_int8_enable_fp32_cpu_offload";
const FP16_WEIGHT: &str = "llm_int8_has_fp16_weight";
const COMPUTE_DTYPE: &str = "bnb_4bit_compute_dtype";
const QUANT_TYPE: &str = "bnb_4bit_quant_type";
const DOUBLE_QUANT: &str = "bnb_4bit_use_double_quant";
const QUANT_STORAGE: &str = "bnb_4bit_quant_storage";
/// Ours.
const BLOCK_SIZE: &str = "bnb_4bit_blocksize";

/// Every key that is understood; the two with an underscore repeat what others say.
const KEYS: [&str; 14] = [
    LOAD_IN_4BIT,
    LOAD_IN_8BIT,
    THRESHOLD,
    SKIP_MODULES,
    CPU_OFFLOAD,
    FP16_WEIGHT,
    COMPUTE_DTYPE,
    QUANT_TYPE,
    DOUBLE_QUANT,
    QUANT_STORAGE,
    BLOCK_SIZE,
    QUANT_METHOD,
    "_load_in_4bit",
    "_load_in_8bit",
];

const COMPUTE_DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const STORAGE_DTYPES: [DType; 6] = [
    DType::U8,
    DType::I8,
    DType::F16,
    DType::BF16,
    DType::F32,
    DType::F64,
];
