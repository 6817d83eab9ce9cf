//! `llm-run quantize`: a checkpoint written in 8 or 4 bits, as bitsandbytes lays them out.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use llm_checkpoint::{Format, ShardPlan, ShardWriter};
use llm_cpu::{Cpu, CpuOptions};
use llm_plan::{Encodings, WeightDType};
use llm_quant::QuantConfig;
use llm_runtime::{BoundModel, Save};
use llm_tensor::{Bytes, DType};
use serde_json::{Map, Value};

use crate::cli::QuantizeArgs;
use crate::failure::UserError;
use crate::model::bind_files;
use crate::output;
use crate::rewrite::{
    CONFIG, Stop, existing, metadata, refuse_overlap, set_dtype, side_files, summary, with_hint,
};

pub(crate) fn quantize(args: &QuantizeArgs) -> Result<ExitCode> {
    let quant = args.quant.config()?.ok_or_else(|| {
        UserError("say how: --load-in-8bit, --load-in-4bit or --quant-config FILE".to_owned())
    })?;
    let model = bind_files(&args.input)?;
    let checkpoint = model.checkpoint();
    if checkpoint.format() == Format::Gguf {
        let hint = "give the folder of the original checkpoint";
        let message = format!(
            "{}: the layout of bitsandbytes needs a config.json and its names, which GGUF has not; {hint}",
            args.input.display()
        );
        return Err(UserError(message).into());
    }
    refuse_overlap(checkpoint, &args.input, &args.output)?;
    let encodings = model.encodings(args.dtype, Some(&quant))?;
    let cpu = Cpu::new(CpuOptions::default())?;
    let save = Save::new(&model, encodings, &cpu);
    let plan = ShardPlan::new(save.tensors()?, Some(args.max_shard_size))?;
    let config = config(&model, &encodings, &quant)?;

    let stop = Stop::on_signal()?;
    let begin = Instant::now();
    let metadata = metadata(checkpoint);
    let mut writer = ShardWriter::create(&args.output, &plan, metadata, existing(args.force))
        .map_err(with_hint)?;
    for path in side_files(checkpoint, &args.input)? {
        if path.ends_with(CONFIG) {
            writer
                .add_file(CONFIG, config.as_bytes())
                .map_err(with_hint)?;
        } else {
            writer.copy_file(&path).map_err(with_hint)?;
        }
    }
    let bar = output::bar("quantizing", plan.total())?;
    save.write(&mut writer, |written: Bytes| {
        bar.set_position(written.get());
        stop.check()
    })?;
    writer.finish()?;
    bar.finish_and_clear();
    output::closing_line(summary(&plan, &args.output, begin.elapsed()));
    Ok(ExitCode::SUCCESS)
}

/// The model's configuration with the quantization, and with the element type of what is not quantized.
fn config(model: &BoundModel, encodings: &Encodings<'_>, quant: &QuantConfig) -> Result<String> {
    let path = model.checkpoint().folder().join(CONFIG);
    let mut config: Map<String, Value> = serde_json::from_slice(&std::fs::read(path)?)?;
    config.insert("quantization_config".to_owned(), quant.to_json());
    if let Some(dtype) = dense_dtype(encodings)
        && !set_dtype(&mut config, dtype)
    {
        config.insert("dtype".to_owned(), dtype.torch_name().into());
    }
    Ok(format!("{:#}\n", Value::Object(config)))
}

fn dense_dtype(encodings: &Encodings<'_>) -> Option<DType> {
    match encodings.dtype {
        WeightDType::As(dtype) => Some(dtype),
        WeightDType::Auto => None,
    }
}
