//! Offloaded weights: brought whenever they are needed, while the ones before are computed with.
//!
//! What a pass will need is known beforehand and told ([`Stream::expect`]); memory that nobody uses is filled with it in that
//! order, across the end of a pass too. So neither disk nor bus waits, and there is nothing to guess: what is resident stays
//! so, and the rest is brought in turn. There is as much memory for it as the plan reserved:
//!
//! ```text
//! disk ── reader ──► buffers ─┬─ where the device computes in host memory: computed with there
//!                             └─ copies ──► places ──► computed with
//! RAM  ───────────────────────── copies ──► places ──► computed with
//! ```
//!
//! A buffer is filled when the last that read it is done: a copy, or the computation. A place is brought to after its last use,
//! by a queue of its own; and what is computed with it waits until it is brought. The reader sends a buffer on as soon as it is
//! read and a place is free, whatever the host does meanwhile.

mod parcel;
mod reader;
mod resting;
mod rows;
mod shared;
mod slots;
mod source;
mod weights;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, MutexGuard};

use llm_arch::{Role, Unit};
use llm_backend::Backend;
use llm_plan::{Home, RunOn, STAGING_SLOTS, Term};
use llm_tensor::Bytes;

use self::parcel::Parcel;
use self::reader::Reader;
use self::resting::{Layout, RestingUnit};
pub(crate) use self::rows::RowReader;
use self::rows::TableSource;
use self::shared::{Hastened, Shared, State};
use self::slots::Slots;
pub(crate) use self::source::open;
pub(crate) use self::weights::Weights;
use crate::Result;
use crate::allocated::Allocated;
use crate::offload::Prepared;
use crate::source::WeightSource;

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
    run_on: RunOn,
    /// On disk.
    parcels: HashMap<Key, Parcel>,
    /// In RAM.
    resting: Vec<Layout>,
    /// Tables that are looked up in, and stay where they are.
    tables: HashMap<Role, TableSource>,
    /// Length of a staging place, and of a buffer of what is on disk.
    place_len: usize,
    buffer_len: usize,
    /// Rows that a pass looks up at most.
    n_tokens: usize,
    /// Keeps the offload folder from being cleared.
    prepared: Prepared,
}

/// The offloaded weights that a stage computes with, and the memory to which they are brought.
pub(crate) struct Stream<B: Backend> {
    shared: Arc<Shared<B>>,
    /// Thread that reads what is on disk.
    _reader: Reader<B>,
    units: Vec<RestingUnit>,
    tables: HashMap<Role, RowReader<B>>,
    /// Keeps the offload folder from being cleared.
    _prepared: Prepared,
}

/// A filled place or buffer, until [`Lease::end`]: then another parcel may take it.
pub(crate) struct Lease<'s, B: Backend> {
    stream: &'s Stream<B>,
    at: usize,
}

impl<B: Backend> Stream<B> {
    /// Takes staging memory, loads what rests in RAM, and starts the thread that reads the rest.
    ///
    /// # Errors
    /// When there is no room, a weight cannot be read, or the system has no thread.
    pub(crate) fn new(backend: &Arc<B>, feed: Feed, source: &mut dyn WeightSource) -> Result<Self> {
        let Feed {
            run_on,
            parcels,
            resting: layouts,
            tables: sources,
            place_len,
            buffer_len,
            n_tokens,
            prepared,
        } = feed;
        for (key, parcel) in &parcels {
            assert!(
                parcel.len <= buffer_len && parcel.placed_len <= place_len,
                "{key:?} takes {} bytes of a buffer of {buffer_len}, and {} of a place of {place_len}",
                parcel.len,
                parcel.placed_len
            );
        }
        let in_host_memory = run_on.memory() == Home::Ram;
        let n = |len: usize| if len > 0 { STAGING_SLOTS as usize } else { 0 };
        let state = State {
            buffers: Slots::new(n(buffer_len), || Ok(backend.host_pages(buffer_len)?))?,
            places: match in_host_memory {
                true => None,
                false => Some(Slots::new(n(place_len), || Ok(backend.place(place_len)?))?),
            },
            expected: VecDeque::new(),
            copies: backend.queue(None)?,
            jobs: VecDeque::new(),
            is_awaited: false,
            has_ended: false,
        };
        let (mut resting, mut units) = (HashMap::new(), Vec::new());
        for layout in layouts {
            units.push(layout.load(&**backend, source, &mut resting)?);
        }
        let mut tables = HashMap::new();
        for (role, table) in sources {
            let tied = resting.get(&Key::TiedTable);
            let table = table.open(role, tied, source)?;
            let sizes = (n_tokens, in_host_memory);
            tables.insert(role, RowReader::new(&**backend, table, sizes)?);
        }
        let shared = Arc::new(Shared::new(parcels, resting, state));
        Ok(Stream {
            _reader: Reader::new(&shared)?,
            shared,
            units,
            tables,
            _prepared: prepared,
        })
    }

    /// True if it is offloaded, rather than resident or nothing at all.
    pub(crate) fn has(&self, key: Key) -> bool {
        self.shared.resting.contains_key(&key) || self.shared.parcels.contains_key(&key)
    }

    /// The table of a role, if it is looked up in where it rests.
    pub(crate) fn take_table(&mut self, role: Role) -> Option<RowReader<B>> {
        self.tables.remove(&role)
    }

    /// Counts staging memory, `memory` being the device's, and what lies between weights in RAM.
    pub(crate) fn count(&self, memory: Home, allocated: &mut Allocated) {
        let state = self.state();
        allocated.add(Home::Ram, Term::Staging, state.buffers.bytes());
        let places = state.places.as_ref().map_or(Bytes::ZERO, Slots::bytes);
        allocated.add(memory, Term::Staging, places);
        for unit in &self.units {
            allocated.add_to(unit.unit, Home::Ram, Term::Weights, unit.padding);
            allocated.pageable += unit.pageable;
        }
    }

    /// Says what will be asked for, in which order, until the next call; resident weights are left out.
    pub(crate) fn expect(&self, next: impl Iterator<Item = Next>) {
        let state = &mut *self.state();
        state.expected.clear();
        state.expected.extend(next.filter(|next| match next {
            Next::Key(key) => self.has(*key),
            Next::Unknown => true,
        }));
        self.shared.fill(state);
    }

    /// Says what is needed in the place of the first that was not known.
    pub(crate) fn resolve(&self, known: impl DoubleEndedIterator<Item = Key>) {
        let state = &mut *self.state();
        let unknown = state.expected.iter().position(|&n| n == Next::Unknown);
        state.expected.drain(..unknown.map_or(0, |at| at + 1));
        for key in known.rev().filter(|&key| self.has(key)) {
            state.expected.push_front(Next::Key(key));
        }
        self.shared.fill(state);
    }

    /// Waits until a parcel is read, and has `queue` wait until it is on the device.
    ///
    /// # Errors
    /// When it cannot be read, or is not what it was.
    pub(crate) fn bring(&self, queue: &mut B::Queue, key: Key) -> Result<Lease<'_, B>> {
        let mut state = self.state();
        state.settle(queue)?;
        if let Some(at) = state.expected.iter().position(|&n| n == Next::Key(key)) {
            state.expected.drain(..=at);
        }
        loop {
            let State {
                buffers, places, ..
            } = &mut *state;
            let leased = match places {
                None => buffers.lease(key, queue)?,
                Some(places) => places.lease(key, queue)?,
            };
            if let Some(at) = leased {
                self.shared.fill(&mut state);
                return Ok(Lease { stream: self, at });
            }
            match self.shared.hasten(&mut state, key)? {
                Hastened::Done => {}
                Hastened::IsRead => state = self.shared.wait(state),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State<B>> {
        self.shared.state()
    }
}

impl<B: Backend> Lease<'_, B> {
    /// The weight of a slot, where it was brought.
    ///
    /// # Errors
    /// When the device does not compute with it.
    pub(crate) fn weight(&self, backend: &B, unit: Unit, role: Role) -> Result<B::Weight> {
        let stream = self.stream;
        let state = stream.state();
        let parcel = |key| stream.shared.parcels.get(&key).expect(KNOWN);
        let Some(places) = &state.places else {
            let (key, pages) = state.buffers.used(self.at);
            return Ok(backend.in_pages(pages, parcel(key).weight(unit, role))?);
        };
        let (key, place) = places.used(self.at);
        let weight = match stream.shared.resting.get(&key) {
            Some(resting) => resting.weight(role),
            None => parcel(key).placed(unit, role),
        };
        Ok(backend.placed(place, weight)?)
    }

    /// Gives the memory back: what was put into `queue` by now is its last use.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn end(self, queue: &mut B::Queue) -> Result<()> {
        let (stream, at) = (self.stream, self.at);
        std::mem::forget(self);
        let state = &mut *stream.state();
        state.abandon(at);
        state.settle(queue)?;
        stream.shared.fill(state);
        Ok(())
    }
}

/// Whoever fails says no end.
impl<B: Backend> Drop for Lease<'_, B> {
    fn drop(&mut self) {
        self.stream.state().abandon(self.at);
    }
}

const KNOWN: &str = "what is brought is known";

#[cfg(test)]
mod tests;
