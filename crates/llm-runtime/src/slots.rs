//! Slots of states that are of one size whatever the positions: which is whose, and what a device is told of them in a pass.
//!
//! Slot `i` is sequence `i`'s. A pass overwrites the states of its sequences, so that a sequence goes on from where its states
//! are, from the start, or from where another's are that it is made a copy of.

use llm_backend::{Allocation, Backend, Queue, Rows, StateBatch};
use llm_tensor::Bytes;

use crate::Result;

/// Slots of all sequences.
pub(crate) struct Slots<B: Backend> {
    /// Positions that each sequence's states have taken in; more than it has where a pass has failed.
    n_taken: Vec<usize>,
    /// Slots of the sequences of a pass,
    index: B::Index,
    /// and in what they are written down.
    words: Vec<u32>,
}

impl<B: Backend> Slots<B> {
    /// Of empty sequences.
    pub(crate) fn new(backend: &B, n_sequences: usize) -> Result<Self> {
        Ok(Slots {
            n_taken: vec![0; n_sequences],
            index: backend.alloc_index(n_sequences)?,
            words: Vec::with_capacity(n_sequences),
        })
    }

    /// Takes note of the rows of a pass, and tells the device whose they are.
    pub(crate) fn tell(&mut self, queue: &mut B::Queue, sequences: &[(usize, Rows)]) -> Result<()> {
        self.words.clear();
        for &(sequence, rows) in sequences {
            let n_taken = &mut self.n_taken[sequence];
            // A device is told once for each of its stages.
            let is_told_again = rows.start + rows.n_tokens == *n_taken;
            assert!(
                rows.start == 0 || rows.start == *n_taken || is_told_again,
                "rows from {} on follow on states of {n_taken} positions",
                rows.start
            );
            *n_taken = rows.start + rows.n_tokens;
            self.words.push(sequence as u32);
        }
        Ok(queue.upload_index(&self.words, &mut self.index)?)
    }

    /// The sequences of the pass that was told of.
    pub(crate) fn batch<'a>(
        &'a self,
        rows: &'a [Rows],
        rows_index: &'a B::Index,
    ) -> StateBatch<'a, B> {
        StateBatch {
            rows,
            rows_index,
            slots: &self.index,
        }
    }

    /// True if the states of a sequence are those of `len` positions, or none are needed.
    pub(crate) fn can_rewind(&self, sequence: usize, len: usize) -> bool {
        len == 0 || self.n_taken[sequence] <= len
    }

    /// Forgets positions of a sequence from `len` on, which [`Slots::can_rewind`] allows.
    pub(crate) fn rewind(&mut self, sequence: usize, len: usize) {
        let n_taken = &mut self.n_taken[sequence];
        *n_taken = len.min(*n_taken);
    }

    /// Makes the sequence `to` what `from` is; true if there are states to be copied.
    pub(crate) fn fork(&mut self, from: usize, to: usize) -> bool {
        self.n_taken[to] = self.n_taken[from];
        self.n_taken[from] > 0
    }

    /// Memory on the device.
    pub(crate) fn bytes(&self) -> Bytes {
        self.index.bytes()
    }
}
