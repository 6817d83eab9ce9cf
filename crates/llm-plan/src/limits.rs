use llm_arch::ModelSpec;

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
    /// Positions that a layer's cache holds: a window needs itself and what a pass adds before its first row is through.
    pub fn capacity(&self, window: Option<usize>) -> usize {
        window.map_or(self.context, |window| {
            self.context.min(window.saturating_add(self.n_tokens - 1))
        })
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
        // Up to that many, all positions are selected, and attention is what it is without a selection.
        let selected = spec.decoder.latents().filter_map(|latent| latent.index);
        let selected = selected.map(|index| index.n_selected).min();
        if let Some(n_selected) = selected.filter(|&n| self.context > n) {
            return Err(PlanError::Selection {
                context: self.context,
                n_selected,
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

#[cfg(test)]
mod tests {
    use crate::PlanError;
    use crate::tests::golden;

    /// As many positions as are selected are all of them.
    #[test]
    fn contexts_of_which_positions_would_be_selected_are_refused() {
        let spec = golden("glm-moe-dsa-sparse").spec;
        for context in [1, 6, 7] {
            let limits = super::Limits {
                n_sequences: 1,
                context,
                n_tokens: 1,
                n_logits: 1,
            };
            match limits.check(&spec) {
                Ok(()) => assert!(context <= 6),
                Err(error) => {
                    let selection = matches!(error, PlanError::Selection { n_selected: 6, .. });
                    assert!(selection && context == 7, "{error}");
                    assert!(error.to_string().contains("index_topk"));
                }
            }
        }
    }
}
