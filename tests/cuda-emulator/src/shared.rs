//! Shared memory of a block, with who wrote and who read each byte last, and what orders them.

use crate::fault::{Fault, Kind};

/// Shared memory of one block.
pub(crate) struct Shared {
    bytes: Vec<u8>,
    tracker: Option<Tracker>,
}

/// One access by a thread: where from, for the tracker.
#[derive(Clone, Copy)]
pub(crate) struct By {
    /// Index of the thread in its block.
    pub(crate) thread: usize,
    pub(crate) pc: u32,
}

impl Shared {
    pub(crate) fn new(len: usize, n_warps: usize, is_tracked: bool) -> Self {
        Self {
            bytes: vec![0xff; len],
            tracker: is_tracked.then(|| Tracker::new(len, n_warps)),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Offset of `n` bytes, once it is known to lie inside and to be aligned.
    #[inline(always)]
    fn range(&self, at: u64, n: usize, by: By) -> Result<usize, Fault> {
        let lane = by.thread % 32;
        if at
            .checked_add(n as u64)
            .is_none_or(|end| end > self.bytes.len() as u64)
        {
            let len = self.bytes.len();
            let text = format!("{n} bytes at {at:#x} of {len:#x} bytes of shared memory");
            return Err(Fault::at_lane(Kind::Address, lane, text));
        }
        if at % n as u64 != 0 {
            let text = format!("{n} bytes at {at:#x} of shared memory: not aligned");
            return Err(Fault::at_lane(Kind::Misaligned, lane, text));
        }
        Ok(at as usize)
    }

    #[inline(always)]
    pub(crate) fn read(&mut self, at: u64, n: usize, by: By) -> Result<&[u8], Fault> {
        let at = self.range(at, n, by)?;
        if let Some(tracker) = &mut self.tracker {
            tracker.read(at, n, by)?;
        }
        Ok(&self.bytes[at..at + n])
    }

    #[inline(always)]
    pub(crate) fn write(&mut self, at: u64, new: &[u8], by: By) -> Result<(), Fault> {
        let at = self.range(at, new.len(), by)?;
        let old = &mut self.bytes[at..at + new.len()];
        if let Some(tracker) = &mut self.tracker {
            tracker.write(at, new.len(), by, old == new)?;
        }
        old.copy_from_slice(new);
        Ok(())
    }

    /// Bytes that an atomic operation reads and then writes.
    pub(crate) fn atomic(&mut self, at: u64, n: usize, by: By) -> Result<&mut [u8], Fault> {
        let at = self.range(at, n, by)?;
        if let Some(tracker) = &mut self.tracker {
            tracker.atomic(at, n, by)?;
        }
        Ok(&mut self.bytes[at..at + n])
    }

    /// Begins an asynchronous copy to `n` bytes: nobody may touch them until it is waited for.
    pub(crate) fn begin_copy(&mut self, at: u64, n: usize, by: By) -> Result<(), Fault> {
        let at = self.range(at, n, by)?;
        if let Some(tracker) = &mut self.tracker {
            tracker.begin_copy(at, n, by)?;
        }
        self.bytes[at..at + n].fill(0xff);
        Ok(())
    }

    /// Ends an asynchronous copy: from here on it is a write by the thread that waited.
    pub(crate) fn end_copy(&mut self, at: u64, new: &[u8], by: By) {
        let at = at as usize;
        if let Some(tracker) = &mut self.tracker {
            tracker.end_copy(at, new.len(), by);
        }
        self.bytes[at..at + new.len()].copy_from_slice(new);
    }

    /// Threads of a warp passed a barrier of the warp.
    pub(crate) fn warp_barrier(&mut self, warp: usize) {
        if let Some(tracker) = &mut self.tracker {
            tracker.clocks[warp][warp] += 1;
        }
    }

    /// Warps of the mask passed a barrier of the block.
    pub(crate) fn block_barrier(&mut self, warps: u32) {
        if let Some(tracker) = &mut self.tracker {
            tracker.block_barrier(warps);
        }
    }
}

/// Records of accesses, a byte each. An access is ordered before another if its warp's clock then is below what the
/// other's warp has seen of it.
struct Tracker {
    writes: Vec<Record>,
    reads: Vec<Record>,
    /// By warp: what it has seen of each warp's clock.
    clocks: Vec<Vec<u32>>,
    /// Barriers of the block that each warp passed, and how many there were in all.
    passed: Vec<u32>,
    n_barriers: u32,
}

#[derive(Clone, Copy)]
struct Record {
    who: Who,
    thread: u16,
    pc: u32,
    clock: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Nobody,
    Thread,
    /// A thread by an atomic operation.
    Atomic,
    /// A thread whose asynchronous copy is under way.
    Copy,
    /// Several threads of the warp of `thread`.
    Warp,
    /// Threads of several warps; the clock is the number of barriers then.
    Block,
}

const NOBODY: Record = Record {
    who: Who::Nobody,
    thread: 0,
    pc: 0,
    clock: 0,
};

impl Tracker {
    fn new(len: usize, n_warps: usize) -> Self {
        Self {
            writes: vec![NOBODY; len],
            reads: vec![NOBODY; len],
            clocks: vec![vec![1; n_warps]; n_warps],
            passed: vec![0; n_warps],
            n_barriers: 0,
        }
    }

    fn block_barrier(&mut self, warps: u32) {
        let members = || (0..32).filter(|warp| warps >> warp & 1 == 1);
        self.n_barriers += 1;
        let mut joint = vec![0; self.clocks.len()];
        for warp in members() {
            self.clocks[warp][warp] += 1;
            for (seen, clock) in joint.iter_mut().zip(&self.clocks[warp]) {
                *seen = (*seen).max(*clock);
            }
        }
        for warp in members() {
            // Of itself a warp has seen what the others have: all before this barrier.
            self.clocks[warp].copy_from_slice(&joint);
            self.passed[warp] = self.n_barriers;
        }
    }

    /// A record of now.
    fn record(&self, who: Who, by: By) -> Record {
        let warp = by.thread / 32;
        Record {
            who,
            thread: by.thread as u16,
            pc: by.pc,
            clock: self.clocks[warp][warp],
        }
    }

    /// Whether what a record tells of came before all that the thread does now.
    #[inline(always)]
    fn is_before(&self, record: &Record, by: By) -> bool {
        let warp = by.thread / 32;
        let other = usize::from(record.thread) / 32;
        match record.who {
            Who::Nobody => true,
            Who::Thread | Who::Atomic | Who::Copy => {
                usize::from(record.thread) == by.thread || record.clock < self.clocks[warp][other]
            }
            Who::Warp => record.clock < self.clocks[warp][other],
            Who::Block => record.clock < self.passed[warp],
        }
    }

    fn read(&mut self, at: usize, n: usize, by: By) -> Result<(), Fault> {
        for byte in at..at + n {
            let last = self.writes[byte];
            match last.who {
                Who::Nobody => return Err(unwritten(byte, by)),
                Who::Copy => return Err(pending(byte, by, &last, "reads")),
                Who::Thread | Who::Atomic | Who::Warp | Who::Block => {}
            }
            if !self.is_before(&last, by) {
                return Err(race(byte, by, &last, "reads", "wrote"));
            }
            self.reads[byte] = self.merged_read(&self.reads[byte], by);
        }
        Ok(())
    }

    /// Record of a read after those that a record tells of.
    #[inline(always)]
    fn merged_read(&self, old: &Record, by: By) -> Record {
        let new = self.record(Who::Thread, by);
        let same_warp = usize::from(old.thread) / 32 == by.thread / 32;
        match old.who {
            _ if self.is_before(old, by) => new,
            Who::Nobody => new,
            Who::Thread | Who::Warp | Who::Atomic | Who::Copy if same_warp => Record {
                who: Who::Warp,
                ..new
            },
            Who::Thread | Who::Warp | Who::Atomic | Who::Copy | Who::Block => Record {
                who: Who::Block,
                clock: self.n_barriers,
                ..new
            },
        }
    }

    fn write(&mut self, at: usize, n: usize, by: By, is_same: bool) -> Result<(), Fault> {
        for byte in at..at + n {
            self.check_write(byte, by, is_same, "writes")?;
            self.writes[byte] = self.record(Who::Thread, by);
            self.reads[byte] = NOBODY;
        }
        Ok(())
    }

    fn check_write(&self, byte: usize, by: By, is_same: bool, verb: &str) -> Result<(), Fault> {
        let last = self.writes[byte];
        if last.who == Who::Copy {
            return Err(pending(byte, by, &last, verb));
        }
        if !self.is_before(&last, by) {
            // Lanes of one instruction may all write the same value.
            let together = last.pc == by.pc && usize::from(last.thread) / 32 == by.thread / 32;
            if !(is_same && together) {
                return Err(race(byte, by, &last, verb, "wrote"));
            }
        }
        let read = self.reads[byte];
        if self.is_before(&read, by) {
            Ok(())
        } else {
            Err(race(byte, by, &read, verb, "read"))
        }
    }

    fn atomic(&mut self, at: usize, n: usize, by: By) -> Result<(), Fault> {
        for byte in at..at + n {
            let last = self.writes[byte];
            if last.who == Who::Nobody {
                return Err(unwritten(byte, by));
            }
            if last.who == Who::Atomic {
                let read = self.reads[byte];
                if !self.is_before(&read, by) {
                    return Err(race(byte, by, &read, "changes", "read"));
                }
            } else {
                self.check_write(byte, by, false, "changes")?;
            }
            self.writes[byte] = self.record(Who::Atomic, by);
            self.reads[byte] = NOBODY;
        }
        Ok(())
    }

    fn begin_copy(&mut self, at: usize, n: usize, by: By) -> Result<(), Fault> {
        for byte in at..at + n {
            self.check_write(byte, by, false, "copies to")?;
            self.writes[byte] = self.record(Who::Copy, by);
            self.reads[byte] = NOBODY;
        }
        Ok(())
    }

    fn end_copy(&mut self, at: usize, n: usize, by: By) {
        for byte in at..at + n {
            self.writes[byte] = self.record(Who::Thread, by);
        }
    }
}

#[cold]
fn unwritten(byte: usize, by: By) -> Fault {
    Fault::at_lane(
        Kind::Uninitialized,
        by.thread % 32,
        format!("reads byte {byte:#x} of shared memory, which nothing wrote before"),
    )
}

#[cold]
fn pending(byte: usize, by: By, last: &Record, verb: &str) -> Fault {
    let thread = last.thread;
    Fault {
        other: Some(last.pc),
        ..Fault::at_lane(
            Kind::Race,
            by.thread % 32,
            format!(
                "{verb} byte {byte:#x} of shared memory while thread {thread}'s asynchronous copy to it is not waited for"
            ),
        )
    }
}

#[cold]
fn race(byte: usize, by: By, last: &Record, verb: &str, did: &str) -> Fault {
    let whom = match last.who {
        Who::Block => "threads of several warps".to_owned(),
        Who::Warp => format!("threads of warp {}", last.thread / 32),
        Who::Nobody | Who::Thread | Who::Atomic | Who::Copy => format!("thread {}", last.thread),
    };
    Fault {
        other: Some(last.pc),
        ..Fault::at_lane(
            Kind::Race,
            by.thread % 32,
            format!(
                "{verb} byte {byte:#x} of shared memory, which {whom} {did}, with no barrier between"
            ),
        )
    }
}
