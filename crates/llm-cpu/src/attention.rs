//! Division of attention among threads.

mod attend;
mod scores;

use std::ops::Range;

use llm_backend::{Attention, Batch, Mask, Rows, Selection};

use crate::Cpu;
use crate::kv_pool::{KvPool, KvView};
use crate::memory::Workspace;
use crate::share::{self, Scratch, Shared};
use crate::weight::Weight;
use attend::{Attend, Cells, QUERIES};

use attend::{partial_len, scratch_len};

/// Attention of all sequences' rows of `q` `[_, row_width]` to what they see, into the same rows of `out`.
pub(crate) fn attention(
    cpu: &Cpu,
    op: &Attention<'_, Cpu>,
    q: &[f32],
    batch: &Batch<'_, Cpu>,
    pool: &KvPool,
    out: &mut [f32],
    workspace: &mut Workspace,
) {
    let shape = pool.shape();
    assert_eq!(
        (op.n_kv_heads, op.head_dim),
        (shape.n_kv_heads, shape.head_dim),
        "heads as the pool has them"
    );
    let (n_heads, q_width) = (op.n_heads, op.n_heads * op.head_dim);
    assert!(
        n_heads.is_multiple_of(op.n_kv_heads),
        "{n_heads} query heads share the pool's"
    );
    assert!(q_width <= op.row_width, "queries within a row");
    op.check_selected();
    if let Some(beside) = &op.beside {
        let entries = beside.pool.shape();
        assert_eq!(
            (
                entries.n_kv_heads,
                entries.head_dim,
                entries.value_dim(),
                entries.dtype
            ),
            (
                shape.n_kv_heads,
                shape.head_dim,
                shape.value_dim(),
                shape.dtype
            ),
            "entries like the pool's keys"
        );
    }
    if let Some(bias) = &op.bias {
        assert!(bias.row > 0 && bias.table.as_slice().len() >= n_heads * bias.row);
    }
    if let Some(sinks) = op.sinks {
        assert_eq!(sinks.dense().n_elements(), n_heads, "a sink for each head");
    }
    let in_order = |pair: &[Rows]| pair[0].first + pair[0].n_tokens <= pair[1].first;
    assert!(
        batch.rows.windows(2).all(in_order),
        "sequences have rows of their own, one after the other"
    );
    let call = Call {
        cpu,
        op,
        q,
        batch,
        pool,
    };
    let scratch = attention_len(op.head_dim, cpu.n_threads());
    let (scratch, partials) = workspace.all(scratch).split_at_mut(scratch);
    let mut sequences = 0..0;
    while sequences.start < batch.rows.len() {
        // As many as there is memory for what their parts are merged from.
        let mut n_free = partials.len();
        while let Some(len) = call.partials_len(sequences.end) {
            assert!(
                len <= n_free || !sequences.is_empty(),
                "a workspace for {len} elements of partial results"
            );
            if len > n_free {
                break;
            }
            n_free -= len;
            sequences.end += 1;
        }
        call.compute(sequences.clone(), scratch, partials, out);
        call.merge(sequences.clone(), partials, out);
        sequences.start = sequences.end;
    }
}

/// Scratch elements of attention.
pub(crate) fn attention_len(head_dim: usize, n_threads: usize) -> usize {
    n_threads * scratch_len(head_dim)
}

/// Scratch elements of attention of a single token to many parts of the positions: unmerged results beside.
pub(crate) fn partial_attention_len(
    head_dim: usize,
    n_heads: usize,
    n_parts: usize,
    n_threads: usize,
) -> usize {
    attention_len(head_dim, n_threads) + n_heads * n_parts * partial_len(head_dim)
}

/// The queries of one sequence in a pass.
#[derive(Clone, Copy)]
struct Queries<'a> {
    /// `[n_tokens, row_width]`, each beginning with the heads.
    rows: &'a [f32],
    n_tokens: usize,
    /// Of the first row.
    position: usize,
    /// Positions that the pool holds.
    n_positions: usize,
    op: &'a Attention<'a, Cpu>,
    /// Bits of the positions that each row sees, and of the entries, where they are selected: of the first row on.
    selected: [Option<(&'a [f32], usize)>; 2],
}

/// What queries attend to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    /// Positions,
    OfPositions,
    /// and entries beside them.
    OfEntries,
}

impl<'a> Queries<'a> {
    /// Bits of the positions or entries that `token` sees, where they are selected.
    fn selected(&self, keys: Keys, token: usize) -> Option<&'a [f32]> {
        self.selected[keys as usize]
            .map(|(bits, row_words)| &bits[token * row_words..][..row_words])
    }

    /// Heads that share a key head.
    fn group(&self) -> usize {
        self.op.n_heads / self.op.n_kv_heads
    }

    fn head(&self, token: usize, head: usize) -> &'a [f32] {
        &self.rows[token * self.op.row_width + head * self.op.head_dim..][..self.op.head_dim]
    }

    /// The positions or entries that `token` sees, selected ones or not; neither end is before that of an earlier token.
    fn seen(&self, keys: Keys, token: usize) -> Range<usize> {
        match keys {
            Keys::OfPositions => self.seen_positions(token),
            Keys::OfEntries => {
                let rate = self.op.beside.map_or(usize::MAX, |of| of.rate);
                0..(self.position + token + 1) / rate
            }
        }
    }

    fn seen_positions(&self, token: usize) -> Range<usize> {
        match self.op.mask {
            Mask::Causal { window } => {
                let end = self.position + token + 1;
                window.map_or(0, |window| end.saturating_sub(window))..end
            }
            Mask::Chunked { len } => {
                let own = self.position + token;
                own - own % len..own + 1
            }
            Mask::Full => 0..self.n_positions,
        }
    }

    /// True if any of some tokens sees any of some positions or entries, as far as selections tell.
    fn select_any(&self, keys: Keys, mut tokens: Range<usize>, positions: Range<usize>) -> bool {
        if self.selected[keys as usize].is_none() || positions.is_empty() {
            return !positions.is_empty();
        }
        let (first, last) = (positions.start, positions.end - 1);
        let [(first, least), (last, most)] = [first, last].map(Selection::bit);
        tokens.any(|token| {
            let bits = self.selected(keys, token).unwrap_or_default();
            let end = Selection::words(self.seen(keys, token).end);
            let mut words = first..(last + 1).min(end);
            words.any(|word| {
                let begin = if word == first { least } else { 1 };
                let behind = if word == last {
                    most
                } else {
                    1 << (u32::BITS - 1)
                };
                // Those from `begin` to `behind`.
                let within = behind.wrapping_shl(1).wrapping_sub(begin);
                bits[word].to_bits() & within != 0
            })
        })
    }

    /// The positions or entries that any token sees.
    fn all_seen(&self, keys: Keys) -> Range<usize> {
        self.seen(keys, 0).start..self.seen(keys, self.n_tokens - 1).end
    }
}

/// A sequence's rows as units of work.
struct Sequence<'a> {
    queries: Queries<'a>,
    view: KvView<'a>,
    /// Of entries.
    beside: Option<KvView<'a>>,
    /// Tiles of the queries that share a key head.
    n_tiles: usize,
    /// Parts of the positions that a single token sees, of a fixed size so that results do not depend on the number of
    /// threads; one for many tokens, and for few positions.
    n_parts: usize,
}

impl Sequence<'_> {
    fn n_units(&self) -> usize {
        self.n_tiles * self.n_parts * self.queries.op.n_kv_heads
    }

    /// Elements of the results of parts.
    fn partials_len(&self) -> usize {
        match self.n_parts {
            1 => 0,
            n => self.queries.op.n_heads * n * partial_len(self.view.shape().value_dim()),
        }
    }

    /// Multiplications, of one of the two products.
    fn work(&self) -> usize {
        let Queries { n_tokens, op, .. } = self.queries;
        let n_keys = [Keys::OfPositions, Keys::OfEntries].map(|of| self.queries.all_seen(of).len());
        n_tokens * op.n_heads * n_keys.iter().sum::<usize>() * op.head_dim
    }
}

struct Call<'a> {
    cpu: &'a Cpu,
    op: &'a Attention<'a, Cpu>,
    q: &'a [f32],
    batch: &'a Batch<'a, Cpu>,
    pool: &'a KvPool,
}

impl Call<'_> {
    /// `None` where it has no row.
    fn sequence(&self, i: usize) -> Option<Sequence<'_>> {
        let Batch {
            rows,
            tables,
            table_len,
            ..
        } = *self.batch;
        let rows = rows[i];
        if rows.n_tokens == 0 {
            return None;
        }
        let width = self.op.row_width;
        let queries = Queries {
            rows: &self.q[rows.first * width..][..rows.n_tokens * width],
            n_tokens: rows.n_tokens,
            position: rows.start,
            n_positions: rows.n_positions,
            op: self.op,
            selected: [self.op.selected, self.op.beside.and_then(|of| of.selected)].map(|of| {
                let of = of?;
                let bits = &of.bits.as_slice()[rows.first * of.row_words..];
                Some((bits, of.row_words))
            }),
        };
        let n_entries = queries.all_seen(Keys::OfEntries).end;
        let beside = self.op.beside.map(|of| {
            assert!(
                n_entries <= of.pool.shape().capacity,
                "{n_entries} entries within the pool"
            );
            let table = &of.tables.as_slice()[i * of.table_len..][..of.table_len];
            of.pool.sequence(table)
        });
        let seen = queries.all_seen(Keys::OfPositions);
        assert!(!seen.is_empty(), "a query sees a position at least");
        assert!(
            seen.len() <= self.pool.shape().capacity,
            "positions {seen:?} within the pool"
        );
        let longest = seen.len().max(n_entries);
        let n_parts = if rows.n_tokens == 1 && longest > PART_POSITIONS {
            let n_keys = (seen.end - self.first_of(&queries)).max(n_entries);
            n_keys.div_ceil(PART_POSITIONS)
        } else {
            1
        };
        Some(Sequence {
            queries,
            view: self
                .pool
                .sequence(&tables.as_slice()[i * table_len..][..table_len]),
            beside,
            n_tiles: (rows.n_tokens * queries.group()).div_ceil(QUERIES),
            n_parts,
        })
    }

    /// Begin of the parts: a panel's first position, so that they share no panel.
    fn first_of(&self, queries: &Queries<'_>) -> usize {
        let start = queries.seen(Keys::OfPositions, 0).start;
        start - start % self.pool.panel()
    }

    /// `None` when there is no such sequence.
    fn partials_len(&self, i: usize) -> Option<usize> {
        let is_there = i < self.batch.rows.len();
        is_there.then(|| self.sequence(i).map_or(0, |s| s.partials_len()))
    }

    /// Computes the results of some sequences, into `out` or, of parts, into `partials`: tiles of queries, each against all
    /// that it sees or a part of it.
    fn compute(
        &self,
        sequences: Range<usize>,
        scratch: &mut [f32],
        partials: &mut [f32],
        out: &mut [f32],
    ) {
        let Attention {
            n_heads,
            n_kv_heads,
            head_dim,
            ..
        } = *self.op;
        let all = || {
            sequences
                .clone()
                .filter_map(|i| Some((i, self.sequence(i)?)))
        };
        let n_units: usize = all().map(|(_, sequence)| sequence.n_units()).sum();
        let work: usize = all().map(|(_, sequence)| sequence.work()).sum();
        let n_threads = self
            .cpu
            .n_threads()
            .min(work / MIN_WORK)
            .min(n_units)
            .max(1);
        let scratch = Scratch::new(scratch, scratch_len(head_dim));
        let value_dim = self.pool.shape().value_dim();
        let (partials, out) = (Shared::new(partials), Shared::new(out));
        // Dealt in turns: later tiles may see more positions than earlier ones.
        self.cpu
            .pool
            .split(n_threads, 1, scratch, |thread, scratch| {
                let (mut next, mut end, mut partial) = (thread.start, 0, 0);
                for (i, sequence) in all() {
                    let Sequence {
                        queries,
                        view,
                        beside,
                        n_tiles,
                        n_parts,
                    } = sequence;
                    let n_queries = queries.n_tokens * queries.group();
                    let first_unit = end;
                    end += sequence.n_units();
                    while next < end {
                        let (rest, part) =
                            ((next - first_unit) / n_parts, (next - first_unit) % n_parts);
                        let (kv_head, tile) = match n_parts {
                            1 => (rest % n_kv_heads, rest / n_kv_heads),
                            _ => (rest / n_tiles, rest % n_tiles),
                        };
                        let first = tile * QUERIES;
                        let range = first..(first + QUERIES).min(n_queries);
                        let cells = match n_parts {
                            1 => Cells {
                                memory: out,
                                first: self.batch.rows[i].first * n_heads * value_dim,
                                head_stride: value_dim,
                                len: value_dim,
                            },
                            _ => Cells {
                                memory: partials,
                                first: partial + part * partial_len(value_dim),
                                head_stride: n_parts * partial_len(value_dim),
                                len: partial_len(value_dim),
                            },
                        };
                        // A part has as many of either.
                        let among = |first: usize| match n_parts {
                            1 => 0..usize::MAX,
                            _ => {
                                let start = first + part * PART_POSITIONS;
                                start..start + PART_POSITIONS
                            }
                        };
                        self.cpu.level.run(Attend {
                            queries,
                            caches: (view, beside),
                            kv_head,
                            range,
                            among: [among(self.first_of(&queries)), among(0)],
                            // The first part has them.
                            sinks: self.op.sinks.filter(|_| part == 0).map(Weight::dense),
                            scratch,
                            cells,
                        });
                        next += n_threads;
                    }
                    partial += sequence.partials_len();
                }
            });
    }

    /// Joins the parts of some sequences' results.
    fn merge(&self, sequences: Range<usize>, partials: &[f32], out: &mut [f32]) {
        let (n_heads, value_dim) = (self.op.n_heads, self.pool.shape().value_dim());
        let all = || {
            sequences
                .clone()
                .filter_map(|i| Some((i, self.sequence(i)?)))
        };
        let parts = || all().filter(|(_, sequence)| sequence.n_parts > 1);
        let Some((first, _)) = parts().next() else {
            return;
        };
        let width = n_heads * value_dim;
        let first = self.batch.rows[first].first;
        let n_rows = parts()
            .next_back()
            .map_or(0, |(i, _)| self.batch.rows[i].first + 1 - first);
        let work = parts()
            .map(|(_, sequence)| sequence.partials_len())
            .max()
            .unwrap_or(1);
        let out = share::Rows::new(&mut out[first * width..][..n_rows * width], width);
        self.cpu
            .pool
            .split(n_rows, MIN_WORK.div_ceil(work), out, |rows, out| {
                let mut partials = partials;
                for (i, sequence) in parts() {
                    let (parts, rest) = partials.split_at(sequence.partials_len());
                    partials = rest;
                    let row = self.batch.rows[i].first - first;
                    if rows.contains(&row) {
                        let out = &mut out[(row - rows.start) * width..][..width];
                        attend::merge(parts, sequence.n_parts, value_dim, out);
                    }
                }
            });
    }
}

/// Positions of a part when a single token's attention is divided among threads.
pub(crate) const PART_POSITIONS: usize = if cfg!(miri) { 64 } else { 512 };
/// Multiplications below which a thread is not worth a fork: few, as keys and values come from memory.
const MIN_WORK: usize = if cfg!(miri) { 1 } else { 1 << 13 };
