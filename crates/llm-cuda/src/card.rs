//! A GPU in use: its context, its kernels, and the account of what was allocated on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llm_backend::{BackendError, Result as Done};
use llm_tensor::Bytes;

use crate::driver::{Context, DeviceMemory, Failure, Stream};
use crate::module::Kernels;
use crate::probe::{self, GpuFacts, device_name};
use crate::products::ProductCount;
use crate::{Compute, NoGpu};

/// What everything on a GPU shares.
#[derive(Debug)]
pub(crate) struct Card {
    /// As people know it.
    pub(crate) name: String,
    pub(crate) facts: GpuFacts,
    pub(crate) compute: Compute,
    pub(crate) kernels: Kernels,
    pub(crate) products: ProductCount,
    /// For what is written when memory is made.
    pub(crate) setup: Stream,
    usage: Mutex<BTreeMap<&'static str, u64>>,
    /// GPUs that were asked whether copies to them go straight, by number.
    reached: Mutex<BTreeMap<usize, bool>>,
    held: Mutex<Held>,
    pub(crate) context: Arc<Context>,
}

/// Queues that hold kernels back, and memory that was dropped meanwhile: the kernels may be told of it.
#[derive(Debug, Default)]
struct Held {
    n_queues: usize,
    dropped: Vec<Arc<DeviceMemory>>,
}

impl Card {
    pub(crate) fn open(number: usize, compute: Compute) -> Result<Self, NoGpu> {
        let (context, facts) = probe::open(number)?;
        Ok(Card {
            name: device_name(number, &facts.name),
            kernels: Kernels::new(&context, &facts),
            setup: Stream::new(&context)?,
            usage: Mutex::default(),
            reached: Mutex::default(),
            held: Mutex::default(),
            products: ProductCount::default(),
            facts,
            compute,
            context,
        })
    }

    /// A driver's failure as a backend's.
    pub(crate) fn failed(&self, failure: Failure) -> BackendError {
        BackendError::Driver {
            device: self.name.clone(),
            operation: failure.operation,
            code: failure.code,
            name: failure.name,
        }
    }

    /// A failure to allocate.
    pub(crate) fn refused(
        &self,
        failure: Failure,
        purpose: &'static str,
        requested: usize,
    ) -> BackendError {
        if !failure.is_out_of_memory() {
            return self.failed(failure);
        }
        BackendError::OutOfMemory {
            device: self.name.clone(),
            purpose,
            requested: Bytes::new(requested as u64),
            free: self.context.memory().ok().map(|(free, _)| Bytes::new(free)),
        }
    }

    /// Bytes that are allocated, by what for.
    pub(crate) fn usage(&self) -> BTreeMap<&'static str, Bytes> {
        let usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        usage
            .iter()
            .map(|(&purpose, &n)| (purpose, Bytes::new(n)))
            .collect()
    }

    pub(crate) fn count(&self, purpose: &'static str, n_bytes: usize) {
        let mut usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        *usage.entry(purpose).or_default() += n_bytes as u64;
    }

    pub(crate) fn uncount(&self, purpose: &'static str, n_bytes: usize) {
        let mut usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = usage.get_mut(purpose) {
            *n -= n_bytes as u64;
        }
    }

    /// Has copies to another GPU go straight there, where the hardware allows it: true then. It is asked once.
    pub(crate) fn reach(&self, other: &Card) -> Done<bool> {
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let number = other.facts.number;
        if number == self.facts.number {
            return Ok(true);
        }
        if let Some(&is_straight) = reached.get(&number) {
            return Ok(is_straight);
        }
        let asked = self.context.reach(&other.context);
        let is_straight = asked.map_err(|failure| self.failed(failure))?;
        reached.insert(number, is_straight);
        Ok(is_straight)
    }

    /// A queue begins to hold kernels back.
    pub(crate) fn hold(&self) {
        self.held().n_queues += 1;
    }

    /// A queue has put into its stream what it held back.
    pub(crate) fn release(&self) {
        let mut held = self.held();
        held.n_queues -= 1;
        if held.n_queues == 0 {
            let dropped = std::mem::take(&mut held.dropped);
            drop(held);
            drop(dropped);
        }
    }

    /// Keeps memory that its owner drops for as long as a kernel that is held back may use it.
    pub(crate) fn retire(&self, memory: &Arc<DeviceMemory>) {
        let mut held = self.held();
        if held.n_queues > 0 {
            held.dropped.push(Arc::clone(memory));
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
