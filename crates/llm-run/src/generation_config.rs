//! `generation_config.json`: the generation that a model's makers meant.

pub(crate) mod bounds;
mod keys;

use std::path::{Path, PathBuf};

use anyhow::Result;
use llm_checkpoint::{MAX_CONFIG, read_small};
use llm_runtime::EarlyStopping;

use self::bounds::{ANY, AT_LEAST_ZERO, POSITIVE, SHARE, SHARE_OR_ZERO};
use self::keys::Keys;
pub(crate) use self::keys::OtherKeys;
use crate::failure::{refuse, unreadable};

/// Values of the file, or of an old `config.json`, which holds the same keys. None where a key is missing or null.
///
/// Every key of transformers 5.24 is here or in one of the lists beside [`Keys`].
#[derive(Debug, Default)]
pub(crate) struct GenerationConfig {
    /// The file.
    pub(crate) path: PathBuf,
    pub(crate) max_length: Option<usize>,
    pub(crate) max_new_tokens: Option<usize>,
    pub(crate) min_length: Option<usize>,
    pub(crate) min_new_tokens: Option<usize>,
    pub(crate) max_time: Option<f32>,
    pub(crate) stop_strings: Vec<String>,
    pub(crate) do_sample: Option<bool>,
    pub(crate) num_beams: Option<usize>,
    pub(crate) early_stopping: Option<EarlyStopping>,
    pub(crate) length_penalty: Option<f32>,
    pub(crate) temperature: Option<f32>,
    pub(crate) top_k: Option<usize>,
    pub(crate) top_p: Option<f32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) top_h: Option<f32>,
    pub(crate) typical_p: Option<f32>,
    pub(crate) epsilon_cutoff: Option<f32>,
    pub(crate) eta_cutoff: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) encoder_repetition_penalty: Option<f32>,
    pub(crate) no_repeat_ngram_size: Option<usize>,
    pub(crate) encoder_no_repeat_ngram_size: Option<usize>,
    pub(crate) bad_words_ids: Vec<Vec<u32>>,
    pub(crate) sequence_bias: Vec<(Vec<u32>, f32)>,
    pub(crate) suppress_tokens: Vec<u32>,
    pub(crate) begin_suppress_tokens: Vec<u32>,
    pub(crate) forced_bos_token_id: Option<u32>,
    pub(crate) forced_eos_token_id: Vec<u32>,
    pub(crate) exponential_decay_length_penalty: Option<(usize, f32)>,
    pub(crate) renormalize_logits: bool,
    pub(crate) remove_invalid_values: bool,
    /// The tokens that end a text.
    pub(crate) eos_token_id: Vec<u32>,
    /// First token of the decoder of a model with an encoder.
    pub(crate) decoder_start_token_id: Option<u32>,
    /// Keys of it that are not applied, in a line or two.
    pub(crate) notices: Vec<String>,
}

impl GenerationConfig {
    /// Of a model's folder: `generation_config.json`, else what `config.json` has of it, else nothing.
    pub(crate) fn of_folder(folder: &Path) -> Result<Self> {
        for (name, others) in [
            ("generation_config.json", OtherKeys::AreNamed),
            ("config.json", OtherKeys::AreTheModels),
        ] {
            let path = folder.join(name);
            match read_small(&path, MAX_CONFIG) {
                Ok(text) => return Self::parse(&path, &text, others),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(unreadable(path.display(), error)),
            }
        }
        Ok(Self::default())
    }

    /// The text of the file at `path`.
    ///
    /// # Errors
    /// When it is no JSON object, or a value is not what its key takes; the same bounds hold as for flags.
    pub(crate) fn parse(path: &Path, text: &[u8], others: OtherKeys) -> Result<Self> {
        let mut keys = Keys::parse(path, text)?;
        if let OtherKeys::AreTheModels = others {
            keys.take_inner();
        }
        let mut config = GenerationConfig {
            path: path.to_owned(),
            max_length: keys.whole("max_length", 1)?,
            max_new_tokens: keys.whole("max_new_tokens", 1)?,
            min_length: keys.whole("min_length", 0)?,
            min_new_tokens: keys.whole("min_new_tokens", 0)?,
            max_time: keys.number("max_time", AT_LEAST_ZERO)?,
            stop_strings: keys.texts("stop_strings")?,
            do_sample: keys.truth("do_sample")?,
            num_beams: keys.beams()?,
            early_stopping: keys.early_stopping()?,
            length_penalty: keys.number("length_penalty", ANY)?,
            temperature: keys.number("temperature", AT_LEAST_ZERO)?,
            top_k: keys.whole("top_k", 0)?,
            top_p: keys.number("top_p", SHARE)?,
            min_p: keys.number("min_p", SHARE_OR_ZERO)?,
            top_h: keys.number("top_h", SHARE)?,
            typical_p: keys.number("typical_p", SHARE)?,
            epsilon_cutoff: keys.number("epsilon_cutoff", SHARE_OR_ZERO)?,
            eta_cutoff: keys.number("eta_cutoff", SHARE_OR_ZERO)?,
            repetition_penalty: keys.number("repetition_penalty", POSITIVE)?,
            encoder_repetition_penalty: keys.number("encoder_repetition_penalty", POSITIVE)?,
            no_repeat_ngram_size: keys.whole("no_repeat_ngram_size", 0)?,
            encoder_no_repeat_ngram_size: keys.whole("encoder_no_repeat_ngram_size", 0)?,
            bad_words_ids: keys.bad_words()?,
            sequence_bias: keys.sequence_bias()?,
            suppress_tokens: keys.ids("suppress_tokens")?,
            begin_suppress_tokens: keys.ids("begin_suppress_tokens")?,
            forced_bos_token_id: keys.id("forced_bos_token_id")?,
            forced_eos_token_id: keys.ids("forced_eos_token_id")?,
            exponential_decay_length_penalty: keys.exponential_decay()?,
            renormalize_logits: keys.truth("renormalize_logits")?.unwrap_or(false),
            remove_invalid_values: keys.truth("remove_invalid_values")?.unwrap_or(false),
            eos_token_id: keys.ids("eos_token_id")?,
            decoder_start_token_id: keys.id("decoder_start_token_id")?,
            notices: Vec::new(),
        };
        config.check_forced()?;
        config.notices = keys.notices(others);
        Ok(config)
    }

    /// Refuses ids beyond a vocabulary, where they would have to be taken at their word.
    pub(crate) fn check_ids(&self, vocab: usize) -> Result<()> {
        let sequences = self.sequence_bias.iter().flat_map(|(ids, _)| ids);
        let named = [
            ("bad_words_ids", self.bad_words_ids.iter().flatten().max()),
            ("sequence_bias", sequences.max()),
            ("forced_bos_token_id", self.forced_bos_token_id.iter().max()),
            ("forced_eos_token_id", self.forced_eos_token_id.iter().max()),
            (
                "decoder_start_token_id",
                self.decoder_start_token_id.iter().max(),
            ),
        ];
        for (key, largest) in named {
            if let Some(&id) = largest
                && id as usize >= vocab
            {
                let problem = format!("`{key}` has token id {id}, beyond the {vocab} of the model");
                return refuse(format!("{}: {problem}", self.path.display()));
            }
        }
        Ok(())
    }

    /// A token cannot be forced that never comes.
    fn check_forced(&self) -> Result<()> {
        let is_suppressed = |id: &u32| self.suppress_tokens.contains(id);
        let (bos, eos) = (self.forced_bos_token_id, &self.forced_eos_token_id);
        let key = if bos.as_ref().is_some_and(is_suppressed) {
            "forced_bos_token_id"
        } else if !eos.is_empty() && eos.iter().all(is_suppressed) {
            "forced_eos_token_id"
        } else {
            return Ok(());
        };
        let problem = format!("`{key}` is also among `suppress_tokens`");
        refuse(format!("{}: {problem}", self.path.display()))
    }
}

#[cfg(test)]
mod tests;
