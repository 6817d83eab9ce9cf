//! tiktoken's files, as `tokenizer.model` of the first Llama 3 releases: a token a line, in base64, with its rank.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokenizers::Tokenizer;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::class::Class;
use super::config::TokenSpec;
use crate::byte_level::spelled;
use crate::splits::{KIMI, LLAMA3, QWEN2, by_regexes};

/// Tokens by rank, which is the order in which they are merged and their id.
#[derive(Debug)]
pub(super) struct Ranks {
    tokens: Vec<(Vec<u8>, u32)>,
}

impl Ranks {
    pub(super) fn parse(bytes: &[u8]) -> tokenizers::Result<Self> {
        let mut tokens = Vec::new();
        for (idx, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let wrong = || {
                format!(
                    "line {} is not a token in base64 with its rank, and it is no SentencePiece model",
                    idx + 1
                )
            };
            let mut words = line.split(|&byte| byte == b' ');
            let (Some(token), Some(rank), None) = (words.next(), words.next(), words.next()) else {
                return Err(wrong().into());
            };
            let token = STANDARD.decode(token).map_err(|_| wrong())?;
            let rank = std::str::from_utf8(rank)
                .ok()
                .and_then(|rank| rank.parse().ok());
            tokens.push((token, rank.ok_or_else(wrong)?));
        }
        if tokens.is_empty() {
            return Err("it has no tokens".into());
        }
        tokens.sort_by_key(|&(_, rank)| rank);
        if let Some([(_, rank), _]) = tokens.array_windows().find(|[a, b]| a.1 == b.1) {
            return Err(format!("two tokens have rank {rank}").into());
        }
        Ok(Ranks { tokens })
    }

    /// The tokenizer, splitting as the class does: as Llama 3, unless it has code of its own.
    pub(super) fn build(&self, class: &Class) -> tokenizers::Result<Tokenizer> {
        let vocab: Vocab = self
            .tokens
            .iter()
            .map(|(token, rank)| (spelled(token), *rank))
            .collect();
        let mut merges = Merges::new();
        for (token, _) in &self.tokens {
            let mut pairs = Vec::new();
            // Nothing real is near the bound, and the work is the square of the length.
            for at in (1..token.len()).filter(|_| token.len() <= MAX_MERGED_BYTES) {
                let (left, right) = token.split_at(at);
                let (left, right) = (spelled(left), spelled(right));
                if let (Some(&a), Some(&b)) = (vocab.get(&left), vocab.get(&right)) {
                    pairs.push(((a, b), (left, right)));
                }
            }
            pairs.sort_by_key(|&(ranks, _)| ranks);
            merges.extend(pairs.into_iter().map(|(_, pair)| pair));
        }
        let model = BPE::builder().vocab_and_merges(vocab, merges);
        let mut inner = Tokenizer::new(model.ignore_merges(true).build()?);
        let pattern = match class {
            Class::Qwen1 => QWEN2,
            Class::Kimi => KIMI,
            Class::Plain
            | Class::Gpt2
            | Class::Roberta
            | Class::GptNeoX
            | Class::Cohere
            | Class::Qwen2
            | Class::Qwen35
            | Class::Llama
            | Class::CodeLlama
            | Class::Gemma
            | Class::T5
            | Class::Other(_) => LLAMA3,
        };
        if *class == Class::Qwen1 {
            inner.with_normalizer(Some(NFC))?;
        }
        inner.with_pre_tokenizer(Some(by_regexes(&[pattern], false)?));
        inner.with_decoder(Some(ByteLevel::default()));
        Ok(inner)
    }

    /// The special tokens that follow the ranks in the class's own code.
    pub(super) fn special(&self, class: &Class) -> Vec<TokenSpec> {
        if *class != Class::Qwen1 {
            return Vec::new();
        }
        let fixed = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
        let extra = (0..205).map(|n| format!("<|extra_{n}|>"));
        let all = fixed.into_iter().map(str::to_owned).chain(extra);
        all.map(TokenSpec::Text).collect()
    }

    /// A name for every id up to `last` that has neither a token here nor one in `listed`.
    pub(super) fn reserved(&self, listed: &[u32]) -> Vec<(u32, String)> {
        let n_ranks = u32::try_from(self.tokens.len()).unwrap_or(u32::MAX);
        let Some(&last) = listed.iter().max() else {
            return Vec::new();
        };
        let ids = n_ranks..=last.min(n_ranks.saturating_add(MAX_RESERVED));
        ids.filter(|id| !listed.contains(id))
            .map(|id| (id, format!("<|reserved_token_{id}|>")))
            .collect()
    }
}

/// The bytes that a text in base64 stands for.
pub(super) fn base64(text: &str) -> tokenizers::Result<Vec<u8>> {
    Ok(STANDARD.decode(text)?)
}

/// No real token comes near this length.
const MAX_MERGED_BYTES: usize = 1024;

/// Most ids that are given names: a list may name an id beyond everything.
const MAX_RESERVED: u32 = 100_000;
