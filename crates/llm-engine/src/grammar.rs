//! Grammars that answers are held to.

use std::fmt;
use std::sync::{Arc, OnceLock};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use llm_text::Tokenizer;
use serde_json::{Value, json};

use crate::{EngineError, Result};

/// Grammars over a model's tokens. What the tokens spell is put together when the first is asked for, which takes a while.
pub struct Grammars {
    tokenizer: Arc<Tokenizer>,
    vocab: usize,
    eos_ids: Vec<u32>,
    factory: OnceLock<Option<ParserFactory>>,
}

impl Grammars {
    /// Those over `vocab` tokens, of which some end an answer.
    pub fn new(tokenizer: Arc<Tokenizer>, vocab: usize, eos_ids: &[u32]) -> Self {
        Grammars {
            tokenizer,
            vocab,
            eos_ids: eos_ids
                .iter()
                .copied()
                .filter(|&id| (id as usize) < vocab)
                .collect(),
            factory: OnceLock::new(),
        }
    }

    /// Any object in JSON.
    ///
    /// # Errors
    /// When the model's tokens do not tell what they spell, or none of them ends an answer.
    pub fn object(&self) -> Result<Constraint> {
        self.schema(&json!({"type": "object"}))
    }

    /// Values in JSON that a schema describes.
    ///
    /// # Errors
    /// As [`Grammars::object`], and when the schema says what a grammar cannot, or is too large for one.
    pub fn schema(&self, schema: &Value) -> Result<Constraint> {
        let factory = self.factory.get_or_init(|| self.factory());
        let factory = factory.as_ref().ok_or(EngineError::NoSpelling)?;
        let mut bounded = schema.clone();
        if let Value::Object(fields) = &mut bounded {
            // A model that does not know how to go on would write spaces until it is stopped.
            let space = json!({"whitespace_pattern": SPACE});
            fields.insert("x-guidance".to_owned(), space);
        }
        let parser = factory.create_parser(TopLevelGrammar::from_json_schema(bounded));
        let matcher = Matcher::new(parser);
        match matcher.get_error() {
            Some(problem) => Err(EngineError::Grammar { problem }),
            None => Ok(Constraint {
                schema: schema.clone(),
                matcher,
                logits: Vec::new(),
            }),
        }
    }

    /// Nothing where tokens do not tell what they spell, or none ends an answer.
    fn factory(&self) -> Option<ParserFactory> {
        let (&eos_id, vocab) = (self.eos_ids.first()?, u32::try_from(self.vocab).ok()?);
        let words: Option<Vec<Vec<u8>>> = (0..vocab).map(|id| self.word(id)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab, eos_id), &words?);
        let trie = trie.with_eos_tokens(&self.eos_ids);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env).ok()?;
        // Whoever is answered is told what is wrong; nothing is printed.
        factory.quiet().limits_mut().verbose_errors = false;
        Some(factory)
    }

    /// Bytes of a token; none of one that has no text, as a vocabulary that was padded has them.
    fn word(&self, id: u32) -> Option<Vec<u8>> {
        if id as usize >= self.tokenizer.vocab_size() {
            return Some(Vec::new());
        }
        let Ok(name) = self.tokenizer.token(id) else {
            return Some(Vec::new());
        };
        match self.tokenizer.is_special(id) {
            true => Some([&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat()),
            false => self.tokenizer.token_bytes(id),
        }
    }
}

/// Space between what a schema describes: none, one, or a new line that is indented.
const SPACE: &str = r"( |\n[ \t]{0,20})?";

/// Grammar that an answer is held to, and how far it has come.
#[derive(Clone)]
pub struct Constraint {
    schema: Value,
    matcher: Matcher,
    /// Logits of the tokens that may follow, reused.
    logits: Vec<f32>,
}

impl Constraint {
    /// The `logits` `[vocab]`, but those of tokens that may not follow.
    ///
    /// # Errors
    /// When the grammar is too much for its machinery.
    pub(crate) fn allowed(&mut self, logits: &[f32]) -> Result<&[f32]> {
        let allowed = self.matcher.compute_mask_or_eos().map_err(broken)?;
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        for (id, logit) in self.logits.iter_mut().enumerate() {
            if !allowed.get(id) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(&self.logits)
    }

    /// Takes note of the token that was chosen.
    ///
    /// # Errors
    /// As [`Constraint::allowed`].
    pub(crate) fn take(&mut self, id: u32) -> Result<()> {
        // Behind what is complete there is the end alone, which the grammar knows nothing of.
        match self.matcher.is_stopped() && !self.matcher.is_error() {
            true => Ok(()),
            false => self.matcher.consume_token(id).map_err(broken),
        }
    }
}

fn broken(error: impl fmt::Display) -> EngineError {
    EngineError::Grammar {
        problem: error.to_string(),
    }
}

/// Constraints are alike that hold an answer's beginning to the same.
impl PartialEq for Constraint {
    fn eq(&self, other: &Self) -> bool {
        self.schema == other.schema
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint")
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}
