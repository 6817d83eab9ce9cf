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

    /// Takes over what is known of `n` bytes of another region.
    pub(crate) fn copy_from(&self, at: u64, from: &Self, from_at: u64, n: u64) {
        if from.is_full() {
            self.mark(at, n);
            return;
        }
        for k in 0..n {
            if from.first_unwritten(from_at + k, 1).is_none() {
                self.mark(at + k, 1);
            }
        }
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
