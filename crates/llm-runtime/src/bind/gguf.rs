//! What the metadata of a GGUF say of a model.

use llm_arch::{Skeleton, from_gguf};
use llm_checkpoint::{Array, Checkpoint, Value as MetaValue};
use llm_tensor::DType;
use serde_json::{Map, Value};

use crate::{Result, RuntimeError};

/// Skeleton of the model that a GGUF's metadata describe.
///
/// # Errors
/// When they are not understood.
pub(super) fn skeleton(checkpoint: &Checkpoint) -> Result<Skeleton> {
    let metadata = metadata(checkpoint)?;
    let vocab = checkpoint
        .get("token_embd.weight")
        .or_else(|| checkpoint.get("output.weight"))
        .and_then(|t| t.shape.first().copied())
        .unwrap_or(0);
    let skeleton = from_gguf(&metadata, vocab as usize, |name| {
        checkpoint.get(name).is_some()
    });
    skeleton.map_err(|flaw| RuntimeError::Config {
        path: checkpoint.path().to_owned(),
        flaw: Box::new(flaw),
    })
}

/// Metadata of a GGUF, with few arrays, and with the factors of a long rope.
///
/// # Errors
/// When these cannot be read.
pub(crate) fn metadata(checkpoint: &Checkpoint) -> Result<Map<String, Value>> {
    let metadata = checkpoint.metadata().iter();
    let known = metadata.filter_map(|(key, value)| {
        let by_layer = || PER_LAYER.iter().any(|name| key.ends_with(name));
        let value = scalar(value).or_else(|| numbers(value).filter(|_| by_layer()))?;
        Some((key.clone(), value))
    });
    let mut metadata = known.collect();
    add_long_rope(checkpoint, &mut metadata)?;
    Ok(metadata)
}

/// GGUF holds the factors of a long rope as tensors, some dozen numbers, where a configuration lists them.
fn add_long_rope(checkpoint: &Checkpoint, metadata: &mut Map<String, Value>) -> Result<()> {
    let architecture = metadata.get("general.architecture").and_then(Value::as_str);
    let Some(architecture) = architecture.map(str::to_owned) else {
        return Ok(());
    };
    for (key, name) in LONG_ROPE {
        let Some(tensor) = checkpoint.get(name) else {
            return Ok(());
        };
        let n = tensor.shape.n_elements();
        // More than a head's are an error of another kind.
        let mut factors = vec![0f32; n.min(MAX_FACTORS) as usize];
        let out = bytemuck::cast_slice_mut(&mut factors);
        checkpoint.read_tensor(tensor, 0..n.min(MAX_FACTORS), DType::F32, out)?;
        let factors: Vec<_> = factors.into_iter().map(decimal).collect();
        metadata.insert(format!("{architecture}.rope.scaling.{key}"), factors.into());
    }
    let kind = format!("{architecture}.rope.scaling.type");
    metadata.insert(kind, "longrope".into());
    Ok(())
}

/// The number that was meant: through the decimal digits, so that an f32's 1e-5 is 1e-5.
fn decimal(x: f32) -> Value {
    x.to_string()
        .parse::<f64>()
        .map_or(Value::Null, Value::from)
}

/// A short array of numbers or flags as JSON; what is not finite is `null`.
fn numbers(value: &MetaValue) -> Option<Value> {
    let MetaValue::Array(array) = value else {
        return None;
    };
    let numbers: Vec<Value> = match array {
        Array::I32(numbers) if numbers.len() <= MAX_LAYERS => {
            numbers.iter().map(|&n| Value::from(n)).collect()
        }
        Array::U32(numbers) if numbers.len() <= MAX_LAYERS => {
            numbers.iter().map(|&n| Value::from(n)).collect()
        }
        Array::F32(numbers) if numbers.len() <= MAX_LAYERS => {
            numbers.iter().map(|&x| decimal(x)).collect()
        }
        Array::Bool(flags) if flags.len() <= MAX_LAYERS => {
            flags.iter().map(|&flag| Value::from(flag)).collect()
        }
        _ => return None,
    };
    Some(Value::from(numbers))
}

/// A value as JSON; arrays hold vocabularies and per-layer lists, of which few are configuration keys.
fn scalar(value: &MetaValue) -> Option<Value> {
    match value {
        MetaValue::String(text) => Some(Value::from(text.as_str())),
        MetaValue::Bool(flag) => Some(Value::from(*flag)),
        MetaValue::F32(x) => Some(decimal(*x)),
        MetaValue::F64(x) => Some(Value::from(*x)),
        MetaValue::Array(_) => None,
        MetaValue::U8(_)
        | MetaValue::I8(_)
        | MetaValue::U16(_)
        | MetaValue::I16(_)
        | MetaValue::U32(_)
        | MetaValue::I32(_)
        | MetaValue::U64(_)
        | MetaValue::I64(_) => value.as_u64().map(Value::from),
    }
}

/// Names in a configuration, and in GGUF.
const LONG_ROPE: [(&str, &str); 2] = [
    ("short_factor", "rope_factors_short.weight"),
    ("long_factor", "rope_factors_long.weight"),
];
const MAX_FACTORS: u64 = 1 << 14;

/// Ends of keys whose values may be lists, one number or flag a layer.
const PER_LAYER: [&str; 11] = [
    ".attention.head_count_kv",
    ".attention.indexer.types",
    "gemma3n.activation_sparsity_scale",
    "gemma3n.feed_forward_length",
    "gemma4.feed_forward_length",
    "nemotron_h.feed_forward_length",
    "nemotron_h_moe.feed_forward_length",
    "exaone4.attention.sliding_window_pattern",
    "gemma3n.attention.sliding_window_pattern",
    "gemma4.attention.sliding_window_pattern",
    "olmo2.attention.sliding_window_pattern",
];
/// More layers than any model has.
const MAX_LAYERS: usize = 1 << 12;
