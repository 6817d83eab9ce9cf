//! Vocabularies in one file: SentencePiece's models and tiktoken's ranks.

use std::path::Path;

use tokenizers::pre_tokenizers::metaspace::PrependScheme;

use super::{Parts, broken, llama_prefix, sentinels};
use crate::TextError;
use crate::shield::shielded;
use crate::tokenizer::class::{Class, JsonKind};
use crate::tokenizer::config::TokenSpec;
use crate::tokenizer::pipeline::{as_gemma, as_t5, bpe, unigram};
use crate::tokenizer::sentencepiece::{Algorithm, Pieces};
use crate::tokenizer::special::SpecialTokensOf;
use crate::tokenizer::tiktoken::Ranks;
use crate::tokenizer::{Origin, Tokenizer};

/// A SentencePiece model or tiktoken's ranks, which go by the same name.
pub(super) fn from_file(
    bytes: &[u8],
    path: &Path,
    parts: Parts<'_>,
) -> Result<Tokenizer, TextError> {
    let origin = Origin::new(path.display().to_string());
    match Pieces::are_in(bytes) {
        true => from_sentencepiece(bytes, origin, parts),
        false => from_tiktoken(bytes, origin, parts),
    }
}

fn from_sentencepiece(
    bytes: &[u8],
    mut origin: Origin,
    mut parts: Parts<'_>,
) -> Result<Tokenizer, TextError> {
    let pieces = shielded(|| Pieces::parse(bytes));
    let pieces = pieces.map_err(|problem| broken(&origin.name, problem))?;
    let class = parts.class(JsonKind::Absent);
    let is_bpe = pieces.algorithm() == Algorithm::Bpe;
    let mut added = pieces.added();
    match &class {
        Class::T5 => added.extend(sentinels(parts.config)?),
        Class::Llama | Class::CodeLlama | Class::Gemma if is_bpe => {}
        // User-defined pieces are then found by the model itself.
        _ => added.retain(TokenSpec::is_special_itself),
    }
    parts.files.extra = added;
    let mut special = SpecialTokensOf::new(parts.config, &class, std::mem::take(&mut parts.files))?;
    let unknown = special.text("unk_token").map(str::to_owned);
    let byte_fallback = pieces.byte_fallback();
    let inner = match &class {
        Class::Llama | Class::CodeLlama if is_bpe => {
            let prefix = llama_prefix(&class, parts.config)?;
            shielded(|| {
                let (vocab, merges) = pieces.vocab_and_merges();
                let mut inner = tokenizers::Tokenizer::new(bpe(vocab, merges)?);
                prefix.apply(&mut inner, unknown.as_deref())?;
                Ok(inner)
            })
        }
        Class::Gemma if is_bpe => shielded(|| {
            let (vocab, merges) = pieces.vocab_and_merges();
            let mut inner = tokenizers::Tokenizer::new(bpe(vocab, merges)?);
            as_gemma(&mut inner, unknown.as_deref())?;
            Ok(inner)
        }),
        Class::T5 => {
            let sentinels = sentinels(parts.config)?;
            shielded(|| {
                let mut scored = pieces.scored();
                let sentinels = sentinels
                    .iter()
                    .rev()
                    .map(|token| (token.text().to_owned(), 0.0));
                scored.extend(sentinels);
                let model = unigram(scored, pieces.unk_id(), byte_fallback)?;
                let mut inner = tokenizers::Tokenizer::new(model);
                as_t5(&mut inner, pieces.charsmap())?;
                Ok(inner)
            })
        }
        // A unigram model stays one, although the reference makes BPE of it: that is how the model was trained.
        Class::Llama
        | Class::CodeLlama
        | Class::Gemma
        | Class::Plain
        | Class::Gpt2
        | Class::Roberta
        | Class::GptNeoX
        | Class::Cohere
        | Class::Qwen2
        | Class::Qwen35
        | Class::Qwen1
        | Class::Kimi
        | Class::Other(_) => {
            let is_llama = matches!(class, Class::Llama | Class::CodeLlama | Class::Gemma);
            if let Some(name) = parts.hub_class.filter(|_| class != Class::Plain) {
                let why = match is_llama {
                    true => "is for BPE, and this is a unigram model",
                    false => "is not known here",
                };
                origin.notices.push(format!(
                    "{}: what {name} makes of it {why}: it is applied as SentencePiece does",
                    origin.name
                ));
            }
            let prepend = match is_llama || parts.config.flag("legacy", true)? {
                true => PrependScheme::Always,
                false => PrependScheme::First,
            };
            special.complete(pieces.named(), parts.config);
            if pieces.adds_space() {
                special.match_as_they_are();
            }
            let names = special.listed().map(|(id, name)| (id, name.to_owned()));
            let names = names.collect();
            shielded(|| pieces.into_plain(names, prepend))
        }
    };
    let inner = inner.map_err(|problem| broken(&origin.name, problem))?;
    let framing = parts.edge_flags(&class)?;
    parts.finish(inner, &class, &special, framing, origin)
}

fn from_tiktoken(
    bytes: &[u8],
    mut origin: Origin,
    mut parts: Parts<'_>,
) -> Result<Tokenizer, TextError> {
    let ranks = shielded(|| Ranks::parse(bytes));
    let ranks = ranks.map_err(|problem| broken(&origin.name, problem))?;
    let class = match parts.hub_class {
        // The model's type does not decide here: such files have code of their own.
        Some(_) => Class::resolve(parts.hub_class, None, JsonKind::Absent),
        None => Class::Plain,
    };
    parts.files.extra = ranks.special(&class);
    let mut special = SpecialTokensOf::new(parts.config, &class, std::mem::take(&mut parts.files))?;
    let listed: Vec<u32> = special.listed().map(|(id, _)| id).collect();
    special.reserve(ranks.reserved(&listed));
    if let Class::Other(name) = &class {
        origin.notices.push(format!(
            "{}: how {name} splits text is not known here: it is split as for Llama 3",
            origin.name
        ));
    }
    if listed.is_empty() && special.named.is_empty() && special.extra.is_empty() {
        origin.notices.push(format!(
            "{}: no file names the special tokens that follow its ranks: a text has none",
            origin.name
        ));
    }
    let inner = shielded(|| ranks.build(&class));
    let inner = inner.map_err(|problem| broken(&origin.name, problem))?;
    let framing = parts.edge_flags(&class)?;
    parts.finish(inner, &class, &special, framing, origin)
}
