use llm_arch::{EntriesSpec, IndexSpec, ModelSpec};

use crate::{PlanError, Result};

/// The largest passes that a session serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sequences that are kept at a time.
    pub n_sequences: usize,
    /// Positions of each.
    pub context: usize,
    /// Rows of one pass; longer prompts are fed in pieces.
    pub n_tokens: usize,
    /// Rows whose logits are computed at a time.
    pub n_logits: usize,
}

impl Limits {
    /// The same with room for drafts, of which a pass checks so many after a token: each has logits.
    pub fn with_drafts(self, n_drafts: usize) -> Self {
        Limits {
            n_logits: self.n_logits.max(n_drafts + 1),
            ..self
        }
    }

    /// Positions that a layer's cache holds: a window needs itself and what a pass adds before its first row is through.
    pub fn capacity(&self, window: Option<usize>) -> usize {
        window.map_or(self.context, |window| {
            self.context.min(window.saturating_add(self.n_tokens - 1))
        })
    }

    /// True if contexts may have more positions than are selected of them.
    pub fn selects(&self, index: &IndexSpec) -> bool {
        self.context > index.n_selected
    }

    /// Entries that a sequence may come to.
    pub fn n_entries(&self, entries: &EntriesSpec) -> usize {
        self.context / entries.rate
    }

    /// True if contexts may be long enough for an entry.
    pub fn compresses(&self, entries: &EntriesSpec) -> bool {
        self.n_entries(entries) > 0
    }

    /// True if they may have more entries than are selected of them.
    pub fn selects_entries(&self, entries: &EntriesSpec) -> bool {
        let index = entries.index;
        index.is_some_and(|index| self.n_entries(entries) > index.n_selected)
    }

    /// Check that sessions of a model can have them.
    ///
    /// # Errors
    /// When a limit is zero, more than any machine serves, or beyond what the model was made for.
    pub fn check(&self, spec: &ModelSpec) -> Result<()> {
        if self.context > spec.context {
            return Err(PlanError::Context {
                context: self.context,
                model_context: spec.context,
            });
        }
        let named = [
            ("sequences", self.n_sequences),
            ("positions", self.context),
            ("rows of a pass", self.n_tokens),
            ("rows of logits", self.n_logits),
        ];
        match named.into_iter().find(|(_, n)| !(1..=MAX).contains(n)) {
            Some((what, found)) => Err(PlanError::Limit {
                what,
                found,
                max: MAX,
            }),
            None => Ok(()),
        }
    }
}

/// More than any machine serves; products with it fit 64 bits.
const MAX: usize = 1 << 24;
