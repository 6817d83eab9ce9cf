//! Numbers of layers that lie in arrays of the metadata, where other checkpoints have tensors.

use std::collections::HashSet;

use llm_tensor::{DType, Shape};

use crate::metadata::{Array, Value};
use crate::tensor::{Encoding, Layout, TensorInfo};

/// Tensors of one element each that an array of the metadata stands for, `value` being what ended at `end` in the file.
pub(super) fn tensors(key: &str, value: &Value, end: u64, file_idx: usize) -> Vec<TensorInfo> {
    let Value::Array(Array::F32(numbers)) = value else {
        return Vec::new();
    };
    let n = numbers.len();
    if !KEYS.contains(&key) || n > MAX_LAYERS {
        return Vec::new();
    }
    let start = end - (n * DType::F32.size()) as u64;
    let of_layer = |layer: usize| {
        let start = start + (layer * DType::F32.size()) as u64;
        TensorInfo {
            name: format!("blk.{layer}.{key}"),
            shape: Shape::new(&[1]).expect("one element is a shape"),
            encoding: Encoding::Plain(DType::F32),
            layout: Layout::RowMajor,
            file_idx,
            bytes: start..start + DType::F32.size() as u64,
        }
    };
    (0..n).map(of_layer).collect()
}

/// Adds them to the tensors of the file, but where it has such a tensor itself.
pub(super) fn add(numbers: Vec<TensorInfo>, tensors: &mut Vec<TensorInfo>) {
    if numbers.is_empty() {
        return;
    }
    let names: HashSet<_> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
    let missing = |number: &TensorInfo| !names.contains(&number.name);
    tensors.extend(numbers.into_iter().filter(missing));
}

/// True for the name of such a tensor.
pub(super) fn is_one(name: &str) -> bool {
    name.starts_with("blk.") && KEYS.iter().any(|key| name.ends_with(key))
}

/// The numbers of xIELU, a curve that each layer learned.
const KEYS: [&str; 4] = ["xielu.alpha_n", "xielu.alpha_p", "xielu.beta", "xielu.eps"];

/// More layers than any model has.
const MAX_LAYERS: usize = 1 << 12;
