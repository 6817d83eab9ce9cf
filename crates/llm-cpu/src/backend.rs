//! The operations: sizes are checked and work is shared out here, the kernels do the rest.

use std::ops::Range;

use llm_backend::{
    Attention, Backend, BackendError, DeviceInfo, HostWeight, KvShape, LinearPart, NormOp, Output,
    Result, Rotary, Rows, WorkspaceShape,
};
use llm_tensor::{Activation, Bytes};

use crate::attention::{self, Append, Attend, Qkv, Target};
use crate::cache::Heads;
use crate::elementwise::{Activate, Gate, Rotate};
use crate::linear::linear;
use crate::memory::Shared;
use crate::norm::NormRows;
use crate::simd::ElementType;
use crate::weight::{CopyRow, Weight};
use crate::workspace::{PART_POSITIONS, attention_len, decode_attention_len};
use crate::{Buffer, Cpu, KvCache, Workspace};

impl Backend for Cpu {
    type Buffer = Buffer;
    type Weight = Weight;
    type KvCache = KvCache;
    type Workspace = Workspace;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, n_elements: usize) -> Result<Buffer> {
        Buffer::zeroed(n_elements).map_err(|n| self.out_of_memory("activations", n))
    }

    fn upload(&self, src: &[f32], dst: &mut Buffer) -> Result<()> {
        dst.as_mut_slice()[..src.len()].copy_from_slice(src);
        Ok(())
    }

    fn download(&self, src: &Buffer, dst: &mut [f32]) -> Result<()> {
        dst.copy_from_slice(&src.as_slice()[..dst.len()]);
        Ok(())
    }

    fn load(&self, weight: HostWeight) -> Result<Weight> {
        let HostWeight {
            dtype,
            rows,
            cols,
            bytes,
        } = weight;
        assert_eq!(
            bytes.len(),
            rows * cols * dtype.size(),
            "a weight of [{rows}, {cols}] {dtype}"
        );
        let element = ElementType::of(dtype).ok_or_else(|| BackendError::UnsupportedWeight {
            device: self.info.name.clone(),
            dtype,
        })?;
        Ok(Weight {
            element,
            rows,
            cols,
            bytes,
        })
    }

    fn kv_cache(&self, shape: &KvShape) -> Result<KvCache> {
        KvCache::new(shape, self.level.geometry())
            .map_err(|n| self.out_of_memory("keys and values", n))
    }

    fn workspace(&self, shape: &WorkspaceShape) -> Result<Workspace> {
        Workspace::new(shape, self.level.geometry(), self.n_threads())
            .map_err(|n| self.out_of_memory("scratch memory", n))
    }

    fn embed(&self, table: &Weight, ids: &[u32], out: &mut Buffer) -> Result<()> {
        for (&id, out) in ids
            .iter()
            .zip(out.as_mut_slice().chunks_exact_mut(table.cols))
        {
            self.level.run(CopyRow {
                row: table.view().row(id as usize),
                output: Output::Write,
                out,
            });
        }
        Ok(())
    }

    fn add_positions(&self, table: &Weight, positions: &[u32], x: &mut Buffer) -> Result<()> {
        for (&position, out) in positions
            .iter()
            .zip(x.as_mut_slice().chunks_exact_mut(table.cols))
        {
            self.level.run(CopyRow {
                row: table.view().row(position as usize),
                output: Output::Add,
                out,
            });
        }
        Ok(())
    }

    fn gather_rows(
        &self,
        x: &Buffer,
        rows: &[usize],
        width: usize,
        out: &mut Buffer,
    ) -> Result<()> {
        let out = &mut out.as_mut_slice()[..rows.len() * width];
        for (&row, out) in rows.iter().zip(out.chunks_exact_mut(width)) {
            out.copy_from_slice(&x.as_slice()[row * width..][..width]);
        }
        Ok(())
    }

    fn norm(
        &self,
        op: &NormOp<'_, Self>,
        x: &Buffer,
        out: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        let width = op.gain.cols;
        let x = &x.as_slice()[..n_tokens * width];
        let out = &mut out.as_mut_slice()[..n_tokens * width];
        self.by_rows(out, width, |tokens, out| {
            self.level.run(NormRows {
                norm: op.norm,
                eps: op.eps,
                gain: op.gain.view(),
                bias: op.bias.map(Weight::view),
                x: &x[tokens.start * width..tokens.end * width],
                out,
            });
        });
        Ok(())
    }

    fn linear(
        &self,
        parts: &[LinearPart<'_, Self>],
        x: &Buffer,
        output: Output,
        out: &mut Buffer,
        n_tokens: usize,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let (x, out) = (x.as_slice(), out.as_mut_slice());
        linear(self, parts, x, output, out, n_tokens, workspace);
        Ok(())
    }

    fn rotate(&self, op: &Rotary, angles: &Buffer, x: &mut Buffer, n_tokens: usize) -> Result<()> {
        assert!(
            op.rotary_dim <= op.head_dim && op.rotary_dim.is_multiple_of(2),
            "{op:?}"
        );
        assert!(op.n_heads * op.head_dim <= op.row_width, "{op:?}");
        if op.rotary_dim == 0 {
            return Ok(());
        }
        let angles = &angles.as_slice()[..n_tokens * op.rotary_dim];
        let x = &mut x.as_mut_slice()[..n_tokens * op.row_width];
        self.by_rows(x, op.row_width, |tokens, x| {
            self.level.run(Rotate {
                op: *op,
                angles: &angles[tokens.start * op.rotary_dim..tokens.end * op.rotary_dim],
                x,
            });
        });
        Ok(())
    }

    fn attention(
        &self,
        op: &Attention,
        qkv: &Buffer,
        rows: Rows,
        cache: &mut KvCache,
        out: &mut Buffer,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let shape = cache.shape();
        assert_eq!(
            (op.n_kv_heads, op.head_dim),
            (shape.n_kv_heads, shape.head_dim),
            "heads as the cache has them"
        );
        assert!(op.n_heads.is_multiple_of(op.n_kv_heads), "{op:?}");
        let n_positions = rows.start + rows.n_tokens;
        assert!(n_positions <= shape.capacity, "{rows:?} within the cache");
        if rows.n_tokens == 0 {
            return Ok(());
        }
        let (q_width, kv_width) = (op.n_heads * op.head_dim, op.n_kv_heads * op.head_dim);
        let width = q_width + 2 * kv_width;
        let qkv = Qkv {
            rows: &qkv.as_slice()[rows.first * width..][..rows.n_tokens * width],
            n_tokens: rows.n_tokens,
            position: rows.start,
            op: *op,
        };
        let out = &mut out.as_mut_slice()[rows.first * q_width..][..rows.n_tokens * q_width];
        let heads = cache.heads();
        let min_heads = MIN_ELEMENTS.div_ceil(2 * rows.n_tokens * op.head_dim);
        self.pool.split(op.n_kv_heads, min_heads, |_, kv_heads| {
            self.level.run(Append {
                heads,
                kv_heads,
                qkv,
            });
        });
        if rows.n_tokens == 1 && n_positions > PART_POSITIONS {
            self.attend_in_parts(qkv, heads, out, workspace);
        } else {
            self.attend(qkv, heads, out, workspace);
        }
        Ok(())
    }

    fn activate(
        &self,
        activation: Activation,
        x: &mut Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let x = &mut x.as_mut_slice()[..n_tokens * width];
        self.by_rows(x, 1, |_, x| self.level.run(Activate { activation, x }));
        Ok(())
    }

    fn gate(
        &self,
        activation: Activation,
        gate_up: &Buffer,
        out: &mut Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let gate_up = &gate_up.as_slice()[..2 * n_tokens * width];
        let out = &mut out.as_mut_slice()[..n_tokens * width];
        self.by_rows(out, width, |tokens, out| {
            for (token, out) in tokens.zip(out.chunks_exact_mut(width)) {
                let (gate, up) = gate_up[2 * token * width..][..2 * width].split_at(width);
                self.level.run(Gate {
                    activation,
                    gate,
                    up,
                    out,
                });
            }
        });
        Ok(())
    }
}

impl Cpu {
    fn out_of_memory(&self, purpose: &'static str, requested: Bytes) -> BackendError {
        BackendError::OutOfMemory {
            device: self.info.name.clone(),
            purpose,
            requested,
        }
    }

    /// Splits rows of `out` among the threads.
    fn by_rows(
        &self,
        out: &mut [f32],
        width: usize,
        task: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) {
        let n_rows = out.len() / width.max(1);
        let out = Shared::new(out);
        let min_rows = MIN_ELEMENTS.div_ceil(width.max(1));
        self.pool.split(n_rows, min_rows, |_, rows| {
            // SAFETY: the threads' rows do not overlap.
            let out = unsafe { out.range(rows.start * width..rows.end * width) };
            task(rows, out);
        });
    }

    /// Tiles of queries, each against all that it sees.
    fn attend(&self, qkv: Qkv<'_>, heads: Heads<'_>, out: &mut [f32], workspace: &mut Workspace) {
        let n_queries = qkv.n_tokens * qkv.group();
        let n_tiles = n_queries.div_ceil(attention::QUERIES);
        let n_positions = qkv.position + qkv.n_tokens;
        let len = attention::scratch_len(qkv.op.head_dim);
        let scratch = workspace.take(attention_len(qkv.op.head_dim, self.n_threads()));
        let (scratch, out) = (Shared::new(scratch), Shared::new(out));
        let tile_work = n_queries.min(attention::QUERIES) * n_positions * qkv.op.head_dim;
        // Dealt in turns: later tiles see more positions than earlier ones.
        let n_units = n_tiles * qkv.op.n_kv_heads;
        self.pool
            .deal(n_units, MIN_WORK.div_ceil(tile_work), |thread, unit| {
                let first = unit / qkv.op.n_kv_heads * attention::QUERIES;
                self.level.run(Attend {
                    qkv,
                    heads,
                    kv_head: unit % qkv.op.n_kv_heads,
                    queries: first..(first + attention::QUERIES).min(n_queries),
                    positions: 0..n_positions,
                    // SAFETY: each thread takes its own piece.
                    scratch: unsafe { scratch.range(thread * len..(thread + 1) * len) },
                    target: Target::Rows(out),
                });
            });
    }

    /// The queries of a single token, against parts of the positions, of a fixed size so that results do not depend
    /// on the number of threads.
    fn attend_in_parts(
        &self,
        qkv: Qkv<'_>,
        heads: Heads<'_>,
        out: &mut [f32],
        workspace: &mut Workspace,
    ) {
        let Attention {
            n_heads,
            n_kv_heads,
            head_dim,
            ..
        } = qkv.op;
        let n_positions = qkv.position + 1;
        let n_parts = n_positions.div_ceil(PART_POSITIONS);
        let n_tiles = qkv.group().div_ceil(attention::QUERIES);
        let len = attention::scratch_len(head_dim);
        let memory = workspace.take(decode_attention_len(
            head_dim,
            n_heads,
            n_positions,
            self.n_threads(),
        ));
        let (scratch, partials) = memory.split_at_mut(attention_len(head_dim, self.n_threads()));
        let scratch = Shared::new(scratch);
        let shared = Shared::new(partials);
        self.pool
            .deal(n_kv_heads * n_tiles * n_parts, 1, |thread, unit| {
                let (rest, part) = (unit / n_parts, unit % n_parts);
                let (kv_head, tile) = (rest / n_tiles, rest % n_tiles);
                let (first, position) = (tile * attention::QUERIES, part * PART_POSITIONS);
                self.level.run(Attend {
                    qkv,
                    heads,
                    kv_head,
                    queries: first..(first + attention::QUERIES).min(qkv.group()),
                    positions: position..(position + PART_POSITIONS).min(n_positions),
                    // SAFETY: each thread takes its own piece.
                    scratch: unsafe { scratch.range(thread * len..(thread + 1) * len) },
                    target: Target::Partial {
                        partials: shared,
                        part,
                        n_parts,
                    },
                });
            });
        attention::merge(partials, n_parts, head_dim, out);
    }
}

/// Elements below which a thread is not worth a fork in passes that compute little for each.
const MIN_ELEMENTS: usize = 1 << 13;
/// Multiplications below which a thread is not worth a fork in attention.
const MIN_WORK: usize = 1 << 16;
