//! Attention of all heads to one key, which is its value too, beside what runs of positions are compressed to (DeepSeek-V4,
//! DeepSeek-AI 2026).

use super::NormSpec;

/// Attention to the one key of each of the last positions, and to entries that all earlier ones are compressed to.
///
/// The last elements of keys are turned, and so of what is summed up of them as values; these are turned back for each row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SharedKeySpec {
    /// Heads.
    pub n_heads: usize,
    /// Elements of a head's query and result, and of the key.
    pub head_dim: usize,
    /// Elements of them, the last, that are turned.
    pub rope_dim: usize,
    /// Elements of the latent that queries are made of.
    pub q_rank: usize,
    /// Groups of heads, each of whose results are projected by a matrix of its own; divides `n_heads`.
    pub n_groups: usize,
    /// Elements that a group's are projected to, of which all together are projected back.
    pub group_rank: usize,
    /// Positions that a query sees, its own included.
    pub window: usize,
    /// Norm of latents, keys and entries; of queries, without a gain.
    pub norm: NormSpec,
    /// Multiplies the products of queries and keys.
    pub scale: f32,
    /// Index among the stack's rotary positions,
    pub rotary_idx: usize,
    /// and of those that turn back.
    pub back_idx: usize,
    /// What earlier positions are compressed to; none where they are not seen.
    pub entries: Option<EntriesSpec>,
}

/// Entries that runs of positions are compressed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntriesSpec {
    /// Positions of a run.
    pub rate: usize,
    /// True if an entry is made of the run before its own too.
    pub overlaps: bool,
    /// Selection of entries; none where all are seen.
    pub index: Option<EntryIndexSpec>,
}

/// Kind of entries, by the positions that they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryKind {
    /// Positions of a run.
    pub rate: usize,
    /// Index among the stack's rotary positions, of which an entry has that of its run's first.
    pub rotary_idx: usize,
}

/// Selection of entries: by heads that score keys, which are compressed as the entries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryIndexSpec {
    /// Entries that are selected, where there are as many.
    pub n_selected: usize,
    /// Heads.
    pub n_heads: usize,
    /// Elements of a head's queries, and of a key; the last are turned.
    pub head_dim: usize,
}

impl SharedKeySpec {
    /// Features of all heads' queries, and of their results.
    pub fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Features of a group's results.
    pub fn group_width(&self) -> usize {
        self.q_width() / self.n_groups
    }

    /// Features that all groups' are projected to.
    pub fn groups_rank(&self) -> usize {
        self.n_groups * self.group_rank
    }

    /// Selection of entries, if there is one.
    pub fn index(&self) -> Option<EntryIndexSpec> {
        self.entries.and_then(|entries| entries.index)
    }

    /// Elements of the entries of each kind, and of the keys by which they are selected.
    pub fn entry_dims(&self) -> impl Iterator<Item = (EntriesSpec, usize)> {
        let entries = self.entries.into_iter();
        entries.flat_map(|entries| {
            let of_index = entries.index.map(|index| index.head_dim);
            [Some(self.head_dim), of_index]
                .into_iter()
                .flatten()
                .map(move |width| (entries, width))
        })
    }
}

impl EntriesSpec {
    /// Features of a position that entries of so many elements are made of, and as many gates.
    pub fn features(&self, width: usize) -> usize {
        match self.overlaps {
            true => 2 * width,
            false => width,
        }
    }

    /// Positions that the last entry of a sequence may be made of, whatever the next pass begins with.
    pub fn reach(&self) -> usize {
        match self.overlaps {
            true => 2 * self.rate,
            false => self.rate,
        }
    }
}

impl EntryIndexSpec {
    /// Features of all heads' queries.
    pub fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }
}
