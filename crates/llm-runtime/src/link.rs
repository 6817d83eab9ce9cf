//! Ways of rows from the memory of one device to that of another.

use llm_backend::{Backend, Queue};
use llm_plan::RunOn;

use crate::Result;
use crate::activations::Activations;
use crate::port::{Crossing, Port};

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
        from: &mut dyn Port,
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
    pub(crate) queue: &'a mut B::Queue,
    pub(crate) activations: &'a mut Activations<B>,
}

impl<B: Backend> Port for OnDevice<'_, B> {
    fn download(&mut self, rows: Crossing, out: &mut [f32]) -> Result<()> {
        Ok(self.queue.download(self.activations.crossing(rows), out)?)
    }

    fn upload(&mut self, rows: Crossing, from: &[f32]) -> Result<()> {
        let to = self.activations.crossing_mut(rows);
        Ok(self.queue.upload(from, to)?)
    }
}
