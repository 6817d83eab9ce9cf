//! Tokenizers from Hugging Face's files.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokenizers::models::bpe::{Merges, Vocab};
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::{AddedVocabulary, ModelWrapper, PostProcessorWrapper};

use super::class::{Class, JsonKind, TEXT_END};
use super::config::{TokenSpec, TokenizerConfig};
use super::pipeline::{
    as_gemma, as_llama, as_t5, byte_level, charsmap, set_framing, set_prefix_space,
};
use super::sentencepiece::precompiled;
use super::special::{OtherFiles, SpecialTokensOf};
use super::{Edges, Framing, Origin, Tokenizer};
use crate::chat::DEFAULT;
use crate::error::one_line;
use crate::file::{MAX_CONFIG_BYTES, MAX_TOKENIZER_BYTES, read};
use crate::shield::shielded;
use crate::{ChatTemplate, TextError};

mod models;

pub(super) fn from_folder(dir: &Path) -> Result<Tokenizer, TextError> {
    let config_path = dir.join("tokenizer_config.json");
    let mut config = read_config(&config_path)?.unwrap_or_default();
    let mut files = OtherFiles::default();
    // Newer files list all tokens in the configuration, beside which old ones may have been left behind.
    if !config.has("added_tokens_decoder") {
        config.update(read_config(&dir.join("special_tokens_map.json"))?.unwrap_or_default());
        files.added_tokens = read_json(&dir.join("added_tokens.json"))?.unwrap_or_default();
    }
    let mut templates = template_files(dir)?;
    if templates.is_empty()
        && let Some(listed) = config.chat_template()?
    {
        templates = listed.into_sources(&config_path.display().to_string());
    }
    // What is wrong with it is said whatever else is there.
    config.named()?;
    let model: ModelConfig = read_json(&dir.join("config.json"))?.unwrap_or_default();
    let parts = Parts {
        hub_class: config
            .text("tokenizer_class")?
            .or(model.tokenizer_class.as_deref()),
        model_type: model.model_type.as_deref(),
        templates,
        config: &config,
        files,
    };

    let json_path = dir.join("tokenizer.json");
    if let Some(json) = read(&json_path, MAX_TOKENIZER_BYTES)? {
        return from_tokenizer_json(&json, json_path.display().to_string(), parts);
    }
    let (vocab, merges) = (dir.join("vocab.json"), dir.join("merges.txt"));
    if let (Some(vocab_json), Some(merges_txt)) = (
        read(&vocab, MAX_TOKENIZER_BYTES)?,
        read(&merges, MAX_TOKENIZER_BYTES)?,
    ) {
        let origin = format!("{} with {}", vocab.display(), merges.display());
        return from_vocab_and_merges(&vocab_json, &merges_txt, origin, parts);
    }
    for name in MODEL_FILES {
        let path = dir.join(name);
        if let Some(bytes) = read(&path, MAX_TOKENIZER_BYTES)? {
            return models::from_file(&bytes, &path, parts);
        }
    }
    Err(TextError::NoTokenizer { dir: dir.into() })
}

pub(super) fn from_json(
    tokenizer_json: &[u8],
    tokenizer_config: Option<&[u8]>,
) -> Result<Tokenizer, TextError> {
    let origin = "the embedded tokenizer_config.json".to_owned();
    let values = match tokenizer_config {
        Some(bytes) => parse_json(bytes, &origin)?,
        None => Map::new(),
    };
    let config = TokenizerConfig::new(values, origin.clone());
    let templates = config.chat_template()?;
    let templates = templates.map(|templates| templates.into_sources(&origin));
    let parts = Parts {
        hub_class: config.text("tokenizer_class")?,
        model_type: None,
        templates: templates.unwrap_or_default(),
        config: &config,
        files: OtherFiles::default(),
    };
    let origin = "the embedded tokenizer.json".to_owned();
    from_tokenizer_json(tokenizer_json, origin, parts)
}

/// The chat templates that are files of their own. Where there are any, those of the configuration do not count.
fn template_files(dir: &Path) -> Result<Vec<(String, String, String)>, TextError> {
    let mut paths = vec![(DEFAULT.to_owned(), dir.join("chat_template.jinja"))];
    let more = std::fs::read_dir(dir.join("additional_chat_templates"));
    for entry in more.into_iter().flatten().flatten().take(MAX_TEMPLATES) {
        let path = entry.path();
        if let (Some(name), Some("jinja")) = (
            path.file_stem().and_then(|name| name.to_str()),
            path.extension().and_then(|extension| extension.to_str()),
        ) {
            paths.push((name.to_owned(), path));
        }
    }
    paths[1..].sort();
    let mut templates = Vec::new();
    for (name, path) in paths {
        if let Some(bytes) = read(&path, MAX_CONFIG_BYTES)? {
            templates.push((name, utf8(bytes, &path)?, path.display().to_string()));
        }
    }
    Ok(templates)
}

/// Chat templates that a model may have beside the usual one.
const MAX_TEMPLATES: usize = 100;

/// Contents of every kind of tokenizer's files beside the vocabulary.
struct Parts<'a> {
    config: &'a TokenizerConfig,
    hub_class: Option<&'a str>,
    model_type: Option<&'a str>,
    /// The chat templates with their names and where they came from.
    templates: Vec<(String, String, String)>,
    files: OtherFiles,
}

impl Parts<'_> {
    fn class(&self, files: JsonKind) -> Class {
        Class::resolve(self.hub_class, self.model_type, files)
    }

    /// The tokens around a text, where no file but the configuration says so.
    fn edge_flags(&self, class: &Class) -> Result<Framing, TextError> {
        let begins = *class == Class::CodeLlama;
        Ok(Framing::Ids {
            bos: self.config.flag("add_bos_token", begins)?,
            eos: self.config.flag("add_eos_token", false)?,
        })
    }

    /// Makes the special tokens known, and a tokenizer of it all.
    fn finish(
        self,
        mut inner: tokenizers::Tokenizer,
        class: &Class,
        special: &SpecialTokensOf,
        framing: Framing,
        origin: Origin,
    ) -> Result<Tokenizer, TextError> {
        let config = self.config;
        let notices = special.add_to(&mut inner, class, &origin.name)?;
        let add_prefix_space = config.flag("add_prefix_space", false)?;
        shielded(|| set_framing(&mut inner, class, special, add_prefix_space))
            .map_err(|problem| broken(&origin.name, problem))?;
        inner.set_encode_special_tokens(config.flag("split_special_tokens", false)?);
        let cleans_up = config.flag("clean_up_tokenization_spaces", false)?
            && (!matches!(inner.get_model(), ModelWrapper::BPE(_))
                || config.flag(CLEAN_UP_BPE, false)?);
        let named: Vec<(String, String)> = special
            .named
            .iter()
            .map(|(role, token)| (role.clone(), token.text().to_owned()))
            .collect();
        let id = |role| {
            special
                .text(role)
                .and_then(|token| inner.token_to_id(token))
        };
        let edges = Edges {
            bos_id: id("bos_token"),
            eos_ids: id("eos_token").into_iter().collect(),
        };
        let template = (!self.templates.is_empty()).then(|| {
            let tokens = STANDARD_ROLES
                .iter()
                .filter_map(|&role| Some((role, special.text(role)?.to_owned())));
            ChatTemplate::named(self.templates, tokens.collect())
        });
        let mut tokenizer = Tokenizer::assemble(inner, framing, edges, named, template, origin);
        tokenizer.origin.notices.extend(notices);
        tokenizer.origin.notices.extend(config.notices());
        tokenizer.cleans_up = cleans_up;
        Ok(tokenizer)
    }
}

/// The tokenizer that `tokenizer.json` describes, which is followed but for what the class knows better.
fn from_tokenizer_json(
    json: &[u8],
    origin: String,
    mut parts: Parts<'_>,
) -> Result<Tokenizer, TextError> {
    check_charsmaps(json, &origin)?;
    let inner = shielded(|| {
        let mut inner = tokenizers::Tokenizer::from_bytes(json)?;
        inner.with_truncation(None)?;
        inner.with_padding(None);
        Ok(inner)
    });
    let mut inner = inner.map_err(|problem| broken(&origin, problem))?;
    let mut notices = Vec::new();
    if let ModelWrapper::BPE(model) = inner.get_model()
        && let Some(dropout) = model.dropout
    {
        notices.push(format!(
            "{origin}: `dropout` is {dropout}, which is for training: it is left out"
        ));
        let mut model = model.clone();
        model.dropout = None;
        inner.with_model(model);
    }
    let class = parts.class(JsonKind::of(json));
    parts.files.of_json = inner.get_added_tokens_decoder().into_iter().collect();
    if class == Class::T5 {
        parts.files.extra = sentinels(parts.config)?;
    }
    let special = SpecialTokensOf::new(parts.config, &class, std::mem::take(&mut parts.files))?;
    let is_bpe = matches!(inner.get_model(), ModelWrapper::BPE(_));
    let is_unigram = matches!(inner.get_model(), ModelWrapper::Unigram(_));
    let unknown = special.text("unk_token");
    let is_rebuilt = match class {
        Class::Llama | Class::CodeLlama | Class::Gemma => is_bpe,
        Class::T5 => is_unigram,
        _ => false,
    };
    if is_rebuilt {
        // The added tokens that count are those of `special`.
        inner.with_added_vocabulary(AddedVocabulary::new());
    }
    let mut framing = Framing::PostProcessor;
    match &class {
        Class::Llama | Class::CodeLlama if is_bpe => {
            let prefix = llama_prefix(&class, parts.config)?;
            shielded(|| prefix.apply(&mut inner, unknown))
                .map_err(|problem| broken(&origin, problem))?;
        }
        Class::Gemma if is_bpe => shielded(|| as_gemma(&mut inner, unknown))
            .map_err(|problem| broken(&origin, problem))?,
        Class::T5 if is_unigram => {
            let charsmap = charsmap(inner.get_normalizer());
            shielded(|| as_t5(&mut inner, charsmap)).map_err(|problem| broken(&origin, problem))?;
        }
        Class::Gpt2
        | Class::Roberta
        | Class::GptNeoX
        | Class::Cohere
        | Class::Qwen2
        | Class::Qwen35 => {
            let adds_space = parts.config.flag("add_prefix_space", false)?;
            set_prefix_space(&mut inner, adds_space);
        }
        Class::Llama
        | Class::CodeLlama
        | Class::Plain
        | Class::Gemma
        | Class::T5
        | Class::Qwen1
        | Class::Kimi
        | Class::Other(_) => {}
    }
    // Flags for the edges do not count beside tokenizer.json, whose post-processor has them; two classes have their own.
    if matches!(class, Class::CodeLlama | Class::GptNeoX) {
        inner.with_post_processor(None::<PostProcessorWrapper>);
        let bos = class == Class::CodeLlama;
        framing = Framing::Ids { bos, eos: false };
    }
    let mut origin = Origin::new(origin);
    origin.notices = notices;
    parts.finish(inner, &class, &special, framing, origin)
}

/// A byte-level BPE tokenizer in two files, of the class that says how it splits.
fn from_vocab_and_merges(
    vocab: &[u8],
    merges: &[u8],
    origin: String,
    mut parts: Parts<'_>,
) -> Result<Tokenizer, TextError> {
    let vocab: HashMap<String, u32> =
        serde_json::from_slice(vocab).map_err(|error| broken(&origin, one_line(error)))?;
    let merges = parse_merges(merges).map_err(|problem| broken(&origin, problem))?;
    let mut origin = Origin::new(origin);
    let mut class = parts.class(JsonKind::Absent);
    let files = std::mem::take(&mut parts.files);
    let mut special = SpecialTokensOf::new(parts.config, &class, files)?;
    if class == Class::Plain && parts.hub_class.is_none() {
        // The files were made up for GPT-2, and folders that say nothing are as old.
        class = Class::Gpt2;
        origin.notices.push(format!(
            "{}: no file names the tokenizer's class: read as GPT2Tokenizer",
            origin.name
        ));
        if vocab.contains_key(TEXT_END) {
            special.complete(vec![("eos_token", TEXT_END.to_owned())], parts.config);
        }
    }
    let adds_space = parts.config.flag("add_prefix_space", false)?;
    let vocab: Vocab = vocab.into_iter().collect();
    let inner = shielded(|| byte_level(&class, vocab, merges, adds_space));
    let inner = inner.map_err(|problem| broken(&origin.name, problem))?;
    let Some(inner) = inner else {
        return Err(TextError::UnknownClass {
            origin: origin.name,
            class: parts.hub_class.unwrap_or("of the model").to_owned(),
            known: Class::BYTE_LEVEL.to_owned(),
        });
    };
    let framing = parts.edge_flags(&class)?;
    parts.finish(inner, &class, &special, framing, origin)
}

/// Space before a text, as Llama's classes put it.
struct LlamaPrefix {
    scheme: PrependScheme,
    strips: bool,
    knows_unknown: bool,
}

fn llama_prefix(class: &Class, config: &TokenizerConfig) -> Result<LlamaPrefix, TextError> {
    let adds = config.flag_or("add_prefix_space", true)?;
    let is_code = *class == Class::CodeLlama;
    let legacy = !is_code && config.flag("legacy", false)?;
    Ok(LlamaPrefix {
        scheme: match (adds, legacy) {
            (false, _) => PrependScheme::Never,
            (true, true) => PrependScheme::Always,
            (true, false) => PrependScheme::First,
        },
        strips: adds || is_code,
        knows_unknown: is_code,
    })
}

impl LlamaPrefix {
    fn apply(
        &self,
        inner: &mut tokenizers::Tokenizer,
        unknown: Option<&str>,
    ) -> tokenizers::Result<()> {
        let unknown = unknown.filter(|_| self.knows_unknown);
        as_llama(inner, self.scheme, self.strips, unknown)
    }
}

/// T5's marks of what is left out of a text.
fn sentinels(config: &TokenizerConfig) -> Result<Vec<TokenSpec>, TextError> {
    let ids = 0..config.extra_ids()?;
    Ok(ids
        .map(|id| TokenSpec::Text(format!("<extra_id_{id}>")))
        .collect())
}

fn parse_merges(bytes: &[u8]) -> Result<Merges, String> {
    let text = std::str::from_utf8(bytes).map_err(one_line)?;
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.starts_with("#version") && !line.is_empty());
    lines
        .map(|(idx, line)| match line.split_once(' ') {
            Some((left, right))
                if !left.is_empty() && !right.is_empty() && !right.contains(' ') =>
            {
                Ok((left.to_owned(), right.to_owned()))
            }
            _ => Err(format!(
                "line {} of the merges is not a pair of tokens",
                idx + 1
            )),
        })
        .collect()
}

/// Refuses tables of characters that the library would allocate for without having seen them.
fn check_charsmaps(json: &[u8], origin: &str) -> Result<(), TextError> {
    #[derive(Deserialize)]
    struct Outline {
        #[serde(default)]
        normalizer: Value,
    }
    let text = std::str::from_utf8(json).unwrap_or_default();
    if !text.contains("precompiled_charsmap") {
        return Ok(());
    }
    // What does not parse here does not parse there, which then says more.
    let Ok(outline) = serde_json::from_slice::<Outline>(json) else {
        return Ok(());
    };
    let mut open = vec![outline.normalizer];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(map) => {
                if let Some(text) = map.get("precompiled_charsmap").and_then(Value::as_str) {
                    shielded(|| precompiled(&super::tiktoken::base64(text)?))
                        .map_err(|problem| broken(origin, problem))?;
                }
                open.extend(map.into_iter().map(|(_, value)| value));
            }
            Value::Array(list) => open.extend(list),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    Ok(())
}

/// Keys of `config.json` for the choice of a class.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ModelConfig {
    model_type: Option<String>,
    tokenizer_class: Option<String>,
}

fn read_config(path: &Path) -> Result<Option<TokenizerConfig>, TextError> {
    let values: Option<Map<String, Value>> = read_json(path)?;
    Ok(values.map(|values| TokenizerConfig::new(values, path.display().to_string())))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, TextError> {
    let Some(bytes) = read(path, MAX_CONFIG_BYTES)? else {
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

/// Vocabularies in one file, in the order in which they are looked for.
const MODEL_FILES: [&str; 4] = [
    "tokenizer.model",
    "spiece.model",
    "tiktoken.model",
    "qwen.tiktoken",
];

/// The parts that chat templates know.
const STANDARD_ROLES: [&str; 7] = super::config::ROLES;

/// The flag's name says what the reference thinks of it.
const CLEAN_UP_BPE: &str =
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output";
