//! `llm-run shard`: a checkpoint cut into other shards, merged, or converted.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use llm_checkpoint::{
    Checkpoint, CheckpointError, Format, MANIFEST, MAX_CONFIG, ShardPlan, ShardWriter, read_small,
};
use llm_tensor::DType;
use serde_json::{Map, Value};

use crate::cli::ShardArgs;
use crate::rewrite::{
    CONFIG, existing, metadata, refuse_overlap, set_dtype, side_files, summary, with_hint,
};
use crate::signals::Stop;
use crate::{checksum, open, output, quantize};

pub(crate) fn shard(args: &ShardArgs) -> Result<ExitCode> {
    if args.to_hf {
        return quantize::to_hf(args);
    }
    open::expect_there(&args.input)?;
    let checkpoint = Checkpoint::open(&args.input)?;
    output::notes(checkpoint.notices());
    refuse_overlap(&checkpoint, &args.input, &args.output)?;
    let plan = ShardPlan::of_checkpoint(&checkpoint, args.dtype, Some(args.max_shard_size))?;
    if let Some(note) = unconverted(&plan) {
        output::notes(&[note]);
    }
    let stop = Stop::on_signal()?;
    checksum::check_damage(&checkpoint, &stop)?;
    let begin = Instant::now();
    let metadata = metadata(&checkpoint);
    let mut writer = ShardWriter::create(&args.output, &plan, metadata, existing(args.force))
        .map_err(with_hint)?;
    for path in side_files(&checkpoint, &args.input)? {
        add_side_file(&writer, &path, args.dtype).map_err(with_hint)?;
    }
    let manifest = checkpoint.folder().join(MANIFEST);
    if plan.keeps_encodings(&checkpoint) && manifest.is_file() {
        writer.copy_file(&manifest).map_err(with_hint)?;
    }
    let bar = output::bar("writing", plan.total())?;
    writer.copy_from(&checkpoint, |written| {
        bar.set_position(written.get());
        stop.check()
    })?;
    writer.finish()?;
    bar.finish_and_clear();

    let mut parts = summary(&plan, &args.output, begin.elapsed());
    if checkpoint.format() == Format::Gguf {
        parts.push(
            "tensors keep their GGUF names; --to-hf gives them those that go with a config.json"
                .to_owned(),
        );
    }
    output::closing_line(parts);
    Ok(ExitCode::SUCCESS)
}

/// Notice of tensors that stay as they are though a conversion was asked for.
fn unconverted(plan: &ShardPlan) -> Option<String> {
    let first = plan.unconverted().first()?;
    let n = plan.unconverted().len();
    Some(format!(
        "{n} floating-point tensors of quantized matrices stay as they are, or their codes would mean nothing: `{first}`, …"
    ))
}

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
    let mut config: Map<String, Value> =
        llm_json::parse_as(&read_small(path, MAX_CONFIG).ok()?).ok()?;
    set_dtype(&mut config, dtype).then(|| format!("{:#}\n", Value::Object(config)))
}
