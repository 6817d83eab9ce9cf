//! From what the user calls a model to a loaded session.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use llm_arch::{ArchError, ModelSpec};
use llm_checkpoint::{Array, Checkpoint, Format, Metadata, Value};
use llm_cpu::{Cpu, CpuOptions};
use llm_plan::Plan;
use llm_runtime::{
    BoundModel, Device, Event, Interrupt, LoadOptions, OffloadOptions, RuntimeError, Session,
    load_under,
};
use llm_text::{GgufTokenizer, TextError, Tokenizer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cache;
use crate::cli::{KeyArgs, LoadArgs};
use crate::demo;
use crate::failure::UserError;
use crate::generation_config::{GenerationConfig, Others};
use crate::output;
use crate::plan::{self, Wanted, limits};
use crate::{signals, unknown, verify};

/// A model that was found and understood, its weights not yet loaded.
pub(crate) struct OpenModel {
    pub(crate) bound: BoundModel,
    /// Looked at when it is needed: token ids do without one.
    tokenizer: Result<Tokenizer, TextError>,
    /// Whether the tokenizer's notices are printed.
    notices: Once,
    generation: Generation,
}

/// Where it stands how a model is to generate.
enum Generation {
    Demo,
    Folder(PathBuf),
    Nowhere,
}

impl OpenModel {
    pub(crate) fn open(path: &Path, keys: &KeyArgs) -> Result<Self> {
        let bound = bind(path, keys).map_err(|error| unknown::with_hint(path, error))?;
        if path == Path::new(demo::NAME) {
            return Ok(OpenModel {
                bound,
                tokenizer: Tokenizer::from_json(demo::TOKENIZER, Some(demo::TOKENIZER_CONFIG)),
                notices: Once::new(),
                generation: Generation::Demo,
            });
        }
        let checkpoint = bound.checkpoint();
        let (tokenizer, generation) = match checkpoint.format() {
            Format::Gguf => {
                let tokenizer = gguf_tokenizer(checkpoint.metadata());
                (Tokenizer::from_gguf(&tokenizer), Generation::Nowhere)
            }
            _ => {
                let folder = checkpoint.folder();
                (
                    Tokenizer::from_folder(folder),
                    Generation::Folder(folder.to_owned()),
                )
            }
        };
        Ok(OpenModel {
            bound,
            tokenizer,
            notices: Once::new(),
            generation,
        })
    }

    /// The tokenizer, where text is to be read or written. What it takes otherwise than its files may mean is said.
    pub(crate) fn tokenizer(&self) -> Result<&Tokenizer> {
        // The error is shown, not stored elsewhere: its message is all that is needed of it.
        let tokenizer = self.tokenizer.as_ref();
        let tokenizer = tokenizer.map_err(|error| UserError(error.to_string()))?;
        self.notices
            .call_once(|| output::notes(tokenizer.notices()));
        Ok(tokenizer)
    }

    /// How the model's makers would have it generate.
    ///
    /// # Errors
    /// When what their file says cannot be.
    pub(crate) fn generation(&self) -> Result<GenerationConfig> {
        match &self.generation {
            Generation::Demo => {
                let origin = Path::new(demo::ORIGIN);
                GenerationConfig::parse(origin, demo::CONFIG, Others::AreTheModels)
            }
            Generation::Folder(folder) => GenerationConfig::of_folder(folder),
            Generation::Nowhere => Ok(GenerationConfig::default()),
        }
    }

    /// Plans and loads the weights for `n_sequences` of `context` positions and `n_logits` rows of logits at a time,
    /// showing progress where someone can see it. A signal raises the session's interrupt, which ends loading, too.
    ///
    /// # Errors
    /// When the plan does not fit, or a weight cannot be read.
    pub(crate) fn load(
        &self,
        args: &LoadArgs,
        context: usize,
        n_sequences: usize,
        n_logits: usize,
    ) -> Result<Loaded> {
        if args.verify {
            verify::check(self.bound.checkpoint())?;
        }
        let begin = Instant::now();
        let quant = args.quant.config()?;
        let device = Arc::new(args.cpu()?);
        let wanted = Wanted {
            model: &self.bound,
            args,
            quant: quant.as_ref(),
            limits: limits(self.bound.spec(), context, n_sequences, n_logits),
        };
        let plan = wanted.plan(&device)?;
        let offload_folder = match plan.map.tiers().disk {
            true => Some(args.place.offload_folder().ok_or_else(cache::no_folder)?),
            false => None,
        };
        let options = LoadOptions {
            dtype: args.dtype,
            quant: quant.as_ref(),
            encoder: &*device,
            limits: wanted.limits,
            offload: offload_folder.as_deref().map(|folder| OffloadOptions {
                map: &plan.map,
                folder,
            }),
        };
        if offload_folder.is_some() {
            raise_file_limit();
        }
        let mut bar = Bar::new()?;
        let interrupt = Interrupt::default();
        let raised = interrupt.clone();
        signals::watch(move |_| raised.raise())?;
        let mut show = |event| bar.show(event);
        let session = load_under(&self.bound, &device, &options, &interrupt, &mut show)?;
        bar.bar.finish_and_clear();
        if let Some(streamed) = plan::streamed(&plan) {
            eprintln!("{streamed}");
        }
        Ok(Loaded {
            session,
            plan,
            device: device.info().name.clone(),
            time: begin.elapsed(),
        })
    }
}

/// Lets the process have as many open files as it is allowed to: what is streamed may lie in thousands.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // A limit that stays is named by the error of the file that is one too many.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

/// Opens what the user calls a model, without its tokenizer.
pub(crate) fn bind(path: &Path, keys: &KeyArgs) -> Result<BoundModel> {
    if path == Path::new(demo::NAME) {
        let origin = Path::new(demo::ORIGIN);
        let checkpoint = Checkpoint::from_bytes(origin, demo::weights())?;
        return Ok(BoundModel::with_config(checkpoint, demo::CONFIG, origin)?);
    }
    bind_files(path, keys)
}

/// Refuses a path that leads nowhere.
///
/// # Errors
/// With what may have been meant.
pub(crate) fn expect_there(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let text = path.display().to_string();
    let hint = if text.contains(' ') && !text.contains('/') {
        "a text to continue comes after the model, or with -p".to_owned()
    } else if text.contains("://") {
        "nothing is fetched: download it first, and give the folder".to_owned()
    } else if is_hub_name(&text) {
        let fetch = format!("`hf download {text} --local-dir DIR`");
        format!("if that is its name on a hub, download it first, as with {fetch}, and give DIR")
    } else {
        let name = demo::NAME;
        format!("give a folder, a .safetensors or .gguf file, or `{name}`")
    };
    Err(UserError(format!("there is no model at {text}; {hint}")).into())
}

/// Whether it may be an owner and a model's name on a hub: no path of a file, nor of anything in a folder that is here.
fn is_hub_name(text: &str) -> bool {
    let is_part = |part: &str| {
        let is_letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(is_letter)
    };
    let is_file = [".safetensors", ".gguf", ".bin", ".json", ".pt", ".pth"]
        .iter()
        .any(|suffix| text.ends_with(suffix));
    text.split_once('/').is_some_and(|(owner, name)| {
        is_part(owner) && is_part(name) && !is_file && !Path::new(owner).exists()
    })
}

/// Opens a model's files, and says once what is to be said of them.
pub(crate) fn bind_files(path: &Path, keys: &KeyArgs) -> Result<BoundModel> {
    expect_there(path)?;
    let checkpoint = Checkpoint::open(path).map_err(RuntimeError::from)?;
    // Before the model is bound: where that fails, they may say why.
    output::notes(checkpoint.notices());
    let model = BoundModel::of_with(checkpoint, keys.unknown_keys()).map_err(with_hint)?;
    output::notes(model.notices());
    Ok(model)
}

/// An error in a configuration, with what lets it pass.
pub(crate) fn with_hint(error: RuntimeError) -> anyhow::Error {
    match &error {
        RuntimeError::Config { flaw, .. } if matches!(**flaw, ArchError::UnknownKeys { .. }) => {
            UserError(format!(
                "{error}; --allow-unknown-config passes over such keys"
            ))
            .into()
        }
        _ => error.into(),
    }
}

impl LoadArgs {
    /// Starts what computes.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        Ok(Cpu::new(CpuOptions {
            threads: self.threads,
            isa: self.isa,
        })?)
    }

    /// Positions to keep: what is needed, but no more than the model or the user allows.
    pub(crate) fn context(&self, spec: &ModelSpec, needed: usize) -> Result<usize> {
        match self.context {
            Some(asked) if asked.get() > spec.context => Err(UserError(format!(
                "--context {asked} is more than the {} positions that the model has",
                spec.context
            ))
            .into()),
            Some(asked) => Ok(asked.get()),
            None => Ok(needed.min(spec.context)),
        }
    }
}

/// A loaded model.
pub(crate) struct Loaded {
    pub(crate) session: Session,
    /// What it was loaded by.
    pub(crate) plan: Plan,
    /// What it computes on.
    pub(crate) device: String,
    /// How long loading took.
    pub(crate) time: Duration,
}

/// What loading is at, where someone can see it.
struct Bar {
    bar: ProgressBar,
    has_waited: bool,
}

impl Bar {
    fn new() -> Result<Self> {
        let template =
            "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}";
        let style = ProgressStyle::with_template(template).context("the progress bar's template");
        Ok(Bar {
            bar: ProgressBar::new(0).with_style(style?),
            has_waited: false,
        })
    }

    fn show(&mut self, event: Event) {
        let (message, at) = match event {
            Event::Waiting => {
                let message = "waiting for another run that writes the same offload files";
                // It may take minutes, and who reads a log sees no bar.
                if self.bar.is_hidden() && !self.has_waited {
                    eprintln!("{message}");
                }
                self.has_waited = true;
                self.bar.set_message(message);
                return;
            }
            Event::Offloading(at) => ("writing offload files", at),
            Event::Loading(at) => ("loading", at),
        };
        self.bar.set_message(message);
        self.bar.set_length(at.total.get());
        self.bar.set_position(at.done.get());
    }
}

/// The tokenizer in a GGUF's metadata.
pub(crate) fn gguf_tokenizer(metadata: &Metadata) -> GgufTokenizer {
    let get = |key: &str| metadata.get(&format!("tokenizer.ggml.{key}"));
    let text = |key| get(key).and_then(Value::as_str).map(str::to_owned);
    let strings = |key| get(key).and_then(Value::as_strings).map(<[String]>::to_vec);
    let id = |key| {
        get(key)
            .and_then(Value::as_u64)
            .and_then(|id| u32::try_from(id).ok())
    };
    let flag = |key| get(key).and_then(Value::as_bool);
    GgufTokenizer {
        model: text("model").unwrap_or_default(),
        pre: text("pre"),
        tokens: strings("tokens").unwrap_or_default(),
        token_types: match get("token_type") {
            Some(Value::Array(Array::I32(types))) => Some(types.clone()),
            _ => None,
        },
        scores: match get("scores") {
            Some(Value::Array(Array::F32(scores))) => Some(scores.clone()),
            _ => None,
        },
        merges: strings("merges"),
        bos_id: id("bos_token_id"),
        eos_id: id("eos_token_id"),
        eot_id: id("eot_token_id"),
        eom_id: id("eom_token_id"),
        unk_id: id("unknown_token_id"),
        pad_id: id("padding_token_id"),
        add_bos: flag("add_bos_token"),
        add_eos: flag("add_eos_token"),
        add_space_prefix: flag("add_space_prefix"),
        charsmap: match get("precompiled_charsmap") {
            Some(Value::Array(Array::U8(bytes))) => Some(bytes.clone()),
            Some(Value::Array(Array::I8(bytes))) => {
                Some(bytes.iter().map(|byte| byte.cast_unsigned()).collect())
            }
            _ => None,
        },
        name: metadata
            .get("general.name")
            .and_then(Value::as_str)
            .map(str::to_owned),
        chat_template: metadata
            .get("tokenizer.chat_template")
            .and_then(Value::as_str)
            .map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use llm_text::SpecialTokens;
    use serde::Deserialize;

    use super::*;

    #[test]
    fn a_phi3_gguf_is_known_by_its_name() {
        #[derive(Deserialize)]
        struct Case {
            text: String,
            ids: Vec<u32>,
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/fixtures/faults/text/02-gguf-phi3-rstrip");
        let checkpoint = Checkpoint::open(&folder.join("phi3-vocab.gguf")).unwrap();
        let tokenizer = Tokenizer::from_gguf(&gguf_tokenizer(checkpoint.metadata())).unwrap();
        let cases = std::fs::read(folder.join("expected.json")).unwrap();
        let cases: Vec<Case> = serde_json::from_slice(&cases).unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let ids = tokenizer.encode(&case.text, SpecialTokens::AsIs).unwrap();
            assert_eq!(ids, case.ids, "{:?}", case.text);
        }
    }
}
