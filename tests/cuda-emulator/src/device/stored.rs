//! What one launch has stored: a load through the cache that is for reading only may miss it.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::Region;
use super::written::Written;

/// Stores of one launch, by region. Blocks add to it side by side.
#[derive(Default)]
pub(crate) struct Stored {
    regions: Mutex<Vec<(u64, Arc<Written>)>>,
    n: AtomicUsize,
}

/// The regions of it that a block knows of.
#[derive(Default)]
pub(crate) struct Known(Vec<(u64, Arc<Written>)>);

impl Known {
    /// Notes a store of `n` bytes.
    pub(crate) fn store(&mut self, all: &Stored, region: &Region, at: u64, n: u64) {
        if let Some(written) = self.of(region) {
            written.mark(at, n);
            return;
        }
        let mut regions = all.regions.lock().unwrap_or_else(|lock| lock.into_inner());
        if !regions.iter().any(|(base, _)| *base == region.base) {
            regions.push((region.base, Arc::new(Written::nothing(region.len))));
            all.n.store(regions.len(), Relaxed);
        }
        self.0.clone_from(&regions);
        drop(regions);
        if let Some(written) = self.of(region) {
            written.mark(at, n);
        }
    }

    /// First of `n` bytes that the launch has stored.
    pub(crate) fn first(&mut self, all: &Stored, region: &Region, at: u64, n: u64) -> Option<u64> {
        if all.n.load(Relaxed) != self.0.len() {
            let regions = all.regions.lock().unwrap_or_else(|lock| lock.into_inner());
            self.0.clone_from(&regions);
        }
        self.of(region)?.first_written(at, n)
    }

    fn of(&self, region: &Region) -> Option<&Written> {
        self.0
            .iter()
            .find(|(base, _)| *base == region.base)
            .map(|(_, written)| &**written)
    }
}
