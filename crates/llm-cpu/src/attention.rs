//! Division of attention among threads.

mod attend;
mod scores;

use std::ops::Range;

use llm_backend::{Attention, Batch, Mask, Rows, Selection};

use crate::Cpu;
use crate::kv_pool::{KvPool, KvView};
use crate::matvec::FEW_ROWS;
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
    let n_pieces = call.pieces().count();
    let mut pieces = 0..0;
    while pieces.start < n_pieces {
        // As many as there is memory for what their parts are merged from.
        let mut n_free = partials.len();
        for piece in call.pieces().skip(pieces.start) {
            let len = call.sequence(piece).partials_len();
            assert!(
                len <= n_free || !pieces.is_empty(),
                "a workspace for {len} elements of partial results"
            );
            if len > n_free {
                break;
            }
            n_free -= len;
            pieces.end += 1;
        }
        call.compute(pieces.clone(), scratch, partials, out);
        call.merge(pieces.clone(), partials, out);
        pieces.start = pieces.end;
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

/// Rows of a sequence that attend together.
#[derive(Clone, Copy)]
struct Piece {
    /// Index of the sequence in the batch.
    sequence: usize,
    rows: Rows,
}

/// A piece as units of work.
struct Sequence<'a> {
    piece: Piece,
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
    /// Rows of each sequence, all together or each by itself.
    fn pieces(&self) -> impl Iterator<Item = Piece> + Clone {
        self.batch
            .rows
            .iter()
            .enumerate()
            .flat_map(|(sequence, &rows)| {
                let whole = Piece { sequence, rows };
                let n_tokens = match self.is_apart(whole) {
                    true => 1,
                    false => rows.n_tokens.max(1),
                };
                let part = move |at| Rows {
                    first: rows.first + at,
                    n_tokens,
                    start: rows.start + at,
                    ..rows
                };
                let parts = (0..rows.n_tokens).step_by(n_tokens).map(part);
                parts.map(move |rows| Piece { sequence, rows })
            })
    }

    /// True of few rows that are computed one by one. Together their results would be other sums than alone: the positions of a single
    /// row may be in parts, and its window may begin with another panel. A pass of few rows gives each what it gets alone, as
    /// products do.
    fn is_apart(&self, piece: Piece) -> bool {
        let n_tokens = piece.rows.n_tokens;
        if !(2..=FEW_ROWS).contains(&n_tokens) {
            return false;
        }
        let queries = self.queries(piece);
        let [first, last] = [0, n_tokens - 1].map(|token| queries.seen(Keys::OfPositions, token));
        let n_entries = queries.all_seen(Keys::OfEntries).len();
        let panel = self.pool.panel();
        last.len().max(n_entries) > PART_POSITIONS || first.start / panel != last.start / panel
    }

    fn queries(&self, Piece { rows, .. }: Piece) -> Queries<'_> {
        let width = self.op.row_width;
        Queries {
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
        }
    }

    fn sequence(&self, piece: Piece) -> Sequence<'_> {
        let Batch {
            tables, table_len, ..
        } = *self.batch;
        let Piece { sequence: i, rows } = piece;
        let queries = self.queries(piece);
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
        Sequence {
            piece,
            queries,
            view: self
                .pool
                .sequence(&tables.as_slice()[i * table_len..][..table_len]),
            beside,
            n_tiles: (rows.n_tokens * queries.group()).div_ceil(QUERIES),
            n_parts,
        }
    }

    /// Begin of the parts: a panel's first position, so that they share no panel.
    fn first_of(&self, queries: &Queries<'_>) -> usize {
        let start = queries.seen(Keys::OfPositions, 0).start;
        start - start % self.pool.panel()
    }

    /// Some of the pieces, by their number.
    fn sequences(&self, pieces: Range<usize>) -> impl Iterator<Item = Sequence<'_>> + Clone {
        let pieces = self.pieces().skip(pieces.start).take(pieces.len());
        pieces.map(|piece| self.sequence(piece))
    }

    /// Computes the results of some pieces, into `out` or, of parts, into `partials`: tiles of queries, each against all
    /// that it sees or a part of it.
    fn compute(
        &self,
        pieces: Range<usize>,
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
        let all = || self.sequences(pieces.clone());
        let n_units: usize = all().map(|sequence| sequence.n_units()).sum();
        let work: usize = all().map(|sequence| sequence.work()).sum();
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
                for sequence in all() {
                    let Sequence {
                        piece,
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
                                first: piece.rows.first * n_heads * value_dim,
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

    /// Joins the parts of some pieces' results.
    fn merge(&self, pieces: Range<usize>, partials: &[f32], out: &mut [f32]) {
        let (n_heads, value_dim) = (self.op.n_heads, self.pool.shape().value_dim());
        let in_parts = |sequence: &Sequence<'_>| sequence.n_parts > 1;
        let parts = || self.sequences(pieces.clone()).filter(in_parts);
        let Some(first) = parts().next() else {
            return;
        };
        let width = n_heads * value_dim;
        let first = first.piece.rows.first;
        let n_rows = parts()
            .last()
            .map_or(0, |sequence| sequence.piece.rows.first + 1 - first);
        let work = parts()
            .map(|sequence| sequence.partials_len())
            .max()
            .unwrap_or(1);
        let out = share::Rows::new(&mut out[first * width..][..n_rows * width], width);
        self.cpu
            .pool
            .split(n_rows, MIN_WORK.div_ceil(work), out, |rows, out| {
                let mut partials = partials;
                for sequence in parts() {
                    let (parts, rest) = partials.split_at(sequence.partials_len());
                    partials = rest;
                    let row = sequence.piece.rows.first - first;
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
