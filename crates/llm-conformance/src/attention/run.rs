//! Sequences in one pool of blocks, pass by pass.

use std::iter;
use std::ops::Range;
use std::sync::Arc;

use llm_backend::{Attention, Backend, Batch, KvColumns, Mask, Ops, RelativeBias, Rows};
use llm_tensor::{KvShape, WorkspaceShape};

use super::{AttentionCase, Blocks, Inputs, Keys, ranges};
use crate::data::{Device, Random, SMALL, WORKS, weight};

/// Sequences of one shape, which attend together.
pub(super) struct Run<'a, B: Backend> {
    cases: &'a [AttentionCase],
    inputs: Vec<Inputs>,
    device: Device<B>,
    pool: B::KvPool,
    block_len: usize,
    /// Blocks of each sequence.
    tables: Vec<Vec<u32>>,
    /// Blocks of none.
    free: Vec<u32>,
}

/// Columns that a pass's buffer has of each token.
#[derive(Clone, Copy)]
enum Columns {
    Queries,
    KeysAndValues,
    All,
}

impl<'a, B: Backend> Run<'a, B> {
    /// With blocks for `n_spare` more sequences.
    pub(super) fn new(backend: &Arc<B>, cases: &'a [AttentionCase], n_spare: usize) -> Self {
        let case = &cases[0];
        let capacities = cases.iter().map(AttentionCase::capacity);
        let shape = KvShape {
            n_kv_heads: case.n_kv_heads,
            head_dim: case.head_dim,
            values: case.values,
            capacity: capacities.max().expect("there is a sequence"),
            n_sequences: cases.len() + n_spare,
            dtype: case.dtype,
        };
        let rows = cases.iter().map(|case| case.largest_call() + case.others);
        let workspace = WorkspaceShape {
            n_tokens: rows.sum::<usize>() + case.others,
            context: shape.capacity,
            n_heads: case.n_heads,
            n_kv_heads: case.n_kv_heads,
            head_dim: case.head_dim,
            ..SMALL
        };
        let block_len = backend.kv_block_len(&shape);
        let table_len = shape.table_len(block_len);
        let mut free: Vec<u32> = (0..(shape.n_sequences * table_len) as u32).rev().collect();
        let mut tables = vec![Vec::new(); cases.len()];
        match case.blocks {
            Blocks::InOrder => {}
            Blocks::Shuffled => Random::new(19).shuffle(&mut free),
        }
        for table in &mut tables {
            table.extend(free.split_off(free.len() - table_len).into_iter().rev());
        }
        Run {
            cases,
            inputs: cases.iter().map(AttentionCase::inputs).collect(),
            device: Device::with_workspace(backend, &workspace),
            pool: backend.kv_pool(&shape).expect(WORKS),
            block_len,
            tables,
            free,
        }
    }

    /// Results of each sequence, `[queries, n_heads, value_dim]`, all of them in every pass that they have a call for.
    /// `between` comes before each pass's queries attend.
    pub(super) fn results(mut self, mut between: impl FnMut(&mut Self, usize)) -> Vec<Vec<f32>> {
        self.append_whole();
        let n_passes = self.cases.iter().map(|case| case.calls.len()).max();
        let mut results = vec![Vec::new(); self.cases.len()];
        for pass in 0..n_passes.unwrap_or(0) {
            let tokens = self.tokens(pass);
            self.append_past(&tokens);
            between(&mut self, pass);
            self.attend(&tokens, &mut results);
        }
        results
    }

    /// Tokens of each sequence's call in a pass; none where it has had its calls.
    pub(super) fn tokens(&self, pass: usize) -> Vec<Range<usize>> {
        let call = |case: &AttentionCase| ranges(&case.calls).nth(pass).unwrap_or(0..0);
        self.cases.iter().map(call).collect()
    }

    /// Keys and values that are there before the first query.
    fn append_whole(&mut self) {
        let appended = |case: &AttentionCase| match &case.keys {
            Keys::Past { .. } | Keys::Chunk(_) => Vec::new(),
            Keys::Encoder => vec![case.n_positions()],
            Keys::Cross(appended) => appended.clone(),
        };
        let calls: Vec<Vec<usize>> = self.cases.iter().map(appended).collect();
        for pass in 0..calls.iter().map(Vec::len).max().unwrap_or(0) {
            let call = |calls: &Vec<usize>| ranges(calls).nth(pass).unwrap_or(0..0);
            let tokens: Vec<_> = calls.iter().map(call).collect();
            self.append(&tokens);
        }
    }

    /// The queries' own keys and values, where they attend to those.
    pub(super) fn append_past(&mut self, tokens: &[Range<usize>]) {
        match self.cases[0].keys {
            Keys::Past { .. } | Keys::Chunk(_) => self.append(tokens),
            Keys::Encoder | Keys::Cross(_) => {}
        }
    }

    fn append(&mut self, tokens: &[Range<usize>]) {
        for (sequence, tokens) in tokens.iter().enumerate() {
            self.own(sequence, tokens.clone());
        }
        let case = &self.cases[0];
        let (columns, first) = match case.keys {
            Keys::Past { .. } | Keys::Chunk(_) | Keys::Encoder => (Columns::All, case.q_width()),
            Keys::Cross(_) => (Columns::KeysAndValues, 0),
        };
        let kv_columns = KvColumns {
            first,
            row_width: first + case.kv_width(),
        };
        let (values, rows) = self.pass(columns, tokens, |_, tokens| tokens.end);
        let values = self.device.buffer(&values);
        let (rows_index, tables) = self.told(&rows, tokens);
        let batch = Batch {
            rows: &rows,
            rows_index: &rows_index,
            tables: &tables,
            table_len: self.tables[0].len(),
        };
        let appended = self
            .device
            .queue
            .append(&values, &kv_columns, &batch, &mut self.pool);
        appended.expect(WORKS);
    }

    /// Adds to each sequence's results.
    pub(super) fn attend(&mut self, tokens: &[Range<usize>], results: &mut [Vec<f32>]) {
        let case = &self.cases[0];
        let (columns, mask) = match case.keys {
            Keys::Past { window, .. } => (Columns::All, Mask::Causal { window }),
            Keys::Chunk(len) => (Columns::All, Mask::Chunked { len }),
            Keys::Encoder => (Columns::All, Mask::Full),
            Keys::Cross(_) => (Columns::Queries, Mask::Full),
        };
        let row_width = case.q_width()
            + match columns {
                Columns::All => case.kv_width(),
                Columns::Queries | Columns::KeysAndValues => 0,
            };
        let (values, rows) = self.pass(columns, tokens, |case, tokens| match case.keys {
            Keys::Past { .. } | Keys::Chunk(_) => tokens.end,
            Keys::Encoder | Keys::Cross(_) => case.n_positions(),
        });
        let q = self.device.buffer(&values);
        let table = self.device.buffer(&self.inputs[0].bias);
        let sinks = case.sinks.map(|_| {
            let values = &self.inputs[0].sinks;
            self.device
                .load(weight(case.dtype, 1, values.len(), values))
        });
        let op = Attention {
            n_heads: case.n_heads,
            n_kv_heads: case.n_kv_heads,
            head_dim: case.head_dim,
            row_width,
            scale: case.scale(),
            soft_cap: case.soft_cap,
            mask,
            bias: case.bias.map(|bias| RelativeBias {
                table: &table,
                row: bias.row,
                zero: bias.zero,
            }),
            sinks: sinks.as_ref(),
            selected: None,
            beside: None,
        };
        let (rows_index, tables) = self.told(&rows, tokens);
        let batch = Batch {
            rows: &rows,
            rows_index: &rows_index,
            tables: &tables,
            table_len: self.tables[0].len(),
        };
        let n = values.len() / row_width * case.out_width();
        let mut out = self.device.zeros(n);
        let attended = self
            .device
            .queue
            .attention(&op, &q, &batch, &self.pool, &mut out);
        attended.expect(WORKS);
        let mut out = self.device.read(&out, n);
        let present = results
            .iter_mut()
            .zip(tokens)
            .filter(|(_, t)| !t.is_empty());
        for ((results, _), rows) in present.zip(&rows) {
            let first = rows.first * case.out_width();
            let ours = &mut out[first..first + rows.n_tokens * case.out_width()];
            results.extend_from_slice(ours);
            ours.fill(0.0);
        }
        assert!(
            out.iter().all(|&x| x == 0.0),
            "rows of others are left alone: {:?}",
            self.cases
        );
    }

    /// Rows of a pass: some tokens of each sequence, among rows of others, which are not numbers, so that reading them
    /// would show.
    fn pass(
        &self,
        columns: Columns,
        tokens: &[Range<usize>],
        n_positions: impl Fn(&AttentionCase, &Range<usize>) -> usize,
    ) -> (Vec<f32>, Vec<Rows>) {
        let case = &self.cases[0];
        let (q_width, kv_width) = match columns {
            Columns::Queries => (case.q_width(), 0),
            Columns::KeysAndValues => (0, case.kv_width()),
            Columns::All => (case.q_width(), case.kv_width()),
        };
        let others = iter::repeat_n(f32::NAN, case.others * (q_width + kv_width));
        let (mut pass, mut rows) = (Vec::from_iter(others.clone()), Vec::new());
        let sequences = self.cases.iter().zip(&self.inputs).zip(tokens);
        for ((case, inputs), tokens) in sequences.filter(|(_, tokens)| !tokens.is_empty()) {
            rows.push(Rows {
                first: pass.len() / (q_width + kv_width),
                n_tokens: tokens.len(),
                start: tokens.start,
                n_positions: n_positions(case, tokens),
            });
            for token in tokens.clone() {
                // Widths of zero take nothing.
                pass.extend(inputs.q[token * q_width..].iter().take(q_width));
                pass.extend(inputs.kv[token * kv_width..].iter().take(kv_width));
            }
            pass.extend(others.clone());
        }
        (pass, rows)
    }

    /// The rows and the block tables of those sequences that have tokens, on the device.
    fn told(&mut self, rows: &[Rows], tokens: &[Range<usize>]) -> (B::Index, B::Index) {
        let words: Vec<u32> = rows.iter().flat_map(Rows::words).collect();
        let tables = self.tables.iter().zip(tokens);
        let present = tables.filter(|(_, tokens)| !tokens.is_empty());
        let tables: Vec<u32> = present.flat_map(|(table, _)| table.clone()).collect();
        (self.device.index(&words), self.device.index(&tables))
    }

    /// Gives a sequence blocks of its own for what it writes.
    fn own(&mut self, sequence: usize, positions: Range<usize>) {
        let table_len = self.tables[sequence].len();
        let mut copies = Vec::new();
        for position in positions {
            let entry = position / self.block_len % table_len;
            let block = self.tables[sequence][entry];
            let others = self
                .tables
                .iter()
                .flatten()
                .filter(|&&other| other == block);
            if others.count() > 1 {
                let new = self.free.pop().expect("a spare block");
                self.tables[sequence][entry] = new;
                copies.push((block, new));
            }
        }
        self.copy(&copies);
    }

    /// Has a sequence go on from where another is, with the same blocks.
    pub(super) fn fork(&mut self, from: usize, to: usize) {
        let blocks = self.tables[from].clone();
        let own = std::mem::replace(&mut self.tables[to], blocks);
        self.free.extend(own);
    }

    /// Takes a sequence to other blocks.
    pub(super) fn take_over(&mut self, sequence: usize) {
        let table = &mut self.tables[sequence];
        let new = self.free.split_off(self.free.len() - table.len());
        let old = std::mem::replace(table, new.clone());
        let copies: Vec<_> = old.iter().copied().zip(new).collect();
        self.free.extend(old);
        self.copy(&copies);
    }

    fn copy(&mut self, copies: &[(u32, u32)]) {
        let copied = self.device.queue.copy_blocks(&mut self.pool, copies);
        copied.expect(WORKS);
    }
}
