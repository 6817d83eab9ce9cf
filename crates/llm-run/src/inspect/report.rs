//! Contents of a checkpoint, before they are printed and in tables.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use llm_checkpoint::{Checkpoint, TensorInfo};
use llm_runtime::BoundModel;
use llm_tensor::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::metadata;
use super::quantized::matrices;
use crate::output::table::{Column, table};
use crate::output::words::{dtype_name, grouped, printable};
use crate::peers::{LeftDense, Transformers};

/// Object that `--json` prints.
#[derive(Serialize)]
pub(super) struct CheckpointReport<'c> {
    pub(super) path: String,
    pub(super) format: String,
    pub(super) n_tensors: usize,
    /// Elements of all tensors; those that several share count once, what codes are decoded with does not.
    pub(super) n_parameters: u64,
    /// Bytes of all tensors; those that several share count once.
    pub(super) bytes: u64,
    /// Bytes of quantization statistics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) statistics_bytes: Option<u64>,
    /// Of a quantized checkpoint that has its configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) transformers: Option<Transformers>,
    /// Of a quantization that is asked for, what transformers would not quantize.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) left_dense: Option<LeftDense>,
    pub(super) tensors: Vec<Tensor<'c>>,
    pub(super) by_dtype: Vec<Total>,
    pub(super) by_file: Vec<Total>,
    /// Names of the same bytes.
    pub(super) shared: Vec<Vec<&'c str>>,
    pub(super) metadata: BTreeMap<&'c str, Value>,
}

/// A tensor, or a quantized matrix with all that belongs to it.
#[derive(Serialize)]
pub(super) struct Tensor<'c> {
    pub(super) name: &'c str,
    /// The element type, as PyTorch calls it, of a quantized matrix its codes'; or GGUF's encoding.
    pub(super) dtype: String,
    /// Its quantization.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) scheme: Option<String>,
    pub(super) shape: Vec<u64>,
    /// Bytes of the elements, or of their codes.
    pub(super) bytes: u64,
    /// Bytes of its quantization statistics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) statistics_bytes: Option<u64>,
    pub(super) file: String,
}

/// Sum of several tensors; those that share their bytes count once.
#[derive(Serialize)]
pub(super) struct Total {
    /// Name that they have in common.
    pub(super) name: String,
    pub(super) n_tensors: usize,
    pub(super) n_parameters: u64,
    pub(super) bytes: u64,
}

impl<'c> CheckpointReport<'c> {
    /// `model` is what the checkpoint is, where that is known.
    pub(super) fn new(checkpoint: &'c Checkpoint, model: Option<&BoundModel>) -> Result<Self> {
        let files: Vec<String> = checkpoint.files().map(file_name).collect();
        // By place: a place is a file and a range of it. Empty tensors share nothing.
        let mut places: BTreeMap<_, Vec<&TensorInfo>> = BTreeMap::new();
        for t in checkpoint.tensors() {
            let empty = t.bytes.is_empty().then_some(&t.name);
            let place = (t.file_idx, t.bytes.start, t.bytes.end, empty);
            places.entry(place).or_default().push(t);
        }
        let distinct: Vec<&TensorInfo> = places.values().map(|tensors| tensors[0]).collect();
        let shared = places.values().filter(|tensors| tensors.len() > 1);
        let matrices = matrices(checkpoint, model)?;
        let mut tensors = Vec::new();
        let mut n_parameters: u64 = distinct.iter().map(|t| t.shape.n_elements()).sum();
        for t in checkpoint.tensors() {
            let matrix = matrices.of(&t.name);
            if let Some(matrix) = matrix {
                n_parameters -= t.shape.n_elements();
                if matrix.weight != t.name {
                    continue;
                }
                n_parameters += matrix.shape.iter().product::<u64>();
            }
            tensors.push(Tensor {
                name: &t.name,
                dtype: dtype_name(t.encoding),
                scheme: matrix.map(|matrix| matrix.scheme.clone()),
                shape: matrix.map_or_else(|| t.shape.to_vec(), |matrix| matrix.shape.clone()),
                bytes: t.stored_bytes().get(),
                statistics_bytes: matrix.map(|matrix| matrix.statistics_bytes),
                file: files[t.file_idx].clone(),
            });
        }
        let statistics = tensors.iter().filter_map(|t| t.statistics_bytes);
        Ok(CheckpointReport {
            path: checkpoint.path().display().to_string(),
            format: format!("{:?}", checkpoint.format()).to_lowercase(),
            n_tensors: checkpoint.tensors().len(),
            n_parameters,
            bytes: distinct
                .iter()
                .map(|t| t.stored_bytes())
                .sum::<Bytes>()
                .get(),
            statistics_bytes: statistics.reduce(|a, b| a + b),
            transformers: None,
            left_dense: None,
            tensors,
            by_dtype: totals(&distinct, |t| dtype_name(t.encoding)),
            by_file: totals(&distinct, |t| files[t.file_idx].clone()),
            shared: shared
                .map(|tensors| tensors.iter().map(|t| &*t.name).collect())
                .collect(),
            metadata: metadata::summary(checkpoint.metadata()),
        })
    }

    pub(super) fn text(&self) -> String {
        use Column::{Left, Right};
        let mut text = format!(
            "{} · {} · {} tensors · {} parameters · {}{}\n",
            printable(&self.path),
            self.format,
            grouped(self.n_tensors as u64),
            grouped(self.n_parameters),
            Bytes::new(self.bytes),
            self.statistics_bytes.map_or_else(String::new, |bytes| {
                format!(", of which {} are statistics", Bytes::new(bytes))
            })
        );
        if let Some(transformers) = &self.transformers {
            text += &format!("{}\n", printable(&transformers.text()));
        }
        if let Some(left) = &self.left_dense {
            text += &format!("{}\n", left.text());
        }
        text += &self.tensor_table();
        for (name, totals) in [("dtype", &self.by_dtype), ("file", &self.by_file)] {
            let rows = totals.iter().map(|total| {
                let Total {
                    name,
                    n_tensors,
                    n_parameters,
                    bytes,
                } = total;
                let n_tensors = grouped(*n_tensors as u64);
                [
                    name.clone(),
                    n_tensors,
                    grouped(*n_parameters),
                    Bytes::new(*bytes).to_string(),
                ]
            });
            let head = [
                Left(name),
                Right("tensors"),
                Right("parameters"),
                Right("size"),
            ];
            text += &table(&head, rows);
        }
        let shared = self.shared.iter().map(|names| [names.join(" = ")]);
        text += &table(&[Left("shared bytes")], shared);
        let metadata = self.metadata.iter();
        let metadata = metadata.map(|(key, value)| [(*key).to_owned(), metadata::text(value)]);
        text + &table(&[Left("metadata"), Left("value")], metadata)
    }
}

impl CheckpointReport<'_> {
    /// The tensors; only where something is quantized, how, and what it is decoded with.
    fn tensor_table(&self) -> String {
        use Column::{Left, Right};
        let shape = |t: &Tensor<'_>| format!("{:?}", t.shape);
        if self.statistics_bytes.is_none() {
            let row = |t: &Tensor<'_>| {
                [
                    t.name.to_owned(),
                    t.dtype.clone(),
                    shape(t),
                    grouped(t.bytes),
                ]
            };
            let head = [Left("tensor"), Left("dtype"), Left("shape"), Right("bytes")];
            return table(&head, self.tensors.iter().map(row));
        }
        let row = |t: &Tensor<'_>| {
            [
                t.name.to_owned(),
                t.dtype.clone(),
                t.scheme.clone().unwrap_or_default(),
                shape(t),
                grouped(t.bytes),
                t.statistics_bytes.map_or_else(String::new, grouped),
            ]
        };
        let head = [
            Left("tensor"),
            Left("dtype"),
            Left("scheme"),
            Left("shape"),
            Right("bytes"),
            Right("statistics"),
        ];
        table(&head, self.tensors.iter().map(row))
    }
}

/// The totals of groups of the same `name`, sorted by it.
fn totals(tensors: &[&TensorInfo], name: impl Fn(&TensorInfo) -> String) -> Vec<Total> {
    let mut groups: BTreeMap<String, Vec<&TensorInfo>> = BTreeMap::new();
    for tensor in tensors {
        groups.entry(name(tensor)).or_default().push(tensor);
    }
    let total = |(name, tensors): (String, Vec<&TensorInfo>)| Total {
        name,
        n_tensors: tensors.len(),
        n_parameters: tensors.iter().map(|t| t.shape.n_elements()).sum(),
        bytes: tensors
            .iter()
            .map(|t| t.stored_bytes())
            .sum::<Bytes>()
            .get(),
    };
    groups.into_iter().map(total).collect()
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
