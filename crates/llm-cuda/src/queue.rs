//! Work on the GPU, in order.

use std::sync::Arc;

use llm_backend::{Queue, Result};

use crate::card::Card;
use crate::driver::{Failure, Stream};
use crate::event::Events;
use crate::launch::Launch;
use crate::memory::Memory;
use crate::uploads::Uploads;
use crate::workspace::Workspace;
use crate::{Buffer, Cuda, CudaEvent, CudaPlace, Index};

/// A stream, and scratch memory for what is put there.
#[derive(Debug)]
pub struct CudaQueue {
    pub(crate) card: Arc<Card>,
    pub(crate) stream: Stream,
    pub(crate) workspace: Workspace,
    uploads: Uploads,
    events: Events,
}

impl CudaQueue {
    pub(crate) fn new(card: &Arc<Card>, events: &Events, scratch_bytes: usize) -> Result<Self> {
        let stream = Stream::new(&card.context);
        Ok(CudaQueue {
            stream: stream.map_err(|failure| card.failed(failure))?,
            workspace: Workspace::new(card, scratch_bytes)?,
            uploads: Uploads::default(),
            events: events.clone(),
            card: Arc::clone(card),
        })
    }

    /// A launch of a kernel, to be put together.
    ///
    /// # Panics
    /// When there is no kernel of that name.
    pub(crate) fn launch(&self, kernel: &str) -> Launch<'_> {
        Launch::new(&self.card, &self.stream, kernel)
    }

    /// Copies the bytes from `at` of `memory` to `dst`, and waits for all work so far.
    pub(crate) fn read(&mut self, memory: &Memory, at: usize, dst: &mut [u8]) -> Result<()> {
        let read = self.stream.read(memory.raw(), at, dst);
        self.told(read)?;
        self.uploads.forget();
        Ok(())
    }

    /// Copies `src` to the start of `memory`, from pages of the queue's own.
    fn upload_bytes(&mut self, src: &[u8], memory: &Memory) -> Result<()> {
        let uploaded = self.uploads.put(&self.stream, src, memory.raw());
        self.told(uploaded)
    }

    pub(crate) fn told<T>(&self, outcome: std::result::Result<T, Failure>) -> Result<T> {
        outcome.map_err(|failure| self.card.failed(failure))
    }
}

impl Queue<Cuda> for CudaQueue {
    fn record(&mut self) -> Result<CudaEvent> {
        self.events.record(&self.card, &self.stream)
    }

    fn wait(&mut self, event: &CudaEvent) -> Result<()> {
        let waits = self.stream.wait(event.raw());
        self.told(waits)
    }

    fn finish(&mut self) -> Result<()> {
        let done = self.stream.synchronize();
        self.told(done)?;
        self.uploads.forget();
        Ok(())
    }

    fn upload(&mut self, src: &[f32], dst: &mut Buffer) -> Result<()> {
        self.upload_bytes(bytemuck::cast_slice(src), &dst.0)
    }

    fn upload_index(&mut self, src: &[u32], dst: &mut Index) -> Result<()> {
        self.upload_bytes(bytemuck::cast_slice(src), &dst.0)
    }

    fn download(&mut self, src: &Buffer, dst: &mut [f32]) -> Result<()> {
        self.read(&src.0, 0, bytemuck::cast_slice_mut(dst))
    }

    fn bring(&mut self, place: &mut CudaPlace, n_bytes: usize) -> Result<()> {
        place.bring(&self.stream, n_bytes)
    }
}
