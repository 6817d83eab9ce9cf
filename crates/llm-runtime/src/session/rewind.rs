//! Ways of a sequence back to what it was.

use super::Session;
use crate::{Result, RuntimeError};

/// A point of a sequence that [`Session::return_to`] leads back to, whatever was appended or forgotten since.
#[derive(Debug)]
#[must_use = "its keeper serves nothing else until the mark is released"]
pub struct Mark {
    sequence: usize,
    keeper: usize,
}

impl Session {
    /// Forgets positions of `sequence` from `len` on. Nothing changes where that fails.
    ///
    /// # Errors
    /// [`RuntimeError::PositionsGone`] when a sliding window that the next position sees is written over. The positions of a
    /// whole pass can be taken back, and all of them; a [`Mark`] leads back to what is between. Of models with recurrent layers
    /// all positions can be taken back, or none.
    ///
    /// # Panics
    /// When it has fewer, or keeps a mark.
    pub fn rewind(&mut self, sequence: usize, len: usize) -> Result<()> {
        self.sequences.assert_free(sequence);
        let n_taken = self.len(sequence);
        assert!(
            len <= n_taken,
            "sequence {sequence} has but {n_taken} positions"
        );
        if !self.pipeline.can_rewind(sequence, len) {
            return Err(RuntimeError::PositionsGone {
                sequence,
                len,
                n_taken,
            });
        }
        self.pipeline.rewind(sequence, len);
        self.sequences.truncate(sequence, len);
        Ok(())
    }

    /// As [`Session::rewind`], to the beginning where it fails; returns how many positions are left.
    ///
    /// # Panics
    /// As [`Session::rewind`].
    pub fn truncate(&mut self, sequence: usize, len: usize) -> usize {
        match self.rewind(sequence, len) {
            Ok(()) => len,
            Err(_) => self.truncate(sequence, 0),
        }
    }

    /// Marks the point where `sequence` is. `keeper`, an empty sequence, keeps it: their keys and values are shared, and a
    /// block is copied when it is to be written over; states of recurrent layers are copied to the keeper's. So a mark needs no memory but the keeper's, which was planned
    /// ([`Limits::n_sequences`](crate::Limits::n_sequences)).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use llm_backend::Reference;
    /// # use llm_plan::WeightDType;
    /// # use llm_quant::Scalar;
    /// # use llm_runtime::{BoundModel, Limits, LoadOptions, load};
    /// # let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/mistral-sliding");
    /// # let model = BoundModel::open(&folder)?;
    /// # let limits = Limits { n_sequences: 2, context: 64, n_tokens: 4, n_logits: 1 };
    /// # let options = LoadOptions { dtype: WeightDType::Auto, quant: None, encoder: &Scalar, limits, offload: None };
    /// # let mut session = load(&model, &Arc::new(Reference::new()), &options, &mut |_| ())?;
    /// let (question, draft) = ([1, 5, 9], [7; 40]);
    /// session.prefill(0, &question)?;
    /// let mark = session.mark(0, 1)?;
    /// session.advance(&[(0, &draft)])?;
    /// // Its windows have moved on.
    /// assert!(session.rewind(0, 3).is_err());
    /// session.return_to(&mark)?;
    /// assert_eq!(session.len(0), 3);
    /// session.release(mark);
    /// # Ok::<(), llm_runtime::RuntimeError>(())
    /// ```
    ///
    /// # Errors
    /// [`RuntimeError::KeeperTaken`] when `keeper` is not empty, and when the device fails.
    ///
    /// # Panics
    /// When they are the same, or either keeps a mark.
    pub fn mark(&mut self, sequence: usize, keeper: usize) -> Result<Mark> {
        assert_ne!(sequence, keeper, "a sequence does not keep its own marks");
        self.sequences.assert_free(sequence);
        self.sequences.assert_free(keeper);
        let n_taken = self.len(keeper);
        if n_taken > 0 {
            return Err(RuntimeError::KeeperTaken { keeper, n_taken });
        }
        self.fork(sequence, keeper)?;
        self.sequences.set_mark(keeper, true);
        Ok(Mark { sequence, keeper })
    }

    /// Makes a sequence what it was at a mark, which stays.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When the sequence keeps another mark by now.
    pub fn return_to(&mut self, mark: &Mark) -> Result<()> {
        self.fork(mark.keeper, mark.sequence)
    }

    /// Ends a mark: its keeper is empty, and serves as any sequence does.
    pub fn release(&mut self, mark: Mark) {
        self.sequences.set_mark(mark.keeper, false);
        self.truncate(mark.keeper, 0);
    }
}
