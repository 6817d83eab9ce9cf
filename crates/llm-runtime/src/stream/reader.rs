//! The thread that reads parcels from disk, one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use llm_backend::{Backend, Event, HostPages};

use super::parcel::{Parcel, Run, Sum};
use super::shared::Shared;
use super::slots::Staged;
use crate::sum::{self, CHUNK};
use crate::{Result, RuntimeError, offload};

/// The thread, if there is something to read.
pub(super) struct Reader<B: Backend> {
    shared: Arc<Shared<B>>,
    thread: Option<JoinHandle<()>>,
}

impl<B: Backend> Reader<B> {
    /// # Errors
    /// When the system has no thread.
    pub(super) fn new(shared: &Arc<Shared<B>>) -> Result<Self> {
        let thread = match shared.parcels.is_empty() {
            true => None,
            false => Some(spawn(Arc::clone(shared))?),
        };
        Ok(Reader {
            shared: Arc::clone(shared),
            thread,
        })
    }
}

impl<B: Backend> Drop for Reader<B> {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been seen by whoever waited for it.
            let _ = thread.join();
        }
    }
}

/// Starts the thread that fills one buffer after the other until it is stopped.
fn spawn<B: Backend>(shared: Arc<Shared<B>>) -> Result<JoinHandle<()>> {
    let work = move || {
        let ending = Ending(shared);
        let shared = &*ending.0;
        while let Some(mut job) = shared.next_job() {
            let parcel = shared.parcels.get(&job.key);
            let parcel = parcel.expect("what is to be read is known");
            let outcome = fill(&mut job.staged, parcel, &shared.is_stopped);
            shared.end_job(job, outcome);
        }
    };
    let thread = thread::Builder::new().name("llm-run reader".to_owned());
    thread
        .spawn(work)
        .map_err(|source| RuntimeError::Spawn { source })
}

/// The end of the thread, by a panic too: nobody waits for it any longer.
struct Ending<B: Backend>(Arc<Shared<B>>);

impl<B: Backend> Drop for Ending<B> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Fills pages when nothing reads them any more.
fn fill<B: Backend>(
    staged: &mut Staged<B, B::HostPages>,
    parcel: &Parcel,
    stopped: &AtomicBool,
) -> Result<()> {
    if let Some(used) = staged.used.take() {
        used.finish()?;
    }
    staged.memory.fill(|pages| read(parcel, pages, stopped))
}

/// Fills the front of `buffer` with a parcel, and makes sure that it is what it should be.
fn read(parcel: &Parcel, buffer: &mut [u8], stopped: &AtomicBool) -> Result<()> {
    let mut at = 0;
    for run in &parcel.runs {
        let pages = &mut buffer[at..at + run.len];
        for (i, pages) in pages.chunks_mut(CHUNK).enumerate() {
            if stopped.load(Ordering::Relaxed) {
                return Err(RuntimeError::Interrupted);
            }
            run.file.read_pages(run.start + (i * CHUNK) as u64, pages)?;
        }
        check(run, pages)?;
        at += run.len;
    }
    buffer[at..at + parcel.known.len()].copy_from_slice(&parcel.known);
    Ok(())
}

/// Check of the pages of a run. Of any file it is seen whether somebody has written to it; those that were written
/// with a checksum are held to it when they are first read, and whenever somebody has.
fn check(run: &Run, pages: &[u8]) -> Result<()> {
    let is_as_opened = run.file.is_as_opened()?;
    let Some(Sum { expected, was_seen }) = &run.sum else {
        return match is_as_opened {
            true => Ok(()),
            false => Err(RuntimeError::SourceChanged {
                path: run.file.path().to_owned(),
            }),
        };
    };
    if is_as_opened && was_seen.load(Ordering::Relaxed) {
        return Ok(());
    }
    let found = sum::of(&pages[..run.file.len() as usize]);
    if found != *expected {
        return Err(offload::damaged(run.file.path(), *expected, found));
    }
    was_seen.store(true, Ordering::Relaxed);
    Ok(())
}
