//! The operations: sizes are checked and work is shared out here, the kernels do the rest.

use std::ops::Range;

use llm_backend::{
    Attention, Backend, BackendError, DeviceInfo, HeadGroups, Heads, KvColumns, LinearPart, NormOp,
    Output, Result, Rotary, Rows,
};
use llm_quant::StoredWeight;
use llm_tensor::{Activation, Bytes, KvShape, WorkspaceShape};

use crate::attention;
use crate::elementwise::{Activate, AddScaled, Gate, Rotate};
use crate::linear::linear;
use crate::memory::Shared;
use crate::norm::{NormHeads, NormRows, Normalise};
use crate::weight::{CopyRow, Operand, Weight};
use crate::{Buffer, Cpu, KvCache, Workspace, cache, workspace};

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

    fn load(&self, weight: StoredWeight) -> Result<Weight> {
        let operand = Operand::of(&weight);
        operand
            .map(Weight)
            .ok_or_else(|| BackendError::UnsupportedWeight {
                device: self.info.name.clone(),
                scheme: weight.scheme,
            })
    }

    fn kv_cache(&self, shape: &KvShape) -> Result<KvCache> {
        KvCache::new(shape, self.level.geometry())
            .map_err(|n| self.out_of_memory("keys and values", n))
    }

    fn kv_cache_bytes(&self, shape: &KvShape) -> Bytes {
        cache::bytes(shape, self.level.geometry())
    }

    fn workspace(&self, shape: &WorkspaceShape) -> Result<Workspace> {
        Workspace::new(shape, self.level.geometry(), self.n_threads())
            .map_err(|n| self.out_of_memory("scratch memory", n))
    }

    fn workspace_bytes(&self, shape: &WorkspaceShape) -> Bytes {
        workspace::bytes(shape, self.level.geometry(), self.n_threads())
    }

    fn embed(&self, table: &Weight, ids: &[u32], scale: f32, out: &mut Buffer) -> Result<()> {
        for (&id, out) in ids
            .iter()
            .zip(out.as_mut_slice().chunks_exact_mut(table.cols()))
        {
            self.level.run(CopyRow {
                row: table.row(id as usize),
                scale,
                output: Output::Write,
                out,
            });
        }
        Ok(())
    }

    fn add_positions(&self, table: &Weight, positions: &[u32], x: &mut Buffer) -> Result<()> {
        for (&position, out) in positions
            .iter()
            .zip(x.as_mut_slice().chunks_exact_mut(table.cols()))
        {
            self.level.run(CopyRow {
                row: table.row(position as usize),
                scale: 1.0,
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
        let width = op.gain.cols();
        let x = &x.as_slice()[..n_tokens * width];
        let out = &mut out.as_mut_slice()[..n_tokens * width];
        self.by_rows(out, width, |tokens, out| {
            self.level.run(NormRows {
                op: normalise(op),
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

    fn norm_heads(
        &self,
        op: &NormOp<'_, Self>,
        heads: &Heads,
        x: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        assert_eq!(op.gain.cols(), heads.head_dim, "a gain for every element");
        assert!(
            (heads.first + heads.n_heads) * heads.head_dim <= heads.row_width,
            "{heads:?}"
        );
        let x = &mut x.as_mut_slice()[..n_tokens * heads.row_width];
        self.by_rows(x, heads.row_width, |_, x| {
            self.level.run(NormHeads {
                op: normalise(op),
                heads: *heads,
                x,
            });
        });
        Ok(())
    }

    fn ungroup(
        &self,
        groups: &HeadGroups,
        grouped: &Buffer,
        out: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        let HeadGroups {
            n_groups,
            n_queries,
            head_dim,
        } = *groups;
        let width = n_groups * (n_queries + 2) * head_dim;
        let grouped = &grouped.as_slice()[..n_tokens * width];
        let out = &mut out.as_mut_slice()[..n_tokens * width];
        self.by_rows(out, width, |tokens, out| {
            let grouped = grouped[tokens.start * width..tokens.end * width].chunks_exact(width);
            for (grouped, out) in grouped.zip(out.chunks_exact_mut(width)) {
                let (queries, keys_values) = out.split_at_mut(n_groups * n_queries * head_dim);
                let (keys, values) = keys_values.split_at_mut(n_groups * head_dim);
                let parts = queries
                    .chunks_exact_mut(n_queries * head_dim)
                    .zip(keys.chunks_exact_mut(head_dim))
                    .zip(values.chunks_exact_mut(head_dim));
                let grouped = grouped.chunks_exact((n_queries + 2) * head_dim);
                for (group, ((q, k), v)) in grouped.zip(parts) {
                    let (from_q, from_kv) = group.split_at(q.len());
                    let (from_k, from_v) = from_kv.split_at(head_dim);
                    q.copy_from_slice(from_q);
                    k.copy_from_slice(from_k);
                    v.copy_from_slice(from_v);
                }
            }
        });
        Ok(())
    }

    fn append(
        &self,
        kv: &Buffer,
        columns: &KvColumns,
        rows: Rows,
        cache: &mut KvCache,
    ) -> Result<()> {
        attention::append(self, kv.as_slice(), *columns, rows, cache);
        Ok(())
    }

    fn copy_cache(&self, from: &KvCache, n_positions: usize, to: &mut KvCache) -> Result<()> {
        to.copy_from(from, n_positions);
        Ok(())
    }

    fn attention(
        &self,
        op: &Attention<'_, Self>,
        q: &Buffer,
        rows: Rows,
        cache: &KvCache,
        out: &mut Buffer,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let (q, out) = (q.as_slice(), out.as_mut_slice());
        attention::attention(self, op, q, rows, cache, out, workspace);
        Ok(())
    }

    fn add(&self, y: &Buffer, x: &mut Buffer, width: usize, n_tokens: usize) -> Result<()> {
        let y = &y.as_slice()[..n_tokens * width];
        let x = &mut x.as_mut_slice()[..n_tokens * width];
        self.by_rows(x, 1, |elements, x| {
            self.level.run(AddScaled {
                y: &y[elements],
                weight: 1.0,
                x,
            });
        });
        Ok(())
    }

    fn scatter_add(
        &self,
        y: &Buffer,
        rows: &[usize],
        weights: &[f32],
        width: usize,
        x: &mut Buffer,
    ) -> Result<()> {
        assert_eq!(rows.len(), weights.len(), "a weight for every row");
        let y = &y.as_slice()[..rows.len() * width];
        let x = Shared::new(x.as_mut_slice());
        // By columns, not rows: a row that is named twice then gets its sums from one thread, in order.
        let min_columns = MIN_ELEMENTS.div_ceil(rows.len().max(1));
        self.pool.split(width, min_columns, |_, columns| {
            for ((&row, &weight), y) in rows.iter().zip(weights).zip(y.chunks_exact(width)) {
                let at = row * width + columns.start..row * width + columns.end;
                self.level.run(AddScaled {
                    y: &y[columns.clone()],
                    weight,
                    // SAFETY: the threads' columns do not overlap, and a thread's rows come one after the other.
                    x: unsafe { x.range(at) },
                });
            }
        });
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
}

fn normalise<'a>(op: &NormOp<'a, Cpu>) -> Normalise<'a> {
    Normalise {
        norm: op.norm,
        eps: op.eps,
        gain_offset: op.gain_offset,
        gain: op.gain.dense(),
        bias: op.bias.map(Weight::dense),
    }
}

/// Elements below which a thread is not worth a fork in passes that compute little for each.
const MIN_ELEMENTS: usize = 1 << 13;
