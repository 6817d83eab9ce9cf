//! Who wrote and who read each byte of shared memory last, and what orders them.

use super::By;
use crate::fault::{Fault, Kind};

/// Records of accesses: one a word while all its bytes are accessed together, one a byte after that.
pub(super) struct Tracker {
    words: Vec<Word>,
    /// Of words that are split; empty while none is.
    bytes: Vec<[Last; 4]>,
    clocks: Clocks,
}

#[derive(Clone, Copy)]
struct Word {
    last: Last,
    is_split: bool,
}

/// Last write and last reads.
#[derive(Clone, Copy)]
struct Last {
    write: Record,
    read: Record,
}

#[derive(Clone, Copy)]
struct Record {
    who: Who,
    thread: u16,
    pc: u32,
    clock: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

const UNTOUCHED: Last = Last {
    write: NOBODY,
    read: NOBODY,
};

/// An access is ordered before another if its warp's clock then is below what the other's warp has seen of it.
struct Clocks {
    n_warps: usize,
    /// By warp: what it has seen of each warp's clock.
    seen: Vec<u32>,
    /// Barriers of the block at each warp's last one, and in all.
    passed: Vec<u32>,
    n_barriers: u32,
}

impl Tracker {
    pub(super) fn new(len: usize, n_warps: usize) -> Self {
        let word = Word {
            last: UNTOUCHED,
            is_split: false,
        };
        Self {
            words: vec![word; len.div_ceil(4)],
            bytes: Vec::new(),
            clocks: Clocks {
                n_warps,
                seen: vec![1; n_warps * n_warps],
                passed: vec![0; n_warps],
                n_barriers: 0,
            },
        }
    }

    pub(super) fn warp_barrier(&mut self, warp: usize) {
        self.clocks.seen[warp * self.clocks.n_warps + warp] += 1;
    }

    pub(super) fn block_barrier(&mut self, warps: u32) {
        self.clocks.block_barrier(warps);
    }

    #[inline(always)]
    pub(super) fn read(&mut self, at: usize, n: usize, by: By) -> Result<(), Fault> {
        if n < 4 {
            return self.read_bytes(at, n, by);
        }
        for at in (at..at + n).step_by(4) {
            let word = &mut self.words[at / 4];
            if word.is_split {
                self.read_bytes(at, 4, by)?;
            } else {
                self.clocks.read(at, &mut word.last, by)?;
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn read_bytes(&mut self, at: usize, n: usize, by: By) -> Result<(), Fault> {
        self.each(at, n, |clocks, byte, last| clocks.read(byte, last, by))
    }

    /// `is_same` tells whether the bytes hold already what is written.
    #[inline(always)]
    pub(super) fn write(
        &mut self,
        at: usize,
        n: usize,
        by: By,
        is_same: impl Fn() -> bool,
    ) -> Result<(), Fault> {
        let now = Last {
            write: self.clocks.record(Who::Thread, by),
            read: NOBODY,
        };
        if n < 4 {
            return self.write_bytes(at, n, by, is_same(), now);
        }
        for at in (at..at + n).step_by(4) {
            let word = &mut self.words[at / 4];
            if word.is_split {
                self.write_bytes(at, 4, by, is_same(), now)?;
                self.unite(at, 4);
            } else {
                self.clocks
                    .check_write(at, &word.last, by, &is_same, "writes")?;
                word.last = now;
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn write_bytes(
        &mut self,
        at: usize,
        n: usize,
        by: By,
        is_same: bool,
        now: Last,
    ) -> Result<(), Fault> {
        self.each(at, n, |clocks, byte, last| {
            clocks.check_write(byte, last, by, || is_same, "writes")?;
            *last = now;
            Ok(())
        })
    }

    pub(super) fn atomic(&mut self, at: usize, n: usize, by: By) -> Result<(), Fault> {
        let now = self.clocks.record(Who::Atomic, by);
        self.each(at, n, |clocks, byte, last| {
            if last.write.who == Who::Nobody {
                return Err(unwritten(byte, by));
            }
            if last.write.who != Who::Atomic {
                clocks.check_write(byte, last, by, || false, "changes")?;
            } else if !clocks.is_before(&last.read, by) {
                return Err(race(byte, by, &last.read, "changes", "read"));
            }
            *last = Last {
                write: now,
                read: NOBODY,
            };
            Ok(())
        })?;
        self.unite(at, n);
        Ok(())
    }

    pub(super) fn begin_copy(&mut self, at: usize, n: usize, by: By) -> Result<(), Fault> {
        let now = self.clocks.record(Who::Copy, by);
        self.each(at, n, |clocks, byte, last| {
            clocks.check_write(byte, last, by, || false, "copies to")?;
            *last = Last {
                write: now,
                read: NOBODY,
            };
            Ok(())
        })?;
        self.unite(at, n);
        Ok(())
    }

    pub(super) fn end_copy(&mut self, at: usize, n: usize, by: By) {
        let now = self.clocks.record(Who::Thread, by);
        let done = self.each(at, n, |_, _, last| {
            last.write = now;
            Ok(())
        });
        debug_assert!(done.is_ok(), "a record is only replaced");
    }

    /// Goes through the records of `n` bytes.
    #[inline(always)]
    fn each(
        &mut self,
        at: usize,
        n: usize,
        f: impl Fn(&Clocks, usize, &mut Last) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        for word in at / 4..(at + n).div_ceil(4) {
            let is_whole = at <= word * 4 && at + n >= word * 4 + 4;
            if is_whole && !self.words[word].is_split {
                f(&self.clocks, word * 4, &mut self.words[word].last)?;
                continue;
            }
            self.split(word);
            for byte in at.max(word * 4)..(at + n).min(word * 4 + 4) {
                f(&self.clocks, byte, &mut self.bytes[word][byte % 4])?;
            }
        }
        Ok(())
    }

    fn split(&mut self, word: usize) {
        if self.bytes.is_empty() {
            self.bytes = vec![[UNTOUCHED; 4]; self.words.len()];
        }
        let state = &mut self.words[word];
        if !state.is_split {
            state.is_split = true;
            self.bytes[word] = [state.last; 4];
        }
    }

    /// Words that were written as a whole need no records of bytes.
    #[inline(always)]
    fn unite(&mut self, at: usize, n: usize) {
        if self.bytes.is_empty() {
            return;
        }
        for word in at.div_ceil(4)..(at + n) / 4 {
            if self.words[word].is_split {
                self.words[word] = Word {
                    last: self.bytes[word][0],
                    is_split: false,
                };
            }
        }
    }
}

impl Clocks {
    #[inline(always)]
    fn seen_by(&self, warp: usize, other: usize) -> u32 {
        self.seen[warp * self.n_warps + other]
    }

    fn block_barrier(&mut self, warps: u32) {
        let members = || (0..32).filter(|warp| warps >> warp & 1 == 1);
        self.n_barriers += 1;
        let mut joint = vec![0; self.n_warps];
        for warp in members() {
            let row = &mut self.seen[warp * self.n_warps..][..self.n_warps];
            row[warp] += 1;
            for (all, seen) in joint.iter_mut().zip(row) {
                *all = (*all).max(*seen);
            }
        }
        for warp in members() {
            // Of itself a warp has seen what the others have: all before this barrier.
            self.seen[warp * self.n_warps..][..self.n_warps].copy_from_slice(&joint);
            self.passed[warp] = self.n_barriers;
        }
    }

    /// A record of now.
    #[inline(always)]
    fn record(&self, who: Who, by: By) -> Record {
        let warp = by.thread / 32;
        Record {
            who,
            thread: by.thread as u16,
            pc: by.pc,
            clock: self.seen_by(warp, warp),
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
                usize::from(record.thread) == by.thread || record.clock < self.seen_by(warp, other)
            }
            Who::Warp => record.clock < self.seen_by(warp, other),
            Who::Block => record.clock < self.passed[warp],
        }
    }

    #[inline(always)]
    fn read(&self, byte: usize, last: &mut Last, by: By) -> Result<(), Fault> {
        match last.write.who {
            Who::Nobody => return Err(unwritten(byte, by)),
            Who::Copy => return Err(pending(byte, by, &last.write, "reads")),
            Who::Thread | Who::Atomic | Who::Warp | Who::Block => {}
        }
        if !self.is_before(&last.write, by) {
            return Err(race(byte, by, &last.write, "reads", "wrote"));
        }
        last.read = self.after_read(&last.read, by);
        Ok(())
    }

    /// Record of a read after those that a record tells of.
    #[inline(always)]
    fn after_read(&self, old: &Record, by: By) -> Record {
        let new = self.record(Who::Thread, by);
        let is_same_warp = usize::from(old.thread) / 32 == by.thread / 32;
        if self.is_before(old, by) {
            return new;
        }
        match old.who {
            Who::Nobody => new,
            Who::Thread | Who::Warp | Who::Atomic | Who::Copy if is_same_warp => Record {
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

    #[inline(always)]
    fn check_write(
        &self,
        byte: usize,
        last: &Last,
        by: By,
        is_same: impl Fn() -> bool,
        verb: &str,
    ) -> Result<(), Fault> {
        let write = &last.write;
        if write.who == Who::Copy {
            return Err(pending(byte, by, write, verb));
        }
        if !self.is_before(write, by) {
            // Lanes of one instruction may all write the same value.
            let together = write.pc == by.pc && usize::from(write.thread) / 32 == by.thread / 32;
            if !(together && is_same()) {
                return Err(race(byte, by, write, verb, "wrote"));
            }
        }
        if self.is_before(&last.read, by) {
            Ok(())
        } else {
            Err(race(byte, by, &last.read, verb, "read"))
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
    let text = format!(
        "{verb} byte {byte:#x} of shared memory while thread {thread}'s asynchronous copy to it is not waited for"
    );
    Fault {
        other: Some(last.pc),
        ..Fault::at_lane(Kind::Race, by.thread % 32, text)
    }
}

#[cold]
fn race(byte: usize, by: By, last: &Record, verb: &str, did: &str) -> Fault {
    let whom = match last.who {
        Who::Block => "threads of several warps".to_owned(),
        Who::Warp => format!("threads of warp {}", last.thread / 32),
        Who::Nobody | Who::Thread | Who::Atomic | Who::Copy => format!("thread {}", last.thread),
    };
    let text = format!(
        "{verb} byte {byte:#x} of shared memory, which {whom} {did}, with no barrier between"
    );
    Fault {
        other: Some(last.pc),
        ..Fault::at_lane(Kind::Race, by.thread % 32, text)
    }
}
