//! How attention is shared among threads.

mod attend;
mod scores;

use std::ops::Range;

use llm_backend::{Attention, KvColumns, Rows, Seen};

use crate::Cpu;
use crate::cache::{Append, KvCache};
use crate::memory::Shared;
use crate::workspace::{PART_POSITIONS, Workspace, attention_len, partial_attention_len};
use attend::{Attend, QUERIES, Target};

pub(crate) use attend::{partial_len, scratch_len};

/// Takes the keys and values of `rows` of `kv` `[_, row_width]` to the cache.
pub(crate) fn append(cpu: &Cpu, kv: &[f32], columns: KvColumns, rows: Rows, cache: &mut KvCache) {
    let shape = *cache.shape();
    let width = columns.row_width;
    assert!(
        columns.first + 2 * shape.n_kv_heads * shape.head_dim <= width,
        "{columns:?} within a row"
    );
    // What would be overwritten by the same pass is left out: threads take turns at no slot.
    let n_tokens = rows.n_tokens.min(shape.capacity);
    let first = rows.n_tokens - n_tokens;
    let kv = &kv[(rows.first + first) * width..][..n_tokens * width];
    let start = rows.start + first;
    let writer = cache.writer();
    let min_tokens = MIN_APPENDED.div_ceil(2 * shape.n_kv_heads * shape.head_dim);
    cpu.pool.split(n_tokens, min_tokens, |_, tokens| {
        cpu.level.run(Append {
            cache: writer,
            rows: &kv[tokens.start * width..tokens.end * width],
            columns,
            positions: start + tokens.start..start + tokens.end,
        });
    });
}

/// Attention of `rows` of `q` `[_, row_width]` to what they see of the cache, into the same rows of `out`.
pub(crate) fn attention(
    cpu: &Cpu,
    op: &Attention<'_, Cpu>,
    q: &[f32],
    rows: Rows,
    cache: &KvCache,
    out: &mut [f32],
    workspace: &mut Workspace,
) {
    let shape = cache.shape();
    assert_eq!(
        (op.n_kv_heads, op.head_dim),
        (shape.n_kv_heads, shape.head_dim),
        "heads as the cache has them"
    );
    let (n_heads, q_width) = (op.n_heads, op.n_heads * op.head_dim);
    assert!(
        n_heads.is_multiple_of(op.n_kv_heads),
        "{n_heads} query heads share the cache's"
    );
    assert!(q_width <= op.row_width, "queries within a row");
    if let Some(bias) = &op.bias {
        assert!(bias.row > 0 && bias.table.as_slice().len() >= n_heads * bias.row);
    }
    if rows.n_tokens == 0 {
        return;
    }
    let queries = Queries {
        rows: &q[rows.first * op.row_width..][..rows.n_tokens * op.row_width],
        n_tokens: rows.n_tokens,
        position: rows.start,
        op,
    };
    let seen = queries.all_seen();
    assert!(!seen.is_empty(), "a query sees a position at least");
    assert!(
        seen.len() <= shape.capacity,
        "positions {seen:?} within the cache"
    );
    let call = Call {
        cpu,
        queries,
        cache,
    };
    let out = &mut out[rows.first * q_width..][..rows.n_tokens * q_width];
    if rows.n_tokens == 1 && seen.len() > PART_POSITIONS {
        call.in_parts(out, workspace);
    } else {
        call.in_tiles(out, workspace);
    }
}

/// The queries of one sequence in a pass.
#[derive(Clone, Copy)]
struct Queries<'a> {
    /// `[n_tokens, row_width]`, each beginning with the heads.
    rows: &'a [f32],
    n_tokens: usize,
    /// Of the first row.
    position: usize,
    op: &'a Attention<'a, Cpu>,
}

impl<'a> Queries<'a> {
    /// Heads that share a key head.
    fn group(&self) -> usize {
        self.op.n_heads / self.op.n_kv_heads
    }

    fn head(&self, token: usize, head: usize) -> &'a [f32] {
        &self.rows[token * self.op.row_width + head * self.op.head_dim..][..self.op.head_dim]
    }

    /// The positions that `token` sees; neither end is before that of an earlier token.
    fn seen(&self, token: usize) -> Range<usize> {
        match self.op.seen {
            Seen::Past { window } => {
                let end = self.position + token + 1;
                window.map_or(0, |window| end.saturating_sub(window))..end
            }
            Seen::All { n_positions } => 0..n_positions,
        }
    }

    /// The positions that any token sees.
    fn all_seen(&self) -> Range<usize> {
        self.seen(0).start..self.seen(self.n_tokens - 1).end
    }
}

struct Call<'a> {
    cpu: &'a Cpu,
    queries: Queries<'a>,
    cache: &'a KvCache,
}

impl Call<'_> {
    /// Tiles of queries, each against all that it sees.
    fn in_tiles(&self, out: &mut [f32], workspace: &mut Workspace) {
        let (cpu, queries, view) = (self.cpu, self.queries, self.cache.view());
        let Attention {
            n_kv_heads,
            head_dim,
            ..
        } = *queries.op;
        let n_queries = queries.n_tokens * queries.group();
        let n_tiles = n_queries.div_ceil(QUERIES);
        let len = scratch_len(head_dim);
        let scratch = workspace.take(attention_len(head_dim, cpu.n_threads()));
        let (scratch, out) = (Shared::new(scratch), Shared::new(out));
        let tile_work = n_queries.min(QUERIES) * queries.all_seen().len() * head_dim;
        let min_tiles = MIN_WORK.div_ceil(tile_work);
        // Dealt in turns: later tiles may see more positions than earlier ones.
        cpu.pool
            .deal(n_tiles * n_kv_heads, min_tiles, |thread, unit| {
                let first = unit / n_kv_heads * QUERIES;
                cpu.level.run(Attend {
                    queries,
                    cache: view,
                    kv_head: unit % n_kv_heads,
                    range: first..(first + QUERIES).min(n_queries),
                    positions: 0..usize::MAX,
                    // SAFETY: each thread takes its own piece.
                    scratch: unsafe { scratch.range(thread * len..(thread + 1) * len) },
                    target: Target::Rows(out),
                });
            });
    }

    /// The queries of a single token, against parts of the positions, of a fixed size so that results do not depend
    /// on the number of threads.
    fn in_parts(&self, out: &mut [f32], workspace: &mut Workspace) {
        let (cpu, queries, view) = (self.cpu, self.queries, self.cache.view());
        let Attention {
            n_heads,
            n_kv_heads,
            head_dim,
            ..
        } = *queries.op;
        let seen = queries.seen(0);
        // From a panel's first position on, so that parts share no panel.
        let start = seen.start - seen.start % self.cache.panel();
        let n_parts = (seen.end - start).div_ceil(PART_POSITIONS);
        let n_tiles = queries.group().div_ceil(QUERIES);
        let len = scratch_len(head_dim);
        let n_threads = cpu.n_threads();
        let memory = workspace.take(partial_attention_len(head_dim, n_heads, n_parts, n_threads));
        let (scratch, partials) = memory.split_at_mut(attention_len(head_dim, n_threads));
        let scratch = Shared::new(scratch);
        let shared = Shared::new(partials);
        cpu.pool
            .deal(n_kv_heads * n_tiles * n_parts, 1, |thread, unit| {
                let (rest, part) = (unit / n_parts, unit % n_parts);
                let (kv_head, tile) = (rest / n_tiles, rest % n_tiles);
                let first = tile * QUERIES;
                let position = start + part * PART_POSITIONS;
                cpu.level.run(Attend {
                    queries,
                    cache: view,
                    kv_head,
                    range: first..(first + QUERIES).min(queries.group()),
                    positions: position..position + PART_POSITIONS,
                    // SAFETY: each thread takes its own piece.
                    scratch: unsafe { scratch.range(thread * len..(thread + 1) * len) },
                    target: Target::Partial {
                        partials: shared,
                        part,
                        n_parts,
                    },
                });
            });
        attend::merge(partials, n_parts, head_dim, out);
    }
}

/// Elements below which a thread is not worth a fork in storing keys and values.
const MIN_APPENDED: usize = 1 << 13;
/// Multiplications below which a thread is not worth a fork.
const MIN_WORK: usize = 1 << 16;
