//! `llm-run shard`: a checkpoint cut into other shards, merged, or converted.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Error, Result};
use llm_checkpoint::{
    Checkpoint, CheckpointError, Encoding, Existing, Format, MANIFEST, ShardPlan, ShardWriter,
};
use llm_runtime::RuntimeError;
use llm_tensor::{Bytes, DType};
use serde_json::{Map, Value};

use crate::cli::ShardArgs;
use crate::failure::{INTERRUPTED, UserError};
use crate::output;

pub(crate) fn shard(args: &ShardArgs) -> Result<ExitCode> {
    let checkpoint = Checkpoint::open(&args.input)?;
    refuse_overlap(&checkpoint, args)?;
    let plan = ShardPlan::of_checkpoint(&checkpoint, args.dtype, Some(args.max_shard_size))?;
    let existing = if args.force {
        Existing::Replace
    } else {
        Existing::Keep
    };
    let stop = Stop::on_ctrl_c()?;
    let begin = Instant::now();
    let metadata = metadata(&checkpoint);
    let mut writer =
        ShardWriter::create(&args.output, &plan, metadata, existing).map_err(with_hint)?;
    for path in side_files(&checkpoint, args)? {
        add_side_file(&writer, &path, args.dtype).map_err(with_hint)?;
    }
    let manifest = checkpoint.folder().join(MANIFEST);
    if keeps_encodings(&checkpoint, &plan) && manifest.is_file() {
        writer.copy_file(&manifest).map_err(with_hint)?;
    }
    let bar = output::bar("writing", plan.total())?;
    writer.copy_from(&checkpoint, |written| {
        bar.set_position(written.get());
        stop.check()
    })?;
    writer.finish()?;
    bar.finish_and_clear();

    let n_shards = plan.shards().len();
    let seconds = begin.elapsed().as_secs_f64();
    let speed = Bytes::new((plan.total().get() as f64 / seconds) as u64);
    let mut parts = vec![
        format!(
            "{n_shards} {} with {} of {} tensors in {}",
            if n_shards == 1 { "file" } else { "shards" },
            plan.total(),
            plan.tensors().len(),
            args.output.display()
        ),
        format!("{seconds:.2} s, {speed} per second"),
    ];
    if checkpoint.format() == Format::Gguf {
        parts.push("tensors keep their GGUF names".to_owned());
    }
    output::closing_line(parts);
    Ok(ExitCode::SUCCESS)
}

/// Whether the user wants no more. The first Ctrl-C asks for that, the second does not ask.
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn on_ctrl_c() -> Result<Self> {
        let stop = Stop(Arc::default());
        let raised = Arc::clone(&stop.0);
        ctrlc::set_handler(move || {
            if raised.swap(true, Ordering::Relaxed) {
                std::process::exit(INTERRUPTED.into());
            }
        })
        .context("cannot watch for Ctrl-C")?;
        Ok(stop)
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(RuntimeError::Interrupted.into());
        }
        Ok(())
    }
}

/// The output must not be where the input is: replacing a checkpoint while it is read would lose it, and one inside
/// another is asking for confusion.
fn refuse_overlap(checkpoint: &Checkpoint, args: &ShardArgs) -> Result<()> {
    let Ok(output) = real_path(&args.output) else {
        // Where its folder is not, nothing is; creating it says so.
        return Ok(());
    };
    let refuse = |what: &str| {
        let message = format!(
            "{} {what} {}; choose another folder",
            args.output.display(),
            args.input.display()
        );
        Err(UserError(message).into())
    };
    if checkpoint.folder().canonicalize()? == output {
        return refuse("is the folder of");
    }
    for file in checkpoint.files() {
        if file.canonicalize()?.parent() == Some(&output) {
            return refuse("holds files that are linked from");
        }
    }
    if args.input.is_dir() && output.starts_with(args.input.canonicalize()?) {
        return refuse("is inside");
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

/// What the shards say about themselves: the source's words, and that the tensors are PyTorch's, which the Python
/// libraries ask for.
fn metadata(checkpoint: &Checkpoint) -> BTreeMap<String, String> {
    let mut metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    if checkpoint.format() == Format::Safetensors {
        let own = checkpoint.metadata().iter();
        metadata.extend(own.filter_map(|(key, v)| Some((key.clone(), v.as_str()?.to_owned()))));
    }
    metadata
}

/// Whether the tensors' bytes stay what they are, and a manifest of them valid.
fn keeps_encodings(checkpoint: &Checkpoint, plan: &ShardPlan) -> bool {
    plan.tensors().iter().all(|new| {
        let old = checkpoint.get(&new.name);
        old.is_some_and(|old| old.encoding == Encoding::Plain(new.dtype))
    })
}

/// The files that go with a model's weights, sorted. Beside a single file that was named they are looked for only
/// if it lies in a model's folder, and not, say, among somebody's documents.
fn side_files(checkpoint: &Checkpoint, args: &ShardArgs) -> Result<Vec<PathBuf>> {
    let folder = checkpoint.folder();
    if !args.input.is_dir() && !folder.join(CONFIG).is_file() {
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

const CONFIG: &str = "config.json";

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

/// Copies the file; where weights are converted, the configuration says so.
fn add_side_file(
    writer: &ShardWriter<'_>,
    path: &Path,
    dtype: Option<DType>,
) -> Result<(), CheckpointError> {
    if let Some(dtype) = dtype
        && path.ends_with(CONFIG)
        && let Some(config) = config_with_dtype(path, dtype)
    {
        return writer.add_file(CONFIG, config.as_bytes());
    }
    writer.copy_file(path)
}

/// The configuration with another element type; nothing where it names none.
fn config_with_dtype(path: &Path, dtype: DType) -> Option<String> {
    let mut config: Map<String, Value> = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let mut is_named = false;
    // The former spelling and today's.
    for key in ["torch_dtype", "dtype"] {
        if let Some(value) = config.get_mut(key) {
            *value = dtype.torch_name().into();
            is_named = true;
        }
    }
    is_named.then(|| format!("{:#}\n", Value::Object(config)))
}

fn with_hint(error: CheckpointError) -> Error {
    match error {
        CheckpointError::Exists { .. } => UserError(format!("{error}; --force replaces it")).into(),
        other => other.into(),
    }
}
