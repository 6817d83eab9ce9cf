//! SentencePiece's model files, `tokenizer.model` and `spiece.model`.
//!
//! A model is a protocol buffer: pieces with scores, and how text is brought into shape before they are looked for. It
//! becomes a model of the `tokenizers` library, BPE or unigram, so that one implementation makes all ids.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use prost::Message;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{NormalizerWrapper, Precompiled, Replace, Sequence};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizerSequence;
use tokenizers::{DecoderWrapper, ModelWrapper, PreTokenizerWrapper, Tokenizer};

use super::config::{TokenFields, TokenSpec};
use super::pipeline::{SPACE, unigram};
use crate::splits::split;

/// A model file, understood.
#[derive(Debug)]
pub(super) struct Pieces {
    pieces: Vec<Piece>,
    algorithm: Algorithm,
    trainer: TrainerSpec,
    normalizer: NormalizerSpec,
    charsmap: Option<Precompiled>,
}

/// Segmentation algorithm; a model of words or characters has none of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Unigram,
    Bpe,
}

impl Pieces {
    /// True if a file begins as such models do, with the first piece; the other kind of `tokenizer.model` is text.
    pub(super) fn are_in(bytes: &[u8]) -> bool {
        bytes.first() == Some(&FIRST_PIECE)
    }

    pub(super) fn parse(bytes: &[u8]) -> tokenizers::Result<Self> {
        let proto = ModelProto::decode(bytes)?;
        let trainer = proto.trainer_spec.unwrap_or_default();
        let normalizer = proto.normalizer_spec.unwrap_or_default();
        let algorithm = match trainer.model_type() {
            UNIGRAM => Algorithm::Unigram,
            BPE_TYPE => Algorithm::Bpe,
            other => {
                let kind = ["0", "1", "2", "words", "characters"];
                let kind = usize::try_from(other).ok().and_then(|at| kind.get(at));
                let kind = kind.copied().unwrap_or("an unknown kind");
                return Err(format!("it is a model of {kind}; known are unigram and BPE").into());
            }
        };
        if proto.pieces.is_empty() {
            return Err("it has no pieces".into());
        }
        if trainer.treat_whitespace_as_suffix() {
            return Err(
                "it puts spaces behind words (treat_whitespace_as_suffix), which is not supported"
                    .into(),
            );
        }
        let denormalizer = proto.denormalizer_spec.unwrap_or_default();
        if !denormalizer.precompiled_charsmap().is_empty() {
            return Err(
                "it changes decoded text (denormalizer_spec), which is not supported".into(),
            );
        }
        let charsmap = Some(normalizer.precompiled_charsmap()).filter(|map| !map.is_empty());
        let charsmap = charsmap.map(precompiled).transpose()?;
        Ok(Pieces {
            pieces: proto.pieces,
            algorithm,
            trainer,
            normalizer,
            charsmap,
        })
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Character map that is applied first.
    pub(super) fn charsmap(&self) -> Option<Precompiled> {
        self.charsmap.clone()
    }

    pub(super) fn byte_fallback(&self) -> bool {
        self.trainer.byte_fallback()
    }

    /// True if a text is to begin with a space.
    pub(super) fn adds_space(&self) -> bool {
        self.normalizer.add_dummy_prefix()
    }

    pub(super) fn unk_id(&self) -> Option<usize> {
        usize::try_from(self.trainer.unk_id()).ok()
    }

    /// The pieces with their scores, by id.
    pub(super) fn scored(&self) -> Vec<(String, f64)> {
        let pieces = self.pieces.iter();
        pieces
            .map(|piece| (piece.piece().to_owned(), f64::from(piece.score())))
            .collect()
    }

    /// Control and user-defined pieces as tokens that are matched as a whole.
    pub(super) fn added(&self) -> Vec<TokenSpec> {
        let added = self.pieces.iter().filter_map(|piece| {
            let special = match piece.kind() {
                CONTROL => true,
                USER_DEFINED => false,
                _ => return None,
            };
            Some(TokenSpec::Full(TokenFields {
                content: piece.piece().to_owned(),
                normalized: Some(false),
                special,
                ..TokenFields::default()
            }))
        });
        added.collect()
    }

    /// The tokens at a text's edges and the unknown one, as the model itself names them.
    pub(super) fn named(&self) -> Vec<(&'static str, String)> {
        let trainer = &self.trainer;
        let named = [
            ("bos_token", trainer.bos_id(), trainer.bos_piece()),
            ("eos_token", trainer.eos_id(), trainer.eos_piece()),
            ("unk_token", trainer.unk_id(), trainer.unk_piece()),
        ];
        let present = named.into_iter().filter(|&(_, id, _)| id >= 0);
        present
            .map(|(role, _, piece)| (role, piece.to_owned()))
            .collect()
    }

    /// The vocabulary and the merges that classes of the reference make of it: every pair of pieces that joins to a
    /// piece, in the order of what they join to.
    pub(super) fn vocab_and_merges(&self) -> (Vocab, Merges) {
        let vocab = self.vocab(&[]);
        let mut by_id: Vec<(&String, &u32)> = vocab.iter().collect();
        by_id.sort_by_key(|&(_, id)| id);
        let mut merges = Merges::new();
        for (piece, _) in by_id {
            for (left, right) in splits(piece) {
                if vocab.contains_key(left) && vocab.contains_key(right) {
                    merges.push((left.to_owned(), right.to_owned()));
                }
            }
        }
        (vocab, merges)
    }

    fn vocab(&self, renamed: &[(u32, String)]) -> Vocab {
        let renamed: HashMap<u32, &str> = renamed
            .iter()
            .map(|(id, name)| (*id, name.as_str()))
            .collect();
        let ids = (0..u32::MAX).zip(&self.pieces);
        let names = ids.map(|(id, piece)| {
            let name = renamed.get(&id).copied().unwrap_or(piece.piece());
            (name.to_owned(), id)
        });
        names.collect()
    }

    /// The model as SentencePiece itself applies it, for a tokenizer of no class.
    ///
    /// `names` are other names for pieces, by id: a reserved piece may have become a token of its own.
    pub(super) fn into_plain(
        self,
        names: Vec<(u32, String)>,
        prepend: PrependScheme,
    ) -> tokenizers::Result<Tokenizer> {
        let names = self.renamed(names);
        let mut user_defined = self.user_defined(&names);
        user_defined.sort_by_key(|piece| Reverse(piece.chars().count()));
        let model: ModelWrapper = match self.algorithm {
            Algorithm::Bpe => self.plain_bpe(&names, !user_defined.is_empty())?.into(),
            Algorithm::Unigram => {
                unigram(self.scored(), self.unk_id(), self.byte_fallback())?.into()
            }
        };
        let mut inner = Tokenizer::new(model);
        let adds_space = self.normalizer.add_dummy_prefix();
        inner.with_normalizer(Some(Sequence::new(self.plain_normalizers(prepend)?)))?;

        let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
        if adds_space {
            steps.push(Metaspace::new(SPACE, prepend, false).into());
        }
        if !user_defined.is_empty() {
            let escaped: Vec<_> = user_defined.iter().map(|piece| escape(piece)).collect();
            steps.push(split(&escaped.join("|"))?);
        }
        if !steps.is_empty() {
            inner.with_pre_tokenizer(Some(PreTokenizerSequence::new(steps)));
        }

        let mut decoders: Vec<DecoderWrapper> = vec![Replace::new(SPACE.to_string(), " ")?.into()];
        if self.byte_fallback() {
            decoders.push(ByteFallback::new().into());
        }
        if adds_space || self.byte_fallback() {
            decoders.push(Fuse::new().into());
        }
        if adds_space {
            decoders.push(Strip::new(' ', 1, 0).into());
        }
        inner.with_decoder(Some(DecoderSequence::new(decoders)));
        Ok(inner)
    }

    /// The new names of pieces that take them. One whose new name another keeps as its own stays what it is, and a
    /// unigram model renames none.
    fn renamed(&self, mut names: Vec<(u32, String)>) -> Vec<(u32, String)> {
        if self.algorithm == Algorithm::Unigram {
            return Vec::new();
        }
        let before = self.vocab(&[]);
        let ids: HashSet<u32> = names.iter().map(|&(id, _)| id).collect();
        let is_kept = |name: &String| before.get(name).is_some_and(|id| !ids.contains(id));
        names.retain(|(_, name)| !is_kept(name));
        names
    }

    /// User-defined pieces by the names that they have in the end.
    fn user_defined(&self, names: &[(u32, String)]) -> Vec<String> {
        let ids = 0..u32::MAX;
        let pieces = ids
            .zip(&self.pieces)
            .filter(|(_, piece)| piece.kind() == USER_DEFINED);
        let pieces = pieces.map(|(id, piece)| {
            let new = names.iter().find(|(renamed, _)| *renamed == id);
            new.map_or(piece.piece(), |(_, name)| name).to_owned()
        });
        pieces.collect()
    }

    /// Only normal pieces are merged, those with the highest score first.
    fn plain_bpe(&self, names: &[(u32, String)], ignores_merges: bool) -> tokenizers::Result<BPE> {
        let vocab = self.vocab(names);
        let is_normal = |name: &str| {
            let id = vocab.get(name).and_then(|&id| usize::try_from(id).ok());
            id.is_some_and(|id| self.pieces[id].kind() == NORMAL)
        };
        let mut ranked: Vec<(f32, u32, &str, &str)> = Vec::new();
        for (name, &id) in &vocab {
            if !is_normal(name) {
                continue;
            }
            for (left, right) in splits(name) {
                if is_normal(left) && is_normal(right) {
                    ranked.push((-self.pieces[id as usize].score(), id, left, right));
                }
            }
        }
        ranked.sort_by(|a, b| {
            a.0.total_cmp(&b.0)
                .then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3)))
        });
        let merges = ranked.into_iter();
        let merges = merges.map(|(_, _, left, right)| (left.to_owned(), right.to_owned()));
        BPE::builder()
            .vocab_and_merges(vocab.clone(), merges.collect())
            .unk_token(self.trainer.unk_piece().to_owned())
            .fuse_unk(true)
            .byte_fallback(self.byte_fallback())
            .ignore_merges(ignores_merges)
            .build()
    }

    /// In SentencePiece's order: characters, superfluous spaces, their spelling.
    fn plain_normalizers(
        &self,
        prepend: PrependScheme,
    ) -> tokenizers::Result<Vec<NormalizerWrapper>> {
        let regex = |pattern: &str, by: &str| {
            Replace::new(ReplacePattern::Regex(pattern.to_owned()), by).map(Into::into)
        };
        let mut steps: Vec<NormalizerWrapper> =
            self.charsmap().into_iter().map(Into::into).collect();
        if self.normalizer.remove_extra_whitespaces() {
            // Other white space than spaces is left alone.
            steps.extend([regex(r"\A +| +\z", "")?, regex(" {2,}", " ")?]);
        }
        if self.normalizer.escape_whitespaces() {
            steps.push(Replace::new(" ", SPACE.to_string())?.into());
        }
        if self.normalizer.add_dummy_prefix() && prepend == PrependScheme::Always {
            // The library adds no space before one, SentencePiece does.
            steps.push(regex(r"\A▁", "▁▁")?);
        }
        Ok(steps)
    }
}

/// All ways to cut a piece in two. Nothing real is near the bound, and the work is the square of the length.
fn splits(piece: &str) -> impl Iterator<Item = (&str, &str)> {
    let cuts = piece.char_indices().skip(1);
    let cuts = cuts.filter(|_| piece.len() <= MAX_MERGED_BYTES);
    cuts.map(|(at, _)| piece.split_at(at))
}

/// The table of characters, if it is one.
///
/// Its first number is the length of what follows, which the library allocates for before it looks.
pub(crate) fn precompiled(charsmap: &[u8]) -> tokenizers::Result<Precompiled> {
    let (length, rest) = charsmap
        .split_first_chunk::<4>()
        .ok_or("its table of characters has no length")?;
    let length = u64::from(u32::from_le_bytes(*length));
    if length > rest.len() as u64 {
        let found = rest.len();
        return Err(
            format!("its table of characters is to have {length} bytes and has {found}").into(),
        );
    }
    Ok(Precompiled::from(charsmap)?)
}

/// A piece as a pattern that matches it and nothing else.
fn escape(piece: &str) -> String {
    let mut pattern = String::new();
    for c in piece.chars() {
        // Behind a backslash, other characters than these mean something else.
        if r"\.+*?()|[]{}^$".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer_spec: Option<NormalizerSpec>,
    #[prost(message, optional, tag = "5")]
    denormalizer_spec: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3", default = "1")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerSpec {
    #[prost(int32, optional, tag = "3", default = "1")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
    #[prost(int32, optional, tag = "40")]
    unk_id: Option<i32>,
    #[prost(int32, optional, tag = "41", default = "1")]
    bos_id: Option<i32>,
    #[prost(int32, optional, tag = "42", default = "2")]
    eos_id: Option<i32>,
    #[prost(string, optional, tag = "45", default = "<unk>")]
    unk_piece: Option<String>,
    #[prost(string, optional, tag = "46", default = "<s>")]
    bos_piece: Option<String>,
    #[prost(string, optional, tag = "47", default = "</s>")]
    eos_piece: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3", default = "true")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4", default = "true")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5", default = "true")]
    escape_whitespaces: Option<bool>,
}

/// The mark of the first field, length-delimited.
const FIRST_PIECE: u8 = 0x0a;

const UNIGRAM: i32 = 1;
const BPE_TYPE: i32 = 2;

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// No real piece comes near this length.
const MAX_MERGED_BYTES: usize = 1024;
