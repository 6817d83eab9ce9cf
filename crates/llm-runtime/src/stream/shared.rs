//! What a stage and the thread that reads have in common: parcels, staging memory, and what is expected. Either has spare
//! memory filled: the stage when it gives some back or says what comes next, the reader when it has read something. So a
//! buffer is sent on, and the disk goes on, while the host waits for the device or computes something else itself.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use llm_arch::{Role, Unit};
use llm_backend::{Backend, Queue};

use super::parcel::Parcel;
use super::resting::Resting;
use super::slots::{Slots, Staged};
use super::{Cut, Key, Next};
use crate::Result;

/// Parcels, and the memory that they take turns in.
pub(crate) struct Shared<B: Backend> {
    pub(super) backend: Arc<B>,
    /// Matrices that are brought in slices.
    pub(super) cut: HashMap<(Unit, Role), Cut>,
    /// On disk.
    pub(super) parcels: HashMap<Key, Parcel>,
    /// In RAM.
    pub(super) resting: HashMap<Key, Resting<B>>,
    state: Mutex<State<B>>,
    /// Something was read, or is to be read, or nothing more will be.
    changed: Condvar,
    /// What is being read nobody will use.
    pub(super) is_stopped: AtomicBool,
}

pub(super) struct State<B: Backend> {
    /// Host pages that the reader fills.
    pub(super) buffers: Slots<B, B::HostPages>,
    /// None where the device computes in host memory.
    pub(super) places: Option<Slots<B, B::Place>>,
    pub(super) expected: VecDeque<Next>,
    /// What is brought for what is too large to be brought at once.
    pub(super) portions: HashMap<Key, Vec<Key>>,
    /// Queue that brings host pages to the device.
    pub(super) copies: B::Queue,
    /// Buffers that are to be filled.
    pub(super) jobs: VecDeque<Job<B>>,
    /// The stage waits for a parcel, and goes on with it at once.
    pub(super) is_awaited: bool,
    /// Nothing will be read any more.
    pub(super) has_ended: bool,
}

/// Pages to be filled.
pub(super) struct Job<B: Backend> {
    pub(super) at: usize,
    pub(super) key: Key,
    pub(super) staged: Staged<B, B::HostPages>,
}

/// Outcome of what was done for a parcel to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hastened {
    /// Something: it may be there.
    Done,
    /// Nothing: the reader is at it, or has to end with something else first.
    IsRead,
}

impl<B: Backend> Shared<B> {
    pub(super) fn new(
        backend: &Arc<B>,
        parcels: HashMap<Key, Parcel>,
        resting: HashMap<Key, Resting<B>>,
        cut: HashMap<(Unit, Role), Cut>,
        state: State<B>,
    ) -> Self {
        Shared {
            backend: Arc::clone(backend),
            cut,
            parcels,
            resting,
            state: Mutex::new(state),
            changed: Condvar::new(),
            is_stopped: AtomicBool::new(false),
        }
    }

    /// The state, for as long as nothing is waited for. Whoever panics with it leaves all memory somewhere.
    pub(super) fn state(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next parcel that is read.
    pub(super) fn wait<'s>(&self, mut state: MutexGuard<'s, State<B>>) -> MutexGuard<'s, State<B>> {
        assert!(
            state.buffers.are_filling(),
            "all buffers are computed with: nothing is on its way that could be waited for"
        );
        assert!(!state.has_ended, "the reader lives as long as its stream");
        state.is_awaited = true;
        let state = self.changed.wait(state);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.is_awaited = false;
        state
    }

    /// The next buffer to be filled, once there is one; `None` where there will be none.
    pub(super) fn next_job(&self) -> Option<Job<B>> {
        let mut state = self.state();
        loop {
            if self.is_stopped.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes back a buffer whose filling has ended, and sends it on.
    pub(super) fn end_job(&self, job: Job<B>, outcome: Result<()>) {
        let mut state = self.state();
        let Job { at, key, staged } = job;
        state.buffers.put(at, key, staged, outcome);
        // Who waits knows better what to do with it than what is expected after that says.
        if !state.is_awaited {
            self.fill(&mut state);
        }
        self.changed.notify_all();
    }

    /// Has the reader end, or says that it has.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.state().has_ended = true;
        self.changed.notify_all();
    }

    /// Does what has to be done next for a parcel to be there.
    ///
    /// # Errors
    /// Why it could not be had.
    pub(super) fn hasten(&self, state: &mut State<B>, key: Key) -> Result<Hastened> {
        if self.is_in_ram(state, key) {
            let near = state.near();
            let places = state.places.as_ref().expect(PLACES);
            let at = places.spare(true, &near);
            self.bring_on(state, at.expect("not all places are computed with"), key);
            return Ok(Hastened::Done);
        }
        state.buffers.give_up(key)?;
        let soon = state.on_disk(&self.parcels);
        match (state.buffers.find(key), state.buffers.spare(true, &soon)) {
            (None, Some(at)) => self.begin(state, at, key),
            (None, None) | (Some(_), _) => return Ok(Hastened::IsRead),
        }
        Ok(Hastened::Done)
    }

    /// True of what can be brought to a place.
    fn is_in_ram(&self, state: &State<B>, key: Key) -> bool {
        let is_read = || state.places.is_some() && state.buffers.is_filled(key);
        self.resting.contains_key(&key) || is_read()
    }

    /// Has spare memory filled with what comes next.
    pub(super) fn fill(&self, state: &mut State<B>) {
        let near = state.near();
        for &key in &near {
            let places = state.places.as_ref().expect(PLACES);
            if places.find(key).is_some() {
                continue;
            }
            // What is still read has the next place.
            if !self.is_in_ram(state, key) {
                break;
            }
            let Some(at) = places.spare(false, &near) else {
                break;
            };
            self.bring_on(state, at, key);
        }
        let soon = state.on_disk(&self.parcels);
        for &key in &soon {
            if state.buffers.find(key).is_some() {
                continue;
            }
            let Some(at) = state.buffers.spare(false, &soon) else {
                break;
            };
            self.begin(state, at, key);
        }
    }

    /// Has the reader fill a spare buffer.
    fn begin(&self, state: &mut State<B>, at: usize, key: Key) {
        let staged = state.buffers.begin(at, key);
        state.jobs.push_back(Job { at, key, staged });
        self.changed.notify_all();
    }

    /// Brings what is in RAM to a place, when nothing uses what lies there.
    fn bring_on(&self, state: &mut State<B>, at: usize, key: Key) {
        let State {
            buffers,
            places,
            copies,
            ..
        } = state;
        let places = places.as_mut().expect(PLACES);
        let mut staged = places.take(at);
        let outcome = match (self.resting.get(&key), self.parcels.get(&key)) {
            (Some(resting), _) => {
                let from = (&*resting.pages, resting.copies.as_slice());
                bring::<B>(copies, from, &mut staged)
            }
            (None, Some(parcel)) => {
                let buffer = buffers.find(key).expect("the parcel lies in a buffer");
                let (at, mut buffer) = (buffer, buffers.take(buffer));
                let from = (&buffer.memory, parcel.copies.as_slice());
                let outcome = bring::<B>(copies, from, &mut staged);
                buffer.used = staged.brought.clone();
                buffers.put_empty(at, buffer);
                outcome
            }
            (None, None) => unreachable!("{KNOWN}"),
        };
        places.put(at, key, staged, outcome);
    }
}

/// Copies bytes of host pages to a place, each to where they belong.
fn bring<B: Backend>(
    copies: &mut B::Queue,
    (pages, bytes): (&B::HostPages, &[(Range<usize>, usize)]),
    to: &mut Staged<B, B::Place>,
) -> Result<()> {
    if let Some(used) = &to.used {
        copies.wait(used)?;
    }
    for (range, at) in bytes {
        copies.bring(pages, range.clone(), &mut to.memory, *at)?;
    }
    to.brought = Some(copies.record()?);
    Ok(())
}

impl<B: Backend> State<B> {
    /// What is computed with next, as far as it is known.
    fn next(&self) -> impl Iterator<Item = Key> + '_ {
        self.expected.iter().map_while(|next| match next {
            Next::Key(key) => Some(*key),
            Next::FromEncoded(_) | Next::Unknown => None,
        })
    }

    /// What belongs into the places now.
    fn near(&self) -> Vec<Key> {
        let n = self.places.as_ref().map_or(0, Slots::len);
        self.next().take(n).collect()
    }

    /// What belongs into the buffers now: what is read next, but for what lies in a place and stays there until it is used.
    fn on_disk(&self, parcels: &HashMap<Key, Parcel>) -> Vec<Key> {
        let (n, near) = (self.buffers.len(), self.near());
        let mut on_disk = Vec::with_capacity(n);
        let places = self.places.as_ref();
        let in_place = |key| places.is_some_and(|places| places.find(key).is_some());
        for key in self.next() {
            if on_disk.len() == n {
                break;
            }
            let stays = near.contains(&key) && in_place(key);
            if parcels.contains_key(&key) && !stays && !on_disk.contains(&key) {
                on_disk.push(key);
            }
        }
        on_disk
    }

    pub(super) fn settle(&mut self, queue: &mut B::Queue) -> Result<()> {
        match &mut self.places {
            Some(places) => places.settle(queue),
            None => self.buffers.settle(queue),
        }
    }

    /// Leaves memory that is used.
    pub(super) fn abandon(&mut self, at: usize) {
        match &mut self.places {
            Some(places) => places.abandon(at),
            None => self.buffers.abandon(at),
        }
    }
}

const KNOWN: &str = "what is brought is known";
const PLACES: &str = "places, where something is brought on";
