//! Ways of rows from the memory of one device to that of another.

use llm_backend::Backend;
use llm_plan::RunOn;

use crate::Result;
use crate::activations::Activations;

/// Rows of activations that cross between devices, each as wide as the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crossing {
    /// The residual stream, from stage to stage.
    Hidden,
    /// What an encoder made of a prompt, to all that attends to it.
    Memory,
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
    fn download(&self, rows: Crossing, out: &mut [f32]) -> Result<()>;

    /// Copies `from` to the first elements of some rows.
    ///
    /// # Errors
    /// When the device fails.
    fn upload(&mut self, rows: Crossing, from: &[f32]) -> Result<()>;
}

/// The way between two devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// Both are one: rows stay where they are.
    SameMemory,
    /// Through host memory.
    Host,
}

impl Link {
    pub(crate) fn between(from: RunOn, to: RunOn) -> Self {
        match from == to {
            true => Link::SameMemory,
            false => Link::Host,
        }
    }

    /// Brings rows from one device to the other; `host` has room for them.
    pub(crate) fn carry(
        self,
        rows: Crossing,
        from: &dyn Port,
        to: &mut dyn Port,
        host: &mut [f32],
    ) -> Result<()> {
        match self {
            Link::SameMemory => Ok(()),
            Link::Host => {
                from.download(rows, host)?;
                to.upload(rows, host)
            }
        }
    }
}

/// The activations of a backend's device.
pub(crate) struct OnDevice<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) activations: &'a mut Activations<B>,
}

impl<B: Backend> Port for OnDevice<'_, B> {
    fn download(&self, rows: Crossing, out: &mut [f32]) -> Result<()> {
        Ok(self
            .backend
            .download(self.activations.crossing(rows), out)?)
    }

    fn upload(&mut self, rows: Crossing, from: &[f32]) -> Result<()> {
        let to = self.activations.crossing_mut(rows);
        Ok(self.backend.upload(from, to)?)
    }
}
