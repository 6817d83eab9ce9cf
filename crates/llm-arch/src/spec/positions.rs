//! Encoding of positions.

use crate::rotary::RotarySpec;

/// Encoding of a token's position.
#[derive(Debug, Clone, PartialEq)]
pub enum Positions {
    /// A learned vector per position, added to the embedding.
    Learned {
        /// Rows of the table.
        rows: usize,
        /// The row of the first position.
        first: usize,
    },
    /// Queries and keys are turned by angles that grow with the position (Su et al. 2021); layers may differ in how.
    Rotary(Vec<RotarySpec>),
    /// Each head subtracts a multiple of the distance from its scores (Press et al. 2022).
    Alibi {
        /// Multiplies what is subtracted.
        scale: f32,
    },
    /// Each head adds a learned value for the distance, distances sharing buckets that widen (Raffel et al. 2020).
    Buckets {
        /// Buckets.
        n_buckets: usize,
        /// From here on all distances share the last one.
        max_distance: usize,
    },
}

impl Positions {
    /// The kinds of rotary positions; none where others are encoded.
    pub fn rotary(&self) -> &[RotarySpec] {
        match self {
            Positions::Rotary(kinds) => kinds,
            Positions::Learned { .. } | Positions::Alibi { .. } | Positions::Buckets { .. } => &[],
        }
    }

    /// The same, to be changed.
    pub fn rotary_mut(&mut self) -> &mut [RotarySpec] {
        match self {
            Positions::Rotary(kinds) => kinds,
            Positions::Learned { .. } | Positions::Alibi { .. } | Positions::Buckets { .. } => {
                &mut []
            }
        }
    }

    /// Lengths beyond which a sequence's keys are made anew.
    pub fn borders(&self) -> impl Iterator<Item = usize> {
        self.rotary().iter().filter_map(RotarySpec::border)
    }

    /// The most positions that a sequence of `n_positions` may come to while all of them are told apart as they are.
    pub fn steady_up_to(&self, n_positions: usize) -> usize {
        let kinds = self.rotary().iter();
        let most = kinds.map(|kind| kind.steady_up_to(n_positions)).min();
        most.unwrap_or(usize::MAX)
    }
}
