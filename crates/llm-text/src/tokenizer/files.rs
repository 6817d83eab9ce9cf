//! The files that a tokenizer is read from again.

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;
use tokenizers::processors::template::TemplateProcessing;

use super::config::ROLES;
use super::{Framing, Tokenizer};
use crate::TextError;
use crate::shield::shielded;

pub(super) fn write(tokenizer: &Tokenizer) -> Result<Vec<(&'static str, Vec<u8>)>, TextError> {
    let broken = |problem| TextError::BrokenTokenizer {
        origin: tokenizer.origin.name.clone(),
        problem,
    };
    let json = shielded(|| {
        let mut inner = tokenizer.inner.clone();
        // A token that was special once stays so for the library, whatever its flag says since.
        let added = added(tokenizer).into_iter().map(|(_, token)| token);
        inner.add_tokens(added)?;
        if let Some(framing) = framing(tokenizer)? {
            inner.with_post_processor(Some(framing));
        }
        inner.to_string(true)
    });
    let config = Value::from(config(tokenizer));
    let config = serde_json::to_vec_pretty(&config).map_err(|error| broken(error.to_string()))?;
    let mut files = vec![
        ("tokenizer.json", json.map_err(broken)?.into_bytes()),
        ("tokenizer_config.json", config),
    ];
    if let Some(template) = tokenizer.chat_template() {
        files.push(("chat_template.jinja", template.source().into()));
    }
    Ok(files)
}

/// The post-processor that adds what the flags say, where there is none.
fn framing(tokenizer: &Tokenizer) -> tokenizers::Result<Option<TemplateProcessing>> {
    match tokenizer.framing {
        Framing::PostProcessor => return Ok(None),
        Framing::Ids { .. } if tokenizer.inner.get_post_processor().is_some() => return Ok(None),
        Framing::Ids { .. } => {}
    }
    let token = |id: Option<u32>| id.and_then(|id| Some((tokenizer.inner.id_to_token(id)?, id)));
    let (first, last) = (token(tokenizer.first_id()), token(tokenizer.last_id()));
    let special = |(text, _): &(String, u32)| json!({"SpecialToken": {"id": text, "type_id": 0}});
    let around = |part: &str| -> Vec<Value> {
        let sequence = json!({"Sequence": {"id": part, "type_id": 0}});
        let first = first.iter().map(special);
        first
            .chain([sequence])
            .chain(last.iter().map(special))
            .collect()
    };
    let tokens = first.iter().chain(&last).map(|(text, id)| {
        let token = json!({"id": text, "ids": [id], "tokens": [text]});
        (text.clone(), token)
    });
    let pair = [around("A"), around("B")].concat();
    let template = json!({
        "type": "TemplateProcessing",
        "single": around("A"),
        "pair": pair,
        "special_tokens": tokens.collect::<Map<_, _>>(),
    });
    Ok(serde_json::from_value(template)?)
}

fn config(tokenizer: &Tokenizer) -> Map<String, Value> {
    let mut config = Map::new();
    // The class that takes tokenizer.json as it stands.
    config.insert(
        "tokenizer_class".to_owned(),
        "PreTrainedTokenizerFast".into(),
    );
    let mut others = Map::new();
    for (role, token) in &tokenizer.named {
        let place = match ROLES.contains(&role.as_str()) {
            true => &mut config,
            false => &mut others,
        };
        place.insert(role.clone(), token.as_str().into());
    }
    if !others.is_empty() {
        config.insert("extra_special_tokens".to_owned(), others.into());
    }
    let added = added(tokenizer);
    let added = added.into_iter().map(|(id, token)| {
        let token = json!({
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        });
        (id.to_string(), token)
    });
    config.insert(
        "added_tokens_decoder".to_owned(),
        added.collect::<Map<_, _>>().into(),
    );
    let splits = tokenizer.inner.get_encode_special_tokens();
    config.insert("split_special_tokens".to_owned(), splits.into());
    config.insert(
        "clean_up_tokenization_spaces".to_owned(),
        tokenizer.cleans_up.into(),
    );
    config
}

/// Added tokens by id, each special if the library skips it.
fn added(tokenizer: &Tokenizer) -> Vec<(u32, AddedToken)> {
    let vocabulary = tokenizer.inner.get_added_vocabulary();
    let tokens = tokenizer.inner.get_added_tokens_decoder().into_iter();
    let mut added: Vec<_> = tokens
        .map(|(id, token)| {
            let is_special = vocabulary.is_special_token(&token.content);
            (id, token.special(is_special))
        })
        .collect();
    added.sort_by_key(|&(id, _)| id);
    added
}
