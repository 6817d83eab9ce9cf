//! From hidden states to logits.

use std::ops::Deref;
use std::slice::from_ref;
use std::sync::Arc;

use llm_arch::{HeadMatrix, HeadOf, LinearOf, ModelSpec, NormOf, Role, Side, Unit};
use llm_backend::{Allocation, Backend, LinearPart, Ops, OutColumns, Output, Queue};
use llm_plan::{HeadWidths, Limits};
use llm_tensor::Bytes;

use super::embedding::Embedding;
use super::table::Table;
use crate::Result;
use crate::projection::{apply, norm_op};
use crate::source::WeightSource;
use crate::stream::{Key, Stream, Weights, product};

/// Weights that make logits, and the memory in which they do.
pub(super) struct Head<B: Backend> {
    norm: Option<Weights<B, NormOf<Role>>>,
    own: Weights<B, HeadOf<Role>>,
    /// The matrix, where it is the table of tokens.
    tied: Option<Tied<B>>,
    /// Rows that logits are asked of,
    index: B::Index,
    words: Vec<u32>,
    /// the rows, and what becomes of them.
    rows: B::Buffer,
    normed: B::Buffer,
    projected: B::Buffer,
    logits: B::Buffer,
}

/// The table of tokens as a matrix.
enum Tied<B: Backend> {
    /// The embedding's own.
    Shared(Arc<B::Weight>),
    /// Beside an embedding that looks rows up elsewhere.
    Apart(Weights<B, LinearOf<Role>>),
}

impl<B: Backend> Head<B> {
    /// `norm` is the one before it, unless another device has that.
    pub(super) fn load(
        backend: &B,
        (spec, norm): (&ModelSpec, Option<NormOf<Role>>),
        limits: &Limits,
        embedding: Option<&Embedding<B>>,
        stream: Option<&Stream<B>>,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        let widths = HeadWidths::of(spec);
        let alloc = |width: usize| backend.alloc(limits.n_logits * width);
        let norm_key = Key::Unit(Unit::FinalNorm(Side::Decoder));
        let table = LinearOf {
            weight: Role::TokenTable,
            bias: None,
        };
        Ok(Head {
            norm: match norm {
                Some(norm) => Some(Weights::load(backend, stream, norm_key, norm, source)?),
                None => None,
            },
            own: Weights::load(
                backend,
                stream,
                Key::Unit(Unit::Head),
                spec.roles().head(),
                source,
            )?,
            tied: match (spec.head.matrix, embedding.map(|e| &e.tokens)) {
                (HeadMatrix::Separate, _) => None,
                (HeadMatrix::Tied, Some(Table::Here(table))) => {
                    Some(Tied::Shared(Arc::clone(table)))
                }
                (HeadMatrix::Tied, _) => {
                    let key = Key::TiedTable;
                    Some(Tied::Apart(Weights::load(
                        backend, stream, key, table, source,
                    )?))
                }
            },
            index: backend.alloc_index(limits.n_logits)?,
            words: Vec::with_capacity(limits.n_logits),
            rows: alloc(widths.rows)?,
            normed: alloc(widths.normed)?,
            projected: alloc(widths.projected)?,
            logits: alloc(widths.logits)?,
        })
    }

    /// Logits of some rows of `x` `[_, hidden]` into `out` `[rows, vocab]`.
    pub(super) fn forward(
        &mut self,
        queue: &mut B::Queue,
        stream: Option<&Stream<B>>,
        spec: &ModelSpec,
        x: &B::Buffer,
        (rows, out): (&[usize], &mut [f32]),
    ) -> Result<()> {
        self.compute(queue, stream, spec, x, rows)?;
        queue.download(&self.logits, out)?;
        if spec.head.scale != 1.0 {
            out.iter_mut().for_each(|logit| *logit *= spec.head.scale);
        }
        if let Some(cap) = spec.head.soft_cap {
            out.iter_mut()
                .for_each(|logit| *logit = cap * (*logit / cap).tanh());
        }
        Ok(())
    }

    /// The most probable tokens after some rows of `x`, as [`Stages::ids`](crate::device::Stages::ids) has them.
    pub(super) fn choose(
        &mut self,
        queue: &mut B::Queue,
        stream: Option<&Stream<B>>,
        spec: &ModelSpec,
        x: &B::Buffer,
        (rows, ids): (&[usize], &mut [Option<u32>]),
    ) -> Result<()> {
        assert!(!spec.head.changes_logits(), "the host changes the logits");
        self.compute(queue, stream, spec, x, rows)?;
        Ok(queue.argmax(&self.logits, spec.vocab, ids)?)
    }

    /// Products of some rows of `x` with the matrix, and its bias.
    fn compute(
        &mut self,
        queue: &mut B::Queue,
        stream: Option<&Stream<B>>,
        spec: &ModelSpec,
        x: &B::Buffer,
        rows: &[usize],
    ) -> Result<()> {
        let n = rows.len();
        self.words.clear();
        self.words.extend(rows.iter().map(|&row| row as u32));
        queue.upload_index(&self.words, &mut self.index)?;
        queue.gather_rows(x, &self.index, n, spec.hidden, &mut self.rows)?;
        let mut x = &self.rows;
        if let Some(norm) = &self.norm {
            let norm = norm.get(queue, stream)?;
            queue.norm(&norm_op(&norm), x, &mut self.normed, n)?;
            norm.end(queue)?;
            x = &self.normed;
        }
        let own = self.own.get(queue, stream)?;
        if let Some(project) = &own.project {
            let (project, out) = (from_ref(project), (Output::Write, &mut self.projected));
            apply::<B>(queue, project, x, out, n)?;
            x = &self.projected;
        }
        let apart = match &self.tied {
            Some(Tied::Apart(table)) => Some(table.get(queue, stream)?),
            Some(Tied::Shared(_)) | None => None,
        };
        let (logits, bias) = (&mut self.logits, own.bias.as_ref());
        let all = OutColumns {
            first: 0,
            width: spec.vocab,
        };
        let all = (Output::Write, all);
        match (&own.matrix, &self.tied, &apart) {
            (Some(matrix), _, _) => product(queue, (matrix, bias), x, all, logits, n)?,
            (None, Some(Tied::Shared(table)), _) => {
                let part = LinearPart {
                    weight: &**table,
                    bias: bias.map(Deref::deref),
                };
                queue.linear(&[part], x, Output::Write, logits, n)?;
            }
            (None, _, Some(table)) => product(queue, (&table.weight, bias), x, all, logits, n)?,
            (None, _, None) => {
                unreachable!("a head has a matrix of its own or the table of tokens")
            }
        }
        if let Some(table) = apart {
            table.end(queue)?;
        }
        own.end(queue)
    }

    /// Buffers.
    pub(super) fn bytes(&self) -> Bytes {
        let buffers = [&self.rows, &self.normed, &self.projected, &self.logits];
        self.index.bytes() + buffers.into_iter().map(B::Buffer::bytes).sum()
    }
}
