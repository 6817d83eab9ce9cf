//! From token ids to hidden states.

use std::slice::from_ref;
use std::sync::Arc;

use llm_arch::{EmbeddingOf, InputOf, ModelSpec, Role, Unit};
use llm_backend::{Backend, Ops, Output, Queue};
use llm_plan::Home;

use crate::Result;
use crate::activations::Activations;
use crate::allocated::Allocated;
use crate::angles::Angles;
use crate::pass::Pass;
use crate::projection::{apply, norm_op};
use crate::source::WeightSource;
use crate::stream::{Key, RowReader, Stream, Weights};

/// A model's tables, and what follows them.
pub(super) struct Embedding<B: Backend> {
    pub(super) tokens: Table<B>,
    positions: Option<Table<B>>,
    input: Weights<B, InputOf<Role>>,
}

/// A table of which a pass looks up a few rows.
pub(super) enum Table<B: Backend> {
    /// On the device.
    Here(Arc<B::Weight>),
    /// Where it rests.
    Elsewhere(Box<RowReader<B>>),
}

impl<B: Backend> Embedding<B> {
    pub(super) fn load(
        backend: &B,
        spec: &ModelSpec,
        stream: Option<&mut Stream<B>>,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        let mut stream = stream;
        let EmbeddingOf {
            tokens,
            positions,
            input,
            ..
        } = spec.roles().embedding();
        let mut table = |role| Table::load(backend, role, stream.as_deref_mut(), source);
        let (tokens, positions) = (table(tokens)?, positions.map(table).transpose()?);
        let key = Key::Unit(Unit::Embedding);
        Ok(Embedding {
            tokens,
            positions,
            input: Weights::load(backend, stream.as_deref(), key, input, source)?,
        })
    }

    /// Hidden states of the pass's tokens into `a.rows.x`.
    pub(super) fn forward(
        &mut self,
        queue: &mut B::Queue,
        (backend, stream): (&B, Option<&Stream<B>>),
        spec: &ModelSpec,
        pass: &Pass<'_>,
        angles: &mut Angles,
        a: &mut Activations<B>,
    ) -> Result<()> {
        let (n_tokens, scale) = (pass.ids.len(), spec.embedding.scale);
        let input = self.input.get(queue, (backend, stream))?;
        match &input.project {
            None => self.tokens.embed(
                queue,
                backend,
                (pass.ids, scale),
                (&mut a.ids, &mut a.rows.x),
            )?,
            Some(project) => {
                let to = (&mut a.ids, &mut a.rows.embedded);
                self.tokens.embed(queue, backend, (pass.ids, scale), to)?;
                let (project, x) = (from_ref(project), (Output::Write, &mut a.rows.x));
                apply::<B>(queue, project, &a.rows.embedded, x, n_tokens)?;
            }
        }
        if let Some(table) = &mut self.positions {
            let to = (&mut a.positions, &mut a.rows.x);
            table.add_positions(queue, backend, angles.rows(pass), to)?;
        }
        if let Some(norm) = &input.norm {
            queue.norm(&norm_op(norm), &a.rows.x, &mut a.rows.normed, n_tokens)?;
            std::mem::swap(&mut a.rows.x, &mut a.rows.normed);
        }
        input.end(queue)
    }

    /// Counts room for rows that are looked up elsewhere.
    pub(super) fn count(&self, home: Home, allocated: &mut Allocated) {
        let tables = [Some(&self.tokens), self.positions.as_ref()];
        for table in tables.into_iter().flatten() {
            match table {
                Table::Here(_) => {}
                Table::Elsewhere(rows) => rows.count(home, allocated),
            }
        }
    }
}

impl<B: Backend> Table<B> {
    fn load(
        backend: &B,
        role: Role,
        stream: Option<&mut Stream<B>>,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        if let Some(rows) = stream.and_then(|stream| stream.take_table(role)) {
            return Ok(Table::Elsewhere(Box::new(rows)));
        }
        let weight = backend.load(source.weight(Unit::Embedding, role)?)?;
        Ok(Table::Here(Arc::new(weight)))
    }

    /// Rows `ids`, times `scale`, into `out` `[ids, width]`; the device is told of them by `index`.
    pub(super) fn embed(
        &mut self,
        queue: &mut B::Queue,
        backend: &B,
        (ids, scale): (&[u32], f32),
        (index, out): (&mut B::Index, &mut B::Buffer),
    ) -> Result<()> {
        let n = ids.len();
        match self {
            Table::Here(table) => {
                queue.upload_index(ids, index)?;
                Ok(queue.embed(table, index, n, scale, out)?)
            }
            Table::Elsewhere(rows) => rows.look_up((backend, queue), ids, |queue, found, ids| {
                queue.upload_index(ids, index)?;
                Ok(queue.embed(found, index, n, scale, out)?)
            }),
        }
    }

    fn add_positions(
        &mut self,
        queue: &mut B::Queue,
        backend: &B,
        positions: &[u32],
        (index, x): (&mut B::Index, &mut B::Buffer),
    ) -> Result<()> {
        let n = positions.len();
        match self {
            Table::Here(table) => {
                queue.upload_index(positions, index)?;
                Ok(queue.add_positions(table, index, n, x)?)
            }
            Table::Elsewhere(rows) => {
                rows.look_up((backend, queue), positions, |queue, found, at| {
                    queue.upload_index(at, index)?;
                    Ok(queue.add_positions(found, index, n, x)?)
                })
            }
        }
    }
}
