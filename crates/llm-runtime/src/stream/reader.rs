//! The thread that reads parcels from disk, one after the other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use llm_backend::{Backend, Event, HostPages};

use super::Key;
use super::parcel::{Parcel, Run, Sum};
use super::slots::{Slots, Staged};
use crate::sum::{self, CHUNK};
use crate::{Result, RuntimeError, offload};

/// Parcels on disk, and the thread, if there are any.
pub(super) struct Reader<B: Backend> {
    parcels: Arc<Parcels>,
    /// `None` once it is to end.
    jobs: Option<Sender<Job<B>>>,
    done: Receiver<Done<B>>,
    thread: Option<JoinHandle<()>>,
}

/// Pages to be filled.
struct Job<B: Backend> {
    at: usize,
    key: Key,
    staged: Staged<B, B::HostPages>,
}

/// Outcome of a job.
struct Done<B: Backend> {
    job: Job<B>,
    outcome: Result<()>,
}

impl<B: Backend> Reader<B> {
    /// # Errors
    /// When the system has no thread.
    pub(super) fn new(parcels: HashMap<Key, Parcel>) -> Result<Self> {
        let is_idle = parcels.is_empty();
        let parcels = Arc::new(Parcels {
            parcels,
            stopped: AtomicBool::new(false),
        });
        let (jobs, to_do) = channel();
        let (finished, done) = channel();
        let thread = match is_idle {
            true => None,
            false => Some(spawn::<B>(Arc::clone(&parcels), to_do, finished)?),
        };
        Ok(Reader {
            parcels,
            jobs: Some(jobs),
            done,
            thread,
        })
    }

    pub(super) fn parcel(&self, key: Key) -> Option<&Parcel> {
        self.parcels.parcels.get(&key)
    }

    /// Has a spare buffer filled.
    pub(super) fn begin(&self, buffers: &mut Slots<B, B::HostPages>, at: usize, key: Key) {
        let staged = buffers.begin(at, key);
        let jobs = self.jobs.as_ref().expect("a reader that is in use");
        let sent = jobs.send(Job { at, key, staged });
        assert!(sent.is_ok(), "{READER_LIVES}");
    }

    /// Takes back what has been filled.
    pub(super) fn take_back(&self, buffers: &mut Slots<B, B::HostPages>) {
        while let Ok(done) = self.done.try_recv() {
            done.put(buffers);
        }
    }

    /// Waits for the next that is filled.
    pub(super) fn wait(&self, buffers: &mut Slots<B, B::HostPages>) {
        assert!(
            buffers.are_filling(),
            "all buffers are computed with: nothing is on its way that could be waited for"
        );
        self.done.recv().expect(READER_LIVES).put(buffers);
    }
}

impl<B: Backend> Done<B> {
    fn put(self, buffers: &mut Slots<B, B::HostPages>) {
        let Job { at, key, staged } = self.job;
        buffers.put(at, key, staged, self.outcome);
    }
}

impl<B: Backend> Drop for Reader<B> {
    fn drop(&mut self) {
        // What is being read nobody will use.
        self.parcels.stopped.store(true, Ordering::Relaxed);
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been seen by whoever waited for it.
            let _ = thread.join();
        }
    }
}

/// All that can be read.
#[derive(Debug)]
struct Parcels {
    parcels: HashMap<Key, Parcel>,
    stopped: AtomicBool,
}

/// Starts the thread that does one job after the other until nobody can give it any more.
fn spawn<B: Backend>(
    parcels: Arc<Parcels>,
    jobs: Receiver<Job<B>>,
    done: Sender<Done<B>>,
) -> Result<JoinHandle<()>> {
    let work = move || {
        for mut job in jobs {
            let parcel = parcels.parcels.get(&job.key);
            let parcel = parcel.expect("what is to be read is known");
            let outcome = fill(&mut job.staged, parcel, &parcels.stopped);
            if done.send(Done { job, outcome }).is_err() {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("llm-run reader".to_owned());
    thread
        .spawn(work)
        .map_err(|source| RuntimeError::Spawn { source })
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

const READER_LIVES: &str = "the reader lives as long as its stream";
