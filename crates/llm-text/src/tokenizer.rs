use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use tokenizers::{Decoder, DecoderWrapper};

use crate::error::one_line;
use crate::{ChatTemplate, GgufTokenizer, StreamingDetokenizer, TextError};

mod config;
mod load;

/// Text to token ids and back, as the model was trained with.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    framing: Framing,
    bos_id: Option<u32>,
    eos_ids: Vec<u32>,
    vocab_size: usize,
    chat_template: Option<ChatTemplate>,
}

/// Whether [`Tokenizer::encode`] puts the tokens around the text that the model expects at its edges.
///
/// Exhaustive: there is no third way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// Add them as the tokenizer is set up to, mostly a begin-of-sequence token.
    Add,
    /// Take the text as it is: a rendered chat template has them already.
    AsIs,
}

/// What becomes of special tokens in decoded text; exhaustive, as they are there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialText {
    /// They leave no trace.
    Skip,
    /// They are spelled out, as `<s>`.
    Keep,
}

/// What puts the special tokens around a text.
#[derive(Debug, Clone, Copy)]
enum Framing {
    /// The post-processor of `tokenizer.json`. Flags in `tokenizer_config.json` do not count beside it.
    PostProcessor,
    /// These ids, where nothing else is known than whether to add them.
    Ids { bos: Option<u32>, eos: Option<u32> },
}

impl Tokenizer {
    /// The tokenizer of a model's folder.
    ///
    /// That is `tokenizer.json`, or else `vocab.json` and `merges.txt`, which make a byte-level BPE tokenizer. The
    /// names of the special tokens are read from `tokenizer_config.json` and `special_tokens_map.json`, and the chat
    /// template from `chat_template.jinja`, which wins, or `tokenizer_config.json`.
    ///
    /// # Errors
    ///
    /// [`TextError::NoTokenizer`] if the files are not there, and what else can be wrong with them.
    pub fn from_folder(dir: &Path) -> Result<Self, TextError> {
        load::from_folder(dir)
    }

    /// A tokenizer from the bytes of `tokenizer.json` and, if there is one, of `tokenizer_config.json`.
    ///
    /// # Errors
    ///
    /// [`TextError::BrokenTokenizer`] or [`TextError::BrokenConfig`].
    pub fn from_json(
        tokenizer_json: &[u8],
        tokenizer_config: Option<&[u8]>,
    ) -> Result<Self, TextError> {
        load::from_json(tokenizer_json, tokenizer_config)
    }

    /// The tokenizer that a GGUF file's metadata describes.
    ///
    /// # Errors
    ///
    /// Says which key is missing, contradicts another or holds a value that we do not know.
    pub fn from_gguf(gguf: &GgufTokenizer) -> Result<Self, TextError> {
        crate::gguf::build(gguf)
    }

    /// The ids of `text`. Special tokens that are spelled out in it become those tokens.
    ///
    /// # Errors
    ///
    /// [`TextError::NotEncodable`] if the text has characters that the tokenizer has neither tokens nor a stand-in
    /// for.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, TextError> {
        let (post_process, bos, eos) = match (special, self.framing) {
            (SpecialTokens::AsIs, _) => (false, None, None),
            (SpecialTokens::Add, Framing::PostProcessor) => (true, None, None),
            (SpecialTokens::Add, Framing::Ids { bos, eos }) => (false, bos, eos),
        };
        let encoding = shielded(|| self.inner.encode_fast(text, post_process))
            .map_err(|problem| TextError::NotEncodable { problem })?;
        let ids = encoding.get_ids().iter().copied();
        Ok(bos.into_iter().chain(ids).chain(eos).collect())
    }

    /// The text of `ids`. Bytes that make no character come out as U+FFFD.
    ///
    /// # Errors
    ///
    /// [`TextError::UnknownId`] for the first id that no token has.
    pub fn decode(&self, ids: &[u32], special: SpecialText) -> Result<String, TextError> {
        let mut tokens = Vec::with_capacity(ids.len());
        for &id in ids {
            tokens.extend(self.visible(id, special)?);
        }
        self.join(tokens)
    }

    /// A decoder for ids that come one by one, which skips special tokens.
    pub fn detokenizer(&self) -> StreamingDetokenizer<'_> {
        self.detokenizer_with(SpecialText::Skip)
    }

    /// A decoder for ids that come one by one.
    pub fn detokenizer_with(&self, special: SpecialText) -> StreamingDetokenizer<'_> {
        StreamingDetokenizer::new(self, special)
    }

    /// The id of a token by its spelling in the vocabulary, for example `<|im_end|>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The spelling of a token in the vocabulary, which for byte-level tokenizers is not its text.
    ///
    /// # Errors
    ///
    /// [`TextError::UnknownId`] if no token has that id.
    pub fn token(&self, id: u32) -> Result<String, TextError> {
        self.inner.id_to_token(id).ok_or(TextError::UnknownId {
            id,
            vocab_size: self.vocab_size,
        })
    }

    /// The begin-of-sequence token, if the tokenizer names one.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// The tokens that end a text, as far as the tokenizer's own files name them.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// One more than the highest id. A model's vocabulary may be larger, padded to a round number.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The model's chat template, if its files hold one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }

    pub(crate) fn decoder(&self) -> Option<&DecoderWrapper> {
        self.inner.get_decoder()
    }

    /// The token of this id, unless it is a special one that is to be skipped.
    pub(crate) fn visible(
        &self,
        id: u32,
        special: SpecialText,
    ) -> Result<Option<String>, TextError> {
        let token = self.token(id)?;
        let is_special = self.inner.get_added_vocabulary().is_special_token(&token);
        Ok(Some(token).filter(|_| special == SpecialText::Keep || !is_special))
    }

    /// The text of tokens that follow each other.
    pub(crate) fn join(&self, tokens: Vec<String>) -> Result<String, TextError> {
        // Not every decoder takes an empty list.
        let Some(decoder) = self.decoder().filter(|_| !tokens.is_empty()) else {
            return Ok(tokens.join(" "));
        };
        shielded(|| decoder.decode(tokens)).map_err(|problem| TextError::NotDecodable { problem })
    }

    /// A tokenizer whose beginning and end of text are put in place by their ids.
    pub(crate) fn with_ids(
        inner: tokenizers::Tokenizer,
        edges: Edges,
        chat_template: Option<ChatTemplate>,
    ) -> Self {
        let framing = Framing::Ids {
            bos: edges.bos_id.filter(|_| edges.add_bos),
            eos: edges.eos_ids.first().copied().filter(|_| edges.add_eos),
        };
        Self::assemble(inner, framing, edges.bos_id, edges.eos_ids, chat_template)
    }

    fn assemble(
        inner: tokenizers::Tokenizer,
        framing: Framing,
        bos_id: Option<u32>,
        eos_ids: Vec<u32>,
        chat_template: Option<ChatTemplate>,
    ) -> Self {
        let highest = inner.get_vocab(true).into_values().max();
        Tokenizer {
            inner,
            framing,
            bos_id,
            eos_ids,
            vocab_size: highest.map_or(0, |id| id as usize + 1),
            chat_template,
        }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .field("bos_id", &self.bos_id)
            .field("eos_ids", &self.eos_ids)
            .finish_non_exhaustive()
    }
}

/// The tokens at a text's edges and whether `encode` puts them there.
#[derive(Debug)]
pub(crate) struct Edges {
    pub(crate) bos_id: Option<u32>,
    /// The first is the one that is added.
    pub(crate) eos_ids: Vec<u32>,
    pub(crate) add_bos: bool,
    pub(crate) add_eos: bool,
}

/// Runs code of the `tokenizers` crate on data that nobody has vouched for, and returns its error in one line.
///
/// That crate panics on some descriptions that parse but make no sense, such as a merge longer than every token
/// or a post-processor that names a token it does not define; to our callers these are broken files.
pub(crate) fn shielded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(one_line),
        Err(_) => Err("the description contradicts itself".to_owned()),
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
