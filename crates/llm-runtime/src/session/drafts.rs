//! Passes of a token and of drafts: guesses of what follows it, whose results tell how far they are right.

use super::Session;
use super::diagnose::is_finite;
use crate::Result;

impl Session {
    /// Drafts that a pass of `sequence` may have after its next token, so that the sequence can go back to any of them, and each
    /// token is computed as if it came alone: as far as the pass, its rows of logits and the context have room, and positions are
    /// told apart alike. None where layers keep states.
    ///
    /// # Panics
    /// When there is no such sequence, or it keeps a mark.
    pub fn draft_room(&self, sequence: usize) -> usize {
        self.sequences.assert_free(sequence);
        let (stack, len) = (&self.spec.decoder, self.len(sequence));
        // All of it is read anew beyond a border.
        let is_reread = stack.positions.borders().any(|border| border == len);
        if stack.is_recurrent() || is_reread {
            return 0;
        }
        let limits = &self.limits;
        let most = limits.context.min(stack.positions.steady_up_to(len + 1));
        let rows = limits.n_tokens.min(limits.n_logits);
        rows.min(most.saturating_sub(len)).saturating_sub(1)
    }

    /// Appends a token and drafts, `ids`, to `sequence` in one pass; the logits after each, `[vocab]`, or nothing where they are
    /// no finite numbers. [`Session::rewind`] takes drafts back that are wrong.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use llm_backend::Reference;
    /// # use llm_plan::WeightDType;
    /// # use llm_quant::Scalar;
    /// # use llm_runtime::{BoundModel, Limits, LoadOptions, load};
    /// # let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/llama");
    /// # let model = BoundModel::open(&folder)?;
    /// # let limits = Limits { n_sequences: 1, context: 64, n_tokens: 8, n_logits: 3 };
    /// # let options = LoadOptions { dtype: WeightDType::Auto, quant: None, encoder: &Scalar, limits, offload: None };
    /// # let mut session = load(&model, &Arc::new(Reference::new()), &options, &mut |_| ())?;
    /// session.prefill(0, &[1, 5, 9])?;
    /// // What follows on 7 is guessed: as many tokens as there are rows of logits, less one.
    /// let drafts = [2, 4];
    /// assert_eq!(session.draft_room(0), drafts.len());
    /// let after = session.step_drafts(0, &[7, drafts[0], drafts[1]])?;
    /// assert_eq!(after.count(), 3);
    /// // Both are wrong.
    /// session.rewind(0, 4)?;
    /// # Ok::<(), llm_runtime::RuntimeError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Session::step`](Session::step), but for logits.
    ///
    /// # Panics
    /// When there are more drafts than [`Session::draft_room`].
    pub fn step_drafts(
        &mut self,
        sequence: usize,
        ids: &[u32],
    ) -> Result<impl Iterator<Item = Option<&[f32]>> + use<'_>> {
        self.feed_drafts(sequence, ids, |session, rows| session.logits_of(rows, 0))?;
        let vocab = self.spec.vocab;
        let rows = self.logits[..ids.len() * vocab].chunks_exact(vocab);
        Ok(rows.map(|logits| is_finite(logits).then_some(logits)))
    }

    /// The same for the most probable token after each, as [`Session::greedy`] has it.
    ///
    /// # Errors
    /// As [`Session::step_drafts`].
    ///
    /// # Panics
    /// As [`Session::step_drafts`], and when there are not as many `found` as ids.
    pub fn greedy_drafts(
        &mut self,
        sequence: usize,
        ids: &[u32],
        found: &mut [Option<u32>],
    ) -> Result<()> {
        assert_eq!(found.len(), ids.len(), "a token after each");
        self.feed_drafts(sequence, ids, |session, rows| session.ids_of(rows, found))
    }

    fn feed_drafts(
        &mut self,
        sequence: usize,
        ids: &[u32],
        results: impl FnOnce(&mut Self, &[usize]) -> Result<()>,
    ) -> Result<()> {
        self.check(sequence, ids)?;
        let room = self.draft_room(sequence);
        assert!(ids.len() <= 1 + room, "there is room for {room} drafts");
        // Never all of a sequence, as no border is crossed.
        let fed = self.begin(sequence, ids);
        let rows = self.rows(sequence, 0, fed.len());
        let ran = self.run(&fed, &[(sequence, rows)], true);
        let all: Vec<usize> = (0..ids.len()).collect();
        let outcome = ran.and_then(|()| results(self, &all));
        self.sequences.end(sequence);
        outcome
    }
}
