//! The `quantization_config` of published checkpoints that are not bitsandbytes': what of it decides how tensors are read, and
//! what is refused.

use llm_checkpoint::Checkpoint;
use llm_quant::{Grouped, Scheme};
use serde_json::{Map, Value};

use crate::scaled::Float8;

mod compressed;
pub(crate) mod form;
mod keys;
mod schemes;

pub(crate) use self::compressed::Compressed;
pub(crate) use self::keys::GroupSize;
use self::keys::{Keys, Parsed};
use self::schemes::FP8;

/// A format of published checkpoints.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Published {
    /// 8-bit floating-point numbers with scales.
    Float8(Float8),
    /// The experts of gpt-oss.
    Mxfp4,
    /// NVFP4 and fp8 of NVIDIA's modelopt; what all matrices are in, if that is one of them.
    ModelOpt(Option<Scheme>),
    /// compressed-tensors.
    Compressed(Compressed),
    Gptq(Gptq),
    /// Its columns of a group.
    Awq(GroupSize),
}

/// Facts about GPTQ's matrices that their tensors do not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gptq {
    /// Bits of a code.
    pub(crate) bits: u32,
    /// Columns of a group.
    pub(crate) group_size: GroupSize,
    /// True if columns belong to groups in another order than their own.
    pub(crate) desc_act: bool,
    /// Number that each word of zeros is stored less. It is subtracted from the word, so that a zero of 0 borrows from its
    /// neighbour.
    pub(crate) zeros_plus: u32,
}

impl Published {
    /// Reads a `quantization_config`; `None` for another library's.
    ///
    /// # Errors
    /// [`QuantError::UnknownKey`], [`QuantError::BadValue`].
    pub(crate) fn from_json(json: &Map<String, Value>) -> Parsed<Option<Self>> {
        let method = json.get("quant_method").and_then(Value::as_str);
        let keys = Keys(json);
        Ok(Some(match method {
            Some("mxfp4") => {
                keys.known(&["quant_method", "modules_to_not_convert", "dequantize"])?;
                Published::Mxfp4
            }
            Some("modelopt") => modelopt(keys)?,
            Some("compressed-tensors") => Published::Compressed(Compressed::from_json(json)?),
            Some("gptq") => Published::Gptq(gptq(keys)?),
            Some("awq") => Published::Awq(awq(keys)?),
            _ => return Ok(Float8::from_json(json)?.map(Published::Float8)),
        }))
    }

    /// Rows and columns that share a scale of 8-bit floating-point numbers, where the configuration says it.
    pub(crate) fn block_size(&self) -> Option<[u64; 2]> {
        match self {
            Published::Float8(float8) => float8.block_size,
            Published::Compressed(compressed) => compressed.block_size,
            Published::Mxfp4 | Published::ModelOpt(_) | Published::Gptq(_) | Published::Awq(_) => {
                None
            }
        }
    }

    /// Quantization of activations, which is not applied: a key and its value.
    pub(crate) fn activations(&self) -> Option<&str> {
        match self {
            Published::Float8(float8) => float8.activations.as_deref(),
            Published::Compressed(compressed) => compressed.activations.as_deref(),
            Published::Mxfp4 | Published::ModelOpt(_) | Published::Gptq(_) | Published::Awq(_) => {
                None
            }
        }
    }
}

/// The names of scales of keys and values, which are not quantized.
pub(crate) fn kv_scales(checkpoint: &Checkpoint) -> Vec<String> {
    let is_scale = |name: &str| {
        let last = name.rsplit('.').next().unwrap_or(name);
        matches!(last, "k_scale" | "v_scale" | "q_scale")
    };
    let names = checkpoint.tensors().map(|tensor| &tensor.name);
    names.filter(|name| is_scale(name)).cloned().collect()
}

/// NVFP4 and fp8 are told by their tensors.
fn modelopt(keys: Keys<'_>) -> Parsed<Published> {
    keys.known(&[
        "quant_method",
        "quant_algo",
        "producer",
        "config_groups",
        "ignore",
        "exclude_modules",
        "group_size",
        "kv_cache_scheme",
        "kv_cache_quant_algo",
    ])?;
    let algorithms = ["NVFP4", "FP8", "MIXED_PRECISION"];
    let scheme = match keys.one_of("quant_algo", &algorithms)? {
        Some("NVFP4") => Some(Scheme::Grouped(Grouped::NVFP4)),
        Some("FP8") => Some(Scheme::Fp8(FP8)),
        Some(_) | None => None,
    };
    Ok(Published::ModelOpt(scheme))
}

fn gptq(keys: Keys<'_>) -> Parsed<Gptq> {
    keys.known(&GPTQ_KEYS)?;
    let bits = keys.number("bits", "4 or 8", |bits| matches!(bits, 4 | 8))?;
    // Two keys for one thing; the older writers know neither.
    let is_first = ["checkpoint_format", "format"]
        .into_iter()
        .find_map(|key| keys.one_of(key, &["gptq", "gptq_v2"]).transpose())
        .transpose()?
        .is_none_or(|format| format == "gptq");
    if keys
        .0
        .get("pack_dtype")
        .is_some_and(|dtype| dtype != "int32")
    {
        return Err(keys.bad("pack_dtype", "int32"));
    }
    Ok(Gptq {
        bits: bits as u32,
        group_size: keys.group_size()?,
        desc_act: keys.flag("desc_act")?.unwrap_or(false),
        zeros_plus: match (is_first, bits) {
            (true, 4) => 0x1111_1111,
            (true, _) => 0x0101_0101,
            (false, _) => 0,
        },
    })
}

fn awq(keys: Keys<'_>) -> Parsed<GroupSize> {
    keys.known(&AWQ_KEYS)?;
    keys.number("bits", "4", |bits| bits == 4)?;
    if keys.flag("zero_point")? == Some(false) {
        return Err(keys.bad("zero_point", "true"));
    }
    for key in ["version", "format", "checkpoint_format"] {
        keys.one_of(key, &["gemm", "GEMM"])?;
    }
    keys.group_size()
}

/// Keys of how codes were found, which they do not depend on any more, and of what is quantized, which tensors tell.
const GPTQ_KEYS: [&str; 41] = [
    "quant_method",
    "method",
    "bits",
    "group_size",
    "desc_act",
    "sym",
    "checkpoint_format",
    "format",
    "pack_dtype",
    "lm_head",
    "meta",
    "dynamic",
    "static_groups",
    "act_group_aware",
    "true_sequential",
    "damp_percent",
    "damp_auto_increment",
    "mse",
    "dataset",
    "tokenizer",
    "model_seqlen",
    "batch_size",
    "pad_token_id",
    "max_input_length",
    "cache_block_outputs",
    "block_name_to_quantize",
    "module_name_preceding_first_block",
    "modules_in_block_to_quantize",
    "modules_to_not_convert",
    "model_name_or_path",
    "model_file_base_name",
    "quantizer",
    "version",
    "use_exllama",
    "disable_exllama",
    "exllama_config",
    "use_cuda_fp16",
    "backend",
    "is_marlin_format",
    "hyb_act",
    "failsafe",
];

const AWQ_KEYS: [&str; 27] = [
    "quant_method",
    "method",
    "lm_head",
    "pack_dtype",
    "bits",
    "group_size",
    "zero_point",
    "version",
    "format",
    "checkpoint_format",
    "backend",
    "modules_to_not_convert",
    "modules_to_fuse",
    "do_fuse",
    "fuse_max_seq_len",
    "exllama_config",
    "desc_act",
    "sym",
    "true_sequential",
    "damp_percent",
    "act_group_aware",
    "cache_block_outputs",
    "dataset",
    "tokenizer",
    "meta",
    "batch_size",
    "modules_in_block_to_quantize",
];

#[cfg(test)]
mod tests;
