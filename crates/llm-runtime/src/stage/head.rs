//! From hidden states to logits.

use std::slice::from_ref;
use std::sync::Arc;

use llm_arch::{HeadMatrix, HeadOf, LinearOf, ModelSpec, NormOf, Role, Side, Unit};
use llm_backend::{Allocation, Backend, LinearPart, Output};
use llm_plan::{HeadWidths, Limits};
use llm_tensor::Bytes;

use super::embedding::{Embedding, Table};
use crate::Result;
use crate::activations::Activations;
use crate::projection::{apply, norm_op};
use crate::source::WeightSource;
use crate::stream::{Key, Stream, Weights};

/// What makes logits, and the memory in which it does.
pub(super) struct Head<B: Backend> {
    norm: Option<Weights<B, NormOf<Role>>>,
    own: Weights<B, HeadOf<Role>>,
    /// The matrix, where it is the table of tokens.
    tied: Option<Tied<B>>,
    /// The rows that logits are asked of, and what becomes of them.
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
        stream: Option<&Stream>,
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
                HeadOf::of(spec),
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
            rows: alloc(widths.rows)?,
            normed: alloc(widths.normed)?,
            projected: alloc(widths.projected)?,
            logits: alloc(widths.logits)?,
        })
    }

    /// Logits of some rows of `a.x` into `out` `[rows, vocab]`.
    pub(super) fn forward(
        &mut self,
        backend: &B,
        spec: &ModelSpec,
        stream: Option<&Stream>,
        a: &mut Activations<B>,
        (rows, out): (&[usize], &mut [f32]),
    ) -> Result<()> {
        let n = rows.len();
        backend.gather_rows(&a.x, rows, spec.hidden, &mut self.rows)?;
        let mut x = &self.rows;
        if let Some(norm) = &self.norm {
            let norm = norm.get(backend, stream)?;
            backend.norm(&norm_op(&norm), x, &mut self.normed, n)?;
            x = &self.normed;
        }
        let own = self.own.get(backend, stream)?;
        if let Some(project) = &own.project {
            let (project, out) = (from_ref(project), (Output::Write, &mut self.projected));
            apply(backend, project, x, out, n, &mut a.workspace)?;
            x = &self.projected;
        }
        let apart = match &self.tied {
            Some(Tied::Apart(table)) => Some(table.get(backend, stream)?),
            Some(Tied::Shared(_)) | None => None,
        };
        let weight = match (&own.matrix, &self.tied, &apart) {
            (Some(matrix), _, _) => matrix,
            (None, Some(Tied::Shared(table)), _) => table,
            (None, _, Some(table)) => &table.weight,
            (None, _, None) => {
                unreachable!("a head has a matrix of its own or the table of tokens")
            }
        };
        let part = LinearPart {
            weight,
            bias: own.bias.as_ref(),
        };
        let logits = &mut self.logits;
        backend.linear(&[part], x, Output::Write, logits, n, &mut a.workspace)?;
        backend.download(logits, out)?;
        if spec.head.scale != 1.0 {
            out.iter_mut().for_each(|logit| *logit *= spec.head.scale);
        }
        if let Some(cap) = spec.head.soft_cap {
            out.iter_mut()
                .for_each(|logit| *logit = cap * (*logit / cap).tanh());
        }
        Ok(())
    }

    /// Buffers.
    pub(super) fn bytes(&self) -> Bytes {
        let buffers = [&self.rows, &self.normed, &self.projected, &self.logits];
        buffers.into_iter().map(B::Buffer::bytes).sum()
    }
}
