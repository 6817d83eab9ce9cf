//! Matrices of 8-bit floating-point numbers with scales beside them, for the whole, for each row or for each block, as
//! DeepSeek and transformers' `fp8` store them. They are decoded when they are read.

use std::ops::Range;

use llm_arch::{Role, Slot, Stored};
use llm_checkpoint::{Checkpoint, Encoding, TensorInfo};
use llm_plan::becomes_table;
use llm_quant::QuantError;
use llm_tensor::{DType, f32_to_le_bytes};
use rayon::prelude::*;
use serde_json::{Map, Value};

use crate::{Result, RuntimeError};

/// How the elements of a matrix are scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scaled {
    /// How the name of the scales goes on behind the matrix's.
    suffix: &'static str,
    /// Rows and columns that share a scale.
    block: [u64; 2],
    /// Columns of the matrix, and of its scales.
    cols: [u64; 2],
}

impl Scaled {
    /// How `tensor`, which is for `slot`, is scaled, if it is. `block_size` is what the configuration says.
    ///
    /// # Errors
    /// [`RuntimeError::QuantizedPart`] when the scales do not fit the matrix.
    pub(crate) fn of(
        checkpoint: &Checkpoint,
        tensor: &TensorInfo,
        slot: &Slot,
        block_size: Option<[u64; 2]>,
    ) -> Result<Option<Self>> {
        let (Encoding::Plain(dtype), &[rows, cols]) = (tensor.encoding, &*tensor.shape) else {
            return Ok(None);
        };
        if !dtype.is_float8() {
            return Ok(None);
        }
        let beside = |suffix: &&str| checkpoint.get(&format!("{}{suffix}", tensor.name));
        let Some(suffix) = SUFFIXES.into_iter().find(|suffix| beside(suffix).is_some()) else {
            return Ok(None);
        };
        let scales = beside(&suffix).expect("was just found");
        let misfit = |expected: String, found: String| {
            Err(RuntimeError::QuantizedPart {
                path: checkpoint.path().to_owned(),
                tensor: scales.name.clone(),
                expected,
                found,
            })
        };
        let is_number = |dtype: DType| {
            let wide = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
            wide || matches!(dtype, DType::F8E8M0 | DType::U8)
        };
        if !matches!(scales.encoding, Encoding::Plain(dtype) if is_number(dtype)) {
            let expected = "scales of f32, f16, bf16 or powers of two".to_owned();
            return misfit(expected, scales.encoding.to_string());
        }
        let is_table = matches!(slot.role, Role::TokenTable | Role::PositionTable);
        if is_table || becomes_table(slot.role) || slot.stored != Stored::AsIs {
            let expected =
                "none: a table, or a matrix stored in another order, has no scales".to_owned();
            return misfit(expected, scales.shape.to_string());
        }
        let grid = match *scales.shape {
            [] | [1] => [1, 1],
            [n] => [n, 1],
            [n_rows, n_cols] => [n_rows, n_cols],
            _ => [0, 0],
        };
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
                None => format!("scales of equal blocks of {}", tensor.shape),
            };
            return misfit(expected, scales.shape.to_string());
        };
        Ok(Some(Scaled {
            suffix,
            block,
            cols: [cols, grid[1]],
        }))
    }

    /// The names of the tensors beside `weight` that go with it.
    pub(crate) fn companions(self, weight: &str) -> Vec<String> {
        let module = weight.strip_suffix(".weight").unwrap_or(weight);
        let scales = format!("{weight}{}", self.suffix);
        let unused = ACTIVATION_SCALES.map(|name| format!("{module}.{name}"));
        [scales].into_iter().chain(unused).collect()
    }

    /// Elements `range` of `tensor` as `dtype` into `out`: multiplied in f32, and rounded once.
    pub(crate) fn read(
        self,
        checkpoint: &Checkpoint,
        tensor: &TensorInfo,
        range: Range<u64>,
        dtype: DType,
        out: &mut [u8],
    ) -> Result<()> {
        let pieces = out.par_chunks_mut(PIECE * dtype.size()).enumerate();
        pieces.try_for_each(|(idx, out)| {
            let start = range.start + (idx * PIECE) as u64;
            let mut wide = vec![0f32; out.len() / dtype.size()];
            self.read_piece(checkpoint, tensor, start, &mut wide)?;
            f32_to_le_bytes(&wide, dtype, out).expect("weights are kept in floating point");
            Ok(())
        })
    }

    fn read_piece(
        self,
        checkpoint: &Checkpoint,
        tensor: &TensorInfo,
        start: u64,
        out: &mut [f32],
    ) -> Result<()> {
        let end = start + out.len() as u64;
        checkpoint.read_into(
            &tensor.name,
            start..end,
            DType::F32,
            bytemuck::cast_slice_mut(out),
        )?;
        let ([height, width], [cols, n_scales]) = (self.block, self.cols);
        let first = start / cols / height;
        let scales = self.scales(checkpoint, tensor, first..(end - 1) / cols / height + 1)?;
        let mut at = start;
        while at < end {
            let (row, col) = (at / cols, at % cols);
            // To the end of the block's part of the row.
            let n = ((col / width + 1) * width).min(cols).min(col + end - at) - col;
            let scale = scales[((row / height - first) * n_scales + col / width) as usize];
            let from = (at - start) as usize;
            for x in &mut out[from..from + n as usize] {
                *x *= scale;
            }
            at += n;
        }
        Ok(())
    }

    /// The scales of some rows of blocks.
    fn scales(
        self,
        checkpoint: &Checkpoint,
        tensor: &TensorInfo,
        rows: Range<u64>,
    ) -> Result<Vec<f32>> {
        let name = format!("{}{}", tensor.name, self.suffix);
        let range = rows.start * self.cols[1]..rows.end * self.cols[1];
        let mut scales = vec![0f32; (range.end - range.start) as usize];
        let scale = checkpoint
            .get(&name)
            .expect("scales were there when the model was bound");
        if scale.encoding == Encoding::Plain(DType::U8) {
            // Exponents that are declared as bytes.
            let mut codes = vec![0; scales.len()];
            checkpoint.read_into(&name, range, DType::U8, &mut codes)?;
            llm_tensor::le_bytes_to_f32(DType::F8E8M0, &codes, &mut scales)
                .expect("a code of eight bits has a value");
            return Ok(scales);
        }
        let out = bytemuck::cast_slice_mut(&mut scales);
        checkpoint.read_into(&name, range, DType::F32, out)?;
        Ok(scales)
    }
}

/// What a `quantization_config` of 8-bit floating-point numbers says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Float8 {
    /// Rows and columns that share a scale.
    pub(crate) block_size: Option<[u64; 2]>,
    /// How activations are to be quantized, which they are not.
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
        let activations = json.get("activation_scheme").and_then(Value::as_str);
        Ok(Some(Float8 {
            block_size,
            activations: activations.map(str::to_owned),
        }))
    }
}

const METHODS: [&str; 2] = ["fp8", "fbgemm_fp8"];

/// Which modules are quantized is told by their tensors; the rest is about activations.
const KEYS: [&str; 10] = [
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

/// How names of scales go on behind a matrix's. All are factors, whatever `inv` says.
const SUFFIXES: [&str; 2] = ["_scale_inv", "_scale"];

/// Scales of activations, which stay as they are.
const ACTIVATION_SCALES: [&str; 3] = ["input_scale", "activation_scale", "input_scale_ub"];

/// Elements that a thread decodes at a time.
const PIECE: usize = 1 << 15;

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
        assert_eq!(config.activations.as_deref(), Some("dynamic"));
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
        ] {
            let text = read(text).unwrap_err().to_string();
            assert!(text.contains(key), "{text}");
        }
    }

    #[test]
    fn elements_are_multiplied_with_the_scale_of_their_block() {
        use llm_checkpoint::{NewTensor, SafetensorsWriter};
        use llm_tensor::Shape;

        let (rows, cols) = (7u64, 10u64);
        for (block, scales) in [
            ([7, 10], DType::F32),
            ([1, 10], DType::F32),
            ([3, 4], DType::F32),
            ([2, 3], DType::U8),
            ([1, 1], DType::F8E8M0),
        ] {
            let grid = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
            let new = |name: &str, dtype, shape: &[u64]| NewTensor {
                name: name.to_owned(),
                dtype,
                shape: Shape::new(shape).unwrap(),
            };
            let tensors = [
                new("w_scale", scales, &grid),
                new("w", DType::F8E4M3, &[rows, cols]),
            ];
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("m.safetensors");
            let mut writer =
                SafetensorsWriter::create(&path, &tensors, &Default::default()).unwrap();
            let scale_of = |i: u64| 2f32.powi((i % 9) as i32 - 4);
            for i in 0..grid[0] * grid[1] {
                match scales {
                    DType::F32 => writer.write(&scale_of(i).to_le_bytes()).unwrap(),
                    _ => writer.write(&[(127 + i % 9 - 4) as u8]).unwrap(),
                }
            }
            // 0x38 is 1, and so on upwards by eighths.
            let codes: Vec<u8> = (0..rows * cols).map(|i| 0x38 + (i % 8) as u8).collect();
            writer.write(&codes).unwrap();
            writer.finish().unwrap();

            let checkpoint = Checkpoint::open(&path).unwrap();
            let tensor = checkpoint.get("w").unwrap();
            let scaled = Scaled {
                suffix: "_scale",
                block,
                cols: [cols, grid[1]],
            };
            for range in [0..rows * cols, 3..4, 9..31, 69..70, 5..5] {
                let mut out = vec![0f32; (range.end - range.start) as usize];
                let bytes = bytemuck::cast_slice_mut(&mut out);
                scaled
                    .read(&checkpoint, tensor, range.clone(), DType::F32, bytes)
                    .unwrap();
                let expected: Vec<f32> = range
                    .map(|i| {
                        let place = i / cols / block[0] * grid[1] + i % cols / block[1];
                        (1.0 + (i % 8) as f32 / 8.0) * scale_of(place)
                    })
                    .collect();
                assert_eq!(out, expected, "{block:?} {scales}");
            }
        }
    }
}
