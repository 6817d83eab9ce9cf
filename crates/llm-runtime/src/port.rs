//! Rows of activations that leave a device, or come to it.

use std::any::Any;

use llm_backend::{Backend, Queue};

use crate::Result;

/// Rows of activations that cross between devices: each as wide as the residual stream, unless something else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crossing {
    /// The residual stream, from stage to stage,
    Hidden,
    /// or its streams, where it has several, until they are made one row.
    Streams,
    /// What layers take in beside it, as wide as the parts of all of them.
    Inputs,
    /// Keys and values that later layers see too, as wide as those of all layers that lend some.
    Lent,
    /// Bits of the positions that rows attend to, where layers see what one before them selected.
    Selected,
    /// An encoder's result, to all layers that attend to it.
    Encoded,
    /// The rows of an expert that computes on another device than its layer,
    ExpertInput,
    /// and its result.
    ExpertOutput,
}

/// The activations of a device, as links reach them.
pub trait Port {
    /// Copies the first elements of some rows to host memory.
    ///
    /// # Errors
    /// When the device fails.
    fn download(&mut self, rows: Crossing, out: &mut [f32]) -> Result<()>;

    /// Copies `from` to the first elements of some rows.
    ///
    /// # Errors
    /// When the device fails.
    fn upload(&mut self, rows: Crossing, from: &[f32]) -> Result<()>;

    /// Some rows as another device of the same backend takes them.
    fn lane(&mut self, rows: Crossing) -> Lane<'_>;

    /// Copies the first elements of a lane to those of some rows, in the order of both devices' work, without a wait of the
    /// host; false where the lane is another backend's.
    ///
    /// # Errors
    /// When a device fails.
    fn take(&mut self, rows: Crossing, n_elements: usize, from: Lane<'_>) -> Result<bool>;
}

/// Rows of a device, and its queue: who has the same backend knows their types.
pub struct Lane<'a> {
    queue: &'a mut dyn Any,
    rows: &'a dyn Any,
}

impl<'a> Lane<'a> {
    /// The lane of a backend's device.
    pub(crate) fn of<B: Backend>(queue: &'a mut B::Queue, rows: &'a B::Buffer) -> Self {
        Lane { queue, rows }
    }

    /// Copies its first elements to `to`, with which `queue` works; false where it is another backend's.
    pub(crate) fn copy_to<B: Backend>(
        self,
        queue: &mut B::Queue,
        to: &mut B::Buffer,
        n_elements: usize,
    ) -> Result<bool> {
        let own = (
            self.queue.downcast_mut::<B::Queue>(),
            self.rows.downcast_ref::<B::Buffer>(),
        );
        let (Some(from), Some(rows)) = own else {
            return Ok(false);
        };
        queue.copy_from(from, rows, to, n_elements)?;
        Ok(true)
    }
}
