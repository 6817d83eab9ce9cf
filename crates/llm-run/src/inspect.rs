//! `llm-run inspect`: what is in a checkpoint, by its headers.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use llm_checkpoint::{Checkpoint, TensorInfo};
use llm_tensor::Bytes;
use serde::Serialize;
use serde_json::Value;

use self::table::{Column, table};
use crate::cli::InspectArgs;
use crate::{demo, output};

mod metadata;
mod table;

pub(crate) use table::printable;

pub(crate) fn inspect(args: &InspectArgs) -> Result<ExitCode> {
    let checkpoint = open(&args.model)?;
    let report = Report::new(&checkpoint);
    output::print(&if args.json {
        serde_json::to_string(&report)? + "\n"
    } else {
        report.text()
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Opens what the user calls a model, for its weights alone.
pub(crate) fn open(model: &Path) -> Result<Checkpoint> {
    if model == Path::new(demo::NAME) {
        return Ok(Checkpoint::from_bytes(
            Path::new(demo::ORIGIN),
            demo::weights(),
        )?);
    }
    Ok(Checkpoint::open(model)?)
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'c> {
    path: String,
    format: String,
    n_tensors: usize,
    /// Elements of all tensors; those that several share count once.
    n_parameters: u64,
    /// Bytes of all tensors, counted likewise.
    bytes: u64,
    tensors: Vec<Tensor<'c>>,
    by_dtype: Vec<Total>,
    by_file: Vec<Total>,
    /// Names of the same bytes.
    shared: Vec<Vec<&'c str>>,
    metadata: BTreeMap<&'c str, Value>,
}

#[derive(Serialize)]
struct Tensor<'c> {
    name: &'c str,
    dtype: String,
    shape: &'c [u64],
    bytes: u64,
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
    fn new(checkpoint: &'c Checkpoint) -> Self {
        let files: Vec<String> = checkpoint.files().map(file_name).collect();
        let tensor = |t: &'c TensorInfo| Tensor {
            name: &t.name,
            dtype: t.encoding.to_string(),
            shape: &t.shape,
            bytes: t.stored_bytes().get(),
            file: files[t.file_idx].clone(),
        };
        // By place: a place is a file and a range of it. Empty tensors share nothing.
        let mut places: BTreeMap<_, Vec<&TensorInfo>> = BTreeMap::new();
        for t in checkpoint.tensors() {
            let empty = t.bytes.is_empty().then_some(&t.name);
            let place = (t.file_idx, t.bytes.start, t.bytes.end, empty);
            places.entry(place).or_default().push(t);
        }
        let distinct: Vec<&TensorInfo> = places.values().map(|tensors| tensors[0]).collect();
        let shared = places.values().filter(|tensors| tensors.len() > 1);
        Report {
            path: checkpoint.path().display().to_string(),
            format: format!("{:?}", checkpoint.format()).to_lowercase(),
            n_tensors: checkpoint.tensors().len(),
            n_parameters: distinct.iter().map(|t| t.shape.n_elements()).sum(),
            bytes: distinct
                .iter()
                .map(|t| t.stored_bytes())
                .sum::<Bytes>()
                .get(),
            tensors: checkpoint.tensors().map(tensor).collect(),
            by_dtype: totals(&distinct, |t| t.encoding.to_string()),
            by_file: totals(&distinct, |t| files[t.file_idx].clone()),
            shared: shared
                .map(|tensors| tensors.iter().map(|t| &*t.name).collect())
                .collect(),
            metadata: metadata::summary(checkpoint.metadata()),
        }
    }

    fn text(&self) -> String {
        use Column::{Left, Right};
        let mut text = format!(
            "{} · {} · {} tensors · {} parameters · {}\n",
            printable(&self.path),
            self.format,
            grouped(self.n_tensors as u64),
            grouped(self.n_parameters),
            Bytes::new(self.bytes)
        );
        let tensors = self.tensors.iter().map(|t| {
            let shape = format!("{:?}", t.shape);
            [t.name.to_owned(), t.dtype.clone(), shape, grouped(t.bytes)]
        });
        let head = [Left("tensor"), Left("dtype"), Left("shape"), Right("bytes")];
        text += &table(head, tensors.collect());
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
fn grouped(n: u64) -> String {
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
