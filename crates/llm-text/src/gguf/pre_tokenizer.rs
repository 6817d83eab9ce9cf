//! How byte-level tokenizers split text into words, by the names that GGUF files use.
//!
//! A file holds only a name; what it stands for is what the tokenizer.json of the model it was made for holds.

use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

use crate::TextError;

/// The ways of splitting that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PreTokenizerKind {
    Gpt2,
    /// Every digit by itself, then as GPT-2.
    Starcoder,
    Falcon,
    Llama3,
    /// As Llama 3, but made with a tool that always applies the merges.
    Dbrx,
    Qwen2,
    Tekken,
    Gpt4o,
    DeepseekV3,
}

impl PreTokenizerKind {
    /// The kind by the name in `tokenizer.ggml.pre`. Old files have none, and were GPT-2's.
    pub(super) fn from_name(name: Option<&str>) -> Result<Self, TextError> {
        let Some(name) = name else {
            return Ok(PreTokenizerKind::Gpt2);
        };
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|&(_, kind)| kind).ok_or_else(|| {
            let known: Vec<_> = NAMES.iter().map(|&(known, _)| known).collect();
            TextError::UnknownPreTokenizer {
                pre: name.to_owned(),
                known: known.join(", "),
            }
        })
    }

    pub(super) fn build(self) -> tokenizers::Result<PreTokenizerWrapper> {
        let words = ByteLevel::new(false, true, true);
        let steps: Vec<PreTokenizerWrapper> = match self {
            PreTokenizerKind::Gpt2 => return Ok(words.into()),
            PreTokenizerKind::Starcoder => vec![Digits::new(true).into(), words.into()],
            PreTokenizerKind::Falcon => vec![
                Punctuation::new(SplitDelimiterBehavior::Contiguous).into(),
                words.into(),
                Digits::new(false).into(),
                split(r"[0-9][0-9][0-9]")?,
            ],
            PreTokenizerKind::Llama3 | PreTokenizerKind::Dbrx => by_regexes(&[LLAMA3])?,
            PreTokenizerKind::Qwen2 => by_regexes(&[QWEN2])?,
            PreTokenizerKind::Tekken => by_regexes(&[TEKKEN])?,
            PreTokenizerKind::Gpt4o => by_regexes(&[GPT4O])?,
            PreTokenizerKind::DeepseekV3 => by_regexes(&DEEPSEEK_V3)?,
        };
        Ok(Sequence::new(steps).into())
    }

    /// What is done to the text before it is split.
    pub(super) fn normalizer(self) -> Option<NFC> {
        match self {
            PreTokenizerKind::Qwen2 => Some(NFC),
            PreTokenizerKind::Gpt2
            | PreTokenizerKind::Starcoder
            | PreTokenizerKind::Falcon
            | PreTokenizerKind::Llama3
            | PreTokenizerKind::Dbrx
            | PreTokenizerKind::Tekken
            | PreTokenizerKind::Gpt4o
            | PreTokenizerKind::DeepseekV3 => None,
        }
    }

    /// Whether a word that is a token is that token, whatever the merges would make of it.
    pub(super) fn ignores_merges(self) -> bool {
        matches!(self, PreTokenizerKind::Llama3 | PreTokenizerKind::Tekken)
    }

    /// Whether a text begins with the BOS where the file does not say.
    pub(super) fn adds_bos(self) -> bool {
        matches!(self, PreTokenizerKind::Llama3 | PreTokenizerKind::Tekken)
    }
}

/// Splits by each pattern in turn and spells the pieces in the byte-level alphabet.
fn by_regexes(patterns: &[&str]) -> tokenizers::Result<Vec<PreTokenizerWrapper>> {
    let spelling = ByteLevel::new(false, true, false).into();
    let splits = patterns.iter().map(|pattern| split(pattern));
    splits.chain([Ok(spelling)]).collect()
}

fn split(pattern: &str) -> tokenizers::Result<PreTokenizerWrapper> {
    let pattern = SplitPattern::Regex(pattern.to_owned());
    Ok(Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into())
}

const NAMES: [(&str, PreTokenizerKind); 21] = [
    ("default", PreTokenizerKind::Gpt2),
    ("gpt-2", PreTokenizerKind::Gpt2),
    ("phi-2", PreTokenizerKind::Gpt2),
    ("olmo", PreTokenizerKind::Gpt2),
    ("mpt", PreTokenizerKind::Gpt2),
    ("smollm", PreTokenizerKind::Starcoder),
    ("starcoder", PreTokenizerKind::Starcoder),
    ("refact", PreTokenizerKind::Starcoder),
    ("falcon", PreTokenizerKind::Falcon),
    ("llama-bpe", PreTokenizerKind::Llama3),
    ("llama3", PreTokenizerKind::Llama3),
    ("llama-v3", PreTokenizerKind::Llama3),
    ("falcon3", PreTokenizerKind::Llama3),
    ("dbrx", PreTokenizerKind::Dbrx),
    ("smaug-bpe", PreTokenizerKind::Dbrx),
    ("qwen2", PreTokenizerKind::Qwen2),
    ("deepseek-r1-qwen", PreTokenizerKind::Qwen2),
    ("tekken", PreTokenizerKind::Tekken),
    ("gpt-4o", PreTokenizerKind::Gpt4o),
    ("llama4", PreTokenizerKind::Gpt4o),
    ("deepseek-v3", PreTokenizerKind::DeepseekV3),
];

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const DEEPSEEK_V3: [&str; 3] = [
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];
