//! Rotary angles and other meanings of a pass's positions, computed once for all its blocks.

use llm_arch::{EntryKind, Positions, RopeScaling, RotarySpec};
use llm_backend::Rows;
use llm_tensor::Bytes;

use crate::Result;
use crate::allocated::vec_bytes;
use crate::pass::Pass;
use crate::source::WeightSource;

/// The positions of a stack.
pub(crate) struct Angles {
    /// Of learned positions: the row of the first.
    first_row: usize,
    kinds: Vec<Kind>,
    positions: Vec<u32>,
    /// `[n_tokens, cos | sin]`.
    table: Vec<f32>,
}

/// One kind of rotary positions.
struct Kind {
    spec: RotarySpec,
    /// Factors that the checkpoint holds.
    stored: Option<Vec<f32>>,
    /// Radians per position of each pair, of a sequence as long as the current one.
    frequencies: Vec<f32>,
}

impl Angles {
    pub(crate) fn new(
        positions: &Positions,
        source: &mut dyn WeightSource,
        n_tokens: usize,
    ) -> Result<Self> {
        let (first_row, kinds) = match positions {
            Positions::Learned { first, .. } => (*first, Vec::new()),
            Positions::Alibi { .. } | Positions::Buckets { .. } => (0, Vec::new()),
            Positions::Rotary(kinds) => {
                let stored = source.rope_factors()?;
                let kind = |spec: &RotarySpec| Kind {
                    frequencies: spec.frequencies(1, stored.as_deref()),
                    stored: stored
                        .clone()
                        .filter(|_| spec.scaling == RopeScaling::Stored),
                    spec: spec.clone(),
                };
                (0, kinds.iter().map(kind).collect())
            }
        };
        let widest = kinds
            .iter()
            .map(|kind| 2 * kind.frequencies.len())
            .max()
            .unwrap_or(0);
        Ok(Angles {
            first_row,
            kinds,
            positions: Vec::with_capacity(n_tokens),
            table: Vec::with_capacity(n_tokens * widest),
        })
    }

    pub(crate) fn bytes(&self) -> Bytes {
        let of_kind = |kind: &Kind| {
            let stored = kind.stored.as_ref().map_or(Bytes::ZERO, vec_bytes);
            vec_bytes(&kind.frequencies) + stored
        };
        let kinds: Bytes = self.kinds.iter().map(of_kind).sum();
        vec_bytes(&self.positions) + vec_bytes(&self.table) + kinds
    }

    /// Kinds of rotary positions.
    pub(crate) fn n_kinds(&self) -> usize {
        self.kinds.len()
    }

    /// The rows of the table of learned positions.
    pub(crate) fn rows(&mut self, pass: &Pass<'_>) -> &[u32] {
        self.positions.clear();
        for (_, rows) in pass.sequences {
            let first = rows.start + self.first_row;
            self.positions
                .extend((first..first + rows.n_tokens).map(|p| p as u32));
        }
        &self.positions
    }

    /// `[n_tokens, cos | sin]` of one kind.
    pub(crate) fn table(&mut self, kind: usize, pass: &Pass<'_>) -> &[f32] {
        let positions = |rows: &Rows| (rows.start..rows.start + rows.n_tokens).step_by(1);
        self.of(kind, pass, positions)
    }

    /// `[n_entries, cos | sin]` of the entries of one kind that end in the pass: the positions that their runs begin with.
    pub(crate) fn entries(&mut self, kind: EntryKind, pass: &Pass<'_>) -> &[f32] {
        let EntryKind { rate, rotary_idx } = kind;
        let begins = |rows: &Rows| {
            let [first, end] = [rows.start, rows.start + rows.n_tokens].map(|at| at / rate * rate);
            (first..end).step_by(rate)
        };
        self.of(rotary_idx, pass, begins)
    }

    /// The same of some positions of each sequence.
    fn of<P: Iterator<Item = usize>>(
        &mut self,
        kind: usize,
        pass: &Pass<'_>,
        positions: impl Fn(&Rows) -> P,
    ) -> &[f32] {
        let Kind {
            spec,
            stored,
            frequencies,
        } = &mut self.kinds[kind];
        self.table.clear();
        for ((_, rows), &horizon) in pass.sequences.iter().zip(pass.horizons) {
            if spec.depends_on_length() {
                *frequencies = spec.frequencies(horizon, stored.as_deref());
            }
            for position in positions(rows) {
                // The product rounded to f32 as the references round it, its sine and cosine exact to f32.
                let magnitude = spec.magnitude(position);
                let angles = frequencies.iter().map(|f| f64::from(position as f32 * f));
                self.table
                    .extend(angles.clone().map(|a| a.cos() as f32 * magnitude));
                self.table
                    .extend(angles.map(|a| a.sin() as f32 * magnitude));
            }
        }
        &self.table
    }
}
