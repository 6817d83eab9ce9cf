//! Common steps of the commands that write a checkpoint.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Error, Result};
use llm_checkpoint::{Checkpoint, CheckpointError, Existing, Format, MANIFEST, ShardPlan};
use llm_tensor::{Bytes, DType};
use serde_json::{Map, Value};

use crate::failure::{UserError, refuse};

/// The output must not be where the input is: replacing a checkpoint while it is read would lose it, and one inside
/// another is asking for confusion.
pub(crate) fn refuse_overlap(checkpoint: &Checkpoint, input: &Path, output: &Path) -> Result<()> {
    let Ok(place) = real_path(output) else {
        // Where its folder is not, nothing is; creating it says so.
        return Ok(());
    };
    let overlap = |what: &str| {
        refuse(format!(
            "{} {what} {}; choose another folder",
            output.display(),
            input.display()
        ))
    };
    if checkpoint.folder().canonicalize()? == place {
        return overlap("is the folder of");
    }
    for file in checkpoint.files() {
        if file.canonicalize()?.parent() == Some(&place) {
            return overlap("holds files that are linked from");
        }
    }
    if input.is_dir() && place.starts_with(input.canonicalize()?) {
        return overlap("is inside");
    }
    Ok(())
}

/// The path without links, of something that need not be there yet.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = path.file_name().ok_or(error)?;
            let parent = match path.parent() {
                Some(parent) if parent != Path::new("") => parent,
                _ => Path::new("."),
            };
            Ok(parent.canonicalize()?.join(name))
        }
        other => other,
    }
}

/// Metadata of the shards: the source's own, and that the tensors are PyTorch's, which the Python
/// libraries ask for.
pub(crate) fn metadata(checkpoint: &Checkpoint) -> BTreeMap<String, String> {
    let mut metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    if checkpoint.format() == Format::Safetensors {
        let own = checkpoint.metadata().iter();
        metadata.extend(own.filter_map(|(key, v)| Some((key.clone(), v.as_str()?.to_owned()))));
    }
    metadata
}

/// The files that go with a model's weights, sorted. Beside a single file that was named they are looked for only
/// if it lies in a model's folder, and not, say, among somebody's documents.
pub(crate) fn side_files(checkpoint: &Checkpoint, input: &Path) -> Result<Vec<PathBuf>> {
    let folder = checkpoint.folder();
    if !input.is_dir() && !folder.join(CONFIG).is_file() {
        return Ok(Vec::new());
    }
    let list = || {
        let entries = folder.read_dir()?;
        entries
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()
    };
    let mut paths = list().with_context(|| format!("cannot read {}", folder.display()))?;
    paths.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(is_side_file) && path.is_file()
    });
    paths.sort_unstable();
    Ok(paths)
}

pub(crate) const CONFIG: &str = "config.json";

/// Configurations, tokenizers, chat templates and the words of the authors; no weights, and nothing that is about
/// the files of the weights.
fn is_side_file(name: &str) -> bool {
    let is_text = SUFFIXES.iter().any(|suffix| name.ends_with(suffix));
    let is_words = ["README", "LICENSE"]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    let is_about_files = name.ends_with(".index.json") || name == MANIFEST;
    (is_text || is_words) && !is_about_files && !name.starts_with('.')
}

const SUFFIXES: [&str; 5] = [".json", ".txt", ".jinja", ".model", ".tiktoken"];

/// Names another element type in a configuration; whether it had named one.
pub(crate) fn set_dtype(config: &mut Map<String, Value>, dtype: DType) -> bool {
    let mut is_named = false;
    // The former spelling and today's.
    for key in ["torch_dtype", "dtype"] {
        if let Some(value) = config.get_mut(key) {
            *value = dtype.torch_name().into();
            is_named = true;
        }
    }
    is_named
}

/// `2 shards with 2.1 GB (2.0 GiB) of 148 tensors in out`, and how fast that was.
pub(crate) fn summary(plan: &ShardPlan, output: &Path, time: Duration) -> Vec<String> {
    let n_shards = plan.shards().len();
    let seconds = time.as_secs_f64();
    let speed = Bytes::new((plan.total().get() as f64 / seconds) as u64);
    vec![
        format!(
            "{n_shards} {} with {} of {} tensors in {}",
            if n_shards == 1 { "file" } else { "shards" },
            plan.total(),
            plan.tensors().len(),
            output.display()
        ),
        format!("{seconds:.2} s, {speed} per second"),
    ]
}

/// Fate of files that are in the way.
pub(crate) fn existing(force: bool) -> Existing {
    if force {
        Existing::Replace
    } else {
        Existing::Keep
    }
}

pub(crate) fn with_hint(error: CheckpointError) -> Error {
    match error {
        CheckpointError::Exists { .. } => UserError(format!("{error}; --force replaces it")).into(),
        other => other.into(),
    }
}
