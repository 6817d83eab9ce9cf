//! `llm-run inspect`: what is in a checkpoint, by its headers, and what becomes of it once it is loaded.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use llm_checkpoint::{Checkpoint, Encoding, TensorInfo};
use llm_plan::WeightDType;
use llm_tensor::Bytes;
use serde::Serialize;
use serde_json::Value;

use self::quantized::matrices;
use self::table::table;
use crate::cli::InspectArgs;
use crate::model::OpenModel;
use crate::{demo, output};

mod loaded;
mod metadata;
mod peers;
mod quantized;
mod table;

pub(crate) use self::table::{Column, printable, table_of};

pub(crate) fn inspect(args: &InspectArgs) -> Result<ExitCode> {
    let print = |report: &Report<'_>| {
        output::print(&if args.json {
            serde_json::to_string(report)? + "\n"
        } else {
            report.text()
        })
    };
    let quant = args.quant.config()?;
    if quant.is_none() && args.dtype.is_none() {
        let checkpoint = open(&args.model)?;
        let mut report = Report::new(&checkpoint)?;
        if report.statistics_bytes.is_some() {
            report.transformers = peers::transformers(&args.model);
        }
        print(&report)?;
    } else {
        let model = OpenModel::open(&args.model, &args.keys)?.bound;
        let dtype = args.dtype.unwrap_or(WeightDType::Auto);
        print(&loaded::report(&model, dtype, quant.as_ref())?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens what the user calls a model, for its weights alone, and says once what is to be said of its files.
pub(crate) fn open(model: &Path) -> Result<Checkpoint> {
    if model == Path::new(demo::NAME) {
        return Ok(Checkpoint::from_bytes(
            Path::new(demo::ORIGIN),
            demo::weights(),
        )?);
    }
    crate::model::expect_there(model)?;
    let checkpoint = Checkpoint::open(model)?;
    output::notes(checkpoint.notices());
    Ok(checkpoint)
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'c> {
    path: String,
    format: String,
    n_tensors: usize,
    /// Elements of all tensors; those that several share count once, what codes are decoded with does not.
    n_parameters: u64,
    /// Bytes of all tensors; those that several share count once.
    bytes: u64,
    /// Those of them that are what codes are decoded with.
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics_bytes: Option<u64>,
    /// Of a quantized checkpoint that has its configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    transformers: Option<peers::Transformers>,
    tensors: Vec<Tensor<'c>>,
    by_dtype: Vec<Total>,
    by_file: Vec<Total>,
    /// Names of the same bytes.
    shared: Vec<Vec<&'c str>>,
    metadata: BTreeMap<&'c str, Value>,
}

/// A tensor, or a quantized matrix with all that belongs to it.
#[derive(Serialize)]
struct Tensor<'c> {
    name: &'c str,
    /// The element type, as PyTorch calls it, of a quantized matrix its codes'; or GGUF's encoding.
    dtype: String,
    /// How it is quantized.
    #[serde(skip_serializing_if = "Option::is_none")]
    scheme: Option<String>,
    shape: Vec<u64>,
    /// Bytes of the elements, or of their codes.
    bytes: u64,
    /// Bytes of what codes are decoded with.
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics_bytes: Option<u64>,
    file: String,
}

/// What several tensors add up to; those that share their bytes count once.
#[derive(Serialize)]
struct Total {
    /// What they have in common.
    name: String,
    n_tensors: usize,
    n_parameters: u64,
    bytes: u64,
}

impl<'c> Report<'c> {
    fn new(checkpoint: &'c Checkpoint) -> Result<Self> {
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
        let matrices = matrices(checkpoint)?;
        let mut tensors = Vec::new();
        let mut n_parameters: u64 = distinct.iter().map(|t| t.shape.n_elements()).sum();
        for t in checkpoint.tensors() {
            let Some(matrix) = matrices.of(&t.name) else {
                tensors.push(Tensor {
                    name: &t.name,
                    dtype: dtype_name(t.encoding),
                    scheme: None,
                    shape: t.shape.to_vec(),
                    bytes: t.stored_bytes().get(),
                    statistics_bytes: None,
                    file: files[t.file_idx].clone(),
                });
                continue;
            };
            n_parameters -= t.shape.n_elements();
            if matrix.weight == t.name {
                n_parameters += matrix.shape.iter().product::<u64>();
                tensors.push(Tensor {
                    name: &t.name,
                    dtype: dtype_name(t.encoding),
                    scheme: Some(matrix.scheme.clone()),
                    shape: matrix.shape.clone(),
                    bytes: t.stored_bytes().get(),
                    statistics_bytes: Some(matrix.statistics_bytes),
                    file: files[t.file_idx].clone(),
                });
            }
        }
        let statistics = tensors.iter().filter_map(|t| t.statistics_bytes);
        Ok(Report {
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
            tensors,
            by_dtype: totals(&distinct, |t| dtype_name(t.encoding)),
            by_file: totals(&distinct, |t| files[t.file_idx].clone()),
            shared: shared
                .map(|tensors| tensors.iter().map(|t| &*t.name).collect())
                .collect(),
            metadata: metadata::summary(checkpoint.metadata()),
        })
    }

    fn text(&self) -> String {
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
            text += &table(head, rows.collect());
        }
        let shared = self.shared.iter().map(|names| [names.join(" = ")]);
        text += &table([Left("shared bytes")], shared.collect());
        let metadata = self.metadata.iter();
        let metadata = metadata.map(|(key, value)| [(*key).to_owned(), metadata::text(value)]);
        text + &table([Left("metadata"), Left("value")], metadata.collect())
    }
}

impl Report<'_> {
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
            return table(head, self.tensors.iter().map(row).collect());
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
        table(head, self.tensors.iter().map(row).collect())
    }
}

/// The name of an element type in PyTorch, or of GGUF's encoding.
pub(crate) fn dtype_name(encoding: Encoding) -> String {
    match encoding {
        Encoding::Plain(dtype) => dtype.torch_name().to_owned(),
        Encoding::Block(_) | Encoding::Opaque(_) => encoding.to_string(),
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

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// `1,234,567`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_thousands() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (12_345_678, "12,345,678"),
        ] {
            assert_eq!(grouped(n), text);
        }
    }
}
