//! Matrices of 8-bit floating-point numbers with scales beside them, for the whole, for each row or for each block, as
//! DeepSeek and transformers' `fp8` store them.

use llm_arch::{Slot, StackPlace, Stored};
use llm_checkpoint::{Checkpoint, Encoding, TensorInfo};
use llm_plan::becomes_table;
use llm_quant::{Fp8, QuantError, Scheme};
use llm_tensor::DType;
use serde_json::{Map, Value};

use crate::packed::reshaped;
use crate::{Result, RuntimeError};

/// Scaling of the elements of `tensor`, which is for `slot`, if they are scaled. `block_size` is what the configuration
/// says.
///
/// # Errors
/// [`RuntimeError::QuantizedPart`] when the scales do not fit the matrix.
pub(crate) fn recognise(
    checkpoint: &Checkpoint,
    tensor: &TensorInfo,
    slot: &Slot,
    block_size: Option<[u64; 2]>,
) -> Result<Option<Fp8>> {
    let Some(scaled) = Scaled::of(checkpoint, tensor, slot)? else {
        return Ok(None);
    };
    let grid = match *scaled.scales.shape {
        [] | [1] => [1, 1],
        [n] => [n, 1],
        [n_rows, n_cols] => [n_rows, n_cols],
        _ => [0, 0],
    };
    scaled.format(grid, block_size).map(Some)
}

/// The same of `tensor`, rows of one matrix of a stack, and the scales that are theirs.
///
/// # Errors
/// As [`recognise`].
pub(crate) fn recognise_stacked(
    checkpoint: &Checkpoint,
    tensor: &TensorInfo,
    slot: &Slot,
    stack: &StackPlace,
    block_size: Option<[u64; 2]>,
) -> Result<Option<(Fp8, TensorInfo)>> {
    let Some(scaled) = Scaled::of(checkpoint, tensor, slot)? else {
        return Ok(None);
    };
    let [n, stacked, _] = stack.shape.map(|extent| extent as u64);
    // One for all experts, one for each, or a grid for each.
    let [n_grids, height, width] = match *scaled.scales.shape {
        [] | [1] | [1, 1] | [1, 1, 1] => [1, 1, 1],
        [experts] | [experts, 1] if experts == n => [n, 1, 1],
        [experts, height, width] if experts == n => [n, height, width],
        _ => {
            let expected = format!("scales of {n} experts");
            return Err(scaled.misfit(expected, &scaled.scales.shape));
        }
    };
    // Of gate and up in one matrix each has its own rows of scales, unless one row is for both.
    let n_parts = stacked / scaled.rows.max(1);
    let is_shared = height == 1;
    if !is_shared && (!height.is_multiple_of(n_parts) || scaled.is_cut(height, stacked, block_size))
    {
        let expected = format!("blocks that end where the {n_parts} matrices of an expert meet");
        return Err(scaled.misfit(expected, &scaled.scales.shape));
    }
    let of_part = match is_shared {
        true => 1,
        false => height / n_parts,
    };
    let first = match is_shared {
        true => 0,
        false => stack.rows.start as u64 / scaled.rows.max(1) * of_part,
    };
    let grid_idx = match n_grids {
        1 => 0,
        _ => stack.expert as u64,
    };
    let format = scaled.format([of_part, width], block_size)?;
    let grids = reshaped(scaled.scales, &[n_grids, height, width]);
    match grids.and_then(|grids| grids.of_stack(grid_idx, first..first + of_part)) {
        Some(scales) => Ok(Some((format, scales))),
        None => Err(scaled.misfit("elements one after the other", "gaps between them")),
    }
}

/// Refuses a matrix of bare 8-bit floating-point numbers where the configuration tells of a quantization: without its
/// scales it would be other numbers.
///
/// # Errors
/// [`RuntimeError::QuantizedPart`], which names the scales.
pub(crate) fn check_scaled(
    checkpoint: &Checkpoint,
    tensor: &TensorInfo,
    scheme: Option<Scheme>,
) -> Result<()> {
    let is_bare = matches!(scheme, Some(Scheme::Dense(dtype)) if dtype.is_float8());
    if !is_bare || tensor.shape.len() != 2 {
        return Ok(());
    }
    let [name, other] = SUFFIXES.map(|suffix| format!("{}{suffix}", tensor.name));
    Err(RuntimeError::QuantizedPart {
        path: checkpoint.path().to_owned(),
        tensor: name,
        expected: format!(
            "a tensor of that name, or `{other}`, as config.json tells of a quantization"
        ),
        found: "none".to_owned(),
    })
}

/// A matrix `[rows, cols]` of 8-bit floating-point numbers that has scales.
struct Scaled<'a> {
    checkpoint: &'a Checkpoint,
    rows: u64,
    cols: u64,
    dtype: DType,
    scales: &'a TensorInfo,
    scale: DType,
}

impl<'a> Scaled<'a> {
    /// # Errors
    /// When there are scales that are no such.
    fn of(checkpoint: &'a Checkpoint, tensor: &TensorInfo, slot: &Slot) -> Result<Option<Self>> {
        let (Encoding::Plain(dtype), &[rows, cols]) = (tensor.encoding, &*tensor.shape) else {
            return Ok(None);
        };
        if !dtype.is_float8() {
            return Ok(None);
        }
        let Some(scales) = scales_name(checkpoint, &tensor.name) else {
            return Ok(None);
        };
        let scales = checkpoint.get(&scales).expect("was just found");
        let is_number = |dtype: DType| {
            let wide = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
            wide || matches!(dtype, DType::F8E8M0 | DType::U8)
        };
        let found = Scaled {
            checkpoint,
            rows,
            cols,
            dtype,
            scales,
            scale: DType::F32,
        };
        let scale = match scales.encoding {
            Encoding::Plain(scale) if is_number(scale) => scale,
            other => return Err(found.misfit(EXPECTED, other)),
        };
        let is_table = slot.role.table_of().is_some();
        if is_table || becomes_table(slot.role) || slot.stored != Stored::AsIs {
            let expected = "none: a table, or a matrix stored in another order, has no scales";
            return Err(found.misfit(expected, &scales.shape));
        }
        Ok(Some(Scaled { scale, ..found }))
    }

    /// Format of a matrix with `grid` scales.
    ///
    /// # Errors
    /// When these are not of blocks of the size that the configuration says, or of equal blocks.
    fn format(&self, grid: [u64; 2], block_size: Option<[u64; 2]>) -> Result<Fp8> {
        let (rows, cols) = (self.rows, self.cols);
        let fits = |[height, width]: &[u64; 2]| {
            *height > 0 && *width > 0 && grid == [rows.div_ceil(*height), cols.div_ceil(*width)]
        };
        // Without the configuration's word the scales themselves say how large blocks are, if these are whole.
        let derived = || {
            let [n_rows, n_cols] = grid;
            let is_whole = n_rows > 0
                && n_cols > 0
                && rows.is_multiple_of(n_rows)
                && cols.is_multiple_of(n_cols);
            is_whole.then(|| [rows / n_rows, cols / n_cols])
        };
        let Some(block) = block_size.or_else(derived).filter(fits) else {
            let expected = match block_size {
                Some([height, width]) => format!(
                    "shape {:?} for blocks of {height} x {width}",
                    [rows.div_ceil(height.max(1)), cols.div_ceil(width.max(1))]
                ),
                None => format!("scales of equal blocks of [{rows}, {cols}]"),
            };
            return Err(self.misfit(expected, &self.scales.shape));
        };
        Ok(Fp8 {
            dtype: self.dtype,
            scale: self.scale,
            block,
        })
    }

    /// True if the `n` rows of scales are of blocks of the `stacked` rows of an expert, one of which the matrix has a part
    /// of.
    fn is_cut(&self, n: u64, stacked: u64, block_size: Option<[u64; 2]>) -> bool {
        block_size.is_some_and(|[height, _]| {
            let is_whole = self.rows.is_multiple_of(height.max(1));
            !is_whole && n == stacked.div_ceil(height.max(1))
        })
    }

    fn misfit(&self, expected: impl Into<String>, found: impl ToString) -> RuntimeError {
        RuntimeError::QuantizedPart {
            path: self.checkpoint.path().to_owned(),
            tensor: self.scales.name.clone(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}

/// The name of the scales of `weight`, if it has any.
pub(crate) fn scales_name(checkpoint: &Checkpoint, weight: &str) -> Option<String> {
    let beside = weight
        .strip_suffix(".weight")
        .map(|module| format!("{module}{BESIDE}"));
    let names = SUFFIXES.map(|suffix| format!("{weight}{suffix}"));
    let mut names = names.into_iter().chain(beside);
    names.find(|name| checkpoint.get(name).is_some())
}

/// The names of the tensors beside `weight` that go with it.
pub(crate) fn companions(checkpoint: &Checkpoint, weight: &str) -> Vec<String> {
    let module = weight.strip_suffix(".weight").unwrap_or(weight);
    // A stack is no module, and its name stands before theirs as it is.
    let join = match module.len() == weight.len() {
        true => '_',
        false => '.',
    };
    let unused = ACTIVATION_SCALES.map(|name| format!("{module}{join}{name}"));
    let scales = scales_name(checkpoint, weight);
    scales.into_iter().chain(unused).collect()
}

/// Contents of a `quantization_config` of 8-bit floating-point numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Float8 {
    /// Rows and columns that share a scale.
    pub(crate) block_size: Option<[u64; 2]>,
    /// True if, without such blocks, each row has a scale; else each matrix has one.
    pub(crate) of_rows: bool,
    /// Quantization of activations, which is not applied.
    pub(crate) activations: Option<String>,
}

impl Float8 {
    /// Reads a `quantization_config`, if it is one of these.
    ///
    /// # Errors
    /// [`QuantError::UnknownKey`], [`QuantError::BadValue`].
    pub(crate) fn from_json(
        json: &Map<String, Value>,
    ) -> std::result::Result<Option<Self>, QuantError> {
        let method = json.get("quant_method").and_then(Value::as_str);
        if !method.is_some_and(|method| METHODS.contains(&method)) {
            return Ok(None);
        }
        if let Some(key) = json.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(QuantError::UnknownKey {
                key: key.clone(),
                known: KEYS.join(", "),
            });
        }
        let bad = |key: &str, expected: &str| QuantError::BadValue {
            key: key.to_owned(),
            found: json[key].to_string().chars().take(80).collect(),
            expected: expected.to_owned(),
        };
        let block_size = match json.get("weight_block_size") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let sides = value.as_array().and_then(|sides| {
                    let side = |i: usize| sides.get(i)?.as_u64().filter(|side| *side > 0);
                    (sides.len() == 2).then_some([side(0)?, side(1)?])
                });
                let expected = "null or two positive numbers";
                Some(sides.ok_or_else(|| bad("weight_block_size", expected))?)
            }
        };
        let fmt = json.get("fmt").filter(|fmt| !fmt.is_null());
        if fmt.is_some_and(|fmt| !["e4m3", "e5m2"].map(Value::from).contains(fmt)) {
            return Err(bad("fmt", "e4m3 or e5m2"));
        }
        let of_experts = json.get("expert_dtype").filter(|dtype| !dtype.is_null());
        if of_experts.is_some_and(|dtype| !EXPERT_DTYPES.map(Value::from).contains(dtype)) {
            return Err(bad("expert_dtype", "fp8 or fp4"));
        }
        let activations = json.get("activation_scheme").and_then(Value::as_str);
        Ok(Some(Float8 {
            block_size,
            of_rows: method == Some(OF_ROWS),
            activations: activations.map(|scheme| format!("activation_scheme: {scheme}")),
        }))
    }
}

/// Tensors tell which of them it is.
const EXPERT_DTYPES: [&str; 2] = ["fp8", "fp4"];

const METHODS: [&str; 2] = ["fp8", OF_ROWS];
const OF_ROWS: &str = "fbgemm_fp8";

/// Keys of modules, whose quantization their tensors tell, and of activations.
const KEYS: [&str; 11] = [
    "expert_dtype",
    "quant_method",
    "weight_block_size",
    "fmt",
    "scale_fmt",
    "activation_scheme",
    "activation_scale_ub",
    "modules_to_not_convert",
    "ignored_layers",
    "dequantize",
    "kv_cache_scheme",
];

/// Endings of names of scales behind a matrix's. All are factors, whatever `inv` says.
const SUFFIXES: [&str; 2] = ["_scale_inv", "_scale"];

/// The same behind a module's, as DeepSeek-V4 has it.
const BESIDE: &str = ".scale";

/// Scales of activations, which stay as they are.
const ACTIVATION_SCALES: [&str; 3] = ["input_scale", "activation_scale", "input_scale_ub"];

const EXPECTED: &str = "scales of f32, f16, bf16 or powers of two";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_read_or_refused_by_key() {
        let read = |text: &str| {
            let json: Map<String, Value> = serde_json::from_str(text).unwrap();
            Float8::from_json(&json)
        };
        let deepseek = r#"{"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3",
            "activation_scheme": "dynamic"}"#;
        let config = read(deepseek).unwrap().unwrap();
        assert_eq!(config.block_size, Some([128, 128]));
        assert_eq!(
            config.activations.as_deref(),
            Some("activation_scheme: dynamic")
        );
        let other = r#"{"quant_method": "bitsandbytes", "load_in_8bit": true}"#;
        assert_eq!(read(other), Ok(None));
        for (text, key) in [
            (r#"{"quant_method": "fp8", "wild": 1}"#, "`wild`"),
            (
                r#"{"quant_method": "fp8", "weight_block_size": [0, 1]}"#,
                "`weight_block_size`",
            ),
            (
                r#"{"quant_method": "fp8", "weight_block_size": [8]}"#,
                "`weight_block_size`",
            ),
            (r#"{"quant_method": "fp8", "fmt": "e3m4"}"#, "`fmt`"),
            (
                r#"{"quant_method": "fp8", "expert_dtype": "int4"}"#,
                "`expert_dtype`",
            ),
        ] {
            let text = read(text).unwrap_err().to_string();
            assert!(text.contains(key), "{text}");
        }
    }
}
