//! Shared memory of a block.

mod tracker;

use crate::fault::{Fault, Kind};
use tracker::Tracker;

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
        if at & (n as u64 - 1) != 0 {
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

    /// Words of an access of `4 * N` bytes.
    #[inline(always)]
    pub(crate) fn words<const N: usize>(&mut self, at: u64, by: By) -> Result<[u32; N], Fault> {
        let at = self.range(at, 4 * N, by)?;
        if let Some(tracker) = &mut self.tracker {
            tracker.read(at, 4 * N, by)?;
        }
        let mut out = [0; N];
        for (word, bytes) in out.iter_mut().zip(self.bytes[at..at + 4 * N].as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        Ok(out)
    }

    #[inline(always)]
    pub(crate) fn write(&mut self, at: u64, new: &[u8], by: By) -> Result<(), Fault> {
        let at = self.range(at, new.len(), by)?;
        let old = &mut self.bytes[at..at + new.len()];
        if let Some(tracker) = &mut self.tracker {
            tracker.write(at, new.len(), by, || old == new)?;
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
            tracker.warp_barrier(warp);
        }
    }

    /// Warps of the mask passed a barrier of the block.
    pub(crate) fn block_barrier(&mut self, warps: u32) {
        if let Some(tracker) = &mut self.tracker {
            tracker.block_barrier(warps);
        }
    }
}
