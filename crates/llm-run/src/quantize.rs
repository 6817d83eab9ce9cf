//! `llm-run quantize`: a checkpoint written in 8 or 4 bits, as bitsandbytes lays them out; and a GGUF written as a checkpoint
//! with a `config.json`.

mod of_gguf;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use llm_arch::{HubForm, Module, Role, UnknownKeys, from_config_with};
use llm_checkpoint::{Checkpoint, Existing, MAX_CONFIG, ShardPlan, ShardWriter, read_small};
use llm_cpu::{Cpu, CpuOptions};
use llm_plan::WeightDType;
use llm_quant::QuantConfig;
use llm_runtime::{BeyondPeers, BoundModel, Linears, Save};
use llm_tensor::Bytes;
use serde_json::{Map, Value};

use crate::cli::{KeyArgs, QuantizeArgs, ShardArgs};
use crate::failure::UserError;
use crate::model::bind_files;
use crate::rewrite::{
    CONFIG, Stop, existing, metadata, refuse_overlap, set_dtype, side_files, summary, with_hint,
};
use crate::{output, verify};

pub(crate) fn quantize(args: &QuantizeArgs) -> Result<ExitCode> {
    let quant = args.quant.config()?.ok_or_else(|| {
        UserError("say how: --load-in-8bit, --load-in-4bit or --quant-config FILE".to_owned())
    })?;
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
        let message = format!("{} is no GGUF: --to-hf is for these", args.input.display());
        return Err(UserError(message).into());
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
            None => Files::default(),
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
        verify::check_damage(checkpoint, &stop)?;
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

/// Who reads what transformers does not quantize itself, and what became of that.
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
    fn add_side_files(&mut self, checkpoint: &Checkpoint, input: &Path) -> Result<()> {
        let is_new = |path: &Path| !self.new.iter().any(|(name, _)| path.ends_with(name));
        // A tokenizer's files that are not of one piece would contradict each other.
        let has_own = !self.new.is_empty();
        let is_words = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with("README") || name.starts_with("LICENSE"))
        };
        for path in side_files(checkpoint, input)? {
            if !path.ends_with(CONFIG) {
                if is_new(&path) && (!has_own || is_words(&path)) {
                    self.copies.push(path);
                }
            } else if self.config.is_empty() {
                let text = read_small(&path, MAX_CONFIG);
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

    /// Has the configuration say the element type of what is not quantized.
    fn set_dtype(&mut self, dtype: WeightDType) {
        match dtype {
            WeightDType::As(dtype) => {
                if !set_dtype(&mut self.config, dtype) {
                    let name = dtype.torch_name().into();
                    self.config.insert("dtype".to_owned(), name);
                }
            }
            WeightDType::Auto => {}
        }
    }

    /// Has the configuration say how the weights are quantized.
    fn set_quantization(&mut self, quant: &QuantConfig) {
        let key = "quantization_config".to_owned();
        self.config.insert(key, quant.to_json());
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
