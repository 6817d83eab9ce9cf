//! Blocks of keys and values: which of them hold a sequence, and what a device is told of them in a pass.
//!
//! Layers whose pools have the same blocks share block tables. Sequences that continue the same positions share blocks; what
//! a pass writes to is a sequence's own before the pass begins.

use std::ops::Range;

use llm_backend::{Allocation, Backend, Batch, Queue, Rows};
use llm_plan::{KvTable, entry_rates};
use llm_tensor::Bytes;

use crate::Result;

/// Block tables of all sequences.
pub(crate) struct Blocks<B: Backend> {
    groups: Vec<Group<B>>,
    /// Rows of the largest pass.
    n_tokens: usize,
    /// Words of a pass for the device: each sequence's rows,
    rows: Vec<Rows>,
    rows_index: B::Index,
    /// the entries that end in it,
    entries: Vec<EntryRows<B>>,
    /// and in what it is written down.
    words: Vec<u32>,
}

/// Rows of the entries that end in a pass, one sequence after the other, where each is made of so many positions.
struct EntryRows<B: Backend> {
    rate: usize,
    rows: Vec<Rows>,
    index: B::Index,
}

/// Block tables of layers with the same blocks.
struct Group<B: Backend> {
    shape: KvTable,
    blocks: Allotment,
    /// Tables of the sequences of a pass.
    index: B::Index,
}

/// Blocks of a pool, and whose they are.
#[derive(Debug)]
struct Allotment {
    /// Sequences that hold each block.
    n_holders: Vec<u32>,
    free: Vec<u32>,
    sequences: Vec<SequenceTable>,
    /// Blocks to be copied, from and to, before the next rows are appended.
    copies: Vec<(u32, u32)>,
}

/// Blocks of a sequence.
#[derive(Debug)]
struct SequenceTable {
    /// Position p lies in block `table[p / block_len % table_len]`.
    table: Vec<Option<u32>>,
    /// The most positions taken since it was last empty.
    reached: usize,
}

impl<B: Backend> Blocks<B> {
    /// Of empty sequences.
    pub(crate) fn new(
        backend: &B,
        tables: &[KvTable],
        n_sequences: usize,
        n_tokens: usize,
    ) -> Result<Self> {
        let group = |&shape: &KvTable| {
            let n_blocks = n_sequences * shape.table_len();
            Ok(Group {
                shape,
                blocks: Allotment::new(n_sequences, shape.table_len()),
                index: backend.alloc_index(n_blocks)?,
            })
        };
        let entries = |rate: usize| {
            Ok(EntryRows {
                rate,
                rows: Vec::with_capacity(n_sequences),
                index: backend.alloc_index(n_sequences * Rows::N_WORDS)?,
            })
        };
        let longest = tables.iter().map(KvTable::table_len).max().unwrap_or(0);
        let n_words = n_sequences * longest.max(Rows::N_WORDS);
        Ok(Blocks {
            groups: tables.iter().map(group).collect::<Result<_>>()?,
            n_tokens,
            rows: Vec::with_capacity(n_sequences),
            rows_index: backend.alloc_index(n_sequences * Rows::N_WORDS)?,
            entries: (entry_rates(tables).into_iter().map(entries)).collect::<Result<_>>()?,
            words: Vec::with_capacity(n_words),
        })
    }

    /// Index of the tables of layers with such blocks.
    pub(crate) fn group(&self, table: KvTable) -> usize {
        let found = self.groups.iter().position(|group| group.shape == table);
        found.expect("the block table of a layer of the model")
    }

    /// Sees to it that a sequence has blocks of its own for some positions. What they hold may have to be copied there
    /// first ([`Blocks::copies`]).
    pub(crate) fn reserve(&mut self, sequence: usize, positions: Range<usize>) {
        for Group { shape, blocks, .. } in &mut self.groups {
            let own = positions.start / shape.rate..positions.end / shape.rate;
            if !own.is_empty() {
                blocks.reserve(sequence, own, shape.block_len);
            }
        }
    }

    /// Blocks of a group that are to be copied, from and to, in the pool of each of its layers.
    pub(crate) fn copies(&self, group: usize) -> &[(u32, u32)] {
        &self.groups[group].blocks.copies
    }

    /// Says that they were.
    pub(crate) fn end_copies(&mut self) {
        for group in &mut self.groups {
            group.blocks.copies.clear();
        }
    }

    /// Tells the device of the rows of a pass and of their sequences' blocks.
    pub(crate) fn tell(
        &mut self,
        queue: &mut B::Queue,
        sequences: impl Iterator<Item = (usize, Rows)> + Clone,
    ) -> Result<()> {
        self.rows.clear();
        self.rows.extend(sequences.clone().map(|(_, rows)| rows));
        self.words.clear();
        self.words.extend(self.rows.iter().flat_map(Rows::words));
        queue.upload_index(&self.words, &mut self.rows_index)?;
        for entries in &mut self.entries {
            entries.of(&self.rows);
            self.words.clear();
            self.words.extend(entries.rows.iter().flat_map(Rows::words));
            queue.upload_index(&self.words, &mut entries.index)?;
        }
        for group in &mut self.groups {
            self.words.clear();
            for (sequence, _) in sequences.clone() {
                let table = &group.blocks.sequences[sequence].table;
                // What is not there is not read either.
                self.words
                    .extend(table.iter().map(|block| block.unwrap_or(0)));
            }
            queue.upload_index(&self.words, &mut group.index)?;
        }
        Ok(())
    }

    /// Rows of the sequences of a pass, and the same on the device.
    pub(crate) fn rows(&self) -> (&[Rows], &B::Index) {
        (&self.rows, &self.rows_index)
    }

    /// The sequences of a pass, as layers of a group see them.
    pub(crate) fn batch(&self, group: usize) -> Batch<'_, B> {
        Batch {
            rows: &self.rows,
            rows_index: &self.rows_index,
            tables: &self.groups[group].index,
            table_len: self.groups[group].shape.table_len(),
        }
    }

    /// Rows of the entries that end in a pass, and the same on the device.
    ///
    /// # Panics
    /// When there are no entries of such a rate.
    pub(crate) fn entry_rows(&self, rate: usize) -> (&[Rows], &B::Index) {
        let found = self.entries.iter().find(|entries| entries.rate == rate);
        let found = found.expect("entries of a layer of the model");
        (&found.rows, &found.index)
    }

    /// The entries that end in a pass, as layers of a group see them.
    pub(crate) fn entry_batch(&self, group: usize) -> Batch<'_, B> {
        let (rows, rows_index) = self.entry_rows(self.groups[group].shape.rate);
        Batch {
            rows,
            rows_index,
            ..self.batch(group)
        }
    }

    /// True if nothing is written over that position `len` of a sequence sees.
    pub(crate) fn can_rewind(&self, sequence: usize, len: usize) -> bool {
        let is_held = |Group { shape, blocks, .. }: &Group<B>| {
            let reached = blocks.sequences[sequence].reached;
            reached <= shape.capacity || len + self.n_tokens >= reached
        };
        len == 0 || self.groups.iter().all(is_held)
    }

    /// Forgets positions of a sequence from `len` on, which [`Blocks::can_rewind`] allows.
    pub(crate) fn rewind(&mut self, sequence: usize, len: usize) {
        for Group { shape, blocks, .. } in &mut self.groups {
            blocks.truncate(sequence, len / shape.rate, shape.block_len);
        }
    }

    /// Makes the sequence `to` what `from` is, by sharing its blocks.
    pub(crate) fn fork(&mut self, from: usize, to: usize) {
        for group in &mut self.groups {
            group.blocks.fork(from, to);
        }
    }

    /// Memory on the device.
    pub(crate) fn bytes(&self) -> Bytes {
        let tables = self.groups.iter().map(|group| group.index.bytes());
        let entries = self.entries.iter().map(|entries| entries.index.bytes());
        self.rows_index.bytes() + tables.chain(entries).sum()
    }
}

impl<B: Backend> EntryRows<B> {
    /// Those of a pass of some rows.
    fn of(&mut self, rows: &[Rows]) {
        let (rate, mut first) = (self.rate, 0);
        self.rows.clear();
        self.rows.extend(rows.iter().map(|rows| {
            let (start, end) = (rows.start / rate, (rows.start + rows.n_tokens) / rate);
            let own = Rows {
                first,
                n_tokens: end - start,
                start,
                n_positions: end,
            };
            first += own.n_tokens;
            own
        }));
    }
}

impl Allotment {
    fn new(n_sequences: usize, table_len: usize) -> Self {
        let n_blocks = n_sequences * table_len;
        let held = |_| SequenceTable {
            table: vec![None; table_len],
            reached: 0,
        };
        Allotment {
            n_holders: vec![0; n_blocks],
            free: (0..n_blocks as u32).rev().collect(),
            sequences: (0..n_sequences).map(held).collect(),
            copies: Vec::new(),
        }
    }

    fn reserve(&mut self, sequence: usize, positions: Range<usize>, block_len: usize) {
        let held = &mut self.sequences[sequence];
        held.reached = held.reached.max(positions.end);
        for block in positions.start / block_len..positions.end.div_ceil(block_len) {
            let at = block % held.table.len();
            let shared = match held.table[at] {
                Some(block) if self.n_holders[block as usize] == 1 => continue,
                shared => shared,
            };
            let own = self
                .free
                .pop()
                .expect("a block for each entry of each table");
            self.n_holders[own as usize] = 1;
            held.table[at] = Some(own);
            if let Some(shared) = shared {
                self.n_holders[shared as usize] -= 1;
                self.copies.push((shared, own));
            }
        }
    }

    /// Gives back the blocks after the first `len` positions, unless some hold positions of another round.
    fn truncate(&mut self, sequence: usize, len: usize, block_len: usize) {
        let held = &mut self.sequences[sequence];
        let n_held = held.table.len() * block_len;
        // A device without layers takes no positions.
        if held.reached <= len || (len > 0 && held.reached > n_held) {
            return;
        }
        held.reached = len;
        for block in &mut held.table[len.div_ceil(block_len)..] {
            if let Some(block) = block.take() {
                give_back(&mut self.n_holders, &mut self.free, block);
            }
        }
    }

    fn fork(&mut self, from: usize, to: usize) {
        self.truncate(to, 0, 1);
        let [from, to] = self
            .sequences
            .get_disjoint_mut([from, to])
            .expect("two sequences of the session");
        to.reached = from.reached;
        to.table.clone_from(&from.table);
        for block in from.table.iter().flatten() {
            self.n_holders[*block as usize] += 1;
        }
    }
}

fn give_back(n_holders: &mut [u32], free: &mut Vec<u32>, block: u32) {
    n_holders[block as usize] -= 1;
    if n_holders[block as usize] == 0 {
        free.push(block);
    }
}

#[cfg(test)]
mod tests;
