//! `llm-run quantize`: a checkpoint written in 8 or 4 bits, as bitsandbytes lays them out.

mod of_gguf;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use llm_arch::{Module, Role, UnknownKeys, from_config_with};
use llm_checkpoint::{ShardPlan, ShardWriter};
use llm_cpu::{Cpu, CpuOptions};
use llm_plan::WeightDType;
use llm_quant::QuantConfig;
use llm_runtime::{BoundModel, LeftDense, Linears, Save};
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
    let mut quant = args.quant.config()?.ok_or_else(|| {
        UserError("say how: --load-in-8bit, --load-in-4bit or --quant-config FILE".to_owned())
    })?;
    let model = bind_files(&args.input, &args.keys)?;
    let checkpoint = model.checkpoint();
    refuse_overlap(checkpoint, &args.input, &args.output)?;
    let form = model.hub_form()?;
    let dtype = match (args.dtype, &form) {
        // A file of blocks names none, and a configuration has to.
        (WeightDType::Auto, Some(_)) => WeightDType::As(model.stored_dtype()),
        (dtype, _) => dtype,
    };
    let mut files = match &form {
        Some(form) => of_gguf::files(checkpoint, form)?,
        None => Files::default(),
    };
    files.add_side_files(&model, args)?;
    files.keep_shared_head(&mut quant)?;
    files.set_quantization(&quant, dtype);
    let encodings = model.encodings(dtype, Some(&quant))?;
    let cpu = Cpu::new(CpuOptions::default())?;
    let linears = match args.all_linear {
        true => Linears::All,
        false => Linears::Peers,
    };
    let mut save = Save::new(&model, encodings, &cpu, linears);
    if let Some(form) = &form {
        save = save.in_hub_form(form);
    }
    let plan = ShardPlan::new(save.tensors()?, Some(args.max_shard_size))?;

    let stop = Stop::on_ctrl_c()?;
    let begin = Instant::now();
    let mut metadata = metadata(checkpoint);
    let beyond = Save::new(&model, encodings, &cpu, Linears::Peers).left_dense();
    if beyond.is_some() && args.all_linear {
        // For who wonders why others do not load it.
        metadata.insert("llm_run.quantized".to_owned(), "all linear".to_owned());
    }
    let mut writer = ShardWriter::create(&args.output, &plan, metadata, existing(args.force))
        .map_err(with_hint)?;
    files.write(&writer)?;
    let bar = output::bar("quantizing", plan.total())?;
    save.write(&mut writer, |written: Bytes| {
        bar.set_position(written.get());
        stop.check()
    })?;
    writer.finish()?;
    bar.finish_and_clear();
    for line in files
        .remarks
        .into_iter()
        .chain(beyond.map(|left| readers(left, linears)))
    {
        eprintln!("{line}");
    }
    output::closing_line(summary(&plan, &args.output, begin.elapsed()));
    Ok(ExitCode::SUCCESS)
}

/// Who reads what transformers does not quantize itself, and what became of that.
fn readers(left: LeftDense, linears: Linears) -> String {
    let (n, of, there) = (left.n_tensors, left.of, in_transformers(left.module));
    match linears {
        Linears::Peers => format!(
            "{n} of {of} matrices stay dense, since {there}; --all-linear quantizes them too, for llm-run alone"
        ),
        Linears::All => format!(
            "llm-run loads this, transformers does not: {n} of {of} quantized matrices are such that {there}"
        ),
    }
}

/// What transformers has matrices in that it does not quantize.
pub(crate) fn in_transformers(module: Module) -> String {
    match module {
        Module::Linear => "transformers has them in linear layers".to_owned(),
        Module::Own(class) => format!(
            "transformers has them in a class of their own, {class}, which it does not quantize"
        ),
        Module::Experts => {
            "transformers has a layer's experts in one parameter, which it does not quantize"
                .to_owned()
        }
    }
}

/// What goes with the weights.
#[derive(Default)]
struct Files {
    config: Map<String, Value>,
    /// Written as they are, by name.
    new: Vec<(String, Vec<u8>)>,
    /// Copied as they are.
    copies: Vec<PathBuf>,
    /// What the user ought to know of them.
    remarks: Vec<String>,
}

impl Files {
    /// The files beside the input's weights, as far as there are no others of their names.
    fn add_side_files(&mut self, model: &BoundModel, args: &QuantizeArgs) -> Result<()> {
        let checkpoint = model.checkpoint();
        let is_new = |path: &Path| !self.new.iter().any(|(name, _)| path.ends_with(name));
        // A tokenizer's files that are not of one piece would contradict each other.
        let has_own = !self.new.is_empty();
        let is_words = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("README") || name.starts_with("LICENSE"))
        };
        for path in side_files(checkpoint, &args.input)? {
            if !path.ends_with(CONFIG) {
                if is_new(&path) && (!has_own || is_words(&path)) {
                    self.copies.push(path);
                }
            } else if self.config.is_empty() {
                let text = std::fs::read(&path);
                let text = text.with_context(|| format!("cannot read {}", path.display()))?;
                self.config = llm_json::parse_as(&text)?;
            }
        }
        Ok(())
    }

    /// Adds the head to the user's list of what is not quantized where it is the table of tokens: transformers would have it
    /// computed with codes that nobody made.
    fn keep_shared_head(&mut self, quant: &mut QuantConfig) -> Result<()> {
        let mut config = self.config.clone();
        config.shift_remove("quantization_config");
        let open = |config: &Map<String, Value>| from_config_with(config, UnknownKeys::PassOver);
        let is_shared = open(&config)?.shares_head_in_transformers();
        config.insert("tie_word_embeddings".to_owned(), Value::Bool(false));
        let apart = open(&config)?;
        let head = apart.slots.iter().find(|slot| slot.role == Role::Head);
        let head = head.and_then(|slot| slot.name.strip_suffix(".weight"));
        if let (true, Some(head)) = (is_shared, head)
            && quant.skips(head) == Some(false)
            && let Some(skipped) = &mut quant.llm_int8_skip_modules
        {
            skipped.push(head.to_owned());
            let remark = format!("{head} is not quantized either: it is the table of tokens");
            self.remarks.push(remark);
        }
        Ok(())
    }

    /// Has the configuration say how the weights are quantized, and the element type of what is not.
    fn set_quantization(&mut self, quant: &QuantConfig, dtype: WeightDType) {
        let config = &mut self.config;
        config.insert("quantization_config".to_owned(), quant.to_json());
        if let Some(dtype) = dense_dtype(dtype)
            && !set_dtype(config, dtype)
        {
            config.insert("dtype".to_owned(), dtype.torch_name().into());
        }
    }

    fn write(&self, writer: &ShardWriter<'_>) -> Result<()> {
        let config = format!("{:#}\n", Value::Object(self.config.clone()));
        let new = self.new.iter().map(|(name, bytes)| (&**name, &**bytes));
        for (name, bytes) in new.chain([(CONFIG, config.as_bytes())]) {
            writer.add_file(name, bytes).map_err(with_hint)?;
        }
        for path in &self.copies {
            writer.copy_file(path).map_err(with_hint)?;
        }
        Ok(())
    }
}

fn dense_dtype(dtype: WeightDType) -> Option<DType> {
    match dtype {
        WeightDType::As(dtype) => Some(dtype),
        WeightDType::Auto => None,
    }
}
