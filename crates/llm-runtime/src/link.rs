//! Ways of rows from the memory of one device to that of another.

use llm_backend::{Backend, Queue};

use crate::Result;
use crate::activations::Activations;
use crate::port::{Crossing, Lane, Port};

/// Brings the first `n_elements` of some rows from one device to another: from memory to memory where both are of one
/// backend, without a wait of the host, and else through `host`, which has room for them.
pub(crate) fn carry(
    (rows, n_elements): (Crossing, usize),
    from: &mut dyn Port,
    to: &mut dyn Port,
    host: &mut [f32],
) -> Result<()> {
    if to.take(rows, n_elements, from.lane(rows))? {
        return Ok(());
    }
    let host = &mut host[..n_elements];
    from.download(rows, host)?;
    to.upload(rows, host)
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

    fn lane(&mut self, rows: Crossing) -> Lane<'_> {
        Lane::of::<B>(self.queue, self.activations.crossing(rows))
    }

    fn take(&mut self, rows: Crossing, n_elements: usize, from: Lane<'_>) -> Result<bool> {
        let to = self.activations.crossing_mut(rows);
        from.copy_to::<B>(self.queue, to, n_elements)
    }
}
