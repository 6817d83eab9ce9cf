//! Host pages through which small things go to the GPU and come back: what is uploaded may be changed at once, and nothing
//! waits; what is fetched is waited for once.

use std::collections::VecDeque;
use std::ops::Range;

use crate::driver::{DeviceMemory, Event, Failure, HostMemory, Stream, Timing};

/// A ring of pages; made at the first use, since a queue that only brings has none.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    pages: Option<HostMemory>,
    /// The first byte that comes next.
    next: usize,
    /// Bytes whose copy is under way, the oldest first, and the event after it.
    under_way: VecDeque<(Range<usize>, Event)>,
    idle: Vec<Event>,
}

impl Uploads {
    /// Copies `src` to the start of `dst`, behind the work of `stream`. It waits only where the ring is full.
    pub(crate) fn put(
        &mut self,
        stream: &Stream,
        src: &[u8],
        dst: &DeviceMemory,
    ) -> Result<(), Failure> {
        for (i, chunk) in src.chunks(CHUNK).enumerate() {
            let range = self.room(chunk.len())?;
            let pages = made(&mut self.pages, stream)?;
            pages.bytes_mut()[range.clone()].copy_from_slice(chunk);
            stream.bring((pages, range.start), (dst, i * CHUNK), chunk.len())?;
            let event = match self.idle.pop() {
                Some(event) => event,
                None => Event::new(stream.context(), Timing::None)?,
            };
            stream.record(&event)?;
            self.under_way.push_back((range, event));
        }
        Ok(())
    }

    /// Copies the bytes from `at` of `src` to `dst`, and waits for all work of `stream` so far. The driver would wait twice for
    /// memory that it does not copy to by itself.
    pub(crate) fn fetch(
        &mut self,
        stream: &Stream,
        (src, at): (&DeviceMemory, usize),
        dst: &mut [u8],
    ) -> Result<(), Failure> {
        for (i, chunk) in dst.chunks_mut(RING).enumerate() {
            // Uploads from these pages come before this in their stream.
            let pages = &mut made(&mut self.pages, stream)?.bytes_mut()[..chunk.len()];
            stream.read(src, at + i * RING, pages)?;
            chunk.copy_from_slice(pages);
        }
        if dst.is_empty() {
            stream.synchronize()?;
        }
        self.forget();
        Ok(())
    }

    /// All copies are done.
    pub(crate) fn forget(&mut self) {
        self.idle
            .extend(self.under_way.drain(..).map(|(_, event)| event));
    }

    /// Bytes that no copy reads.
    fn room(&mut self, n: usize) -> Result<Range<usize>, Failure> {
        if self.next + n > RING {
            self.next = 0;
        }
        let range = self.next..self.next + n;
        let overlaps = |other: &Range<usize>| other.start < range.end && range.start < other.end;
        while let Some(last) = self
            .under_way
            .iter()
            .rposition(|(other, _)| overlaps(other))
        {
            // Copies end in order.
            for (_, event) in self.under_way.drain(..=last) {
                event.synchronize()?;
                self.idle.push(event);
            }
        }
        self.next = range.end;
        Ok(range)
    }
}

fn made<'a>(
    pages: &'a mut Option<HostMemory>,
    stream: &Stream,
) -> Result<&'a mut HostMemory, Failure> {
    Ok(match pages {
        Some(pages) => pages,
        none => none.insert(HostMemory::new(stream.context(), RING, 1)?),
    })
}

/// Bytes of the ring.
const RING: usize = 1 << 20;

/// Bytes of a copy.
const CHUNK: usize = RING / 4;
