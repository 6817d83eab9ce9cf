use std::cmp::Reverse;

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, DecoderWrapper};

use crate::shield::shielded;
use crate::tokenizer::pipeline::{as_gemma, as_t5, bpe};
use crate::tokenizer::{Edges, Framing, Origin, precompiled};
use crate::{ChatTemplate, TextError, Tokenizer};

mod pre_tokenizer;

use pre_tokenizer::PreTokenizerKind;

/// The tokenizer in a GGUF file's metadata, as plain data that the reader of the file fills in.
///
/// Every field names its key. All are public and none has an invariant: what does not fit together is an error of
/// [`Tokenizer::from_gguf`].
#[derive(Debug, Clone, Default)]
pub struct GgufTokenizer {
    /// `tokenizer.ggml.model`: `gpt2` for byte-level BPE, `llama` for SentencePiece's BPE with scores, `gemma4` for its BPE
    /// with merges, `t5` for its unigram model.
    pub model: String,
    /// `tokenizer.ggml.pre`: how a `gpt2` tokenizer splits text into words.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`: the vocabulary by id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type`, by id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Option<Vec<i32>>,
    /// `tokenizer.ggml.scores`, by id: the higher a token's, the earlier it is merged.
    pub scores: Option<Vec<f32>>,
    /// `tokenizer.ggml.merges`: pairs of tokens with a space between, the first merged first.
    pub merges: Option<Vec<String>>,
    /// `tokenizer.ggml.bos_token_id`: begins a text.
    pub bos_id: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`: ends a text.
    pub eos_id: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`: ends a turn.
    pub eot_id: Option<u32>,
    /// `tokenizer.ggml.eom_token_id`: ends a message.
    pub eom_id: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`: stands for what has no token.
    pub unk_id: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad_id: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`: whether a text is to begin with `bos_id`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`: whether a text is to end with `eos_id`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`: whether a `llama` tokenizer puts a space before the text.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.ggml.precompiled_charsmap`: what a `t5` tokenizer does to characters first.
    pub charsmap: Option<Vec<u8>>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
    /// `general.name`: of one model no key says how its special tokens are matched.
    pub name: Option<String>,
}

impl Tokenizer {
    /// The tokenizer that a GGUF file's metadata describes.
    ///
    /// # Errors
    ///
    /// Says which key is missing, contradicts another or holds a value that we do not know.
    pub fn from_gguf(gguf: &GgufTokenizer) -> Result<Self, TextError> {
        build(gguf)
    }
}

impl GgufTokenizer {
    fn check(&self) -> Result<(), TextError> {
        let expected = self.tokens.len();
        let lengths = [
            (TYPES_KEY, self.token_types.as_ref().map(Vec::len)),
            (SCORES_KEY, self.scores.as_ref().map(Vec::len)),
        ];
        for (key, found) in lengths {
            if let Some(found) = found.filter(|&found| found != expected) {
                return Err(TextError::GgufLength {
                    key,
                    expected,
                    found,
                });
            }
        }
        for (key, id) in self.special_ids() {
            if self.tokens.get(id as usize).is_none() {
                return Err(TextError::GgufTokenId {
                    key,
                    id,
                    n_tokens: expected,
                });
            }
        }
        Ok(())
    }

    fn special_ids(&self) -> impl Iterator<Item = (&'static str, u32)> {
        [
            ("tokenizer.ggml.bos_token_id", self.bos_id),
            ("tokenizer.ggml.eos_token_id", self.eos_id),
            ("tokenizer.ggml.eot_token_id", self.eot_id),
            ("tokenizer.ggml.eom_token_id", self.eom_id),
            ("tokenizer.ggml.unknown_token_id", self.unk_id),
            ("tokenizer.ggml.padding_token_id", self.pad_id),
        ]
        .into_iter()
        .filter_map(|(key, id)| Some((key, id?)))
    }

    fn text(&self, id: Option<u32>) -> Option<&String> {
        id.and_then(|id| self.tokens.get(id as usize))
    }

    /// The vocabulary. Of several tokens with one spelling the last is found, as in llama.cpp.
    fn vocab(&self) -> Vocab {
        let ids = 0..u32::MAX;
        self.tokens.iter().cloned().zip(ids).collect()
    }

    /// The tokens that are matched as a whole before anything else happens to the text.
    fn added_tokens(&self) -> Vec<AddedToken> {
        let Some(types) = &self.token_types else {
            let texts = self.special_ids().filter_map(|(_, id)| self.text(Some(id)));
            return texts.map(|text| AddedToken::from(text, true)).collect();
        };
        let typed = self.tokens.iter().zip(types);
        typed
            .filter_map(|(text, &token_type)| match token_type {
                UNKNOWN | CONTROL => Some(AddedToken::from(text, true)),
                USER_DEFINED => Some(AddedToken::from(text, false).normalized(false)),
                _ => None,
            })
            .map(|token| {
                let strips = self.is_phi3() && !PHI3_KEEPS_SPACES.contains(&token.content.as_str());
                token.rstrip(strips)
            })
            .collect()
    }

    /// Phi-3's tokens take the white space behind them along. Its tokenizer.json says so, no key of a GGUF file does,
    /// and llama.cpp goes by the name, too.
    fn is_phi3(&self) -> bool {
        let name = self.name.as_deref().unwrap_or_default().to_lowercase();
        name.contains("phi-3") || name.contains("phi3")
    }

    fn edges(&self) -> Edges {
        let mut eos_ids = Vec::new();
        for id in [self.eos_id, self.eot_id, self.eom_id]
            .into_iter()
            .flatten()
        {
            if !eos_ids.contains(&id) {
                eos_ids.push(id);
            }
        }
        Edges {
            bos_id: self.bos_id,
            eos_ids,
        }
    }

    /// Framing of a text, where `adds` holds without a word in the file.
    fn framing(&self, adds: Adds) -> Framing {
        Framing::Ids {
            bos: self.add_bos.unwrap_or(adds.bos),
            eos: self.eos_id.is_some() && self.add_eos.unwrap_or(adds.eos),
        }
    }

    /// The tokens that play a part, under the names that chat templates know them by.
    fn named(&self) -> Vec<(&'static str, String)> {
        let names = [
            ("bos_token", self.bos_id),
            ("eos_token", self.eos_id),
            ("unk_token", self.unk_id),
            ("pad_token", self.pad_id),
        ];
        let named = names.into_iter();
        named
            .filter_map(|(name, id)| Some((name, self.text(id)?.clone())))
            .collect()
    }

    fn template(&self) -> Option<ChatTemplate> {
        let source = self.chat_template.clone()?;
        let origin = "tokenizer.chat_template".to_owned();
        Some(ChatTemplate::new(source, origin, self.named()))
    }
}

/// Tokens around a text, by kind of tokenizer.
#[derive(Debug, Clone, Copy)]
struct Adds {
    bos: bool,
    eos: bool,
}

fn build(gguf: &GgufTokenizer) -> Result<Tokenizer, TextError> {
    gguf.check()?;
    let (inner, adds) = match gguf.model.as_str() {
        "gpt2" => byte_level(gguf)?,
        "llama" => sentencepiece(gguf)?,
        "gemma4" => gemma4(gguf)?,
        "t5" => unigram(gguf)?,
        _ => {
            return Err(TextError::UnknownGgufModel {
                model: gguf.model.clone(),
            });
        }
    };
    let named = gguf.named().into_iter();
    Ok(Tokenizer::assemble(
        inner,
        gguf.framing(adds),
        gguf.edges(),
        named.map(|(name, text)| (name.to_owned(), text)).collect(),
        gguf.template(),
        Origin::new(ORIGIN.to_owned()),
    ))
}

/// A byte-level BPE tokenizer, and what it puts around a text.
fn byte_level(gguf: &GgufTokenizer) -> Result<(tokenizers::Tokenizer, Adds), TextError> {
    let kind = PreTokenizerKind::from_name(gguf.pre.as_deref())?;
    let vocab = gguf.vocab();
    let merges = gguf
        .merges
        .as_ref()
        .ok_or_else(|| missing(MERGES_KEY, gguf))?;
    let merges = parse_merges(merges, &vocab)?;
    let inner = shielded(|| {
        let model = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .ignore_merges(kind.ignores_merges)
            .build()?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_normalizer(kind.normalizer())?;
        inner.with_pre_tokenizer(Some(kind.build()?));
        inner.with_decoder(Some(ByteLevel::default()));
        inner.add_tokens(gguf.added_tokens())?;
        Ok(inner)
    });
    let adds = Adds {
        bos: kind.adds_bos,
        eos: false,
    };
    Ok((inner.map_err(broken)?, adds))
}

/// SentencePiece's BPE with byte fallback.
fn sentencepiece(gguf: &GgufTokenizer) -> Result<(tokenizers::Tokenizer, Adds), TextError> {
    let vocab = gguf.vocab();
    let merges = match (&gguf.merges, &gguf.scores) {
        (Some(merges), _) => parse_merges(merges, &vocab)?,
        (None, Some(scores)) => merges_by_score(gguf, &vocab, scores),
        (None, None) => return Err(missing(SCORES_KEY, gguf)),
    };
    let space_prefix = gguf.add_space_prefix.unwrap_or(true);
    let inner = shielded(|| {
        let mut model = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .byte_fallback(true)
            .fuse_unk(true);
        if let Some(unknown) = gguf.text(gguf.unk_id) {
            model = model.unk_token(unknown.clone());
        }
        let mut inner = tokenizers::Tokenizer::new(model.build()?);
        let prepend = space_prefix.then(|| Prepend::new(SPACE.to_owned()).into());
        let spaces: NormalizerWrapper = Replace::new(" ", SPACE)?.into();
        let normalizers = prepend.into_iter().chain([spaces]).collect();
        inner.with_normalizer(Some(Sequence::new(normalizers)))?;
        let mut decoders: Vec<DecoderWrapper> = vec![
            Replace::new(SPACE, " ")?.into(),
            ByteFallback::new().into(),
            Fuse::new().into(),
        ];
        if space_prefix {
            decoders.push(Strip::new(' ', 1, 0).into());
        }
        inner.with_decoder(Some(DecoderSequence::new(decoders)));
        inner.add_tokens(gguf.added_tokens())?;
        Ok(inner)
    });
    let adds = Adds {
        bos: true,
        eos: false,
    };
    Ok((inner.map_err(broken)?, adds))
}

/// Gemma 4's BPE over whole characters. Its BOS is left to the chat template, as in the reference.
fn gemma4(gguf: &GgufTokenizer) -> Result<(tokenizers::Tokenizer, Adds), TextError> {
    let vocab = gguf.vocab();
    let merges = gguf
        .merges
        .as_ref()
        .ok_or_else(|| missing(MERGES_KEY, gguf))?;
    let merges = parse_merges(merges, &vocab)?;
    let unknown = gguf.text(gguf.unk_id).map(String::as_str);
    let inner = shielded(|| {
        let model = bpe(vocab, merges)?;
        let mut inner = tokenizers::Tokenizer::new(model);
        as_gemma(&mut inner, unknown)?;
        inner.add_tokens(gguf.added_tokens())?;
        Ok(inner)
    });
    let adds = Adds {
        bos: false,
        eos: false,
    };
    Ok((inner.map_err(broken)?, adds))
}

/// T5's unigram model. Its sentinels, which the file has no names for, get theirs.
fn unigram(gguf: &GgufTokenizer) -> Result<(tokenizers::Tokenizer, Adds), TextError> {
    let scores = gguf
        .scores
        .as_ref()
        .ok_or_else(|| missing(SCORES_KEY, gguf))?;
    let mut names = gguf.tokens.clone();
    let is_nameless = |name: &&mut String| {
        let number = name
            .strip_prefix("[PAD")
            .and_then(|name| name.strip_suffix(']'));
        number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let nameless = names.iter_mut().filter(is_nameless);
    for (idx, name) in nameless.take(N_SENTINELS).enumerate() {
        *name = format!("<extra_id_{}>", N_SENTINELS - 1 - idx);
    }
    let sentinels = names.iter().filter(|name| name.starts_with("<extra_id_"));
    let mut added = gguf.added_tokens();
    added.extend(sentinels.map(|name| AddedToken::from(name, true)));
    let pieces = names.iter().cloned();
    let pieces = pieces
        .zip(scores.iter().map(|&score| f64::from(score)))
        .collect();
    let unk_id = gguf.unk_id.map_or(2, |id| id as usize);
    let inner = shielded(|| {
        let charsmap = gguf.charsmap.as_deref().map(precompiled).transpose()?;
        let model = Unigram::from(pieces, Some(unk_id), false)?;
        let mut inner = tokenizers::Tokenizer::new(model);
        as_t5(&mut inner, charsmap)?;
        inner.add_tokens(added)?;
        Ok(inner)
    });
    let adds = Adds {
        bos: false,
        eos: true,
    };
    Ok((inner.map_err(broken)?, adds))
}

/// The merges that a SentencePiece vocabulary implies: every pair of tokens that joins to a token, those that make
/// the token of the highest score first, and among equals those that make the token of the lowest id.
fn merges_by_score(gguf: &GgufTokenizer, vocab: &Vocab, scores: &[f32]) -> Merges {
    let mergeable = |id: u32| {
        let types = gguf.token_types.as_ref();
        let token_type = types.and_then(|types| types.get(id as usize).copied());
        !matches!(token_type, Some(UNKNOWN | CONTROL | BYTE))
    };
    let part = |text: &str| vocab.get(text).copied().filter(|&id| mergeable(id));
    let mut joined: Vec<_> = (0..u32::MAX)
        .zip(gguf.tokens.iter().zip(scores))
        .filter(|&(id, (text, _))| mergeable(id) && text.len() <= MAX_MERGED_BYTES)
        .collect();
    joined.sort_by(|(_, (_, a)), (_, (_, b))| b.total_cmp(a));
    let mut merges = Merges::new();
    for (_, (text, _)) in joined {
        let mut pairs: Vec<_> = text
            .char_indices()
            .skip(1)
            .map(|(at, _)| text.split_at(at))
            .filter_map(|(left, right)| Some(((part(left)?, part(right)?), left, right)))
            .collect();
        pairs.sort_by_key(|&(ids, left, right)| (Reverse((left.len(), right.len())), ids));
        merges.extend(
            pairs
                .into_iter()
                .map(|(_, left, right)| (left.to_owned(), right.to_owned())),
        );
    }
    merges
}

/// The merges as pairs, each of which must make a token.
fn parse_merges(merges: &[String], vocab: &Vocab) -> Result<Merges, TextError> {
    merges
        .iter()
        .map(|merge| {
            let pair = merge.split_once(' ');
            let pair = pair.filter(|(left, right)| !left.is_empty() && !right.is_empty());
            let (left, right) =
                pair.ok_or_else(|| broken(format!("`{merge}` is not a pair of tokens")))?;
            if !vocab.contains_key(&format!("{left}{right}")) {
                return Err(broken(format!("the merge `{merge}` makes no token")));
            }
            Ok((left.to_owned(), right.to_owned()))
        })
        .collect()
}

fn missing(key: &'static str, gguf: &GgufTokenizer) -> TextError {
    TextError::MissingGgufKey {
        key,
        model: gguf.model.clone(),
    }
}

fn broken(problem: String) -> TextError {
    TextError::BrokenTokenizer {
        origin: ORIGIN.to_owned(),
        problem,
    }
}

const ORIGIN: &str = "the GGUF metadata tokenizer.ggml";

/// T5 has as many.
const N_SENTINELS: usize = 100;

const TYPES_KEY: &str = "tokenizer.ggml.token_type";
const SCORES_KEY: &str = "tokenizer.ggml.scores";
const MERGES_KEY: &str = "tokenizer.ggml.merges";

const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

/// Of Phi-3's special tokens, those that leave the white space behind them alone.
const PHI3_KEEPS_SPACES: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// SentencePiece's space.
const SPACE: &str = "▁";

/// No real token comes near this length, and looking for the merges of a token costs its length squared.
const MAX_MERGED_BYTES: usize = 1024;

#[cfg(test)]
mod tests;
