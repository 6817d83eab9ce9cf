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

mod lease;
mod parcel;
mod reader;
mod resting;
mod rows;
mod shared;
mod slots;
mod source;
mod tensor;
mod weights;

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, MutexGuard};

use llm_arch::{Role, TryMap, Unit};
use llm_backend::Backend;
use llm_plan::{Home, RunOn, Term};
use llm_tensor::Bytes;

use self::parcel::Parcel;
use self::reader::Reader;
use self::resting::{Layout, RestingUnit};
pub(crate) use self::rows::RowReader;
use self::rows::TableSource;
pub(crate) use self::shared::Shared;
use self::shared::State;
use self::slots::Slots;
pub(crate) use self::source::open;
pub(crate) use self::tensor::{Tensor, product};
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
    /// Some rows of a matrix of a unit that is too large to be brought at once: the how many-th slice.
    Slice(Unit, Role, u32),
}

impl Key {
    /// Whose weights they are.
    pub(crate) fn unit(self) -> Unit {
        match self {
            Key::Unit(unit) | Key::Slice(unit, ..) => unit,
            Key::TiedTable => Unit::Embedding,
        }
    }
}

/// Next part of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// This, for a pass.
    Key(Key),
    /// This, for what its layer attends to of an encoder's result.
    FromEncoded(Key),
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
    /// Matrices that are brought in slices.
    cut: HashMap<(Unit, Role), Cut>,
    /// Tables that are looked up in, and stay where they are.
    tables: HashMap<Role, TableSource>,
    /// Staging places, and buffers of what is on disk.
    places: Staging,
    buffers: Staging,
    /// Rows that a pass looks up at most.
    n_tokens: usize,
    /// Keeps the offload folder from being cleared.
    prepared: Prepared,
}

/// How a matrix is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// Rows of all of it.
    n_rows: usize,
    /// Rows of each slice, but for the last.
    slice_rows: usize,
}

/// Equal pieces of staging memory.
#[derive(Debug, Clone, Copy)]
struct Staging {
    n: usize,
    len: usize,
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
            cut,
            tables: sources,
            places,
            buffers,
            n_tokens,
            prepared,
        } = feed;
        for (key, parcel) in &parcels {
            assert!(
                parcel.len <= buffers.len && parcel.placed_len <= places.len,
                "{key:?} takes {} bytes of a buffer of {}, and {} of a place of {}",
                parcel.len,
                buffers.len,
                parcel.placed_len,
                places.len
            );
        }
        let in_host_memory = run_on.memory() == Home::Ram;
        let state = State {
            buffers: Slots::new(buffers.n, || Ok(backend.host_pages(buffers.len)?))?,
            places: match in_host_memory {
                true => None,
                false => Some(Slots::new(places.n, || Ok(backend.place(places.len)?))?),
            },
            expected: VecDeque::new(),
            portions: HashMap::new(),
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
        let shared = Arc::new(Shared::new(backend, parcels, resting, cut, state));
        Ok(Stream {
            _reader: Reader::new(&shared)?,
            shared,
            units,
            tables,
            _prepared: prepared,
        })
    }

    /// True if it is brought, rather than resident or nothing at all.
    fn has(&self, key: Key) -> bool {
        self.shared.resting.contains_key(&key) || self.shared.parcels.contains_key(&key)
    }

    /// Says what is brought for `roles`, in the order in which they are computed with; nothing where they are resident. True if
    /// some are not brought in slices.
    pub(crate) fn register(&self, key: Key, roles: &impl TryMap<Role>) -> Option<bool> {
        let (mut slices, mut has_rest) = (Vec::new(), false);
        let each = roles.try_map(&mut |&role| {
            match self.shared.cut.get(&(key.unit(), role)) {
                Some(cut) => {
                    let n = cut.n_rows.div_ceil(cut.slice_rows) as u32;
                    slices.extend((0..n).map(|i| Key::Slice(key.unit(), role, i)));
                }
                None => has_rest = true,
            }
            Ok::<_, Infallible>(())
        });
        let Ok(_) = each;
        if slices.is_empty() {
            return self.has(key).then_some(true);
        }
        let rest = has_rest.then_some(key);
        let portions = rest.into_iter().chain(slices).collect();
        self.state().portions.insert(key, portions);
        Some(has_rest)
    }

    /// What is shared with who brings weights while it computes.
    pub(crate) fn shared(&self) -> &Arc<Shared<B>> {
        &self.shared
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
        for next in next {
            match next {
                Next::Key(key) => self.add(state, key, false),
                Next::FromEncoded(key) => self.add(state, key, true),
                Next::Unknown => state.expected.push_back(next),
            }
        }
        self.shared.fill(state);
    }

    /// Says what is needed in the place of the first that was not known.
    pub(crate) fn resolve(&self, known: impl Iterator<Item = Key>) {
        let state = &mut *self.state();
        let unknown = state.expected.iter().position(|&n| n == Next::Unknown);
        state.expected.drain(..unknown.map_or(0, |at| at + 1));
        let n_later = state.expected.len();
        known.for_each(|key| self.add(state, key, false));
        state.expected.rotate_left(n_later);
        self.shared.fill(state);
    }

    /// Adds a parcel, or its slices that a pass needs, or those that are for an encoder's result.
    fn add(&self, state: &mut State<B>, key: Key, from_encoded: bool) {
        let State {
            expected, portions, ..
        } = state;
        let is_needed = |key: &Key| match *key {
            Key::Slice(_, role, _) => role.reads_encoded() == from_encoded,
            Key::Unit(_) | Key::TiedTable => true,
        };
        match portions.get(&key) {
            Some(portions) => {
                let needed = portions.iter().copied().filter(is_needed);
                expected.extend(needed.map(Next::Key));
            }
            None if self.has(key) => expected.push_back(Next::Key(key)),
            None => {}
        }
    }

    fn state(&self) -> MutexGuard<'_, State<B>> {
        self.shared.state()
    }
}

#[cfg(test)]
mod tests;
