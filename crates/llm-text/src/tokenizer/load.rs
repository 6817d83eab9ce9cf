//! Tokenizers from Hugging Face's files.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::de::DeserializeOwned;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::config::{SpecialTokensMap, TokenRole, TokenSpec, TokenizerConfig};
use super::{Edges, Framing, Tokenizer, shielded};
use crate::error::one_line;
use crate::{ChatTemplate, TextError};

pub(super) fn from_folder(dir: &Path) -> Result<Tokenizer, TextError> {
    let config_path = dir.join("tokenizer_config.json");
    let mut config: TokenizerConfig = read_json(&config_path)?.unwrap_or_default();
    // Newer files list all tokens in the configuration, beside which an old map may have been left behind.
    if config.added_tokens_decoder.is_none() {
        let map: Option<SpecialTokensMap> = read_json(&dir.join("special_tokens_map.json"))?;
        config.special.update(map.unwrap_or_default());
    }
    let template_path = dir.join("chat_template.jinja");
    let template = match read(&template_path)? {
        Some(bytes) => Some((utf8(bytes, &template_path)?, template_path)),
        None => {
            let templates = config.chat_template.take();
            let default = templates.and_then(|templates| templates.into_default());
            default.map(|source| (source, config_path))
        }
    };
    let template = template.map(|(source, path)| (source, path.display().to_string()));

    let json_path = dir.join("tokenizer.json");
    if let Some(json) = read(&json_path)? {
        return from_parts(&json, &json_path.display().to_string(), config, template);
    }
    let (vocab, merges) = (dir.join("vocab.json"), dir.join("merges.txt"));
    if !(vocab.is_file() && merges.is_file()) {
        return Err(TextError::NoTokenizer { dir: dir.into() });
    }
    from_vocab_and_merges(&vocab, &merges, config, template)
}

pub(super) fn from_json(
    tokenizer_json: &[u8],
    tokenizer_config: Option<&[u8]>,
) -> Result<Tokenizer, TextError> {
    let mut config: TokenizerConfig = match tokenizer_config {
        Some(bytes) => parse_json(bytes, "the embedded tokenizer_config.json")?,
        None => TokenizerConfig::default(),
    };
    let templates = config.chat_template.take();
    let template = templates
        .and_then(|templates| templates.into_default())
        .map(|source| (source, "the embedded tokenizer_config.json".to_owned()));
    from_parts(
        tokenizer_json,
        "the embedded tokenizer.json",
        config,
        template,
    )
}

/// `template` is the chat template's source and where it came from.
fn from_parts(
    json: &[u8],
    origin: &str,
    config: TokenizerConfig,
    template: Option<(String, String)>,
) -> Result<Tokenizer, TextError> {
    let inner = shielded(|| {
        let mut inner = tokenizers::Tokenizer::from_bytes(json)?;
        inner.with_truncation(None)?;
        inner.with_padding(None);
        add_tokens(&mut inner, &config)?;
        Ok(inner)
    });
    let inner = inner.map_err(|problem| broken(origin, problem))?;
    let edges = edges(&inner, &config);
    let template = chat_template(template, &config);
    Ok(Tokenizer::assemble(
        inner,
        Framing::PostProcessor,
        edges.bos_id,
        edges.eos_ids,
        template,
    ))
}

/// The byte-level BPE tokenizer in GPT-2's two files.
fn from_vocab_and_merges(
    vocab: &Path,
    merges: &Path,
    mut config: TokenizerConfig,
    template: Option<(String, String)>,
) -> Result<Tokenizer, TextError> {
    let origin = format!("{} with {}", vocab.display(), merges.display());
    let byte_level = ByteLevel::default()
        .add_prefix_space(config.add_prefix_space.unwrap_or(false))
        .trim_offsets(true);
    let inner = shielded(|| {
        let (vocab, merges) = (vocab.to_string_lossy(), merges.to_string_lossy());
        let mut inner = tokenizers::Tokenizer::new(BPE::from_file(&vocab, &merges).build()?);
        inner.with_pre_tokenizer(Some(byte_level));
        inner.with_decoder(Some(byte_level));
        Ok(inner)
    });
    let mut inner = inner.map_err(|problem| broken(&origin, problem))?;
    if config.special.eos_token.is_none() && inner.token_to_id(GPT2_TEXT_END).is_some() {
        config.special.eos_token = Some(TokenSpec::Text(GPT2_TEXT_END.to_owned()));
    }
    shielded(|| add_tokens(&mut inner, &config)).map_err(|problem| broken(&origin, problem))?;
    let edges = edges(&inner, &config);
    let template = chat_template(template, &config);
    Ok(Tokenizer::with_ids(inner, edges, template))
}

/// Tells the tokenizer of the tokens that only the configuration names, as `transformers` does.
fn add_tokens(
    inner: &mut tokenizers::Tokenizer,
    config: &TokenizerConfig,
) -> tokenizers::Result<()> {
    let known = inner.get_added_vocabulary().get_vocab().clone();
    let listed = config.added_tokens_decoder.iter().flatten();
    let listed = listed.map(|(_, token)| (token, TokenRole::Listed));
    let special = config
        .special
        .all()
        .map(|token| (token, TokenRole::Special));
    let new: Vec<_> = listed
        .chain(special)
        .filter(|(token, _)| !known.contains_key(token.text()))
        .map(|(token, role)| token.to_added(role))
        .collect();
    inner.add_tokens(new)?;
    Ok(())
}

fn edges(inner: &tokenizers::Tokenizer, config: &TokenizerConfig) -> Edges {
    let id = |token: &Option<TokenSpec>| token.as_ref().and_then(|t| inner.token_to_id(t.text()));
    Edges {
        bos_id: id(&config.special.bos_token),
        eos_ids: id(&config.special.eos_token).into_iter().collect(),
        add_bos: config.add_bos_token.unwrap_or(false),
        add_eos: config.add_eos_token.unwrap_or(false),
    }
}

fn chat_template(
    template: Option<(String, String)>,
    config: &TokenizerConfig,
) -> Option<ChatTemplate> {
    let (source, origin) = template?;
    let tokens = config.special.named();
    let tokens = tokens.map(|(name, token)| (name, token.text().to_owned()));
    Some(ChatTemplate::new(source, origin, tokens.collect()))
}

/// A file's bytes, or `None` if it is not there.
fn read(path: &Path) -> Result<Option<Vec<u8>>, TextError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TextError::Unreadable {
            path: path.into(),
            source,
        }),
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, TextError> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    parse_json(&bytes, &path.display().to_string()).map(Some)
}

fn parse_json<T: DeserializeOwned>(bytes: &[u8], origin: &str) -> Result<T, TextError> {
    llm_json::parse_as(bytes).map_err(|error| TextError::BrokenConfig {
        origin: origin.to_owned(),
        problem: one_line(error),
    })
}

fn utf8(bytes: Vec<u8>, path: &Path) -> Result<String, TextError> {
    String::from_utf8(bytes).map_err(|error| TextError::BrokenConfig {
        origin: path.display().to_string(),
        problem: one_line(error),
    })
}

fn broken(origin: &str, problem: String) -> TextError {
    TextError::BrokenTokenizer {
        origin: origin.to_owned(),
        problem,
    }
}

/// The token that GPT-2's tokenizer ends texts with, whether a configuration says so or not.
const GPT2_TEXT_END: &str = "<|endoftext|>";
