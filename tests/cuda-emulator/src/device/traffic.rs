//! Bytes that a launch moves between the device's memory and its kernel.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::{FirstCache, Region};
use crate::report::TrafficReport;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// Counters of one launch. Blocks count side by side.
#[derive(Default)]
pub(crate) struct Traffic {
    pub(crate) instructions: AtomicU64,
    pub(crate) lane_instructions: AtomicU64,
    touched: Mutex<HashMap<u64, Arc<Touched>>>,
}

/// Accesses to one region, reads and writes.
pub(crate) struct Touched {
    base: u64,
    /// Sectors, a bit each.
    bits: [Box<[AtomicU64]>; 2],
    /// Bytes that instructions asked for; a byte that several lanes ask for counts once.
    asked: [AtomicU64; 2],
    /// Sectors that instructions touched.
    sectors: [AtomicU64; 2],
    /// The same of what blocks did not find in their first caches.
    used: [AtomicU64; 2],
    fetched: [AtomicU64; 2],
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
                    asked: Default::default(),
                    sectors: Default::default(),
                    used: Default::default(),
                    fetched: Default::default(),
                })
            })
            .clone()
    }

    /// Account of what was read, and of what was written.
    pub(crate) fn reports(&self) -> [TrafficReport; 2] {
        let all = self.touched.lock().unwrap_or_else(|lock| lock.into_inner());
        let of = |touched: &Arc<Touched>| {
            [Direction::Read, Direction::Write].map(|direction| touched.of(direction))
        };
        let regions: Vec<[TrafficReport; 2]> = all.values().map(of).collect();
        let moved = |[read, written]: &[TrafficReport; 2]| read.moved + written.moved;
        let total: u64 = regions.iter().map(moved).sum();
        let mut reports = <[TrafficReport; 2]>::default();
        for region in regions {
            let is_large = moved(&region) * 10 >= total;
            for (report, mut of_region) in reports.iter_mut().zip(region) {
                if !is_large {
                    (of_region.used_of_large, of_region.fetched_of_large) = (0, 0);
                }
                report.add(&of_region);
            }
        }
        reports
    }

    /// Counts one instruction's accesses to a region: `n` bytes at each address of the mask's lanes, which are multiples of
    /// `n`, a power of two. What a block reads comes through its first cache, if one is given.
    pub(crate) fn count(
        &self,
        touched: &Touched,
        addresses: &[u64; 32],
        mask: u32,
        n: u64,
        direction: Direction,
        first_cache: Option<&mut FirstCache>,
    ) {
        let (mut least, mut most) = (u64::MAX, 0);
        for (lane, address) in addresses.iter().enumerate() {
            if mask >> lane & 1 == 1 {
                least = least.min(*address);
                most = most.max(*address);
            }
        }
        let first = least / SECTOR * SECTOR;
        let (asked, sectors) = if most + n - first <= 64 * SECTOR {
            let (asked, sectors) = near(first, addresses, mask, n);
            touched.mark((first - touched.base) / SECTOR, sectors, direction);
            (asked, u64::from(sectors.count_ones()))
        } else {
            far(touched, addresses, mask, n, direction)
        };
        let (used, fetched) = match first_cache {
            Some(cache) => {
                let fetched = cache.load(addresses, mask, n);
                (fetched.bytes, fetched.sectors)
            }
            None => (asked, sectors),
        };
        let at = direction as usize;
        touched.asked[at].fetch_add(asked, Relaxed);
        touched.sectors[at].fetch_add(sectors, Relaxed);
        touched.used[at].fetch_add(used, Relaxed);
        touched.fetched[at].fetch_add(fetched, Relaxed);
    }
}

/// Bytes asked for and a bit for each sector, of accesses within 64 sectors from `first` on.
fn near(first: u64, addresses: &[u64; 32], mask: u32, n: u64) -> (u64, u64) {
    let shift = n.trailing_zeros();
    // A bit for each element that may be asked for; of single bytes there are 2048.
    let mut elements = [0u64; 32];
    let mut n_elements = 0;
    let mut sectors = 0;
    let wide = if n > SECTOR {
        1 << (n / SECTOR - 1) | 1
    } else {
        1u64
    };
    for (lane, address) in addresses.iter().enumerate() {
        if mask >> lane & 1 == 1 {
            let offset = address - first;
            let element = offset >> shift;
            let (word, bit) = ((element / 64) as usize % 32, 1 << (element % 64));
            n_elements += u64::from(elements[word] & bit == 0);
            elements[word] |= bit;
            sectors |= wide << (offset / SECTOR);
        }
    }
    (n_elements * n, sectors)
}

/// Bytes asked for and sectors touched, of accesses anywhere in a region.
fn far(
    touched: &Touched,
    addresses: &[u64; 32],
    mask: u32,
    n: u64,
    direction: Direction,
) -> (u64, u64) {
    let mut sorted = [0; 32];
    let mut len = 0;
    for (lane, address) in addresses.iter().enumerate() {
        if mask >> lane & 1 == 1 {
            sorted[len] = *address;
            len += 1;
        }
    }
    sorted[..len].sort_unstable();
    let (mut asked, mut sectors) = (0, 0);
    let (mut end, mut next_sector) = (0, 0);
    for &address in &sorted[..len] {
        asked += (address + n).saturating_sub(end.max(address));
        end = end.max(address + n);
        let first = ((address - touched.base) / SECTOR).max(next_sector);
        let last = (address - touched.base + n - 1) / SECTOR;
        for sector in first..=last {
            sectors += 1;
            touched.mark(sector, 1, direction);
        }
        next_sector = next_sector.max(last + 1);
    }
    (asked, sectors)
}

impl Touched {
    fn of(&self, direction: Direction) -> TrafficReport {
        let at = direction as usize;
        let words = self.bits[at].iter();
        let n_moved: u64 = words
            .map(|word| u64::from(word.load(Relaxed).count_ones()))
            .sum();
        TrafficReport {
            asked: self.asked[at].load(Relaxed),
            sectors: self.sectors[at].load(Relaxed),
            moved: n_moved * SECTOR,
            used_of_large: self.used[at].load(Relaxed),
            fetched_of_large: self.fetched[at].load(Relaxed),
        }
    }

    /// Marks sectors from `first` on, a bit each.
    fn mark(&self, first: u64, sectors: u64, direction: Direction) {
        let bits = &self.bits[direction as usize];
        let (word, shift) = ((first / 64) as usize, first % 64);
        let parts = [
            sectors << shift,
            sectors.checked_shr(64 - shift as u32).unwrap_or(0),
        ];
        for (at, part) in parts.into_iter().enumerate() {
            if part != 0 && bits[word + at].load(Relaxed) & part != part {
                bits[word + at].fetch_or(part, Relaxed);
            }
        }
    }

    pub(crate) fn is_of(&self, region: &Region) -> bool {
        self.base == region.base
    }
}

/// Bytes that memory moves at least.
const SECTOR: u64 = 32;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::device::Memory;

    #[test]
    fn bytes_and_sectors_are_those_of_the_lanes_together() {
        let mut memory = Memory::new(vec![1 << 20]);
        let base = memory.allocate(0, 400_000).expect("room");
        let region = memory.find(base, 1).expect("a region");
        let patterns: [fn(u64) -> u64; 6] = [
            |lane| lane,
            |lane| 31 - lane,
            |lane| lane / 8,
            |lane| lane * 9 % 32 * 3,
            |lane| lane * 700,
            |lane| lane % 2 * 4000 + 7,
        ];
        for n in [1, 2, 4, 8, 16] {
            for (mask, pattern) in [u32::MAX, 0x0f0f_0001]
                .into_iter()
                .zip(patterns.iter().cycle())
            {
                for pattern in patterns.iter().chain([pattern]) {
                    let traffic = Traffic::default();
                    let touched = traffic.touched(region);
                    let addresses = std::array::from_fn(|lane| base + pattern(lane as u64) * n);
                    traffic.count(&touched, &addresses, mask, n, Direction::Read, None);
                    let bytes: BTreeSet<u64> = (0..32)
                        .filter(|lane| mask >> lane & 1 == 1)
                        .flat_map(|lane: usize| addresses[lane]..addresses[lane] + n)
                        .collect();
                    let sectors: BTreeSet<u64> = bytes.iter().map(|byte| byte / SECTOR).collect();
                    let n_sectors = sectors.len() as u64;
                    let expected = TrafficReport {
                        asked: bytes.len() as u64,
                        sectors: n_sectors,
                        moved: n_sectors * SECTOR,
                        used_of_large: bytes.len() as u64,
                        fetched_of_large: n_sectors,
                    };
                    assert_eq!(traffic.reports(), [expected, TrafficReport::default()]);
                }
            }
        }
    }

    /// A scale that is read again and again says nothing of how weights are read.
    #[test]
    fn small_allocations_are_told_apart() {
        let mut memory = Memory::new(vec![1 << 20]);
        let traffic = Traffic::default();
        let [weights, scale] = [4096, 4].map(|len| memory.allocate(0, len).expect("room"));
        for step in 0..32 {
            for (base, lanes, n) in [(weights + 128 * step, 32, 4), (scale, 1, 4)] {
                let region = memory.find(base, 1).expect("a region");
                let addresses = std::array::from_fn(|lane| base + (lane as u64 % lanes) * n);
                traffic.count(
                    &traffic.touched(region),
                    &addresses,
                    u32::MAX,
                    n,
                    Direction::Read,
                    None,
                );
            }
        }
        let [report, _] = traffic.reports();
        assert_eq!((report.asked, report.moved), (4096 + 32 * 4, 4096 + 32));
        assert_eq!(report.large_sector_efficiency(), 1.0);
        assert_eq!(
            report.sector_efficiency(),
            (4096.0 + 128.0) / (4096.0 + 1024.0)
        );
    }
}
