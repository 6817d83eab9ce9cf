//! The configuration of compressed-tensors.

use serde_json::{Map, Value};

use super::keys::{Keys, Parsed};
use super::schemes;
use llm_quant::Scheme;

/// Facts about matrices of compressed-tensors that their tensors do not tell.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Compressed {
    /// What all matrices are in, if there is one such.
    pub(crate) scheme: Option<Scheme>,
    /// Rows and columns that share a scale of 8-bit floating-point numbers.
    pub(crate) block_size: Option<[u64; 2]>,
    /// Quantization of activations, which is not applied.
    pub(crate) activations: Option<String>,
}

impl Compressed {
    /// # Errors
    /// [`UnknownKey`](llm_quant::QuantError::UnknownKey), [`BadValue`](llm_quant::QuantError::BadValue).
    pub(super) fn from_json(json: &Map<String, Value>) -> Parsed<Self> {
        let keys = Keys(json);
        keys.known(&KEYS)?;
        keys.one_of("format", &FORMATS)?;
        let status = &["compressed", "frozen"];
        keys.one_of("quantization_status", status)?;
        let is_set = |value: &&Value| value.as_object().is_some_and(|object| !object.is_empty());
        if let Some(sparsity) = keys.get("sparsity_config").filter(is_set)
            && sparsity
                .get("format")
                .is_some_and(|format| format != "dense")
        {
            return Err(keys.bad("sparsity_config", "none, or the format dense"));
        }
        // Rotations of what matrices are multiplied with.
        let transform = keys.get("transform_config").filter(is_set);
        let has_groups = |value: &Value| value.get("config_groups").is_some_and(|it| is_set(&it));
        if transform.is_some_and(has_groups) {
            return Err(keys.bad("transform_config", "none"));
        }
        let mut found = Compressed {
            scheme: None,
            block_size: None,
            activations: None,
        };
        let groups = keys.get("config_groups").and_then(Value::as_object);
        let groups = groups.ok_or_else(|| keys.bad("config_groups", "an object"))?;
        for group in groups.values() {
            let Some(group) = group.as_object() else {
                return Err(keys.bad("config_groups", "objects"));
            };
            let keys = Keys(group);
            keys.known(&GROUP_KEYS)?;
            keys.one_of("format", &FORMATS)?;
            if let Some(weights) = keys.get("weights").and_then(Value::as_object) {
                let weights = Keys(weights);
                found.block_size = weights_of(weights)?.or(found.block_size);
                found.scheme = schemes::of_weights(weights).filter(|_| groups.len() == 1);
            }
            if let Some(activations) = keys.get("input_activations") {
                let kind = activations.get("type").and_then(Value::as_str);
                let bits = activations.get("num_bits").and_then(Value::as_u64);
                let words = format!("{} {}", kind.unwrap_or("int"), bits.unwrap_or(8));
                found.activations = Some(format!("input_activations: {words}"));
            }
        }
        Ok(found)
    }
}

/// The block of a matrix's scales, if it has such.
fn weights_of(keys: Keys<'_>) -> Parsed<Option<[u64; 2]>> {
    keys.known(&WEIGHT_KEYS)?;
    keys.number("num_bits", "4 or 8", |bits| matches!(bits, 4 | 8))?;
    keys.one_of("type", &["int", "float"])?;
    let strategies = ["tensor", "channel", "group", "block", "tensor_group"];
    if keys.one_of("strategy", &strategies)? != Some("block") {
        return Ok(None);
    }
    let sides = keys.get("block_structure").and_then(Value::as_array);
    let side = |i: usize| sides?.get(i)?.as_u64().filter(|side| *side > 0);
    match side(0).zip(side(1)) {
        Some((height, width)) => Ok(Some([height, width])),
        None => Err(keys.bad("block_structure", "two positive numbers")),
    }
}

const KEYS: [&str; 12] = [
    "quant_method",
    "format",
    "config_groups",
    "ignore",
    "quantization_status",
    "kv_cache_scheme",
    "global_compression_ratio",
    "sparsity_config",
    "moe_sparsity_config",
    "transform_config",
    "version",
    "run_compressed",
];

const GROUP_KEYS: [&str; 5] = [
    "targets",
    "weights",
    "input_activations",
    "output_activations",
    "format",
];

const WEIGHT_KEYS: [&str; 12] = [
    "num_bits",
    "type",
    "symmetric",
    "group_size",
    "strategy",
    "block_structure",
    "dynamic",
    "actorder",
    "observer",
    "observer_kwargs",
    "scale_dtype",
    "zp_dtype",
];

/// Formats whose tensors are understood.
const FORMATS: [&str; 9] = [
    "dense",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "pack-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "mxfp8-quantized",
    "mixed-precision",
];
