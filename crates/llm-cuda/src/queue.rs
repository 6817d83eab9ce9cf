//! Work on the GPU, in order.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use llm_backend::{Queue, Result};
use llm_tensor::WorkspaceShape;

use crate::blas::QueueBlas;
use crate::card::Card;
use crate::driver::{Failure, Gemm, Stream};
use crate::event::Events;
use crate::launch::Launch;
use crate::memory::{Memory, bytes_of};
use crate::module::Kernel;
use crate::steps::Steps;
use crate::uploads::Uploads;
use crate::workspace::Workspace;
use crate::{Buffer, Cuda, CudaEvent, CudaPages, CudaPlace, Index, choose};

/// A stream, and scratch memory for what is put there.
#[derive(Debug)]
pub struct CudaQueue {
    pub(crate) card: Arc<Card>,
    // Before its stream is gone.
    blas: Option<QueueBlas>,
    steps: RefCell<Steps>,
    pub(crate) workspace: Workspace,
    uploads: Uploads,
    events: Events,
}

impl CudaQueue {
    /// For passes within a shape, whose scratch memory has so many bytes.
    pub(crate) fn new(
        card: &Arc<Card>,
        events: &Events,
        shape: Option<(&WorkspaceShape, usize)>,
    ) -> Result<Self> {
        let steps = Steps::new(&card.context).map_err(|failure| card.failed(failure))?;
        let blas = match shape {
            Some((shape, _)) if choose::blas_may_pay(shape) => {
                QueueBlas::new(card, steps.own_stream())?
            }
            Some(_) | None => None,
        };
        Ok(CudaQueue {
            blas,
            steps: RefCell::new(steps),
            workspace: Workspace::new(card, shape.map_or(0, |(_, n_bytes)| n_bytes))?,
            uploads: Uploads::default(),
            events: events.clone(),
            card: Arc::clone(card),
        })
    }

    /// A launch of a kernel, to be put together.
    pub(crate) fn launch(&self, kernel: Kernel) -> Launch<'_> {
        Launch::new(&self.card, &self.steps, kernel)
    }

    /// True if products may be made by cuBLAS.
    pub(crate) fn has_blas(&self) -> bool {
        self.blas.as_ref().is_some_and(QueueBlas::works)
    }

    /// Puts a product by cuBLAS into the stream; false where it refuses the first of several, and all from then on.
    pub(crate) fn multiply(&self, gemm: &Gemm, is_first: bool) -> Result<bool> {
        let Some(blas) = &self.blas else {
            return Ok(false);
        };
        let put = blas.multiply(&self.card, &mut self.steps.borrow_mut(), gemm);
        match put {
            Ok(()) => Ok(true),
            Err(failure) if is_first => {
                blas.give_up(&self.card, &failure);
                Ok(false)
            }
            Err(failure) => Err(self.card.failed(failure)),
        }
    }

    /// Copies the bytes from `at` of `memory` to `dst`, and waits for all work so far.
    pub(crate) fn read(&mut self, memory: &Memory, at: usize, dst: &mut [u8]) -> Result<()> {
        self.in_order(|stream, uploads| uploads.fetch(stream, (memory.raw(), at), dst))
    }

    /// Copies `src` to the start of `memory`, and waits for it.
    pub(crate) fn write(&self, memory: &Memory, src: &[u8]) -> Result<()> {
        let written = self.card.setup.write(src, memory.raw(), 0);
        written.map_err(|failure| self.card.failed(failure))
    }

    /// Copies the first bytes of the scratch memory to `dst`, and waits for all work so far.
    pub(crate) fn read_scratch(&mut self, dst: &mut [u8]) -> Result<()> {
        let stream = self.steps.get_mut().stream(&self.card);
        let uploads = &mut self.uploads;
        let read = stream.and_then(|stream| uploads.fetch(stream, (self.workspace.raw(), 0), dst));
        read.map_err(|failure| self.card.failed(failure))
    }

    /// Copies `src` to the start of `memory`, from pages of the queue's own.
    fn upload_bytes(&mut self, src: &[u8], memory: &Memory) -> Result<()> {
        self.in_order(|stream, uploads| uploads.put(stream, src, memory.raw()))
    }

    /// Does something with the stream once all kernels so far are in it.
    fn in_order<T>(
        &mut self,
        act: impl FnOnce(&Stream, &mut Uploads) -> std::result::Result<T, Failure>,
    ) -> Result<T> {
        let stream = self.steps.get_mut().stream(&self.card);
        let done = stream.and_then(|stream| act(stream, &mut self.uploads));
        done.map_err(|failure| self.card.failed(failure))
    }

    /// Graphs that were launched in place of their kernels.
    #[cfg(test)]
    pub(crate) fn n_replays(&self) -> u64 {
        self.steps.borrow().n_replays()
    }
}

impl Queue<Cuda> for CudaQueue {
    fn record(&mut self) -> Result<CudaEvent> {
        let (card, events) = (Arc::clone(&self.card), self.events.clone());
        let event = self.in_order(|stream, _| events.record(stream))?;
        Ok(CudaEvent::new(&card, events, event))
    }

    fn wait(&mut self, event: &CudaEvent) -> Result<()> {
        self.in_order(|stream, _| stream.wait(event.raw()))
    }

    fn finish(&mut self) -> Result<()> {
        self.in_order(|stream, _| stream.synchronize())?;
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

    fn copy_from(
        &mut self,
        from: &mut CudaQueue,
        src: &Buffer,
        dst: &mut Buffer,
        n_elements: usize,
    ) -> Result<()> {
        let n_bytes = bytes_of(n_elements);
        from.card.reach(&self.card)?;
        // What is overwritten is not in use any more.
        let free = self.record()?;
        from.wait(&free)?;
        let (card, events) = (Arc::clone(&from.card), from.events.clone());
        let to = self.steps.get_mut().stream(&self.card);
        let to = to.map_err(|failure| self.card.failed(failure))?;
        from.in_order(|stream, _| {
            let done = events.take(stream)?;
            let pushed = stream.push(src.0.raw(), (dst.0.raw(), to), n_bytes, &done);
            // It may be recorded anew, whoever waits for this.
            drop(CudaEvent::new(&card, events, done));
            pushed
        })
    }

    fn bring(
        &mut self,
        pages: &CudaPages,
        range: Range<usize>,
        place: &mut CudaPlace,
        at: usize,
    ) -> Result<()> {
        self.in_order(|stream, _| place.bring(stream, (pages, range), at))
    }
}

impl Drop for CudaQueue {
    fn drop(&mut self) {
        // What was put here is done, and nothing is held back for ever. Nobody could be told of a failure.
        let _ = self.steps.get_mut().stream(&self.card);
    }
}
