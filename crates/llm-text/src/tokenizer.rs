use std::fmt;
use std::path::Path;

use tokenizers::{Decoder, DecoderWrapper};

use crate::shield::shielded;
use crate::{ChatTemplate, TextError};

mod class;
mod config;
mod files;
mod load;
pub(crate) mod pipeline;
mod sentencepiece;
mod special;
mod tiktoken;

pub(crate) use sentencepiece::precompiled;

/// Text to token ids and back, as the model was trained with.
///
/// ```
/// use llm_text::{SpecialText, SpecialTokens, Tokenizer};
///
/// # let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/text/byte-level");
/// let tokenizer = Tokenizer::from_folder(&folder)?;
/// let ids = tokenizer.encode("Who lit the lamp?", SpecialTokens::Add)?;
/// assert_eq!(ids.first().copied(), tokenizer.bos_id());
/// assert_eq!(tokenizer.decode(&ids, SpecialText::Skip)?, "Who lit the lamp?");
/// # Ok::<(), llm_text::TextError>(())
/// ```
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    framing: Framing,
    edges: Edges,
    /// Tokens by the part that they play, as `bos_token`.
    named: Vec<(String, String)>,
    /// True if decoded text loses spaces before punctuation.
    cleans_up: bool,
    vocab_size: usize,
    chat_template: Option<ChatTemplate>,
    origin: Origin,
}

/// Handling of the special tokens at a text's edges by [`Tokenizer::encode`].
///
/// Exhaustive: there is no third way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// Add them as the tokenizer is set up to, mostly a begin-of-sequence token.
    Add,
    /// Take the text as it is: a rendered chat template has them already.
    AsIs,
}

/// Special tokens in decoded text; exhaustive, as they are there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialText {
    /// They leave no trace.
    Skip,
    /// They are spelled out, as `<s>`.
    Keep,
}

/// Source of the special tokens around a text.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Framing {
    /// The post-processor of `tokenizer.json`. Flags in `tokenizer_config.json` do not count beside it.
    PostProcessor,
    /// The first BOS and EOS of [`Edges`], where nothing else is known than whether to add them.
    Ids { bos: bool, eos: bool },
}

impl Tokenizer {
    /// The tokenizer of a model's folder.
    ///
    /// That is `tokenizer.json`, or else `vocab.json` and `merges.txt`, or a SentencePiece model or tiktoken's ranks in
    /// `tokenizer.model`. What these leave out is known by the class that `tokenizer_config.json` names or the type of
    /// model in `config.json` implies. Special tokens are read from `tokenizer_config.json`, `special_tokens_map.json`
    /// and `added_tokens.json`, and the chat template from `chat_template.jinja`, which wins, or
    /// `tokenizer_config.json`.
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

    /// The ids of `text`. Special tokens that are spelled out in it become those tokens.
    ///
    /// # Errors
    ///
    /// [`TextError::NotEncodable`] if the text has characters that the tokenizer has neither tokens nor a stand-in
    /// for.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, TextError> {
        let (post_process, bos, eos) = match special {
            SpecialTokens::AsIs => (false, None, None),
            SpecialTokens::Add => match self.framing {
                Framing::PostProcessor => (true, None, None),
                // Some classes put tokens around a text on their own account, beside which flags do nothing.
                Framing::Ids { .. } if self.inner.get_post_processor().is_some() => {
                    (true, None, None)
                }
                Framing::Ids { .. } => (false, self.first_id(), self.last_id()),
            },
        };
        let encoding =
            shielded(|| self.inner.encode_fast(text, post_process)).map_err(|problem| {
                TextError::NotEncodable {
                    origin: self.origin.name.clone(),
                    problem,
                }
            })?;
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
        let text = self.join(tokens)?;
        Ok(match self.cleans_up {
            true => cleanup(&text),
            false => text,
        })
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

    /// True of a token that structures a text and is none of it.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        let token = self.inner.id_to_token(id);
        token.is_some_and(|token| added.is_special_token(&token))
    }

    /// The begin-of-sequence token, if the tokenizer names one.
    pub fn bos_id(&self) -> Option<u32> {
        self.edges.bos_id
    }

    /// The tokens that end a text, as far as the tokenizer's own files name them.
    pub fn eos_ids(&self) -> &[u32] {
        &self.edges.eos_ids
    }

    /// One more than the highest id. A model's vocabulary may be larger, padded to a round number.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The model's chat template, if its files hold one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }

    /// Notices of what is taken otherwise than the tokenizer's files may mean it, a line each; mostly none.
    pub fn notices(&self) -> &[String] {
        &self.origin.notices
    }

    /// The files of a folder that this tokenizer would be read from again, by us and by `transformers`:
    /// `tokenizer.json`, `tokenizer_config.json` and, with a chat template, `chat_template.jinja`. Each is a name and
    /// the bytes to be written.
    ///
    /// Of the ends of a text the configuration has room for one; the others belong into `generation_config.json`.
    ///
    /// # Errors
    ///
    /// [`TextError::BrokenTokenizer`] if the library cannot write what it has read.
    pub fn to_files(&self) -> Result<Vec<(&'static str, Vec<u8>)>, TextError> {
        files::write(self)
    }

    /// True if text is to be cleaned up after decoding.
    pub(crate) fn cleans_up(&self) -> bool {
        self.cleans_up
    }

    /// The id that goes before a text by the flags alone.
    fn first_id(&self) -> Option<u32> {
        let adds = matches!(self.framing, Framing::Ids { bos: true, .. });
        self.edges.bos_id.filter(|_| adds)
    }

    /// The id that goes behind a text by the flags alone.
    fn last_id(&self) -> Option<u32> {
        let adds = matches!(self.framing, Framing::Ids { eos: true, .. });
        self.edges.eos_ids.first().copied().filter(|_| adds)
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
        shielded(|| decoder.decode(tokens)).map_err(|problem| TextError::NotDecodable {
            origin: self.origin.name.clone(),
            problem,
        })
    }

    pub(crate) fn assemble(
        inner: tokenizers::Tokenizer,
        framing: Framing,
        edges: Edges,
        named: Vec<(String, String)>,
        chat_template: Option<ChatTemplate>,
        origin: Origin,
    ) -> Self {
        let highest = inner.get_vocab(true).into_values().max();
        Tokenizer {
            inner,
            framing,
            edges,
            named,
            cleans_up: false,
            vocab_size: highest.map_or(0, |id| id as usize + 1),
            chat_template,
            origin,
        }
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size)
            .field("edges", &self.edges)
            .finish_non_exhaustive()
    }
}

/// The tokens at a text's edges.
#[derive(Debug)]
pub(crate) struct Edges {
    pub(crate) bos_id: Option<u32>,
    /// The first is the one that is added.
    pub(crate) eos_ids: Vec<u32>,
}

/// Origin of a tokenizer.
#[derive(Debug)]
pub(crate) struct Origin {
    /// In words: a path, or what stands for one.
    pub(crate) name: String,
    /// Deviations from what the files may mean.
    pub(crate) notices: Vec<String>,
}

impl Origin {
    pub(crate) fn new(name: String) -> Self {
        Origin {
            name,
            notices: Vec::new(),
        }
    }
}

/// A text without spaces that English does not write, in the reference's order.
pub(crate) fn cleanup(text: &str) -> String {
    let mut text = text.to_owned();
    for (from, to) in CLEANUP {
        text = text.replace(from, to);
    }
    text
}

const CLEANUP: [(&str, &str); 10] = [
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
