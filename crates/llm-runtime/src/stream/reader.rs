//! The thread that fills staging places, one after the other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::thread::{self, JoinHandle};

use llm_backend::{Backend, Event, Place};

use super::parcel::{Parcel, Run, Sum};
use super::{Key, Staged};
use crate::sum::{self, CHUNK};
use crate::{Result, RuntimeError, offload};

/// A place to be filled.
pub(super) struct Job<B: Backend> {
    pub(super) place: usize,
    pub(super) key: Key,
    pub(super) staged: Staged<B>,
}

/// Outcome of a job.
pub(super) struct Done<B: Backend> {
    pub(super) place: usize,
    pub(super) key: Key,
    pub(super) staged: Staged<B>,
    pub(super) outcome: Result<()>,
}

/// All that can be brought.
#[derive(Debug)]
pub(super) struct Parcels {
    parcels: HashMap<Key, Parcel>,
    stopped: AtomicBool,
}

impl Parcels {
    pub(super) fn new(parcels: HashMap<Key, Parcel>) -> Self {
        Parcels {
            parcels,
            stopped: AtomicBool::new(false),
        }
    }

    pub(super) fn get(&self, key: Key) -> Option<&Parcel> {
        self.parcels.get(&key)
    }

    /// Ends what is being read; nobody will use it.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

/// Starts the thread that does one job after the other until nobody can give it any more.
pub(super) fn spawn<B: Backend>(
    parcels: Arc<Parcels>,
    jobs: Receiver<Job<B>>,
    done: Sender<Done<B>>,
) -> Result<JoinHandle<()>> {
    let work = move || {
        for Job {
            place,
            key,
            mut staged,
        } in jobs
        {
            let parcel = parcels.get(key).expect("what is to be brought is known");
            let outcome = fill(&mut staged, parcel, &parcels.stopped);
            let sent = done.send(Done {
                place,
                key,
                staged,
                outcome,
            });
            if sent.is_err() {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("llm-run reader".to_owned());
    thread
        .spawn(work)
        .map_err(|source| RuntimeError::Spawn { source })
}

/// Fills the pages of a place when what they held has been brought. Its last use may go on: bringing waits for that.
fn fill<B: Backend>(staged: &mut Staged<B>, parcel: &Parcel, stopped: &AtomicBool) -> Result<()> {
    if let Some(brought) = staged.brought.take() {
        brought.finish()?;
    }
    staged.place.fill(|pages| read(parcel, pages, stopped))
}

/// Fills the front of `place` with a parcel, and makes sure that it is what it should be.
fn read(parcel: &Parcel, place: &mut [u8], stopped: &AtomicBool) -> Result<()> {
    let mut at = 0;
    for run in &parcel.runs {
        let pages = &mut place[at..at + run.len];
        for (i, pages) in pages.chunks_mut(CHUNK).enumerate() {
            if stopped.load(Ordering::Relaxed) {
                return Err(RuntimeError::Interrupted);
            }
            run.file.read_pages(run.start + (i * CHUNK) as u64, pages)?;
        }
        check(run, pages)?;
        at += run.len;
    }
    place[at..at + parcel.known.len()].copy_from_slice(&parcel.known);
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
