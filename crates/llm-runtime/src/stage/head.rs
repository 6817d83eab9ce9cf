//! From hidden states to logits.

use std::sync::Arc;

use llm_arch::{HeadMatrix, ModelSpec, Role, Side, Unit};
use llm_backend::{Allocation, Backend, LinearPart, Output};
use llm_plan::{HeadWidths, Limits};
use llm_tensor::Bytes;

use super::embedding::{Embedding, Table};
use super::final_norm;
use crate::Result;
use crate::activations::Activations;
use crate::projection::{NormWeights, Projection};
use crate::source::WeightSource;
use crate::stream::{Key, Stream, Weights};

/// What makes logits, and the memory in which it does.
pub(super) struct Head<B: Backend> {
    norm: Option<Weights<NormWeights<B>>>,
    own: Weights<Own<B>>,
    /// The matrix, where it is the table of tokens.
    tied: Option<Weights<Arc<B::Weight>>>,
    /// The rows that logits are asked of, and what becomes of them.
    rows: B::Buffer,
    normed: B::Buffer,
    projected: B::Buffer,
    logits: B::Buffer,
}

/// What only the head has.
struct Own<B: Backend> {
    project: Option<Projection<B>>,
    matrix: Option<B::Weight>,
    bias: Option<B::Weight>,
}

impl<B: Backend> Head<B> {
    /// `has_norm` says whether the norm before it is its stage's.
    pub(super) fn load(
        backend: &B,
        (spec, has_norm): (&ModelSpec, bool),
        limits: &Limits,
        embedding: Option<&Embedding<B>>,
        stream: Option<&Stream>,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        let (stack, widths) = (&spec.decoder, HeadWidths::of(spec));
        let alloc = |width: usize| backend.alloc(limits.n_logits * width);
        Ok(Head {
            norm: match has_norm {
                true => {
                    let key = Key::Unit(Unit::FinalNorm(Side::Decoder));
                    Some(Weights::load(stream, key, source, |source| {
                        final_norm(backend, source, Side::Decoder, &stack.norm)
                    })?)
                }
                false => None,
            },
            own: Weights::load(stream, Key::Unit(Unit::Head), source, |source| {
                Own::load(backend, spec, source)
            })?,
            tied: match (spec.head.matrix, embedding.map(|e| &e.tokens)) {
                (HeadMatrix::Separate, _) => None,
                (HeadMatrix::Tied, Some(Table::Here(table))) => {
                    Some(Weights::Here(Arc::clone(table)))
                }
                (HeadMatrix::Tied, _) => {
                    Some(Weights::load(stream, Key::TiedTable, source, |source| {
                        tied(backend, source)
                    })?)
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
        let (n, stack) = (rows.len(), &spec.decoder);
        backend.gather_rows(&a.x, rows, spec.hidden, &mut self.rows)?;
        let mut x = &self.rows;
        if let Some(norm) = &self.norm {
            let norm = norm.get(stream, |source| {
                final_norm(backend, source, Side::Decoder, &stack.norm)
            })?;
            backend.norm(&norm.op(), x, &mut self.normed, n)?;
            x = &self.normed;
        }
        let own = self
            .own
            .get(stream, |source| Own::load(backend, spec, source))?;
        if let Some(project) = &own.project {
            project.apply(
                backend,
                x,
                (Output::Write, &mut self.projected),
                n,
                &mut a.workspace,
            )?;
            x = &self.projected;
        }
        let tied = match &self.tied {
            Some(table) => Some(table.get(stream, |source| tied(backend, source))?),
            None => None,
        };
        let weight = match (&own.matrix, &tied) {
            (Some(matrix), _) => matrix,
            (None, Some(table)) => &***table,
            (None, None) => unreachable!("a head has a matrix of its own or the table of tokens"),
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

impl<B: Backend> Own<B> {
    fn load(backend: &B, spec: &ModelSpec, source: &mut dyn WeightSource) -> Result<Self> {
        let unit = Unit::Head;
        Ok(Own {
            project: match spec.embedding.width == spec.hidden {
                true => None,
                false => {
                    let roles = [(Role::ProjectOut, None)];
                    Some(Projection::load(backend, source, unit, &roles)?)
                }
            },
            matrix: match spec.head.matrix {
                HeadMatrix::Tied => None,
                HeadMatrix::Separate => Some(backend.load(source.weight(unit, Role::Head)?)?),
            },
            bias: match spec.head.bias {
                true => Some(backend.load(source.weight(unit, Role::HeadBias)?)?),
                false => None,
            },
        })
    }
}

fn tied<B: Backend>(backend: &B, source: &mut dyn WeightSource) -> Result<Arc<B::Weight>> {
    let table = source.weight(Unit::Embedding, Role::TokenTable)?;
    Ok(Arc::new(backend.load(table)?))
}
