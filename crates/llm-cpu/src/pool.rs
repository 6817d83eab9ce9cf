//! A fork-join pool for regions of a few microseconds.
//!
//! A forward pass forks and joins some five times a layer; handing each region over through a lock and a wake-up would
//! cost as much as the work of a small model. The workers here spin while regions follow each other and park when none
//! comes for a while, so that an idle process uses no processor.

mod turns;

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use self::turns::{Turn, Turns};
use crate::CpuError;
use crate::share::Divide;

/// Threads that run a region together with the caller.
///
/// The split of work is fixed by the number of shares alone, never by timing; only who does a share is not: each thread begins
/// with its own, and then does what nobody has begun. So a thread that the system keeps from running, because there are
/// more threads than processors or other programs run beside, delays a region by no more than what it has begun.
/// Callers take turns, region by region, and each region has all threads. A region that is begun within another has
/// only the thread that begins it.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    n_shares: usize,
    workers: Vec<JoinHandle<()>>,
    turns: Turns,
}

thread_local! {
    /// True if this thread is within a region.
    static IN_REGION: Cell<bool> = const { Cell::new(false) };
}

type Task<'a> = dyn Fn(usize) + Sync + 'a;

struct Shared {
    /// Counts regions; workers wait for it to change.
    epoch: OwnLine<AtomicUsize>,
    /// Shares of the region that are not done.
    n_left: OwnLine<AtomicUsize>,
    /// Of each share: the last region in which it was begun.
    begun: Vec<OwnLine<AtomicUsize>>,
    quit: AtomicBool,
    task: UnsafeCell<Option<*const Task<'static>>>,
    parked: Vec<OwnLine<AtomicBool>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Keeps what different threads write out of each other's cache lines (which are fetched in pairs).
#[repr(align(128))]
struct OwnLine<T>(T);

// SAFETY: the task is written by the caller before it changes the epoch, and read by workers that saw that and have begun a
// share of the region, which then cannot end; it points to something `Sync` that outlives the region. All else is `Send`
// and `Sync` by itself.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Pool {
    /// As many threads as shares.
    #[cfg(test)]
    pub(crate) fn new(n_threads: usize) -> Result<Self, CpuError> {
        Self::with_shares(n_threads, n_threads)
    }

    /// `n_threads` counts the caller, so one fewer is started.
    pub(crate) fn with_shares(n_shares: usize, n_threads: usize) -> Result<Self, CpuError> {
        let own_line = || OwnLine(AtomicUsize::new(0));
        let shared = Arc::new(Shared {
            epoch: own_line(),
            n_left: own_line(),
            begun: (0..n_shares).map(|_| own_line()).collect(),
            quit: AtomicBool::new(false),
            task: UnsafeCell::new(None),
            parked: (1..n_threads)
                .map(|_| OwnLine(AtomicBool::new(false)))
                .collect(),
            panic: Mutex::new(None),
        });
        // Built first, so that an early return joins the threads that were started.
        let mut pool = Pool {
            shared,
            n_shares,
            workers: Vec::with_capacity(n_threads - 1),
            turns: Turns::default(),
        };
        for thread in 1..n_threads {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new()
                .name(format!("llm-cpu {thread}"))
                .spawn(move || shared.work(thread))
                .map_err(|source| CpuError::Spawn {
                    thread: thread + 1,
                    n_threads,
                    source,
                })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// The shares of a region.
    pub(crate) fn n_shares(&self) -> usize {
        self.n_shares
    }

    /// Calls `task` once for every share and returns when all are done.
    ///
    /// # Panics
    /// When a call does, after all have ended.
    pub(crate) fn run(&self, task: &Task<'_>) {
        if self.workers.is_empty() || IN_REGION.get() {
            (0..self.n_shares).for_each(task);
            return;
        }
        let turn = self.turns.take();
        IN_REGION.set(true);
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. `Join` waits until all shares are done, even if one of the caller's panics, so
        // the task is not used after it ended.
        let task_ptr =
            unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        // SAFETY: the turn keeps other callers out, and workers read the task only in a region that is not done.
        unsafe { *shared.task.get() = Some(task_ptr) };
        shared.n_left.0.store(self.n_shares, Ordering::Relaxed);
        // Sequentially consistent, as is the parking: either the worker sees the new epoch or we see it parked.
        let epoch = shared.epoch.0.fetch_add(1, Ordering::SeqCst) + 1;
        for (worker, parked) in self.workers.iter().zip(&shared.parked) {
            if parked.0.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let join = Join {
            shared,
            _turn: turn,
        };
        shared.take_shares(epoch, 0);
        let panic = join.leave();
        drop(join);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Splits `0..n_units` into one contiguous range a share and calls `task` with the range and its piece of `memory`.
    ///
    /// Shares that would get fewer than `min_units` are left out, and for a single one nothing is forked.
    pub(crate) fn split<M: Divide>(
        &self,
        n_units: usize,
        min_units: usize,
        memory: M,
        task: impl Fn(Range<usize>, M::Piece) + Sync,
    ) {
        let n_parts = (n_units / min_units.max(1)).clamp(1, self.n_shares);
        let part = |share: usize| {
            let at = |i: usize| n_units * i / n_parts;
            let units = at(share)..at(share + 1);
            // SAFETY: each share is done once, its units are its alone, and the memory was given to this split.
            let piece = unsafe { memory.piece(share, units.clone()) };
            task(units, piece);
        };
        if n_parts == 1 {
            return part(0);
        }
        self.run(&|share| {
            if share < n_parts {
                part(share);
            }
        });
    }
}

/// Waits, when dropped, until all shares of the region are done, and ends the turn.
struct Join<'a> {
    shared: &'a Shared,
    /// Ends when they are done.
    _turn: Turn<'a>,
}

impl Join<'_> {
    /// Waits, and returns what a share panicked with.
    fn leave(&self) -> Option<Box<dyn Any + Send>> {
        let shared = self.shared;
        let mut n_spins = 0u32;
        while shared.n_left.0.load(Ordering::Acquire) != 0 {
            // Where others want the processors, the missing thread may be waiting for ours.
            n_spins += 1;
            if n_spins.is_multiple_of(SPINS_PER_YIELD) {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        IN_REGION.set(false);
        let mut panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner);
        panic.take()
    }
}

impl Drop for Join<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Shared {
    fn work(&self, thread: usize) {
        IN_REGION.set(true);
        let parked = &self.parked[thread - 1].0;
        let mut epoch = 0;
        loop {
            epoch = self.next_epoch(epoch, parked);
            if self.quit.load(Ordering::Acquire) {
                return;
            }
            self.take_shares(epoch, thread);
        }
    }

    /// Does the shares of a region that nobody has begun, from `first` on.
    fn take_shares(&self, epoch: usize, first: usize) {
        let n_shares = self.begun.len();
        for share in (first..n_shares).chain(0..first.min(n_shares)) {
            let begun = &self.begun[share].0;
            // Looked at before it is asked for, as that would take the cache line from who wrote it. Who was late for a region
            // finds all of its shares begun, also when the next has begun meanwhile.
            if begun.load(Ordering::Relaxed) != epoch - 1
                || begun
                    .compare_exchange(epoch - 1, epoch, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err()
            {
                continue;
            }
            // SAFETY: the caller wrote the task before it changed the epoch, which we have seen; it waits for this share before
            // it writes another.
            let task = unsafe { (*self.task.get()).map(|task| &*task) };
            let result = catch_unwind(AssertUnwindSafe(|| {
                task.into_iter().for_each(|task| task(share))
            }));
            if let Err(panic) = result {
                *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
            self.n_left.0.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for the epoch to change, spinning at first.
    fn next_epoch(&self, seen: usize, parked: &AtomicBool) -> usize {
        let changed = |order| {
            let epoch = self.epoch.0.load(order);
            (epoch != seen).then_some(epoch)
        };
        let spinning_since = Instant::now();
        loop {
            for _ in 0..SPINS_PER_LOOK {
                if let Some(epoch) = changed(Ordering::Acquire) {
                    return epoch;
                }
                std::hint::spin_loop();
            }
            if spinning_since.elapsed() > SPIN_TIME {
                break;
            }
        }
        parked.store(true, Ordering::SeqCst);
        let epoch = loop {
            if let Some(epoch) = changed(Ordering::SeqCst) {
                break epoch;
            }
            thread::park();
        };
        parked.store(false, Ordering::Relaxed);
        epoch
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::Release);
        self.shared.epoch.0.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches what its tasks panic with, so there is nothing to report.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_threads = self.workers.len() + 1;
        write!(f, "Pool({} shares, {n_threads} threads)", self.n_shares)
    }
}

/// Time for which a worker waits busily: longer than the serial work between the regions of a forward pass.
const SPIN_TIME: Duration = Duration::from_micros(100);
/// Between looks at the clock.
const SPINS_PER_LOOK: usize = 64;
/// Between offers of the processor to other threads.
const SPINS_PER_YIELD: u32 = 512;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;

    use super::*;

    /// Regions of a test; an interpreter takes its time.
    const ROUNDS: usize = if cfg!(miri) { 3 } else { 100 };

    #[test]
    fn every_unit_runs_once() {
        for n_threads in [1, 2, 3, 5] {
            let pool = Pool::new(n_threads).unwrap();
            for (n_units, min_units) in [(0, 1), (1, 1), (2, 1), (7, 2), (100, 1), (100, 80)] {
                let counts: Vec<AtomicUsize> = (0..n_units).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..ROUNDS {
                    pool.split(n_units, min_units, (), |range, ()| {
                        for i in range {
                            counts[i].fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == ROUNDS));
            }
        }
    }

    #[test]
    fn parked_workers_wake() {
        let pool = Pool::new(2).unwrap();
        let count = AtomicUsize::new(0);
        for _ in 0..5 {
            thread::sleep(20 * SPIN_TIME);
            pool.run(&|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(count.into_inner(), 10);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(3).unwrap();
        for culprit in 0..3 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(&|thread| assert_ne!(thread, culprit, "the culprit"));
            }));
            assert!(caught.is_err(), "thread {culprit}");
        }
        let count = AtomicUsize::new(0);
        pool.run(&|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 3);
    }

    #[test]
    fn concurrent_and_nested_callers_each_get_their_region() {
        let pool = Pool::new(2).unwrap();
        let count = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        pool.run(&|_| {
                            pool.run(&|_| {
                                count.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 3 * ROUNDS * 2 * 2);
    }

    /// Whoever else computes: a region has all threads.
    #[test]
    fn callers_take_turns_and_have_all_threads() {
        let pool = Pool::new(3).unwrap();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        let threads = Mutex::new(HashSet::new());
                        let all_have_begun = Barrier::new(3);
                        pool.run(&|_| {
                            threads.lock().unwrap().insert(thread::current().id());
                            all_have_begun.wait();
                        });
                        assert_eq!(threads.into_inner().unwrap().len(), 3);
                    }
                });
            }
        });
    }

    /// As a thread is that the system has kept from running for some regions.
    #[test]
    fn who_comes_late_for_a_region_does_nothing() {
        let pool = Pool::new(2).unwrap();
        let count = AtomicUsize::new(0);
        for n_regions in 1..=ROUNDS {
            pool.run(&|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            for epoch in 1..=n_regions {
                pool.shared.take_shares(epoch, 1);
            }
            assert_eq!(count.load(Ordering::Relaxed), 2 * n_regions);
        }
    }

    #[test]
    fn more_shares_than_threads_are_all_done() {
        let pool = Pool::with_shares(8, 2).unwrap();
        for n_units in [1, 7, 8, 100] {
            let counts: Vec<AtomicUsize> = (0..n_units).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..ROUNDS {
                pool.split(n_units, 1, (), |range, ()| {
                    for i in range {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == ROUNDS));
        }
        let alone = Pool::with_shares(3, 1).unwrap();
        let count = AtomicUsize::new(0);
        alone.run(&|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 3);
    }

    /// A worker's panic beside its caller's is not left for the next region.
    #[test]
    fn two_panics_are_over_with_their_region() {
        let pool = Pool::new(2).unwrap();
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.run(&|thread| panic!("thread {thread}"));
        }));
        assert!(caught.is_err());
        pool.run(&|_| {});
    }
}
