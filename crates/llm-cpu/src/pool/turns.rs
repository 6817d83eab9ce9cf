//! Turns that callers take in the order in which they came.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use super::{SPIN_TIME, SPINS_PER_LOOK};

/// A lock that is fair: who waits for a turn has it before anybody who comes later, also before the one who just had one.
#[derive(Default)]
pub(super) struct Turns {
    /// Turns that were asked for.
    n_asked: AtomicUsize,
    /// Turns that are over.
    n_over: AtomicUsize,
    sleepers: Mutex<()>,
    over: Condvar,
}

/// A turn; it ends when dropped.
pub(super) struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits for a turn, busily at first.
    pub(super) fn take(&self) -> Turn<'_> {
        let number = self.n_asked.fetch_add(1, Ordering::SeqCst);
        let is_ours = || self.n_over.load(Ordering::SeqCst) == number;
        if is_ours() {
            return Turn(self);
        }
        let waiting_since = Instant::now();
        while waiting_since.elapsed() < SPIN_TIME {
            for _ in 0..SPINS_PER_LOOK {
                if is_ours() {
                    return Turn(self);
                }
                std::hint::spin_loop();
            }
            // The threads of the region that is waited for may need this processor.
            thread::yield_now();
        }
        let mut sleeping = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        while !is_ours() {
            let woken = self.over.wait(sleeping);
            sleeping = woken.unwrap_or_else(PoisonError::into_inner);
        }
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Sequentially consistent, as is the asking: either the next one sees that this turn is over, or it is seen here.
        let n_over = self.0.n_over.fetch_add(1, Ordering::SeqCst) + 1;
        if self.0.n_asked.load(Ordering::SeqCst) != n_over {
            // Nobody is between looking and sleeping while the lock is held here.
            drop(self.0.sleepers.lock());
            self.0.over.notify_all();
        }
    }
}
