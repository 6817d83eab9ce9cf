//! Offloaded weights: read whenever they are needed, while the ones before are computed with.
//!
//! A [`Stream`] has as many staging places as the plan reserved. What a pass will need is known beforehand and told
//! ([`Stream::expect`]); places that nobody uses are filled with it in that order, across the end of a pass too. So the
//! disk never waits, and there is nothing to guess: what is resident stays so, and the rest is read in turn.
//!
//! The pages of a place are filled when what they held has been brought to the device; they are brought there by a queue of
//! their own, after the last use of what lies there; and what is computed with them waits until they are brought.

mod parcel;
mod reader;
mod rows;
mod source;
mod weights;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use llm_arch::{Role, Unit};
use llm_backend::{Backend, Queue};
use llm_plan::STAGING_SLOTS;
use llm_tensor::Bytes;

use self::parcel::Parcel;
use self::reader::{Done, Job, Parcels};
pub(crate) use self::rows::RowReader;
pub(crate) use self::source::open;
pub(crate) use self::weights::Weights;
use crate::offload::Prepared;
use crate::{Result, RuntimeError};

/// Key of a parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    /// A unit's weights, but for tables that are only looked up in.
    Unit(Unit),
    /// The table of tokens that is the head's matrix too.
    TiedTable,
}

impl Key {
    /// Whose weights they are.
    pub(crate) fn unit(self) -> Unit {
        match self {
            Key::Unit(unit) => unit,
            Key::TiedTable => Unit::Embedding,
        }
    }
}

/// Next part of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// This.
    Key(Key),
    /// Experts that only a router can name.
    Unknown,
}

/// Offloaded weights of a device's stages, opened: a stage makes a stream of it.
#[derive(Debug)]
pub struct Feed {
    parcels: HashMap<Key, Parcel>,
    /// Tables that are looked up in, and stay where they are.
    tables: HashMap<Role, RowReader>,
    /// Length of a staging place.
    place_len: usize,
    /// Keeps the offload folder from being cleared.
    prepared: Prepared,
}

/// The weights on disk that a stage computes with, and the places of its device to which they are brought.
pub(crate) struct Stream<B: Backend> {
    parcels: Arc<Parcels>,
    tables: HashMap<Role, RowReader>,
    state: RefCell<State<B>>,
    place_len: usize,
    /// `None` once it is to end.
    jobs: Option<Sender<Job<B>>>,
    done: Receiver<Done<B>>,
    reader: Option<JoinHandle<()>>,
    /// Keeps the offload folder from being cleared.
    _prepared: Prepared,
}

struct State<B: Backend> {
    places: Vec<Place<B>>,
    expected: VecDeque<Next>,
    /// Queue that brings host pages to the device.
    copies: B::Queue,
}

/// A staging place.
enum Place<B: Backend> {
    Empty(Staged<B>),
    /// The reader has it.
    Filling(Key),
    Filled(Key, Staged<B>),
    /// It is computed with.
    Used(Key, Staged<B>),
    /// Nobody said when what was put into the queue with it ends.
    Left(Key, Staged<B>),
    Failed(Key, Box<RuntimeError>, Staged<B>),
    /// While it is made into another.
    Taken,
}

/// A place of the device, and the ends of what is done with it.
struct Staged<B: Backend> {
    place: B::Place,
    /// Of bringing what lies in it.
    brought: Option<B::Event>,
    /// Of the last use.
    used: Option<B::Event>,
}

/// A filled place, until [`Lease::end`]: then another parcel may take it.
pub(crate) struct Lease<'s, B: Backend> {
    stream: &'s Stream<B>,
    place: usize,
}

impl<B: Backend> Stream<B> {
    /// Takes staging places of the device, and starts the thread that fills them.
    ///
    /// # Errors
    /// When the device has no room, or the system no thread.
    pub(crate) fn new(backend: &Arc<B>, feed: Feed) -> Result<Self> {
        let Feed {
            parcels,
            tables,
            place_len,
            prepared,
        } = feed;
        for (key, parcel) in &parcels {
            assert!(
                parcel.len <= place_len,
                "{key:?} takes {} bytes of a staging place of {place_len}",
                parcel.len
            );
        }
        let parcels = Arc::new(Parcels::new(parcels));
        let n_places = if place_len > 0 { STAGING_SLOTS } else { 0 };
        let place = |_| -> Result<_> {
            Ok(Place::Empty(Staged {
                place: backend.place(place_len)?,
                brought: None,
                used: None,
            }))
        };
        let (jobs, to_do) = channel();
        let (finished, done) = channel();
        let reader = reader::spawn::<B>(Arc::clone(&parcels), to_do, finished)?;
        Ok(Stream {
            parcels,
            tables,
            state: RefCell::new(State {
                places: (0..n_places).map(place).collect::<Result<_>>()?,
                expected: VecDeque::new(),
                copies: backend.queue(None)?,
            }),
            place_len,
            jobs: Some(jobs),
            done,
            reader: Some(reader),
            _prepared: prepared,
        })
    }

    /// True if it is offloaded, rather than resident or nothing at all.
    pub(crate) fn has(&self, key: Key) -> bool {
        self.parcels.get(key).is_some()
    }

    /// The table of a role, if it is looked up in where it rests.
    pub(crate) fn take_table(&mut self, role: Role) -> Option<RowReader> {
        self.tables.remove(&role)
    }

    /// Size of the staging places.
    pub(crate) fn bytes(&self) -> Bytes {
        let n_places = self.state.borrow().places.len();
        Bytes::new((n_places * self.place_len) as u64)
    }

    /// Says what will be asked for, in which order, until the next call; resident weights are left out.
    pub(crate) fn expect(&self, next: impl Iterator<Item = Next>) {
        let state = &mut *self.state.borrow_mut();
        state.expected.clear();
        state.expected.extend(next.filter(|next| match next {
            Next::Key(key) => self.has(*key),
            Next::Unknown => true,
        }));
        self.fill(state);
    }

    /// Says what is needed in the place of the first that was not known.
    pub(crate) fn resolve(&self, known: impl DoubleEndedIterator<Item = Key>) {
        let state = &mut *self.state.borrow_mut();
        let unknown = state.expected.iter().position(|&n| n == Next::Unknown);
        state.expected.drain(..unknown.map_or(0, |at| at + 1));
        for key in known.rev().filter(|&key| self.has(key)) {
            state.expected.push_front(Next::Key(key));
        }
        self.fill(state);
    }

    /// Waits until a parcel is there, and has `queue` wait until it is on the device.
    ///
    /// # Errors
    /// When it cannot be read, or is not what it was.
    pub(crate) fn bring(&self, queue: &mut B::Queue, key: Key) -> Result<Lease<'_, B>> {
        let state = &mut *self.state.borrow_mut();
        state.settle(queue)?;
        if let Some(at) = state.expected.iter().position(|&n| n == Next::Key(key)) {
            state.expected.drain(..=at);
        }
        loop {
            while let Ok(done) = self.done.try_recv() {
                self.take_back(state, done);
            }
            let Some(place) = state.place_of(key) else {
                match state.spare(Some(key)) {
                    Some(place) => self.begin(state, place, key),
                    None => self.wait(state),
                }
                continue;
            };
            match std::mem::replace(&mut state.places[place], Place::Taken) {
                Place::Filled(_, staged) => {
                    let is_there = match &staged.brought {
                        Some(brought) => queue.wait(brought),
                        None => Ok(()),
                    };
                    state.places[place] = Place::Used(key, staged);
                    self.fill(state);
                    if let Err(error) = is_there {
                        state.abandon(place);
                        return Err(error.into());
                    }
                    return Ok(Lease {
                        stream: self,
                        place,
                    });
                }
                Place::Failed(_, error, staged) => {
                    state.places[place] = Place::Empty(staged);
                    return Err(*error);
                }
                Place::Used(..) => unreachable!("{key:?} is asked for while it is used"),
                filling => {
                    state.places[place] = filling;
                    self.wait(state);
                }
            }
        }
    }

    /// Has spare places filled with what comes next.
    fn fill(&self, state: &mut State<B>) {
        for i in 0..state.places.len().min(state.expected.len()) {
            let Next::Key(key) = state.expected[i] else {
                break;
            };
            if state.place_of(key).is_some() {
                continue;
            }
            let Some(place) = state.spare(None) else {
                break;
            };
            self.begin(state, place, key);
        }
    }

    fn begin(&self, state: &mut State<B>, place: usize, key: Key) {
        let staged = match std::mem::replace(&mut state.places[place], Place::Filling(key)) {
            Place::Empty(staged) | Place::Filled(_, staged) | Place::Failed(_, _, staged) => staged,
            Place::Filling(_) | Place::Used(..) | Place::Left(..) | Place::Taken => {
                unreachable!("a spare place is not in use")
            }
        };
        let jobs = self.jobs.as_ref().expect("a stream that is in use");
        let sent = jobs.send(Job { place, key, staged });
        assert!(sent.is_ok(), "{READER_LIVES}");
    }

    fn wait(&self, state: &mut State<B>) {
        let is_filling = |place: &Place<B>| matches!(place, Place::Filling(_));
        assert!(
            state.places.iter().any(is_filling),
            "all places are computed with: nothing is on its way that could be waited for"
        );
        let done = self.done.recv().expect(READER_LIVES);
        self.take_back(state, done);
    }

    /// Takes a place back from the reader, and has what was read brought to the device.
    fn take_back(&self, state: &mut State<B>, done: Done<B>) {
        let Done {
            place,
            key,
            mut staged,
            outcome,
        } = done;
        let parcel = self.parcels.get(key).expect(KNOWN);
        let outcome = outcome.and_then(|()| state.bring(&mut staged, parcel.len));
        state.places[place] = match outcome {
            Ok(()) => Place::Filled(key, staged),
            Err(error) => Place::Failed(key, Box::new(error), staged),
        };
    }
}

impl<B: Backend> State<B> {
    /// Brings the first `len` bytes of a place to the device when nothing uses what lies there.
    fn bring(&mut self, staged: &mut Staged<B>, len: usize) -> Result<()> {
        if let Some(used) = &staged.used {
            self.copies.wait(used)?;
        }
        self.copies.bring(&mut staged.place, len)?;
        staged.brought = Some(self.copies.record()?);
        Ok(())
    }

    /// Finds out when the use of places ends of which nobody said so: with all that is in the queue.
    fn settle(&mut self, queue: &mut B::Queue) -> Result<()> {
        for place in &mut self.places {
            if !matches!(place, Place::Left(..)) {
                continue;
            }
            let end = queue.record()?;
            if let Place::Left(key, mut staged) = std::mem::replace(place, Place::Taken) {
                staged.used = Some(end);
                *place = Place::Filled(key, staged);
            }
        }
        Ok(())
    }

    /// Leaves a place that is used.
    fn abandon(&mut self, place: usize) {
        let place = &mut self.places[place];
        if let Place::Used(key, staged) = std::mem::replace(place, Place::Taken) {
            *place = Place::Left(key, staged);
        }
    }

    fn place_of(&self, key: Key) -> Option<usize> {
        let has = |place: &Place<B>| match place {
            Place::Filling(k)
            | Place::Filled(k, _)
            | Place::Used(k, _)
            | Place::Left(k, _)
            | Place::Failed(k, _, _) => *k == key,
            Place::Empty(_) | Place::Taken => false,
        };
        self.places.iter().position(has)
    }

    /// A place that nobody uses, and that does not hold what is needed soon; `now` is needed before all else.
    fn spare(&self, now: Option<Key>) -> Option<usize> {
        let n_places = self.places.len() - usize::from(now.is_some());
        let soon = |key: Key| {
            self.expected
                .iter()
                .take(n_places)
                .any(|&n| n == Next::Key(key))
        };
        let rank = |place: &Place<B>| match place {
            Place::Empty(_) => Some(0),
            Place::Filled(key, _) | Place::Failed(key, _, _) if !soon(*key) => Some(1),
            // Only for what is needed at once.
            Place::Filled(..) | Place::Failed(..) if now.is_some() => Some(2),
            Place::Filling(_)
            | Place::Filled(..)
            | Place::Used(..)
            | Place::Left(..)
            | Place::Failed(..)
            | Place::Taken => None,
        };
        let ranked = self.places.iter().enumerate();
        let ranked = ranked.filter_map(|(i, place)| Some((rank(place)?, i)));
        ranked.min().map(|(_, i)| i)
    }
}

impl<B: Backend> Lease<'_, B> {
    /// The weight of a slot, where it was brought.
    ///
    /// # Errors
    /// When the device does not compute with it.
    pub(crate) fn weight(&self, backend: &B, unit: Unit, role: Role) -> Result<B::Weight> {
        let state = self.stream.state.borrow();
        let Place::Used(key, staged) = &state.places[self.place] else {
            unreachable!("a leased place is in use")
        };
        let parcel = self.stream.parcels.get(*key).expect(KNOWN);
        Ok(backend.placed(&staged.place, parcel.weight(unit, role))?)
    }

    /// Gives the place back: what was put into `queue` by now is its last use.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn end(self, queue: &mut B::Queue) -> Result<()> {
        let (stream, place) = (self.stream, self.place);
        std::mem::forget(self);
        let state = &mut *stream.state.borrow_mut();
        state.abandon(place);
        state.settle(queue)?;
        stream.fill(state);
        Ok(())
    }
}

/// Whoever fails says no end.
impl<B: Backend> Drop for Lease<'_, B> {
    fn drop(&mut self) {
        self.stream.state.borrow_mut().abandon(self.place);
    }
}

impl<B: Backend> Drop for Stream<B> {
    fn drop(&mut self) {
        self.parcels.stop();
        self.jobs = None;
        if let Some(reader) = self.reader.take() {
            // A panic of the reader has been seen by whoever waited for it.
            let _ = reader.join();
        }
    }
}

const KNOWN: &str = "what is brought is known";
const READER_LIVES: &str = "the reader lives as long as its stream";

#[cfg(test)]
mod tests;
