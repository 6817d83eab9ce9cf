//! The steps of each class around its vocabulary.

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::{NFC, NormalizerWrapper, Precompiled, Replace};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    DecoderWrapper, ModelWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
};

use super::class::Class;
use super::special::SpecialTokensOf;
use crate::splits::{QWEN2, QWEN35, by_regexes};

/// SentencePiece's space.
pub(crate) const SPACE: char = '▁';

/// A byte-level tokenizer of one of the classes that are made of a vocabulary and merges.
pub(super) fn byte_level(
    class: &Class,
    vocab: Vocab,
    merges: Merges,
    add_prefix_space: bool,
) -> tokenizers::Result<Option<Tokenizer>> {
    let words = ByteLevel::new(add_prefix_space, true, true);
    let (normalizer, splitting): (_, PreTokenizerWrapper) = match class {
        Class::Gpt2 | Class::Roberta => (None, words.into()),
        Class::GptNeoX => (Some(NFC), words.into()),
        Class::Cohere => {
            let steps = vec![Digits::new(true).into(), words.into()];
            (Some(NFC), Sequence::new(steps).into())
        }
        Class::Qwen2 | Class::Qwen1 => (Some(NFC), by_regexes(&[QWEN2], add_prefix_space)?),
        Class::Qwen35 => (Some(NFC), by_regexes(&[QWEN35], add_prefix_space)?),
        Class::Plain
        | Class::Llama
        | Class::CodeLlama
        | Class::Gemma
        | Class::T5
        | Class::Kimi
        | Class::Other(_) => return Ok(None),
    };
    let model = BPE::builder().vocab_and_merges(vocab, merges).build()?;
    let mut inner = Tokenizer::new(model);
    inner.with_normalizer(normalizer)?;
    inner.with_pre_tokenizer(Some(splitting));
    inner.with_decoder(Some(ByteLevel::default()));
    Ok(Some(inner))
}

/// Sets whether a byte-level tokenizer puts a space before the text, wherever in it that is decided.
pub(super) fn set_prefix_space(inner: &mut Tokenizer, add_prefix_space: bool) {
    let patched = match inner.get_pre_tokenizer() {
        Some(PreTokenizerWrapper::ByteLevel(step)) => {
            Some(step.add_prefix_space(add_prefix_space).into())
        }
        Some(PreTokenizerWrapper::Sequence(steps)) => {
            let mut steps = steps.clone();
            for step in steps.as_mut() {
                if let PreTokenizerWrapper::ByteLevel(step) = step {
                    step.add_prefix_space = add_prefix_space;
                }
            }
            Some(PreTokenizerWrapper::Sequence(steps))
        }
        _ => None,
    };
    if patched.is_some() {
        inner.with_pre_tokenizer(patched);
    }
}

/// Gives a tokenizer with SentencePiece's spelling of spaces the pipeline of Llama's class.
///
/// The class, not `tokenizer.json`, says where a space is put before a text: see docs/tokenizers.md.
pub(super) fn as_llama(
    inner: &mut Tokenizer,
    prepend: PrependScheme,
    strips: bool,
    unknown: Option<&str>,
) -> tokenizers::Result<()> {
    fall_back_to_bytes(inner, unknown);
    inner.with_normalizer(None::<NFC>)?;
    inner.with_pre_tokenizer(Some(Metaspace::new(SPACE, prepend, false)));
    let mut decoders = sentencepiece_decoders()?;
    if strips {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    inner.with_decoder(Some(DecoderSequence::new(decoders)));
    Ok(())
}

/// Makes a BPE spell in bytes what it does not know.
fn fall_back_to_bytes(inner: &mut Tokenizer, unknown: Option<&str>) {
    if let ModelWrapper::BPE(model) = inner.get_model() {
        let mut model = model.clone();
        model.dropout = None;
        model.fuse_unk = true;
        model.byte_fallback = true;
        model.ignore_merges = false;
        model.continuing_subword_prefix = None;
        model.end_of_word_suffix = None;
        model.unk_token = unknown.map(str::to_owned);
        inner.with_model(model);
    }
}

/// Gemma's pipeline: spaces are respelled, and none is added.
pub(crate) fn as_gemma(inner: &mut Tokenizer, unknown: Option<&str>) -> tokenizers::Result<()> {
    fall_back_to_bytes(inner, unknown);
    inner.with_normalizer(Some(Replace::new(" ", SPACE.to_string())?))?;
    let space = SplitPattern::String(" ".to_owned());
    let split = Split::new(space, SplitDelimiterBehavior::MergedWithPrevious, false)?;
    inner.with_pre_tokenizer(Some(split));
    inner.with_decoder(Some(DecoderSequence::new(sentencepiece_decoders()?)));
    Ok(())
}

/// T5's pipeline: white space of any kind and length is one space.
pub(crate) fn as_t5(
    inner: &mut Tokenizer,
    charsmap: Option<Precompiled>,
) -> tokenizers::Result<()> {
    inner.with_normalizer(charsmap)?;
    let spaces = Metaspace::new(SPACE, PrependScheme::Always, true);
    let steps = vec![WhitespaceSplit.into(), spaces.clone().into()];
    inner.with_pre_tokenizer(Some(Sequence::new(steps)));
    inner.with_decoder(Some(spaces));
    Ok(())
}

/// Spaces respelled, bytes joined to characters, tokens to a text.
pub(crate) fn sentencepiece_decoders() -> tokenizers::Result<Vec<DecoderWrapper>> {
    Ok(vec![
        Replace::new(SPACE.to_string(), " ")?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ])
}

/// Sets the framing of classes that have one whatever the files say.
pub(super) fn set_framing(
    inner: &mut Tokenizer,
    class: &Class,
    special: &SpecialTokensOf,
    add_prefix_space: bool,
) -> tokenizers::Result<()> {
    let token = |text: Option<&str>| {
        let text = text?;
        Some((text.to_owned(), inner.token_to_id(text)?))
    };
    match class {
        Class::T5 => {
            // The class writes the token out, whatever the configuration calls the end.
            let Some((text, id)) = token(Some("</s>")) else {
                return Ok(());
            };
            let template = TemplateProcessing::builder()
                .try_single(vec!["$A", "</s>"])?
                .try_pair(vec!["$A", "</s>", "$B", "</s>"])?
                .special_tokens(vec![(text, id)])
                .build()
                .map_err(|error| error.to_string())?;
            inner.with_post_processor(Some(template));
        }
        Class::Roberta => {
            let ends = token(special.text("sep_token")).zip(token(special.text("cls_token")));
            let Some((sep, cls)) = ends else {
                return Ok(());
            };
            let framing = RobertaProcessing::new(sep, cls).add_prefix_space(add_prefix_space);
            inner.with_post_processor(Some(framing));
        }
        Class::Plain
        | Class::Gpt2
        | Class::GptNeoX
        | Class::Cohere
        | Class::Qwen2
        | Class::Qwen35
        | Class::Llama
        | Class::CodeLlama
        | Class::Gemma
        | Class::Qwen1
        | Class::Kimi
        | Class::Other(_) => {}
    }
    Ok(())
}

/// A BPE over whole characters; its pipeline says what becomes of what it does not know.
pub(crate) fn bpe(vocab: Vocab, merges: Merges) -> tokenizers::Result<BPE> {
    BPE::builder().vocab_and_merges(vocab, merges).build()
}

/// The table of characters that a tokenizer applies, if it does.
pub(super) fn charsmap(normalizer: Option<&NormalizerWrapper>) -> Option<Precompiled> {
    match normalizer? {
        NormalizerWrapper::Precompiled(charsmap) => Some(charsmap.clone()),
        NormalizerWrapper::Sequence(steps) => {
            steps.as_ref().iter().find_map(|step| charsmap(Some(step)))
        }
        _ => None,
    }
}

/// A unigram model whose unknown token, if it has one, is a piece.
pub(super) fn unigram(
    pieces: Vec<(String, f64)>,
    unk_id: Option<usize>,
    byte_fallback: bool,
) -> tokenizers::Result<Unigram> {
    Unigram::from(pieces, unk_id, byte_fallback)
}
