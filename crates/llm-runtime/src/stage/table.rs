//! Tables of which a pass looks up a few rows.

use std::sync::Arc;

use llm_arch::Role;
use llm_backend::{Backend, Ops, Queue};
use llm_plan::Home;

use crate::Result;
use crate::allocated::Allocated;
use crate::source::WeightSource;
use crate::stream::{RowReader, Stream};

/// A table of which a pass looks up a few rows.
pub(super) enum Table<B: Backend> {
    /// On the device.
    Here(Arc<B::Weight>),
    /// Where it rests.
    Elsewhere(Box<RowReader<B>>),
}

impl<B: Backend> Table<B> {
    /// Counts room for rows that are looked up elsewhere.
    pub(super) fn count(&self, home: Home, allocated: &mut Allocated) {
        match self {
            Table::Here(_) => {}
            Table::Elsewhere(rows) => rows.count(home, allocated),
        }
    }

    pub(super) fn load(
        backend: &B,
        role: Role,
        stream: Option<&mut Stream<B>>,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        if let Some(rows) = stream.and_then(|stream| stream.take_table(role)) {
            return Ok(Table::Elsewhere(Box::new(rows)));
        }
        let unit = role.table_of().expect("a table's role");
        let weight = backend.load(source.weight(unit, role)?)?;
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

    /// Adds rows to those of `x`.
    pub(super) fn add(
        &mut self,
        queue: &mut B::Queue,
        backend: &B,
        rows: &[u32],
        (index, x): (&mut B::Index, &mut B::Buffer),
    ) -> Result<()> {
        let n = rows.len();
        match self {
            Table::Here(table) => {
                queue.upload_index(rows, index)?;
                Ok(queue.add_positions(table, index, n, x)?)
            }
            Table::Elsewhere(found) => found.look_up((backend, queue), rows, |queue, found, at| {
                queue.upload_index(at, index)?;
                Ok(queue.add_positions(found, index, n, x)?)
            }),
        }
    }
}
