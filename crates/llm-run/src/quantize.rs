//! `llm-run quantize`: a checkpoint written in 8 or 4 bits, as bitsandbytes lays them out; and a GGUF written as a checkpoint
//! with a `config.json`.

mod of_gguf;
mod side_files;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use llm_arch::HubForm;
use llm_checkpoint::{Existing, ShardPlan, ShardWriter};
use llm_cpu::{Cpu, CpuOptions};
use llm_plan::WeightDType;
use llm_quant::QuantConfig;
use llm_runtime::{BeyondPeers, BoundModel, Linears, Save};
use llm_tensor::Bytes;

use self::side_files::SideFiles;
use crate::cli::{KeyArgs, QuantizeArgs, ShardArgs};
use crate::failure::{UserError, refuse};
use crate::open::bind_files;
use crate::peers::in_transformers;
use crate::rewrite::{existing, metadata, refuse_overlap, summary, with_hint};
use crate::signals::Stop;
use crate::{checksum, output};

pub(crate) fn quantize(args: &QuantizeArgs) -> Result<ExitCode> {
    let mut quant = args.quant.config()?.ok_or_else(|| {
        UserError("say how: --load-in-8bit, --load-in-4bit or --quant-config FILE".to_owned())
    })?;
    args.compute.record(&mut quant);
    let linears = match args.all_linear {
        true => Linears::All,
        false => Linears::Peers,
    };
    let model = bind_files(&args.input, &args.keys)?;
    let form = model.hub_form()?;
    Rewrite {
        doing: "quantizing",
        input: &args.input,
        output: &args.output,
        max_shard_size: args.max_shard_size,
        existing: existing(args.force),
        dtype: args.dtype,
        linears,
    }
    .run(&model, form.as_ref(), Some(quant))
}

/// Writes the model of a GGUF as a dense checkpoint with a `config.json`.
pub(crate) fn to_hf(args: &ShardArgs) -> Result<ExitCode> {
    let model = bind_files(&args.input, &KeyArgs::default())?;
    let Some(form) = model.hub_form()? else {
        return refuse(format!(
            "{} is no GGUF: --to-hf is for these",
            args.input.display()
        ));
    };
    Rewrite {
        doing: "writing",
        input: &args.input,
        output: &args.output,
        max_shard_size: args.max_shard_size,
        existing: existing(args.force),
        dtype: args.dtype.map_or(WeightDType::Auto, WeightDType::As),
        linears: Linears::Peers,
    }
    .run(&model, Some(&form), None)
}

/// A model on its way from a checkpoint to another.
struct Rewrite<'a> {
    doing: &'static str,
    input: &'a Path,
    output: &'a Path,
    max_shard_size: Bytes,
    existing: Existing,
    dtype: WeightDType,
    linears: Linears,
}

impl Rewrite<'_> {
    fn run(
        &self,
        model: &BoundModel,
        form: Option<&HubForm>,
        mut quant: Option<QuantConfig>,
    ) -> Result<ExitCode> {
        let checkpoint = model.checkpoint();
        refuse_overlap(checkpoint, self.input, self.output)?;
        let dtype = match (self.dtype, form) {
            // A file of blocks names none, and a configuration has to.
            (WeightDType::Auto, Some(_)) => WeightDType::As(model.stored_dtype()),
            (dtype, _) => dtype,
        };
        let mut files = match form {
            Some(form) => of_gguf::files(checkpoint, form)?,
            None => SideFiles::default(),
        };
        files.add_side_files(checkpoint, self.input)?;
        // A larger model's text half becomes a model of its own: the rest of it is not there.
        let alone = match form {
            Some(_) => None,
            None => HubForm::of_text_half(&files.config)?,
        };
        if let Some(alone) = &alone {
            files.config.clone_from(&alone.config);
            let remark = format!(
                "written as a model of its own: {}",
                alone.skeleton.spec.family
            );
            files.remarks.push(remark);
        }
        let form = form.or(alone.as_ref());
        files.set_dtype(dtype);
        if let Some(quant) = &mut quant {
            files.keep_shared_head(quant)?;
            files.keep_dense(quant)?;
            files.set_quantization(quant);
        }
        let encodings = model.encodings(dtype, quant.as_ref())?;
        let cpu = Cpu::new(CpuOptions::default())?;
        let mut save = Save::new(model, encodings, &cpu, self.linears);
        if let Some(form) = form {
            save = save.in_hub_form(form);
        }
        let plan = ShardPlan::new(save.tensors()?, Some(self.max_shard_size))?;

        let stop = Stop::on_signal()?;
        checksum::check_damage(checkpoint, &stop)?;
        let begin = Instant::now();
        let mut metadata = metadata(checkpoint);
        let beyond = save.beyond_peers();
        if beyond.is_some() && self.linears == Linears::All {
            // For who wonders why others do not load it.
            metadata.insert("llm_run.quantized".to_owned(), "all linear".to_owned());
        }
        let mut writer =
            ShardWriter::create(self.output, &plan, metadata, self.existing).map_err(with_hint)?;
        files.write(&writer)?;
        let bar = output::bar(self.doing, plan.total())?;
        save.write(&mut writer, |written: Bytes| {
            bar.set_position(written.get());
            stop.check()
        })?;
        writer.finish()?;
        bar.finish_and_clear();
        let mut remarks = files.remarks;
        remarks.extend(beyond.map(|beyond| readers(beyond, self.linears)));
        output::notes(&remarks);
        output::closing_line(summary(&plan, self.output, begin.elapsed()));
        Ok(ExitCode::SUCCESS)
    }
}

/// Readers of matrices that transformers does not quantize itself, and what became of those.
fn readers(beyond: BeyondPeers, linears: Linears) -> String {
    let (n, of, there) = (beyond.n_tensors, beyond.of, in_transformers(beyond.module));
    match linears {
        Linears::Peers => format!(
            "{n} of {of} matrices stay dense, since {there}; --all-linear quantizes them too, for llm-run alone"
        ),
        Linears::All => format!(
            "llm-run loads this, transformers does not: {n} of {of} quantized matrices are such that {there}"
        ),
    }
}
