//! Special and added tokens: which there are, by the configuration, its class and the files beside it, and how they are
//! made known to the library. The rules, and their order, are those of `transformers`.

use std::collections::{BTreeMap, HashSet};

use tokenizers::AddedToken;

use super::class::Class;
use super::config::{ROLES, TokenRole, TokenSpec, TokenizerConfig};
use crate::TextError;
use crate::shield::shielded;

/// The tokens of a tokenizer that are not plain vocabulary.
#[derive(Debug)]
pub(super) struct SpecialTokensOf {
    /// Those that play a part, by its name; first the parts that every tokenizer may have.
    pub(super) named: Vec<(String, TokenSpec)>,
    /// Special tokens without a part.
    pub(super) extra: Vec<TokenSpec>,
    /// Tokens that are listed with their ids and with how they are matched.
    listed: BTreeMap<u32, AddedToken>,
    /// Origin of the configuration, for errors.
    origin: String,
}

/// Special and added tokens of files other than the configuration.
#[derive(Debug, Default)]
pub(super) struct OtherFiles {
    /// `added_tokens.json`.
    pub(super) added_tokens: BTreeMap<String, u32>,
    /// The added tokens of `tokenizer.json`.
    pub(super) of_json: BTreeMap<u32, AddedToken>,
    /// The special tokens without a part that a vocabulary or a class brings along.
    pub(super) extra: Vec<TokenSpec>,
}

impl SpecialTokensOf {
    /// Tokens of the configuration, completed by the class.
    ///
    /// Where it lists no tokens with ids, those of the other files count.
    pub(super) fn new(
        config: &TokenizerConfig,
        class: &Class,
        files: OtherFiles,
    ) -> Result<Self, TextError> {
        let mut said = config.named()?;
        for &(role, token) in class.default_tokens() {
            if !config.has(role) {
                said.push((role.to_owned(), Some(TokenSpec::Text(token.to_owned()))));
            }
        }
        let place = |role: &str| ROLES.iter().position(|&known| known == role);
        said.sort_by_key(|(role, _)| place(role).unwrap_or(ROLES.len()));
        let named = said
            .into_iter()
            .filter_map(|(role, token)| Some((role, token?)))
            .collect();
        let mut tokens = SpecialTokensOf {
            named,
            extra: config.extra()?.unwrap_or(files.extra),
            listed: BTreeMap::new(),
            origin: config.origin().to_owned(),
        };
        tokens.listed = match config.listed()? {
            Some(listed) => listed
                .into_iter()
                .map(|(id, token)| (id, token.to_added(TokenRole::Listed)))
                .collect(),
            None => {
                let old = files.added_tokens.into_iter().map(|(text, id)| {
                    let special = tokens.is_special(&text);
                    (id, AddedToken::from(text, special))
                });
                old.chain(files.of_json).collect()
            }
        };
        Ok(tokens)
    }

    /// The token that plays a part, as it is spelled.
    pub(super) fn text(&self, role: &str) -> Option<&str> {
        let found = self.named.iter().find(|(name, _)| name == role);
        found.map(|(_, token)| token.text())
    }

    /// True if a token plays a part or is one of the special ones without.
    fn is_special(&self, text: &str) -> bool {
        let extra = self.extra.iter();
        self.is_named(text) || extra.map(TokenSpec::text).any(|extra| extra == text)
    }

    fn is_named(&self, text: &str) -> bool {
        self.named.iter().any(|(_, token)| token.text() == text)
    }

    /// The names that the list gives to ids.
    pub(super) fn listed(&self) -> impl Iterator<Item = (u32, &str)> {
        let listed = self.listed.iter();
        listed.map(|(&id, token)| (id, token.content.as_str()))
    }

    /// Takes over what a model file says of parts that neither the configuration nor the class names.
    pub(super) fn complete(&mut self, named: Vec<(&str, String)>, config: &TokenizerConfig) {
        for (role, text) in named {
            if !config.has(role) && self.text(role).is_none() {
                self.named.push((role.to_owned(), TokenSpec::Text(text)));
            }
        }
    }

    /// Gives names to ids that nothing else has, so that those listed behind them come out right.
    pub(super) fn reserve(&mut self, names: Vec<(u32, String)>) {
        let tokens = names.into_iter();
        let tokens = tokens.map(|(id, name)| (id, AddedToken::from(name, true)));
        self.listed.extend(tokens);
    }

    /// Has listed tokens looked for in the text as it is, before anything else is done to it.
    pub(super) fn match_as_they_are(&mut self) {
        for token in self.listed.values_mut() {
            token.normalized = false;
        }
    }

    /// Makes them known: those with ids in that order, then those with a part, then the others. Returns what came out
    /// otherwise than listed.
    ///
    /// # Errors
    ///
    /// [`TextError::ContradictoryId`] if a token has another id than it is listed with.
    pub(super) fn add_to(
        &self,
        inner: &mut tokenizers::Tokenizer,
        class: &Class,
        origin: &str,
    ) -> Result<Vec<String>, TextError> {
        let broken = |problem| TextError::BrokenTokenizer {
            origin: origin.to_owned(),
            problem,
        };
        let before = |text: &str| inner.token_to_id(text);
        let new = self.listed.values().map(|token| token.content.as_str());
        let new: HashSet<&str> = new.filter(|text| before(text).is_none()).collect();
        let mut tokens = Vec::new();
        for token in self.listed.values() {
            let special = token.special || self.is_named(&token.content);
            tokens.push(token.clone().special(special));
        }
        let known = inner.get_added_vocabulary().get_vocab();
        let others = self.named.iter().map(|(_, token)| token);
        for token in others.chain(&self.extra) {
            let text = token.text();
            let is_known = known.contains_key(text) || tokens.iter().any(|t| t.content == text);
            if !is_known {
                let role = match self.is_named(text) {
                    true => TokenRole::Special,
                    false => TokenRole::Listed,
                };
                tokens.push(token.to_added(role));
            }
        }
        shielded(|| inner.add_tokens(tokens)).map_err(broken)?;
        match class {
            // It adds them all once more, without anything special about how they are matched.
            Class::Qwen2 => {
                let all = self.named.iter().map(|(_, token)| token).chain(&self.extra);
                let all: Vec<_> = all.map(|t| AddedToken::from(t.text(), true)).collect();
                shielded(|| inner.add_tokens(all)).map_err(broken)?;
            }
            // And it makes them special whatever the list says.
            Class::Cohere => {
                let all = self.named.iter().map(|(_, token)| token).chain(&self.extra);
                let all: Vec<_> = all.map(|t| t.to_added(TokenRole::Special)).collect();
                shielded(|| inner.add_tokens(all)).map_err(broken)?;
            }
            Class::Plain
            | Class::Gpt2
            | Class::Roberta
            | Class::GptNeoX
            | Class::Qwen35
            | Class::Llama
            | Class::CodeLlama
            | Class::Gemma
            | Class::T5
            | Class::Qwen1
            | Class::Kimi
            | Class::Other(_) => {}
        }
        self.check_ids(inner, &new)
    }

    /// The library keeps the ids of tokens that it knows and gives `new` ones the next free ids, whatever a list says.
    fn check_ids(
        &self,
        inner: &tokenizers::Tokenizer,
        new: &HashSet<&str>,
    ) -> Result<Vec<String>, TextError> {
        let mut notices = Vec::new();
        for (&listed, token) in &self.listed {
            let text = &token.content;
            let Some(actual) = inner.token_to_id(text).filter(|&actual| actual != listed) else {
                continue;
            };
            let other = inner.id_to_token(listed).filter(|other| other != text);
            let found = match other {
                Some(other) => format!("is that of `{other}`"),
                None if self.listed.contains_key(&actual) => {
                    format!("is one of two: the other is {actual}")
                }
                None if new.contains(text.as_str()) => {
                    notices.push(format!(
                        "{}: `{text}` is listed with id {listed} and has {actual}, the next that is free, as in transformers",
                        self.origin
                    ));
                    continue;
                }
                None => format!("it cannot have: its place in the vocabulary is {actual}"),
            };
            return Err(TextError::ContradictoryId {
                origin: self.origin.clone(),
                token: text.clone(),
                listed,
                found,
            });
        }
        Ok(notices)
    }
}
