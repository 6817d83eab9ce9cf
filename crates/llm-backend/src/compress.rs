//! Entries that runs of positions are compressed to, and attention to them beside positions.

use crate::{Backend, Selected};

/// Compression of each run of so many positions to one entry (DeepSeek-V4, DeepSeek-AI 2026).
///
/// A position has features and as many gates. An element of an entry is the sum of its run's features, weighed by the softmax
/// over the run of their gates, to which a learned bias of the place in the run is added. Where runs overlap, a position has two
/// series of features, gates and biases: the second for the entry of its own run, the first for that of the next, and the softmax
/// is over both runs. Before the first run there is none.
#[derive(Debug)]
pub struct Compression<'a, B: Backend> {
    /// Positions of a run.
    pub rate: usize,
    /// Elements of an entry.
    pub width: usize,
    /// True if an entry is made of the run before its own too.
    pub overlaps: bool,
    /// `[rate, series · width]`, in f32, f16 or bf16.
    pub bias: &'a B::Weight,
}

impl<B: Backend> Clone for Compression<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Compression<'_, B> {}

impl<B: Backend> Compression<'_, B> {
    /// Series of features of a position.
    pub fn n_series(&self) -> usize {
        match self.overlaps {
            true => 2,
            false => 1,
        }
    }

    /// Features of a position, and gates: what a pool has as its keys and its values.
    pub fn features(&self) -> usize {
        self.n_series() * self.width
    }

    /// Places in the softmax of an entry: which position, which place in its run, and where its series begins. `entry` counts from
    /// the begin of the sequence.
    pub fn places(&self, entry: usize) -> impl Iterator<Item = (usize, usize, usize)> + Clone {
        let (rate, own) = (self.rate, (self.n_series() - 1) * self.width);
        let before = match self.overlaps && entry > 0 {
            true => rate,
            false => 0,
        };
        let first = entry * rate;
        let earlier = (0..before).map(move |place| (first - rate + place, place, 0));
        earlier.chain((0..rate).map(move |place| (first + place, place, own)))
    }
}

/// Entries that queries attend to beside positions, in one softmax with them.
///
/// A row at position `p` sees those of the `(p + 1) / rate` runs that have ended, of which some may be selected.
pub struct Beside<'a, B: Backend> {
    /// Entries: keys as wide as those of the positions, with values as wide.
    pub pool: &'a B::KvPool,
    /// Block tables `[n_sequences, table_len]`, of the same sequences.
    pub tables: &'a B::Index,
    /// Blocks of a table.
    pub table_len: usize,
    /// Positions of a run.
    pub rate: usize,
    /// Entries that each row sees; none hides no other.
    pub selected: Option<Selected<'a, B>>,
}

impl<B: Backend> Clone for Beside<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Beside<'_, B> {}
