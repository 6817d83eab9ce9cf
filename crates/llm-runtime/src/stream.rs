//! Weights that rest on disk: read whenever they are needed, while the ones before are computed with.
//!
//! A [`Stream`] has as many staging places as the plan reserved. What a pass will need is known beforehand and told
//! ([`Stream::expect`]); places that nobody uses are filled with it in that order, across the end of a pass too. So the
//! disk never waits, and there is nothing to guess: what rests in memory stays there, and the rest is read in turn.

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
use llm_plan::STAGING_SLOTS;
use llm_quant::StoredWeight;
use llm_tensor::{Bytes, PageBuf};

use self::parcel::Parcel;
use self::reader::{Done, Job, Parcels};
pub(crate) use self::rows::RowReader;
pub(crate) use self::source::open;
pub(crate) use self::weights::Weights;
use crate::offload::Prepared;
use crate::source::WeightSource;
use crate::{Result, RuntimeError};

/// What is brought at a time.
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

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// This.
    Key(Key),
    /// Experts that only a router can name.
    Unknown,
}

/// The weights on disk that a stage computes with, and the places to which they are brought.
#[derive(Debug)]
pub struct Stream {
    parcels: Arc<Parcels>,
    /// Tables that are looked up in, and stay where they are.
    tables: HashMap<Role, RowReader>,
    state: RefCell<State>,
    place_len: usize,
    /// `None` once it is to end.
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    reader: Option<JoinHandle<()>>,
    /// Keeps the offload folder from being cleared.
    _prepared: Prepared,
}

#[derive(Debug)]
struct State {
    places: Vec<Place>,
    expected: VecDeque<Next>,
}

/// A staging place.
#[derive(Debug)]
enum Place {
    Empty(Arc<PageBuf>),
    /// The reader has it.
    Filling(Key),
    Filled(Key, Arc<PageBuf>),
    /// It is computed with.
    Used(Key, Arc<PageBuf>),
    Failed(Key, Box<RuntimeError>, Arc<PageBuf>),
    /// While it is made into another.
    Taken,
}

/// A filled place, until it is dropped: then another parcel may take it.
pub(crate) struct Lease<'s> {
    stream: &'s Stream,
    place: usize,
}

impl Stream {
    fn new(
        parcels: HashMap<Key, Parcel>,
        tables: HashMap<Role, RowReader>,
        place_len: usize,
        prepared: Prepared,
    ) -> Result<Self> {
        for (key, parcel) in &parcels {
            assert!(
                parcel.len <= place_len,
                "{key:?} takes {} bytes of a staging place of {place_len}",
                parcel.len
            );
        }
        let parcels = Arc::new(Parcels::new(parcels));
        let n_places = if place_len > 0 { STAGING_SLOTS } else { 0 };
        let place = |_| match PageBuf::zeroed(place_len) {
            Ok(buf) => Ok(Place::Empty(Arc::new(buf))),
            Err(source) => Err(RuntimeError::Staging {
                bytes: Bytes::new(place_len as u64),
                source,
            }),
        };
        let (jobs, to_do) = channel();
        let (finished, done) = channel();
        let reader = reader::spawn(Arc::clone(&parcels), to_do, finished)?;
        Ok(Stream {
            parcels,
            tables,
            state: RefCell::new(State {
                places: (0..n_places).map(place).collect::<Result<_>>()?,
                expected: VecDeque::new(),
            }),
            place_len,
            jobs: Some(jobs),
            done,
            reader: Some(reader),
            _prepared: prepared,
        })
    }

    /// Whether it is brought, rather than in memory for good or nothing at all.
    pub(crate) fn has(&self, key: Key) -> bool {
        self.parcels.get(key).is_some()
    }

    /// The table of a role, if it is looked up in where it rests.
    pub(crate) fn take_table(&mut self, role: Role) -> Option<RowReader> {
        self.tables.remove(&role)
    }

    /// What the staging places take.
    pub(crate) fn bytes(&self) -> Bytes {
        let n_places = self.state.borrow().places.len();
        Bytes::new((n_places * self.place_len) as u64)
    }

    /// Says what will be asked for, in which order, until the next call; what is not brought is left out.
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

    /// Waits until a parcel is there.
    ///
    /// # Errors
    /// When it cannot be read, or is not what it was.
    pub(crate) fn bring(&self, key: Key) -> Result<Lease<'_>> {
        let state = &mut *self.state.borrow_mut();
        if let Some(at) = state.expected.iter().position(|&n| n == Next::Key(key)) {
            state.expected.drain(..=at);
        }
        loop {
            while let Ok(done) = self.done.try_recv() {
                state.take_back(done);
            }
            let Some(place) = state.place_of(key) else {
                match state.spare(Some(key)) {
                    Some(place) => self.begin(state, place, key),
                    None => self.wait(state),
                }
                continue;
            };
            match std::mem::replace(&mut state.places[place], Place::Taken) {
                Place::Filled(_, buf) => {
                    state.places[place] = Place::Used(key, buf);
                    self.fill(state);
                    return Ok(Lease {
                        stream: self,
                        place,
                    });
                }
                Place::Failed(_, error, buf) => {
                    state.places[place] = Place::Empty(buf);
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
    fn fill(&self, state: &mut State) {
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

    fn begin(&self, state: &mut State, place: usize, key: Key) {
        let buf = match std::mem::replace(&mut state.places[place], Place::Filling(key)) {
            Place::Empty(buf) | Place::Filled(_, buf) | Place::Failed(_, _, buf) => buf,
            Place::Filling(_) | Place::Used(..) | Place::Taken => {
                unreachable!("a spare place is not in use")
            }
        };
        let jobs = self.jobs.as_ref().expect("a stream that is in use");
        jobs.send(Job { place, key, buf }).expect(READER_LIVES);
    }

    fn wait(&self, state: &mut State) {
        let is_filling = |place: &Place| matches!(place, Place::Filling(_));
        assert!(
            state.places.iter().any(is_filling),
            "all places are computed with: nothing is on its way that could be waited for"
        );
        let done = self.done.recv().expect(READER_LIVES);
        state.take_back(done);
    }
}

impl State {
    fn take_back(&mut self, done: Done) {
        let Done {
            place,
            key,
            buf,
            outcome,
        } = done;
        self.places[place] = match outcome {
            Ok(()) => Place::Filled(key, buf),
            Err(error) => Place::Failed(key, Box::new(error), buf),
        };
    }

    fn place_of(&self, key: Key) -> Option<usize> {
        let has = |place: &Place| match place {
            Place::Filling(k)
            | Place::Filled(k, _)
            | Place::Used(k, _)
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
        let rank = |place: &Place| match place {
            Place::Empty(_) => Some(0),
            Place::Filled(key, _) | Place::Failed(key, _, _) if !soon(*key) => Some(1),
            // Only for what is needed at once.
            Place::Filled(..) | Place::Failed(..) if now.is_some() => Some(2),
            _ => None,
        };
        let ranked = self.places.iter().enumerate();
        let ranked = ranked.filter_map(|(i, place)| Some((rank(place)?, i)));
        ranked.min().map(|(_, i)| i)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let state = &mut *self.stream.state.borrow_mut();
        let place = &mut state.places[self.place];
        if let Place::Used(key, buf) = std::mem::replace(place, Place::Taken) {
            *place = Place::Filled(key, buf);
        }
        self.stream.fill(state);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.parcels.stop();
        self.jobs = None;
        if let Some(reader) = self.reader.take() {
            // A panic of the reader has been seen by whoever waited for it.
            let _ = reader.join();
        }
    }
}

/// What a lease brought.
impl WeightSource for &Lease<'_> {
    fn weight(&mut self, unit: Unit, role: Role) -> Result<StoredWeight> {
        let state = self.stream.state.borrow();
        let Place::Used(key, buf) = &state.places[self.place] else {
            unreachable!("a leased place is in use")
        };
        let parcel = self.stream.parcels.get(*key);
        let parcel = parcel.expect("what was brought is known");
        Ok(parcel.weight(unit, role, buf))
    }

    fn values(&mut self, unit: Unit, role: Role) -> Result<Vec<f32>> {
        unreachable!("{role:?} of {unit} is made into a table when the stage is built")
    }

    fn rope_factors(&mut self) -> Result<Option<Vec<f32>>> {
        unreachable!("wavelengths are read when the stage is built")
    }
}

const READER_LIVES: &str = "the reader lives as long as its stream";

#[cfg(test)]
mod tests;
