//! Files beside the weights that are written.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use llm_arch::{Role, Slot, TensorKind, UnknownKeys, from_config_with};
use llm_checkpoint::{Checkpoint, MAX_CONFIG, ShardWriter, read_small};
use llm_plan::WeightDType;
use llm_quant::QuantConfig;
use serde_json::{Map, Value};

use crate::rewrite::{CONFIG, set_dtype, side_files, with_hint};

/// Files that go with the weights.
#[derive(Default)]
pub(super) struct SideFiles {
    pub(super) config: Map<String, Value>,
    /// Written as they are, by name.
    pub(super) new: Vec<(String, Vec<u8>)>,
    /// Copied as they are.
    pub(super) copies: Vec<PathBuf>,
    /// Notices for the user.
    pub(super) remarks: Vec<String>,
}

impl SideFiles {
    /// The files beside the input's weights, as far as there are no others of their names.
    pub(super) fn add_side_files(&mut self, checkpoint: &Checkpoint, input: &Path) -> Result<()> {
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
    pub(super) fn keep_shared_head(&mut self, quant: &mut QuantConfig) -> Result<()> {
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

    /// Adds matrices that are never quantized, though they are linear layers in transformers, to the list of what is not: where
    /// there is none, it is made of them and of the head, which such a list does not leave out by itself.
    pub(super) fn keep_dense(&mut self, quant: &mut QuantConfig) -> Result<()> {
        let mut config = self.config.clone();
        config.shift_remove("quantization_config");
        let skeleton = from_config_with(&config, UnknownKeys::PassOver)?;
        let module = |slot: &Slot| slot.name.strip_suffix(".weight").map(str::to_owned);
        let is_both = |slot: &Slot| slot.kind == TensorKind::Both;
        // HunYuan's; all other routers are modules of their own there.
        let is_router =
            |slot: &Slot| slot.role == Role::Router && slot.name.ends_with(".wg.weight");
        let kept = || {
            let slots = skeleton.slots.iter();
            slots.filter(|slot| is_both(slot) || is_router(slot))
        };
        let modules: Vec<_> = kept().filter_map(module).collect();
        let Some(first) = modules.first() else {
            return Ok(());
        };
        let reason = match kept().any(is_both) {
            true => "it is multiplied from both of its sides",
            false => "it chooses experts",
        };
        // Tied or not, it is a linear layer there.
        let head = skeleton.head_names().next();
        let head = head.and_then(|name| name.strip_suffix(".weight").map(str::to_owned));
        if !modules
            .iter()
            .all(|module| quant.skips(module) == Some(true))
        {
            let skipped = quant
                .llm_int8_skip_modules
                .get_or_insert_with(|| head.into_iter().collect());
            let name = first.rsplit('.').next().unwrap_or(first).to_owned();
            self.remarks
                .push(format!("{name} is not quantized: {reason}"));
            skipped.push(name);
        }
        Ok(())
    }

    /// Sets the element type of what is not quantized in the configuration.
    pub(super) fn set_dtype(&mut self, dtype: WeightDType) {
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

    /// Sets the quantization in the configuration.
    pub(super) fn set_quantization(&mut self, quant: &QuantConfig) {
        let key = "quantization_config".to_owned();
        self.config.insert(key, quant.to_json());
    }

    pub(super) fn write(&self, writer: &ShardWriter<'_>) -> Result<()> {
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
