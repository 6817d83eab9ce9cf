//! Pre-tokenizers of byte-level tokenizers, by the names that GGUF files use.
//!
//! A file holds only a name; what it stands for is what the tokenizer.json of the model it was made for holds. Of names
//! whose model we have not seen, it is what llama.cpp makes of them.

use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

use crate::TextError;
use crate::splits::{GPT4O, KIMI, LLAMA3, QWEN2, QWEN35, TEKKEN, by_regexes, split};

/// A way of splitting, and what else goes with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PreTokenizerKind {
    names: &'static [&'static str],
    steps: Steps,
    /// True if the text is brought into composed form before.
    composes: bool,
    /// True if a word that is a token is that token, whatever the merges would make of it.
    pub(super) ignores_merges: bool,
    /// True if a text begins with the BOS where the file does not say.
    pub(super) adds_bos: bool,
}

/// Split steps.
#[derive(Debug, Clone, Copy)]
enum Steps {
    /// The pattern that the library has built in.
    Gpt2,
    /// Each pattern in turn, then as GPT-2.
    Gpt2After(&'static [&'static str]),
    /// Every digit by itself, then as GPT-2.
    Digits,
    Falcon,
    /// Each pattern in turn.
    Regexes(&'static [&'static str]),
}

impl PreTokenizerKind {
    /// The kind by the name in `tokenizer.ggml.pre`. Old files have none, and were GPT-2's.
    pub(super) fn from_name(name: Option<&str>) -> Result<Self, TextError> {
        let Some(name) = name else {
            return Ok(KINDS[0]);
        };
        let found = KINDS.iter().find(|kind| kind.names.contains(&name));
        found.copied().ok_or_else(|| {
            let known: Vec<_> = KINDS.iter().flat_map(|kind| kind.names).copied().collect();
            TextError::UnknownPreTokenizer {
                pre: name.to_owned(),
                known: known.join(", "),
            }
        })
    }

    pub(super) fn build(self) -> tokenizers::Result<PreTokenizerWrapper> {
        let words = ByteLevel::new(false, true, true);
        let steps: Vec<PreTokenizerWrapper> = match self.steps {
            Steps::Gpt2 => return Ok(words.into()),
            Steps::Regexes(patterns) => return by_regexes(patterns, false),
            Steps::Gpt2After(patterns) => {
                let splits = patterns.iter().map(|pattern| split(pattern));
                let steps = splits.chain([Ok(words.into())]);
                steps.collect::<tokenizers::Result<_>>()?
            }
            Steps::Digits => vec![Digits::new(true).into(), words.into()],
            Steps::Falcon => vec![
                Punctuation::new(SplitDelimiterBehavior::Contiguous).into(),
                words.into(),
                Digits::new(false).into(),
                split(r"[0-9][0-9][0-9]")?,
            ],
        };
        Ok(Sequence::new(steps).into())
    }

    /// Normalizer of the text before it is split.
    pub(super) fn normalizer(self) -> Option<NFC> {
        self.composes.then_some(NFC)
    }
}

const fn kind(names: &'static [&'static str], steps: Steps) -> PreTokenizerKind {
    PreTokenizerKind {
        names,
        steps,
        composes: false,
        ignores_merges: false,
        adds_bos: false,
    }
}

const fn composing(kind: PreTokenizerKind) -> PreTokenizerKind {
    PreTokenizerKind {
        composes: true,
        ..kind
    }
}

const fn ignoring_merges(kind: PreTokenizerKind) -> PreTokenizerKind {
    PreTokenizerKind {
        ignores_merges: true,
        ..kind
    }
}

const fn adding_bos(kind: PreTokenizerKind) -> PreTokenizerKind {
    PreTokenizerKind {
        adds_bos: true,
        ..kind
    }
}

/// All that we know; the first is what a file without a name has.
const KINDS: &[PreTokenizerKind] = &[
    kind(
        &[
            "default",
            "gpt-2",
            "phi-2",
            "olmo",
            "mpt",
            "jais",
            "trillion",
            "granite-docling",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "exaone4",
            "modern-bert",
            "roberta-bpe",
            "jina-es",
            "jina-de",
            "jina-v1-en",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v2-code",
        ],
        Steps::Gpt2,
    ),
    kind(
        &[
            "smollm",
            "starcoder",
            "refact",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        Steps::Digits,
    ),
    composing(kind(&["command-r"], Steps::Digits)),
    kind(&["falcon"], Steps::Falcon),
    adding_bos(ignoring_merges(kind(
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        Steps::Regexes(&[LLAMA3]),
    ))),
    // As Llama 3, but made with tools that always apply the merges.
    kind(
        &["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"],
        Steps::Regexes(&[LLAMA3]),
    ),
    composing(kind(
        &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"],
        Steps::Regexes(&[QWEN2]),
    )),
    kind(
        &["stablelm2", "hunyuan", "solar-open", "grok-2"],
        Steps::Regexes(&[QWEN2]),
    ),
    composing(kind(&["qwen35"], Steps::Regexes(&[QWEN35]))),
    adding_bos(ignoring_merges(kind(
        &["tekken"],
        Steps::Regexes(&[TEKKEN]),
    ))),
    kind(
        &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        Steps::Regexes(&[GPT4O]),
    ),
    ignoring_merges(kind(&["granite-embed-multi-97m"], Steps::Regexes(&[GPT4O]))),
    kind(&["kimi-k2"], Steps::Regexes(&[KIMI])),
    kind(&["deepseek-llm"], Steps::Regexes(&DEEPSEEK_LLM)),
    kind(&["deepseek-coder"], Steps::Regexes(&DEEPSEEK_CODER)),
    kind(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        Steps::Regexes(&DEEPSEEK_V3),
    ),
    kind(
        &["bloom", "poro-chat", "gpt3-finnish"],
        Steps::Regexes(&[BLOOM]),
    ),
    kind(&["viking"], Steps::Regexes(&[BLOOM, r"\p{N}"])),
    ignoring_merges(kind(&["youtu"], Steps::Regexes(&YOUTU))),
    kind(
        &["bailingmoe", "bailingmoe2", "llada-moe"],
        Steps::Regexes(&[BAILING]),
    ),
    kind(&["seed-coder"], Steps::Regexes(&[SEED_CODER])),
    kind(&["exaone-moe"], Steps::Regexes(&[EXAONE_MOE])),
    kind(
        &["tiny_aya", "cohere2moe"],
        Steps::Regexes(&[r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O_DIGITS_APART]),
    ),
    kind(&["jais-2"], Steps::Regexes(&[JAIS2])),
    ignoring_merges(kind(
        &["minicpm5"],
        Steps::Regexes(&[r"\p{N}{1,3}", MINICPM5]),
    )),
    kind(&["laguna"], Steps::Regexes(&[r"[^\n]+|[\n]+", QWEN2])),
    kind(&["ufakzeka"], Steps::Regexes(&[UFAKZEKA])),
    adding_bos(kind(&["chameleon"], Steps::Gpt2After(&CHAMELEON))),
];

/// The letters of scripts with case, as the model's own tokenizer.json lists them.
const DEEPSEEK_LLM: [&str; 6] = [
    "[\r\n]",
    r"\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    r"\s+$",
    "[一-龥ࠀ-一가-퟿]+",
    r"\p{N}+",
];

const DEEPSEEK_CODER: [&str; 5] = [
    "[\r\n]",
    r"\s?\p{L}+",
    r"\s?\p{P}+",
    "[一-龥ࠀ-一가-퟿]+",
    r"\p{N}",
];

const DEEPSEEK_V3: [&str; 3] = [
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];

const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

const YOUTU: [&str; 2] = [
    r"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+",
    GPT4O_DIGITS_APART,
];

/// GPT-4o's with every digit by itself.
const GPT4O_DIGITS_APART: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";

const EXAONE_MOE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";

const JAIS2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}";

const MINICPM5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen2's without the English contractions, so that Turkish suffixes stay whole.
const UFAKZEKA: &str =
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Sentinels, images, white space, digits and punctuation.
const CHAMELEON: [&str; 5] = [
    "<sentinel:[0-9]+>",
    "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
    r"([\t\n]|    |  )",
    r"\p{N}",
    r"[\p{P}!-/:-@\[-`{-~]",
];
