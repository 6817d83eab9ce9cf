//! `tokenizer_config.json` and what stands beside it: `special_tokens_map.json`, `added_tokens.json`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::TextError;
use crate::chat::DEFAULT;
use crate::error::one_line;

/// A configuration as it stands in its file. Everything in it is optional.
#[derive(Debug, Default)]
pub(super) struct TokenizerConfig {
    values: Map<String, Value>,
    origin: String,
}

impl TokenizerConfig {
    pub(super) fn new(values: Map<String, Value>, origin: String) -> Self {
        TokenizerConfig { values, origin }
    }

    /// Origin, in words.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// A flag: what it is without the key, and false for null, as the reference takes it.
    pub(super) fn flag(&self, key: &str, absent: bool) -> Result<bool, TextError> {
        match self.values.get(key) {
            None => Ok(absent),
            Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => {
                let shown = shown(other);
                Err(self.broken(format!("`{key}` is {shown}, which is not true or false")))
            }
        }
    }

    /// A flag that is as good as absent when it is null.
    pub(super) fn flag_or(&self, key: &str, absent: bool) -> Result<bool, TextError> {
        match self.values.get(key) {
            Some(Value::Null) => Ok(absent),
            _ => self.flag(key, absent),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, TextError> {
        match self.values.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => {
                let shown = shown(other);
                Err(self.broken(format!("`{key}` is {shown}, which is not a text")))
            }
        }
    }

    /// Value of a key, read as `T`; nothing for null.
    fn get<T: for<'a> Deserialize<'a>>(&self, key: &str) -> Result<Option<T>, TextError> {
        match self.values.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value.clone())
                .map(Some)
                .map_err(|error| self.broken(format!("`{key}`: {}", one_line(error)))),
        }
    }

    pub(super) fn chat_template(&self) -> Result<Option<Templates>, TextError> {
        self.get("chat_template")
    }

    /// Number of a T5 tokenizer's sentinels.
    pub(super) fn extra_ids(&self) -> Result<usize, TextError> {
        let n = self.get::<usize>("extra_ids")?.unwrap_or(100);
        match n <= MAX_EXTRA_IDS {
            true => Ok(n),
            false => Err(self.broken(format!(
                "`extra_ids` is {n}; at most {MAX_EXTRA_IDS} make sense"
            ))),
        }
    }

    /// Tokens by the keys that name them, null too; first those that every tokenizer may have.
    pub(super) fn named(&self) -> Result<Vec<(String, Option<TokenSpec>)>, TextError> {
        let mut named = Vec::new();
        for role in ROLES {
            if self.has(role) {
                named.push((role.to_owned(), self.get(role)?));
            }
        }
        for (key, value) in &self.values {
            let is_token = value.is_string() || value.get("content").is_some();
            if key.ends_with("_token") && !ROLES.contains(&key.as_str()) && is_token {
                named.push((key.clone(), self.get(key)?));
            }
        }
        if let Some(ExtraTokens::Named(tokens)) = self.get("extra_special_tokens")? {
            named.extend(tokens.into_iter().map(|(name, token)| (name, Some(token))));
        }
        Ok(named)
    }

    /// Special tokens that play no part of their own, if a key lists them. Of the two keys for them the newer wins.
    pub(super) fn extra(&self) -> Result<Option<Vec<TokenSpec>>, TextError> {
        let older = || self.get("additional_special_tokens");
        match self.get("extra_special_tokens")? {
            Some(ExtraTokens::List(tokens)) if !tokens.is_empty() => Ok(Some(tokens)),
            Some(ExtraTokens::List(none)) => Ok(Some(older()?.unwrap_or(none))),
            Some(ExtraTokens::Named(_)) | None => older(),
        }
    }

    /// Tokens by id that are matched as a whole; `None` in old files, which have others beside them.
    pub(super) fn listed(&self) -> Result<Option<BTreeMap<u32, TokenSpec>>, TextError> {
        if !self.has("added_tokens_decoder") {
            return Ok(None);
        }
        Ok(Some(self.get("added_tokens_decoder")?.unwrap_or_default()))
    }

    /// Takes over what an older file beside it says of special tokens.
    pub(super) fn update(&mut self, map: TokenizerConfig) {
        self.values.extend(map.values);
    }

    /// Notices of set keys that change ids or text in the reference, and nothing here.
    pub(super) fn notices(&self) -> Vec<String> {
        let is_set = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Object(map) => !map.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Bool(true) | Value::Number(_) | Value::String(_) => true,
        };
        let set = NOT_DONE
            .iter()
            .filter_map(|&key| Some((key, self.values.get(key).filter(|value| is_set(value))?)));
        set.map(|(key, value)| {
            let value = shown(value);
            format!("{}: `{key}` is {value}, which is not applied", self.origin)
        })
        .collect()
    }

    fn broken(&self, problem: String) -> TextError {
        TextError::BrokenConfig {
            origin: self.origin.clone(),
            problem,
        }
    }
}

/// The parts that special tokens play in every tokenizer, under the names that chat templates know them by.
pub(super) const ROLES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Keys that change ids in some class of the reference, and that no class we know has.
const NOT_DONE: [&str; 9] = [
    "do_lower_case",
    "strip_accents",
    "tokenize_chinese_chars",
    "keep_accents",
    "remove_space",
    "normalizer_file",
    "sp_model_kwargs",
    "fast_tokenizer_files",
    "fix_mistral_regex",
];

/// A value as a message shows it, or its beginning.
fn shown(value: &Value) -> String {
    let value = value.to_string();
    match value.chars().count() > MAX_SHOWN {
        true => value.chars().take(MAX_SHOWN).chain(['…']).collect(),
        false => value,
    }
}

/// Characters of a value that a message shows.
const MAX_SHOWN: usize = 60;

/// T5 has 100.
const MAX_EXTRA_IDS: usize = 100_000;

/// A token as its text alone or with how it is matched.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum TokenSpec {
    Text(String),
    Full(TokenFields),
}

/// A token and how it is matched in a text.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct TokenFields {
    pub(super) content: String,
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    pub(super) normalized: Option<bool>,
    pub(super) special: bool,
}

impl TokenSpec {
    pub(super) fn text(&self) -> &str {
        match self {
            TokenSpec::Text(text) => text,
            TokenSpec::Full(fields) => &fields.content,
        }
    }

    /// True if it is special by what it says of itself; a mere text is.
    pub(super) fn is_special_itself(&self) -> bool {
        match self {
            TokenSpec::Text(_) => true,
            TokenSpec::Full(fields) => fields.special,
        }
    }

    /// The token to add, as special or as it says of itself.
    pub(super) fn to_added(&self, role: TokenRole) -> AddedToken {
        match self {
            TokenSpec::Text(text) => AddedToken::from(text, true),
            TokenSpec::Full(fields) => {
                let special = fields.special || role == TokenRole::Special;
                AddedToken::from(&fields.content, special)
                    .single_word(fields.single_word)
                    .lstrip(fields.lstrip)
                    .rstrip(fields.rstrip)
                    .normalized(fields.normalized.unwrap_or(!special))
            }
        }
    }
}

/// Kind of added token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenRole {
    /// It is one of the special tokens.
    Special,
    /// It stands in the list of added tokens.
    Listed,
}

/// More special tokens, with or without names of their own.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum ExtraTokens {
    List(Vec<TokenSpec>),
    Named(BTreeMap<String, TokenSpec>),
}

/// One chat template, or several by name.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Debug, Deserialize)]
pub(super) struct NamedTemplate {
    name: String,
    template: String,
}

impl Templates {
    /// The templates with their names and where they came from.
    pub(super) fn into_sources(self, origin: &str) -> Vec<(String, String, String)> {
        let list = match self {
            Templates::One(template) => vec![(DEFAULT.to_owned(), template)],
            Templates::Named(list) => list.into_iter().map(|t| (t.name, t.template)).collect(),
        };
        let sources = list.into_iter();
        let sources = sources.map(|(name, text)| (name, text, origin.to_owned()));
        sources.collect()
    }
}
