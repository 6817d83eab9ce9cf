//! Bytes that a launch moves between the device's memory and its kernel.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::Region;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// Counters of one launch. Blocks count side by side.
#[derive(Default)]
pub(crate) struct Traffic {
    /// Bytes that instructions asked for; a byte that several lanes ask for counts once.
    pub(crate) asked: [AtomicU64; 2],
    /// Sectors that instructions touched.
    pub(crate) sectors: [AtomicU64; 2],
    pub(crate) instructions: AtomicU64,
    pub(crate) lane_instructions: AtomicU64,
    touched: Mutex<HashMap<u64, Arc<Touched>>>,
}

/// Sectors of one region, a bit each, for reads and for writes.
pub(crate) struct Touched {
    base: u64,
    bits: [Box<[AtomicU64]>; 2],
}

impl Traffic {
    /// Sectors of a region.
    pub(crate) fn touched(&self, region: &Region) -> Arc<Touched> {
        let mut all = self.touched.lock().unwrap_or_else(|lock| lock.into_inner());
        all.entry(region.base)
            .or_insert_with(|| {
                let n = region.len.div_ceil(SECTOR).div_ceil(64);
                let bits = || (0..n).map(|_| AtomicU64::new(0)).collect();
                Arc::new(Touched {
                    base: region.base,
                    bits: [bits(), bits()],
                })
            })
            .clone()
    }

    /// Bytes of all sectors touched at least once: what a cache without limits would move.
    pub(crate) fn moved(&self, direction: Direction) -> u64 {
        let all = self.touched.lock().unwrap_or_else(|lock| lock.into_inner());
        let n: u64 = all
            .values()
            .flat_map(|touched| touched.bits[direction as usize].iter())
            .map(|word| u64::from(word.load(Relaxed).count_ones()))
            .sum();
        n * SECTOR
    }

    /// Counts one instruction's accesses to a region: `n` bytes at each address of the mask's lanes.
    pub(crate) fn count(
        &self,
        touched: &Touched,
        addresses: &[u64; 32],
        mask: u32,
        n: u64,
        direction: Direction,
    ) {
        let mut sorted = [0; 32];
        let mut len = 0;
        let mut is_sorted = true;
        for (lane, address) in addresses.iter().enumerate() {
            if mask >> lane & 1 == 1 {
                is_sorted &= len == 0 || sorted[len - 1] <= *address;
                sorted[len] = *address;
                len += 1;
            }
        }
        if !is_sorted {
            sorted[..len].sort_unstable();
        }
        let (mut asked, mut sectors) = (0, 0);
        let (mut end, mut next_sector) = (0, 0);
        for &address in &sorted[..len] {
            asked += (address + n).saturating_sub(end.max(address));
            end = end.max(address + n);
            let first = ((address - touched.base) / SECTOR).max(next_sector);
            let last = (address - touched.base + n - 1) / SECTOR;
            for sector in first..=last {
                sectors += 1;
                let word = &touched.bits[direction as usize][(sector / 64) as usize];
                let bit = 1 << (sector % 64);
                if word.load(Relaxed) & bit == 0 {
                    word.fetch_or(bit, Relaxed);
                }
            }
            next_sector = next_sector.max(last + 1);
        }
        self.asked[direction as usize].fetch_add(asked, Relaxed);
        self.sectors[direction as usize].fetch_add(sectors, Relaxed);
    }
}

impl Touched {
    pub(crate) fn is_of(&self, region: &Region) -> bool {
        self.base == region.base
    }
}

/// Bytes that memory moves at least.
const SECTOR: u64 = 32;
