//! Threads that fill staging places.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use llm_tensor::AlignedBuf;

use super::Key;
use super::parcel::{Chunk, Content, Parcel, Run};
use crate::{Result, RuntimeError, offload, sum};

/// A place to be filled.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) place: usize,
    pub(super) key: Key,
    pub(super) buf: Arc<AlignedBuf>,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) place: usize,
    pub(super) key: Key,
    pub(super) buf: Arc<AlignedBuf>,
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
pub(super) fn spawn(
    parcels: Arc<Parcels>,
    jobs: Receiver<Job>,
    done: Sender<Done>,
) -> Result<JoinHandle<()>> {
    let work = move || {
        for Job {
            place,
            key,
            mut buf,
        } in jobs
        {
            let bytes =
                Arc::get_mut(&mut buf).expect("nobody computes with a place that is filled");
            let parcel = parcels.get(key).expect("what is to be brought is known");
            let outcome = read(parcel, bytes, &parcels.stopped);
            let sent = done.send(Done {
                place,
                key,
                buf,
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

/// Fills the front of `place` with a parcel, by two threads: while one sums up what it read, the other reads.
fn read(parcel: &Parcel, place: &mut [u8], stopped: &AtomicBool) -> Result<()> {
    let mut rest = &mut place[..parcel.len];
    let mut pieces = Vec::new();
    for chunk in parcel.chunks() {
        let (piece, behind) = rest.split_at_mut(chunk.len);
        pieces.push((chunk, piece));
        rest = behind;
    }
    let n_pieces = pieces.len();
    let sums = Mutex::new(vec![0; n_pieces]);
    let failure = Mutex::new(None);
    let pieces = Mutex::new(pieces.into_iter().enumerate());
    let work = || {
        loop {
            let next = lock(&pieces).next();
            let Some((i, (chunk, piece))) = next else {
                return;
            };
            if stopped.load(Ordering::Relaxed) || lock(&failure).is_some() {
                return;
            }
            match read_piece(&parcel.runs[chunk.run], chunk, piece) {
                Ok(sum) => lock(&sums)[i] = sum,
                Err(error) => *lock(&failure) = Some(error),
            }
        }
    };
    thread::scope(|scope| {
        if n_pieces > 1 {
            let helper = thread::Builder::new().name("llm-run reader".to_owned());
            // Without it the work takes longer, and that is all.
            let _ = helper.spawn_scoped(scope, work);
        }
        work();
    });
    if let Some(error) = lock(&failure).take() {
        return Err(error);
    }
    if stopped.load(Ordering::Relaxed) {
        return Err(RuntimeError::Interrupted);
    }
    let sums = std::mem::take(&mut *lock(&sums));
    let mut at = 0;
    for (idx, run) in parcel.runs.iter().enumerate() {
        let n = parcel.chunks().filter(|chunk| chunk.run == idx).count();
        check(run, sum::root(&sums[at..at + n]))?;
        at += n;
    }
    Ok(())
}

/// Reads a piece, and sums up what is the file's of it.
fn read_piece(run: &Run, chunk: Chunk, piece: &mut [u8]) -> Result<u64> {
    run.file.read_pages(chunk.start, piece)?;
    let there = run.file.len().saturating_sub(chunk.start);
    Ok(sum::chunk(&piece[..there.min(piece.len() as u64) as usize]))
}

/// Whether a run is what it should be: what was written, or what it was when it was first read.
fn check(run: &Run, found: u64) -> Result<()> {
    match &run.content {
        Content::Offloaded { sum } if *sum != found => {
            Err(offload::damaged(run.path(), *sum, found))
        }
        Content::Offloaded { .. } => Ok(()),
        Content::InPlace { first } if *first.get_or_init(|| found) != found => {
            Err(RuntimeError::SourceChanged {
                path: run.path().to_owned(),
            })
        }
        Content::InPlace { .. } => Ok(()),
    }
}

/// What a lock guards stays whole whatever panics beside it.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
