//! A device that computes as late as it may.

mod memory;
mod ops;
mod recorded;
mod schedule;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use llm_backend::{Backend, DeviceInfo, Reference, Result, Routing};
use llm_quant::StoredWeight;
use llm_tensor::{Bytes, KvShape, WorkspaceShape};

use self::memory::Shared;
use self::ops::DeferredQueue;
use self::schedule::{DeferredEvent, Schedule, lock};

/// A backend that only records what is put into its queues, and has another one compute it when something waits: as much
/// as is waited for, or other queues' work before or in between, in an order that a seed chooses among those that the
/// queues and their events allow.
///
/// [`bring`](llm_backend::Queue::bring) copies host pages when it runs, and weights in places and pages are read when the
/// operation runs. Whoever forgets to wait for something gets other results with some of
/// the seeds. Queues without scratch memory are those that bring; they and [`Event::finish`](llm_backend::Event::finish)
/// are what a [`Fault`] is about.
///
/// ```
/// use std::sync::Arc;
///
/// use llm_conformance::{Deferred, check_queues};
///
/// for seed in 0..3 {
///     check_queues(&Arc::new(Deferred::new(seed)));
/// }
/// ```
pub struct Deferred<B: Backend = Reference> {
    inner: Arc<B>,
    info: DeviceInfo,
    schedule: Arc<Mutex<Schedule<B>>>,
}

/// One kind of waits that are ignored, as if their caller had forgotten them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A queue that computes does not wait for what is brought.
    ComputeBeforeBring,
    /// The host does not wait for an event: it fills pages that are not brought yet.
    FillBeforeBring,
    /// A queue that brings does not wait for the last use of what lies in the place.
    BringBeforeLastUse,
}

impl Fault {
    /// Each.
    pub const ALL: [Fault; 3] = [
        Fault::ComputeBeforeBring,
        Fault::FillBeforeBring,
        Fault::BringBeforeLastUse,
    ];
}

impl Deferred {
    /// Over the reference, in an order of the seed's.
    pub fn new(seed: u64) -> Self {
        Deferred::of(Reference::new(), seed, None)
    }

    /// Over the reference, in an order of the seed's, without the waits that `fault` names.
    pub fn with_fault(seed: u64, fault: Fault) -> Self {
        Deferred::of(Reference::new(), seed, Some(fault))
    }
}

impl<B: Backend> Deferred<B> {
    /// Over any backend.
    pub fn of(inner: B, seed: u64, fault: Option<Fault>) -> Self {
        Deferred {
            info: DeviceInfo {
                name: format!("{}, deferred by seed {seed}", inner.info().name),
            },
            inner: Arc::new(inner),
            schedule: Arc::new(Mutex::new(Schedule::new(seed, fault))),
        }
    }
}

impl Deferred {
    /// Another device of the same machine: their queues' work is done in any order that copies between them allow.
    pub fn beside(&self) -> Self {
        Deferred {
            info: self.info.clone(),
            inner: Arc::new(Reference::new()),
            schedule: Arc::clone(&self.schedule),
        }
    }
}

impl<B: Backend> fmt::Debug for Deferred<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deferred({})", self.info.name)
    }
}

impl<B: Backend> Backend for Deferred<B> {
    type Buffer = Shared<B::Buffer>;
    type Index = Shared<B::Index>;
    type Weight = Arc<B::Weight>;
    type KvPool = Shared<B::KvPool>;
    type Routes = Shared<B::Routes>;
    type HostPages = Shared<B::HostPages>;
    type Place = Shared<B::Place>;
    type Event = DeferredEvent<B>;
    type Queue = DeferredQueue<B>;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, n_elements: usize) -> Result<Self::Buffer> {
        self.inner.alloc(n_elements).map(Shared::new)
    }

    fn alloc_index(&self, n_elements: usize) -> Result<Self::Index> {
        self.inner.alloc_index(n_elements).map(Shared::new)
    }

    fn load(&self, weight: StoredWeight) -> Result<Self::Weight> {
        self.inner.load(weight).map(Arc::new)
    }

    fn kv_pool(&self, shape: &KvShape) -> Result<Self::KvPool> {
        self.inner.kv_pool(shape).map(Shared::new)
    }

    fn kv_pool_bytes(&self, shape: &KvShape) -> Bytes {
        self.inner.kv_pool_bytes(shape)
    }

    fn kv_block_len(&self, shape: &KvShape) -> usize {
        self.inner.kv_block_len(shape)
    }

    fn routes(&self, routing: &Routing, n_tokens: usize) -> Result<Self::Routes> {
        self.inner.routes(routing, n_tokens).map(Shared::new)
    }

    fn routes_bytes(&self, routing: &Routing, n_tokens: usize) -> Bytes {
        self.inner.routes_bytes(routing, n_tokens)
    }

    fn host_pages(&self, n_bytes: usize) -> Result<Self::HostPages> {
        self.inner.host_pages(n_bytes).map(Shared::new)
    }

    fn place(&self, n_bytes: usize) -> Result<Self::Place> {
        self.inner.place(n_bytes).map(Shared::new)
    }

    fn placed(
        &self,
        place: &Self::Place,
        weight: &StoredWeight<Range<usize>>,
    ) -> Result<Self::Weight> {
        let placed = self.inner.placed(&lock(&place.handle()), weight);
        placed.map(Arc::new)
    }

    fn elements(&self, vector: &Self::Weight, range: Range<usize>) -> Self::Weight {
        Arc::new(self.inner.elements(vector, range))
    }

    fn in_pages(
        &self,
        pages: &Self::HostPages,
        weight: &StoredWeight<Range<usize>>,
    ) -> Result<Self::Weight> {
        let placed = self.inner.in_pages(&lock(&pages.handle()), weight);
        placed.map(Arc::new)
    }

    fn queue(self: &Arc<Self>, shape: Option<&WorkspaceShape>) -> Result<Self::Queue> {
        let inner = self.inner.queue(shape)?;
        let number = lock(&self.schedule).add(inner, shape.is_some());
        Ok(DeferredQueue::new(&self.schedule, number))
    }

    fn workspace_bytes(&self, shape: &WorkspaceShape) -> Bytes {
        self.inner.workspace_bytes(shape)
    }
}
