//! A GPU in use: its context, its kernels, and the account of what was allocated on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use llm_backend::BackendError;
use llm_tensor::Bytes;

use crate::NoGpu;
use crate::driver::{Context, Failure, Stream};
use crate::module::Kernels;
use crate::probe::{self, GpuFacts};

/// What everything on a GPU shares.
#[derive(Debug)]
pub(crate) struct Card {
    /// As people know it.
    pub(crate) name: String,
    pub(crate) facts: GpuFacts,
    pub(crate) kernels: Kernels,
    /// For what is written when memory is made.
    pub(crate) setup: Stream,
    usage: Mutex<BTreeMap<&'static str, u64>>,
    pub(crate) context: Arc<Context>,
}

impl Card {
    pub(crate) fn open(number: usize) -> Result<Self, NoGpu> {
        let (context, facts) = probe::open(number)?;
        Ok(Card {
            name: format!("cuda:{number} ({})", facts.name),
            kernels: Kernels::load(&context, facts.compute_capability)?,
            setup: Stream::new(&context)?,
            usage: Mutex::default(),
            facts,
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
}
