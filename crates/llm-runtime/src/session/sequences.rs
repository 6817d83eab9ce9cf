//! Lengths of the sequences, and the tokens that may have to be read anew.

use std::borrow::Cow;

use llm_arch::ModelSpec;
use llm_plan::Limits;
use llm_tensor::Bytes;

use crate::allocated::vec_bytes;
use crate::pass::Interrupt;

/// All sequences of a session.
pub(super) struct Sequences {
    all: Vec<Sequence>,
    interrupts: Vec<Interrupt>,
    /// Lengths beyond which a sequence's keys are made anew: how far apart positions are depends on the side of it that
    /// all of them are on.
    borders: Vec<usize>,
    /// True where tokens are kept, as they may have to be read anew.
    keeps_ids: bool,
}

#[derive(Default)]
struct Sequence {
    /// Positions taken.
    len: usize,
    /// Positions before what was fed last.
    fed_from: usize,
    /// Positions that a prompt was said to take.
    expected: usize,
    /// Borders that the keys are made for being beyond.
    n_crossed: usize,
    /// The tokens, where they may have to be read anew.
    ids: Vec<u32>,
    /// True once an encoder has read its prompt.
    is_encoded: bool,
    /// True where it keeps a mark of another.
    is_mark: bool,
}

/// Keeps the memory of the tokens, which is enough for the whole context.
impl Clone for Sequence {
    fn clone(&self) -> Self {
        let mut copy = Sequence::default();
        copy.clone_from(self);
        copy
    }

    fn clone_from(&mut self, from: &Self) {
        let Sequence {
            len,
            fed_from,
            expected,
            n_crossed,
            ids,
            is_encoded,
            is_mark: _,
        } = from;
        self.is_encoded = *is_encoded;
        self.len = *len;
        self.fed_from = *fed_from;
        self.expected = *expected;
        self.n_crossed = *n_crossed;
        self.ids.clone_from(ids);
    }
}

impl Sequences {
    pub(super) fn new(spec: &ModelSpec, limits: &Limits) -> Self {
        let borders: Vec<_> = spec.decoder.positions.borders().collect();
        let keeps_ids = spec.decoder.rereads();
        let capacity = match keeps_ids {
            true => limits.context,
            false => 0,
        };
        let sequence = |_| Sequence {
            ids: Vec::with_capacity(capacity),
            ..Sequence::default()
        };
        Sequences {
            all: (0..limits.n_sequences).map(sequence).collect(),
            interrupts: (0..limits.n_sequences)
                .map(|_| Interrupt::default())
                .collect(),
            borders,
            keeps_ids,
        }
    }

    /// The tokens that are kept.
    pub(super) fn bytes(&self) -> Bytes {
        self.all
            .iter()
            .map(|sequence| vec_bytes(&sequence.ids))
            .sum()
    }

    /// Interrupt of what is fed to one of them.
    pub(super) fn interrupt(&self, sequence: usize) -> &Interrupt {
        &self.interrupts[sequence]
    }

    pub(super) fn len(&self, sequence: usize) -> usize {
        self.all[sequence].len
    }

    /// Takes note that a prompt will fill the sequence up to `n_positions`.
    pub(super) fn expect(&mut self, sequence: usize, n_positions: usize) {
        self.all[sequence].expected = n_positions;
    }

    pub(super) fn is_encoded(&self, sequence: usize) -> bool {
        self.all[sequence].is_encoded
    }

    /// Takes note of whether an encoder has read a sequence's prompt.
    pub(super) fn set_encoded(&mut self, sequence: usize, is_encoded: bool) {
        self.all[sequence].is_encoded = is_encoded;
    }

    /// # Panics
    /// When the sequence keeps a mark.
    pub(super) fn assert_free(&self, sequence: usize) {
        assert!(
            !self.all[sequence].is_mark,
            "sequence {sequence} keeps a mark"
        );
    }

    /// Has a sequence keep a mark, or no longer.
    pub(super) fn set_mark(&mut self, sequence: usize, is_mark: bool) {
        self.all[sequence].is_mark = is_mark;
    }

    /// Forgets what comes after the first `len` positions.
    pub(super) fn truncate(&mut self, sequence: usize, len: usize) {
        let sequence = &mut self.all[sequence];
        sequence.len = len;
        sequence.ids.truncate(len);
        sequence.expected = 0;
    }

    /// Makes the sequence `to` what `from` is.
    pub(super) fn fork(&mut self, from: usize, to: usize) {
        let [from, to] = self
            .all
            .get_disjoint_mut([from, to])
            .expect("two sequences of the session");
        to.clone_from(from);
    }

    /// The tokens of a sequence, where they are kept.
    pub(super) fn ids(&self, sequence: usize) -> Option<&[u32]> {
        self.keeps_ids.then_some(&self.all[sequence].ids)
    }

    /// Takes note of positions that were computed.
    pub(super) fn extend_to(&mut self, sequence: usize, len: usize) {
        self.all[sequence].len = len;
    }

    /// Positions that were there before what was fed last: none where all was read anew.
    pub(super) fn fed_from(&self, sequence: usize) -> usize {
        self.all[sequence].fed_from
    }

    /// Positions that are to be read in all, once `n_new` follow.
    pub(super) fn horizon(&self, sequence: usize, n_new: usize) -> usize {
        let sequence = &self.all[sequence];
        sequence.expected.max(sequence.len + n_new)
    }

    /// Begins to append `ids`: what is to be fed, which is the whole sequence where its keys were made for another
    /// length. It then begins anew.
    pub(super) fn begin<'i>(&mut self, sequence: usize, ids: &'i [u32]) -> Cow<'i, [u32]> {
        self.all[sequence].fed_from = self.len(sequence);
        if !self.keeps_ids {
            return Cow::Borrowed(ids);
        }
        let horizon = self.horizon(sequence, ids.len());
        let n_crossed = self
            .borders
            .iter()
            .filter(|&&border| horizon > border)
            .count();
        let sequence = &mut self.all[sequence];
        sequence.ids.extend_from_slice(ids);
        let is_as_made = sequence.len == 0 || sequence.n_crossed == n_crossed;
        sequence.n_crossed = n_crossed;
        if is_as_made {
            return Cow::Borrowed(ids);
        }
        (sequence.len, sequence.fed_from) = (0, 0);
        Cow::Owned(sequence.ids.clone())
    }

    /// Ends what [`Sequences::begin`] began, whatever came of it: tokens that were not computed are forgotten.
    pub(super) fn end(&mut self, sequence: usize) {
        let sequence = &mut self.all[sequence];
        sequence.ids.truncate(sequence.len);
    }
}
