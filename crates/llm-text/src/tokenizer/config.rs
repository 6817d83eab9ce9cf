//! `tokenizer_config.json` and `special_tokens_map.json`.

use std::collections::BTreeMap;

use serde::Deserialize;
use tokenizers::AddedToken;

/// What we read of `tokenizer_config.json`. Everything in it is optional.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TokenizerConfig {
    #[serde(flatten)]
    pub(super) special: SpecialTokensMap,
    /// Tokens by id that are matched as a whole; `None` in old files, which have `special_tokens_map.json`.
    pub(super) added_tokens_decoder: Option<BTreeMap<u32, TokenSpec>>,
    pub(super) add_bos_token: Option<bool>,
    pub(super) add_eos_token: Option<bool>,
    pub(super) add_prefix_space: Option<bool>,
    pub(super) chat_template: Option<Templates>,
}

/// The special tokens by the part they play.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SpecialTokensMap {
    pub(super) bos_token: Option<TokenSpec>,
    pub(super) eos_token: Option<TokenSpec>,
    pub(super) unk_token: Option<TokenSpec>,
    pub(super) sep_token: Option<TokenSpec>,
    pub(super) pad_token: Option<TokenSpec>,
    pub(super) cls_token: Option<TokenSpec>,
    pub(super) mask_token: Option<TokenSpec>,
    pub(super) additional_special_tokens: Option<Vec<TokenSpec>>,
    pub(super) extra_special_tokens: Option<ExtraTokens>,
}

impl SpecialTokensMap {
    /// Takes over what `newer` names.
    pub(super) fn update(&mut self, newer: SpecialTokensMap) {
        fn replace<T>(old: &mut Option<T>, new: Option<T>) {
            if new.is_some() {
                *old = new;
            }
        }
        replace(&mut self.bos_token, newer.bos_token);
        replace(&mut self.eos_token, newer.eos_token);
        replace(&mut self.unk_token, newer.unk_token);
        replace(&mut self.sep_token, newer.sep_token);
        replace(&mut self.pad_token, newer.pad_token);
        replace(&mut self.cls_token, newer.cls_token);
        replace(&mut self.mask_token, newer.mask_token);
        replace(
            &mut self.additional_special_tokens,
            newer.additional_special_tokens,
        );
        replace(&mut self.extra_special_tokens, newer.extra_special_tokens);
    }

    /// The tokens with a part of their own, under the names that chat templates know them by.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, &TokenSpec)> {
        [
            ("bos_token", &self.bos_token),
            ("eos_token", &self.eos_token),
            ("unk_token", &self.unk_token),
            ("sep_token", &self.sep_token),
            ("pad_token", &self.pad_token),
            ("cls_token", &self.cls_token),
            ("mask_token", &self.mask_token),
        ]
        .into_iter()
        .filter_map(|(name, token)| Some((name, token.as_ref()?)))
    }

    /// All special tokens.
    pub(super) fn all(&self) -> impl Iterator<Item = &TokenSpec> {
        let extra: Box<dyn Iterator<Item = &TokenSpec>> = match &self.extra_special_tokens {
            None => Box::new(std::iter::empty()),
            Some(ExtraTokens::List(tokens)) => Box::new(tokens.iter()),
            Some(ExtraTokens::Named(tokens)) => Box::new(tokens.values()),
        };
        let named = self.named().map(|(_, token)| token);
        named
            .chain(self.additional_special_tokens.iter().flatten())
            .chain(extra)
    }
}

/// A token as its text alone or with how it is matched.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum TokenSpec {
    Text(String),
    Full(TokenFields),
}

/// A token and how it is matched in a text.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TokenFields {
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: Option<bool>,
    special: bool,
}

impl TokenSpec {
    pub(super) fn text(&self) -> &str {
        match self {
            TokenSpec::Text(text) => text,
            TokenSpec::Full(fields) => &fields.content,
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

/// Why a token is added.
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
    /// The template for a plain conversation: the only one, or the one called `default`.
    pub(super) fn into_default(self) -> Option<String> {
        match self {
            Templates::One(template) => Some(template),
            Templates::Named(mut list) if list.len() == 1 => list.pop().map(|t| t.template),
            Templates::Named(list) => list
                .into_iter()
                .find(|t| t.name == "default")
                .map(|t| t.template),
        }
    }
}
