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
//! by a queue of its own; and what is computed with it waits until it is brought.

mod parcel;
mod reader;
mod resting;
mod rows;
mod slots;
mod source;
mod weights;

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use llm_arch::{Role, Unit};
use llm_backend::{Backend, Queue};
use llm_plan::{Home, RunOn, STAGING_SLOTS, Term};
use llm_tensor::Bytes;

use self::parcel::Parcel;
use self::reader::Reader;
use self::resting::{Layout, Resting, RestingUnit};
pub(crate) use self::rows::RowReader;
use self::rows::TableSource;
use self::slots::{Slots, Staged};
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
    /// On disk, with the thread that reads them.
    reader: Reader<B>,
    /// In RAM.
    resting: HashMap<Key, Resting<B>>,
    units: Vec<RestingUnit>,
    tables: HashMap<Role, RowReader<B>>,
    state: RefCell<State<B>>,
    /// Keeps the offload folder from being cleared.
    _prepared: Prepared,
}

struct State<B: Backend> {
    /// Host pages that the reader fills.
    buffers: Slots<B, B::HostPages>,
    /// None where the device computes in host memory.
    places: Option<Slots<B, B::Place>>,
    expected: VecDeque<Next>,
    /// Queue that brings host pages to the device.
    copies: B::Queue,
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
        Ok(Stream {
            reader: Reader::new(parcels)?,
            resting,
            units,
            tables,
            state: RefCell::new(state),
            _prepared: prepared,
        })
    }

    /// True if it is offloaded, rather than resident or nothing at all.
    pub(crate) fn has(&self, key: Key) -> bool {
        self.resting.contains_key(&key) || self.reader.parcel(key).is_some()
    }

    /// The table of a role, if it is looked up in where it rests.
    pub(crate) fn take_table(&mut self, role: Role) -> Option<RowReader<B>> {
        self.tables.remove(&role)
    }

    /// Counts staging memory, `memory` being the device's, and what lies between weights in RAM.
    pub(crate) fn count(&self, memory: Home, allocated: &mut Allocated) {
        let state = self.state.borrow();
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

    /// Waits until a parcel is read, and has `queue` wait until it is on the device.
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
            self.reader.take_back(&mut state.buffers);
            let leased = match &mut state.places {
                None => state.buffers.lease(key, queue)?,
                Some(places) => places.lease(key, queue)?,
            };
            if let Some(at) = leased {
                self.fill(state);
                return Ok(Lease { stream: self, at });
            }
            self.hasten(state, key)?;
        }
    }

    /// Does what has to be done next for a parcel to be there, or waits for it.
    fn hasten(&self, state: &mut State<B>, key: Key) -> Result<()> {
        if self.is_in_ram(state, key) {
            let near = state.near();
            let places = state.places.as_ref().expect(PLACES);
            let at = places.spare(true, &near);
            self.bring_on(state, at.expect("not all places are computed with"), key);
            return Ok(());
        }
        state.buffers.give_up(key)?;
        let soon = state.on_disk(&self.reader);
        match (state.buffers.find(key), state.buffers.spare(true, &soon)) {
            (None, Some(at)) => self.reader.begin(&mut state.buffers, at, key),
            (None, None) | (Some(_), _) => self.reader.wait(&mut state.buffers),
        }
        Ok(())
    }

    /// True of what can be brought to a place.
    fn is_in_ram(&self, state: &State<B>, key: Key) -> bool {
        let is_read = || state.places.is_some() && state.buffers.is_filled(key);
        self.resting.contains_key(&key) || is_read()
    }

    /// Has spare memory filled with what comes next.
    fn fill(&self, state: &mut State<B>) {
        self.reader.take_back(&mut state.buffers);
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
        let soon = state.on_disk(&self.reader);
        for &key in &soon {
            if state.buffers.find(key).is_some() {
                continue;
            }
            let Some(at) = state.buffers.spare(false, &soon) else {
                break;
            };
            self.reader.begin(&mut state.buffers, at, key);
        }
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
        let outcome = match (self.resting.get(&key), self.reader.parcel(key)) {
            (Some(Resting { pages, range, .. }), _) => {
                let copy = [(range.clone(), 0)];
                bring::<B>(copies, (pages, &copy), &mut staged)
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
            Next::Unknown => None,
        })
    }

    /// What belongs into the places now.
    fn near(&self) -> Vec<Key> {
        let n = self.places.as_ref().map_or(0, Slots::len);
        self.next().take(n).collect()
    }

    /// What belongs into the buffers now: what is read next, but for what lies in a place and stays there until it is used.
    fn on_disk(&self, reader: &Reader<B>) -> Vec<Key> {
        let (n, near) = (self.buffers.len(), self.near());
        let mut on_disk = Vec::with_capacity(n);
        let places = self.places.as_ref();
        let in_place = |key| places.is_some_and(|places| places.find(key).is_some());
        for key in self.next() {
            if on_disk.len() == n {
                break;
            }
            let stays = near.contains(&key) && in_place(key);
            if reader.parcel(key).is_some() && !stays && !on_disk.contains(&key) {
                on_disk.push(key);
            }
        }
        on_disk
    }

    fn settle(&mut self, queue: &mut B::Queue) -> Result<()> {
        match &mut self.places {
            Some(places) => places.settle(queue),
            None => self.buffers.settle(queue),
        }
    }

    /// Leaves memory that is used.
    fn abandon(&mut self, at: usize) {
        match &mut self.places {
            Some(places) => places.abandon(at),
            None => self.buffers.abandon(at),
        }
    }
}

impl<B: Backend> Lease<'_, B> {
    /// The weight of a slot, where it was brought.
    ///
    /// # Errors
    /// When the device does not compute with it.
    pub(crate) fn weight(&self, backend: &B, unit: Unit, role: Role) -> Result<B::Weight> {
        let stream = self.stream;
        let state = stream.state.borrow();
        let parcel = |key| stream.reader.parcel(key).expect(KNOWN);
        let Some(places) = &state.places else {
            let (key, pages) = state.buffers.used(self.at);
            return Ok(backend.in_pages(pages, parcel(key).weight(unit, role))?);
        };
        let (key, place) = places.used(self.at);
        let weight = match stream.resting.get(&key) {
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
        let state = &mut *stream.state.borrow_mut();
        state.abandon(at);
        state.settle(queue)?;
        stream.fill(state);
        Ok(())
    }
}

/// Whoever fails says no end.
impl<B: Backend> Drop for Lease<'_, B> {
    fn drop(&mut self) {
        self.stream.state.borrow_mut().abandon(self.at);
    }
}

const KNOWN: &str = "what is brought is known";
const PLACES: &str = "places, where something is brought on";

#[cfg(test)]
mod tests;
