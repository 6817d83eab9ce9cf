//! From token ids to hidden states.

use std::slice::from_ref;

use llm_arch::{EmbeddingOf, InputOf, ModelSpec, Role, Unit};
use llm_backend::{Backend, Ops, Output};
use llm_plan::Home;

use super::per_layer;
use super::table::Table;
use crate::Result;
use crate::activations::Activations;
use crate::allocated::Allocated;
use crate::angles::Angles;
use crate::pass::Pass;
use crate::projection::{apply, norm_op};
use crate::source::WeightSource;
use crate::stream::{Key, Stream, Weights};
use crate::streams;

/// A model's tables, and what follows them.
pub(super) struct Embedding<B: Backend> {
    pub(super) tokens: Table<B>,
    positions: Option<Table<B>>,
    input: Weights<B, InputOf<Role>>,
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

    /// Hidden states of the pass's tokens into `a.rows.x`, and their streams.
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
        let input = self.input.get(queue, stream)?;
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
            table.add(queue, backend, angles.rows(pass), to)?;
        }
        if let Some(norm) = &input.norm {
            queue.norm(&norm_op(norm), &a.rows.x, &mut a.rows.normed, n_tokens)?;
            std::mem::swap(&mut a.rows.x, &mut a.rows.normed);
        }
        if let Some(weights) = &input.per_layer {
            per_layer::project(queue, weights, spec, a, n_tokens)?;
        }
        match (&input.streams, spec.decoder.streams) {
            (Some(others), _) => streams::expand(queue, others, a, n_tokens)?,
            (None, Some(_)) => streams::repeat(queue, a, n_tokens)?,
            (None, None) => {}
        }
        input.end(queue)
    }

    /// Counts room for rows that are looked up elsewhere.
    pub(super) fn count(&self, home: Home, allocated: &mut Allocated) {
        for table in [Some(&self.tokens), self.positions.as_ref()] {
            table.inspect(|table| table.count(home, allocated));
        }
    }
}
