//! First cache of a block: what its loads leave there.

/// Sectors that the loads of a block have left, the latest ones of a few sets.
pub(crate) struct FirstCache {
    sets: Box<[[Held; WAYS]]>,
    n_loads: u64,
}

#[derive(Clone, Copy, Default)]
struct Held {
    /// Number of the sector, from address 0; 0 for none.
    sector: u64,
    /// Its bytes that were asked for, a bit each.
    bytes: u32,
    last: u64,
}

/// Bytes that a load asked for first, and sectors that were fetched for it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) bytes: u64,
    pub(crate) sectors: u64,
}

impl FirstCache {
    /// An empty one, as large as the share of a block of so many threads.
    pub(crate) fn of_threads(n_threads: usize) -> Self {
        let n_sets = (n_threads * SECTORS_PER_THREAD / WAYS).next_power_of_two();
        Self {
            sets: vec![[Held::default(); WAYS]; n_sets].into(),
            n_loads: 0,
        }
    }

    /// Loads `n` bytes, a power of two, at each address of the mask's lanes, which are multiples of `n`.
    pub(crate) fn load(&mut self, addresses: &[u64; 32], mask: u32, n: u64) -> Fetched {
        self.n_loads += 1;
        let mut fetched = Fetched::default();
        let (mut sector, mut bytes) = (0, 0);
        for (lane, address) in addresses.iter().enumerate() {
            if mask >> lane & 1 == 0 {
                continue;
            }
            if address / SECTOR != sector {
                self.ask(sector, bytes, &mut fetched);
                (sector, bytes) = (address / SECTOR, 0);
            }
            bytes |= (u32::MAX >> (SECTOR - n.min(SECTOR))) << (address % SECTOR);
        }
        self.ask(sector, bytes, &mut fetched);
        fetched
    }

    fn ask(&mut self, sector: u64, bytes: u32, fetched: &mut Fetched) {
        if bytes == 0 {
            return;
        }
        // Sectors at equal distances spread over the sets, as they do on a card.
        let hash = sector.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let n_sets = self.sets.len() as u64;
        let set = &mut self.sets[(hash % n_sets) as usize];
        let at = match set.iter().position(|held| held.sector == sector) {
            Some(at) => at,
            None => {
                let mut oldest = 0;
                for at in 1..WAYS {
                    if set[at].last < set[oldest].last {
                        oldest = at;
                    }
                }
                set[oldest] = Held {
                    sector,
                    ..Held::default()
                };
                fetched.sectors += 1;
                oldest
            }
        };
        let held = &mut set[at];
        fetched.bytes += u64::from((bytes & !held.bytes).count_ones());
        held.bytes |= bytes;
        held.last = self.n_loads;
    }
}

const SECTOR: u64 = 32;
const WAYS: usize = 8;
/// 64 bytes a thread: of the 96 KB that Turing has for 1024 threads and of the 256 that Hopper has for 2048, what shared
/// memory does not take of them.
const SECTORS_PER_THREAD: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes and sectors of loads of all lanes, one after the other.
    fn of(loads: &[fn(u64) -> u64], n_rounds: u64, n: u64) -> Fetched {
        let mut cache = FirstCache::of_threads(32);
        let mut all = Fetched::default();
        for round in 0..n_rounds {
            for load in loads {
                let addresses =
                    std::array::from_fn(|lane| 4096 + load(lane as u64 + 32 * round) * n);
                let fetched = cache.load(&addresses, u32::MAX, n);
                all.bytes += fetched.bytes;
                all.sectors += fetched.sectors;
            }
        }
        all
    }

    #[test]
    fn what_comes_with_a_sector_is_there_for_the_next_load() {
        // 32 bytes a lane, by two loads of 16.
        let halves = of(&[|lane| 2 * lane, |lane| 2 * lane + 1], 8, 16);
        assert_eq!(
            halves,
            Fetched {
                bytes: 8 * 1024,
                sectors: 8 * 32
            }
        );
        // The same 128 bytes again and again.
        assert_eq!(
            of(&[|lane| lane % 32], 9, 4),
            Fetched {
                bytes: 128,
                sectors: 4
            }
        );
        // A byte a lane in any order.
        assert_eq!(
            of(&[|lane| 31 - lane % 32], 1, 1),
            Fetched {
                bytes: 32,
                sectors: 1
            }
        );
    }

    #[test]
    fn a_sector_of_which_the_rest_is_never_asked_for_is_part_filled() {
        // Four bytes of each sector, as a kernel reads that goes down a column.
        let strided = of(&[|lane| 8 * lane], 16, 4);
        assert_eq!(
            strided,
            Fetched {
                bytes: 16 * 128,
                sectors: 16 * 32
            }
        );
        // Half of each, and a power of two apart.
        let halves = of(&[|lane| 256 * lane], 16, 16);
        assert_eq!(
            halves,
            Fetched {
                bytes: 16 * 512,
                sectors: 16 * 32
            }
        );
    }

    #[test]
    fn what_is_asked_for_too_late_is_fetched_again() {
        let first_halves: fn(u64) -> u64 = |lane| 2 * lane;
        let mut cache = FirstCache::of_threads(32);
        let mut sectors = 0;
        for half in 0..2 {
            for round in 0..64 {
                let addresses = std::array::from_fn(|lane| {
                    4096 + 16 * (first_halves(lane as u64 + 32 * round) + half)
                });
                sectors += cache.load(&addresses, u32::MAX, 16).sectors;
            }
        }
        assert_eq!(sectors, 2 * 64 * 32);
    }
}
