//! Which bytes of a region were ever written.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A bit a byte, set when it is written. Blocks of a kernel set bits side by side.
pub(crate) struct Written {
    bits: Box<[AtomicU64]>,
    /// Bytes not written yet; with none left the bits need not be looked at.
    n_left: AtomicU64,
}

impl Written {
    pub(crate) fn nothing(len: u64) -> Self {
        Self {
            bits: (0..len.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            n_left: AtomicU64::new(len),
        }
    }

    /// Of a region that counts as written from the start.
    pub(crate) fn everything() -> Self {
        Self {
            bits: Box::default(),
            n_left: AtomicU64::new(0),
        }
    }

    #[inline(always)]
    pub(crate) fn is_full(&self) -> bool {
        self.n_left.load(Relaxed) == 0
    }

    pub(crate) fn mark(&self, at: u64, n: u64) {
        if self.is_full() {
            return;
        }
        for (word, mask) in words(at, n) {
            let old = self.bits[word].fetch_or(mask, Relaxed);
            let fresh = (mask & !old).count_ones();
            if fresh > 0 {
                self.n_left.fetch_sub(u64::from(fresh), Relaxed);
            }
        }
    }

    /// First of `n` bytes from `at` on that was not written.
    pub(crate) fn first_unwritten(&self, at: u64, n: u64) -> Option<u64> {
        if self.is_full() {
            return None;
        }
        words(at, n).find_map(|(word, mask)| {
            let missing = mask & !self.bits[word].load(Relaxed);
            (missing != 0).then(|| word as u64 * 64 + u64::from(missing.trailing_zeros()))
        })
    }

    /// First of `n` bytes from `at` on that was written.
    pub(crate) fn first_written(&self, at: u64, n: u64) -> Option<u64> {
        let untouched = self.run(at, n, false);
        (untouched < n).then_some(at + untouched)
    }

    /// Takes over what is known of `n` bytes of another region.
    pub(crate) fn copy_from(&self, at: u64, from: &Self, from_at: u64, n: u64) {
        if from.is_full() {
            self.mark(at, n);
            return;
        }
        // Runs of written bytes, one after the other.
        let mut next = 0;
        while next < n {
            let written = from.run(from_at + next, n - next, true);
            self.mark(at + next, written);
            next += written;
            next += from.run(from_at + next, n - next, false);
        }
    }

    /// Bytes from `at` on, at most `n`, that are all written or all not.
    fn run(&self, at: u64, n: u64, is_written: bool) -> u64 {
        for (word, mask) in words(at, n) {
            let bits = self.bits[word].load(Relaxed);
            let others = mask & if is_written { !bits } else { bits };
            if others != 0 {
                return word as u64 * 64 + u64::from(others.trailing_zeros()) - at;
            }
        }
        n
    }
}

/// Words and their bits for `n` bytes from `at` on.
fn words(at: u64, n: u64) -> impl Iterator<Item = (usize, u64)> {
    let end = at + n;
    let mut next = at;
    std::iter::from_fn(move || {
        (next < end).then(|| {
            let word = next / 64;
            let last = end.min((word + 1) * 64);
            let mask = (u64::MAX >> (64 - (last - next))) << (next % 64);
            next = last;
            (word as usize, mask)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_take_over_what_is_written() {
        let from = Written::nothing(1000);
        for (at, n) in [(3, 5), (60, 200), (500, 1), (990, 10)] {
            from.mark(at, n);
        }
        let to = Written::nothing(1000);
        to.copy_from(100, &from, 2, 800);
        for byte in 0..1000u64 {
            let source = byte.wrapping_sub(98);
            let wanted = (100..900).contains(&byte) && from.first_unwritten(source, 1).is_none();
            assert_eq!(to.first_unwritten(byte, 1).is_none(), wanted, "byte {byte}");
        }
    }

    #[test]
    fn a_region_is_full_when_its_last_byte_is_written() {
        let written = Written::nothing(130);
        written.mark(0, 129);
        assert_eq!(written.first_unwritten(0, 130), Some(129));
        written.mark(100, 30);
        assert!(written.is_full());
    }
}
