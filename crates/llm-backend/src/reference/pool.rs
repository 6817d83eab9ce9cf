//! Keys and values in blocks, and attention over them.

use llm_tensor::{Bytes, DType, KvShape, KvValues, f32_to_le_bytes, le_bytes_to_f32};

use super::scalar::{biased, dot};
use super::{Reference, assert_told};
use crate::{
    Allocation, Attention, Batch, Compression, KvColumns, Mask, Rows, Selected, Selection,
    score_order,
};

/// Keys, and values where they are not the keys' own, `[blocks, BLOCK, n_kv_heads · head_dim]` each, rounded to the pool's element type. What nothing was
/// written to is not a number, so that reading it shows.
#[derive(Debug)]
pub struct ReferencePool {
    shape: KvShape,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// Positions of a block: few, so that tests meet many blocks.
pub(super) const BLOCK: usize = 4;

impl ReferencePool {
    pub(super) fn new(shape: &KvShape) -> Self {
        assert!(
            shape.dtype.is_weight(),
            "keys and values of {}",
            shape.dtype
        );
        let n = n_positions(shape) * shape.keys_width();
        ReferencePool {
            shape: *shape,
            keys: vec![f32::NAN; n],
            values: match shape.values {
                KvValues::Own => vec![f32::NAN; n],
                KvValues::OfKeys(_) => Vec::new(),
            },
        }
    }

    pub(super) fn planned_bytes(shape: &KvShape) -> Bytes {
        Bytes::new((n_positions(shape) * shape.width() * size_of::<f32>()) as u64)
    }

    /// Elements of a position's keys, and of its values.
    fn width(&self) -> usize {
        self.shape.keys_width()
    }

    /// The first element of a position's keys, and of its values.
    fn element(&self, table: &[u32], position: usize) -> usize {
        let block = table[position / BLOCK % table.len()] as usize;
        (block * BLOCK + position % BLOCK) * self.width()
    }

    pub(super) fn append(&mut self, kv: &[f32], columns: &KvColumns, batch: &Batch<'_, Reference>) {
        let (width, dtype) = (self.width(), self.shape.dtype);
        for (rows, table) in sequences(batch) {
            for i in 0..rows.n_tokens {
                let row = &kv[(rows.first + i) * columns.row_width + columns.first..];
                let (k, v) = row[..self.shape.width()].split_at(width);
                let at = self.element(table, rows.start + i);
                round_into(k, dtype, &mut self.keys[at..][..width]);
                if !v.is_empty() {
                    round_into(v, dtype, &mut self.values[at..][..width]);
                }
            }
        }
    }

    pub(super) fn copy_blocks(&mut self, blocks: &[(u32, u32)]) {
        let n = BLOCK * self.width();
        for &(from, to) in blocks {
            let (from, to) = (from as usize * n, to as usize * n);
            self.keys.copy_within(from..from + n, to);
            if !self.values.is_empty() {
                self.values.copy_within(from..from + n, to);
            }
        }
    }

    pub(super) fn attend(
        &self,
        op: &Attention<'_, Reference>,
        q: &[f32],
        batch: &Batch<'_, Reference>,
        out: &mut [f32],
    ) {
        assert_eq!(
            self.width(),
            op.n_kv_heads * op.head_dim,
            "keys as wide as the pool's"
        );
        op.check_selected();
        let q_width = op.n_heads * op.head_dim;
        let out_width = op.n_heads * self.shape.value_dim();
        for (sequence, (rows, table)) in sequences(batch).enumerate() {
            let entries = op
                .beside
                .map(|of| &of.tables[sequence * of.table_len..][..of.table_len]);
            let tables = (table, entries.unwrap_or_default());
            for i in 0..rows.n_tokens {
                let q = &q[(rows.first + i) * op.row_width..][..q_width];
                let out = &mut out[(rows.first + i) * out_width..][..out_width];
                let at = (rows.first + i, rows.start + i);
                self.attend_row(op, q, &rows, at, tables, out);
            }
        }
    }

    pub(super) fn compress(
        &self,
        op: &Compression<'_, Reference>,
        batch: &Batch<'_, Reference>,
        (entries, entries_index): (&[Rows], &[u32]),
        out: &mut [f32],
    ) {
        assert_eq!(
            self.width(),
            op.features(),
            "features as wide as the pool's"
        );
        assert_told(entries, entries_index);
        let bias = op.bias.decoded();
        for ((_, table), of) in sequences(batch).zip(entries) {
            for i in 0..of.n_tokens {
                let out = &mut out[(of.first + i) * op.width..][..op.width];
                for (d, out) in out.iter_mut().enumerate() {
                    let places = op.places(of.start + i);
                    let values = places.map(|(position, place, series)| {
                        let at = self.element(table, position) + series + d;
                        let gate = f64::from(self.values[at]);
                        let bias = f64::from(bias.row(place)[series + d]);
                        (gate + bias, f64::from(self.keys[at]))
                    });
                    let gates = values.clone().map(|(gate, _)| gate);
                    let most = gates.fold(f64::NEG_INFINITY, f64::max);
                    let weighed = values.map(|(gate, feature)| ((gate - most).exp(), feature));
                    let sums = weighed.fold((0.0, 0.0), |(total, sum), (weight, feature)| {
                        (total + weight, sum + weight * feature)
                    });
                    *out = (sums.1 / sums.0) as f32;
                }
            }
        }
    }

    pub(super) fn select(
        &self,
        op: &Selection,
        (q, weights): (&[f32], &[f32]),
        batch: &Batch<'_, Reference>,
        bits: &mut [f32],
    ) {
        assert_eq!(self.width(), op.head_dim, "one key, as wide as the pool's");
        let (scale, weight_scale) = (f64::from(op.scale), f64::from(op.weight_scale));
        for (rows, table) in sequences(batch) {
            for i in 0..rows.n_tokens {
                let (row, n) = (rows.first + i, op.n_keys(rows.start + i));
                let q = &q[row * op.q_width()..][..op.q_width()];
                let weights = &weights[row * op.n_heads..][..op.n_heads];
                let score = |p: usize| {
                    let key = &self.keys[self.element(table, p)..][..op.head_dim];
                    let heads = q.chunks_exact(op.head_dim).zip(weights);
                    let of_head = |(q, &weight): (&[f32], &f32)| {
                        let product = (dot(q, key) * scale).max(0.0);
                        f64::from(weight) * weight_scale * product
                    };
                    heads.map(of_head).sum::<f64>() as f32
                };
                let mut order: Vec<_> = (0..n).map(|p| (score_order(score(p)), p)).collect();
                order.sort_by_key(|&(score, _)| std::cmp::Reverse(score));
                let bits = &mut bits[row * op.row_words..][..Selection::words(n)];
                bits.fill(0.0);
                for &(_, p) in order.iter().take(op.n_selected) {
                    let (word, bit) = Selection::bit(p);
                    bits[word] = f32::from_bits(bits[word].to_bits() | bit);
                }
            }
        }
    }

    /// Attention of the heads of one query `[n_heads, head_dim]`, which is so many rows behind the pass's first, at `position`.
    fn attend_row(
        &self,
        op: &Attention<'_, Reference>,
        q: &[f32],
        rows: &Rows,
        (row, position): (usize, usize),
        (table, entries): (&[u32], &[u32]),
        out: &mut [f32],
    ) {
        let shown = match op.mask {
            Mask::Causal { window } => {
                (position + 1).saturating_sub(window.unwrap_or(usize::MAX))..position + 1
            }
            Mask::Chunked { len } => position - position % len..position + 1,
            Mask::Full => 0..rows.n_positions,
        };
        assert!(
            shown.end <= rows.n_positions && rows.n_positions - shown.start <= table.len() * BLOCK,
            "positions {shown:?} among the last of {} that {} blocks hold",
            rows.n_positions,
            table.len()
        );
        let is_selected = |of: Option<Selected<'_, Reference>>, p: usize| {
            let (word, bit) = Selection::bit(p);
            of.is_none_or(|of| of.bits[row * of.row_words + word].to_bits() & bit != 0)
        };
        let shown = shown.filter(|&p| is_selected(op.selected, p));
        let own = shown.map(|p| (self, Some(p), self.element(table, p)));
        let ended = op.beside.map_or(0, |of| (position + 1) / of.rate);
        let beside = op.beside.into_iter().flat_map(|of| {
            let entry = move |e: usize| (of.pool, None, of.pool.element(entries, e));
            (0..ended)
                .filter(move |&e| is_selected(of.selected, e))
                .map(entry)
        });
        // Where each key lies, and the position of those that are positions'.
        let shown: Vec<(&Self, Option<usize>, usize)> = own.chain(beside).collect();
        let (group, dim) = (op.n_heads / op.n_kv_heads, op.head_dim);
        let sinks = op.sinks.map(|sinks| sinks.decoded());
        let heads = q.chunks_exact(dim);
        let heads = heads.zip(out.chunks_exact_mut(self.shape.value_dim()));
        let values_of = |pool: &'_ Self, at: usize| match pool.shape.values {
            KvValues::Own => pool.values[at],
            KvValues::OfKeys(_) => pool.keys[at],
        };
        for (head, (q, out)) in heads.enumerate() {
            let of_head = head / group * dim;
            let score = |&(pool, p, at): &(&Self, Option<usize>, usize)| {
                let product = dot(q, &pool.keys[at + of_head..][..dim]) * f64::from(op.scale);
                let capped = op
                    .soft_cap
                    .map(f64::from)
                    .map_or(product, |cap| cap * (product / cap).tanh());
                let bias = op.bias.zip(p);
                capped + bias.map_or(0.0, |(bias, p)| biased(&bias, head, p, position))
            };
            let scores: Vec<f64> = shown.iter().map(score).collect();
            let sink = sinks.as_ref().map(|sinks| f64::from(sinks.values[head]));
            let max = scores
                .iter()
                .copied()
                .chain(sink)
                .fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let of_sink = sink.map_or(0.0, |sink| (sink - max).exp());
            let total: f64 = weights.iter().sum::<f64>() + of_sink;
            for (d, out) in out.iter_mut().enumerate() {
                let value = |&(pool, _, at): &(&Self, _, usize)| values_of(pool, at + of_head + d);
                let values = shown.iter().map(|key| f64::from(value(key)));
                let sum: f64 = weights.iter().zip(values).map(|(w, v)| w * v).sum();
                *out = (sum / total) as f32;
            }
        }
    }
}

impl Allocation for ReferencePool {
    fn bytes(&self) -> Bytes {
        self.keys.bytes() + self.values.bytes()
    }
}

fn n_positions(shape: &KvShape) -> usize {
    shape.n_sequences * shape.table_len(BLOCK) * BLOCK
}

/// Rows of each sequence, with its block table.
fn sequences<'a>(batch: &Batch<'a, Reference>) -> impl Iterator<Item = (Rows, &'a [u32])> {
    assert_told(batch.rows, batch.rows_index);
    let tables = batch.tables.chunks_exact(batch.table_len);
    batch.rows.iter().copied().zip(tables)
}

fn round_into(src: &[f32], dtype: DType, dst: &mut [f32]) {
    let mut bytes = vec![0; src.len() * dtype.size()];
    f32_to_le_bytes(src, dtype, &mut bytes).expect("keys and values are f32, f16 or bf16");
    le_bytes_to_f32(dtype, &bytes, dst).expect("keys and values are f32, f16 or bf16");
}
