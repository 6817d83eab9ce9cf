//! Scratch memory of a queue: what one operation left there, the next writes over.

use std::sync::Arc;

use llm_backend::Result;

use crate::card::Card;
use crate::driver::DeviceMemory;
use crate::memory::{Memory, Span};

#[derive(Debug)]
pub(crate) struct Workspace(Memory);

impl Workspace {
    pub(crate) fn new(card: &Arc<Card>, n_bytes: usize) -> Result<Self> {
        Memory::new(card, n_bytes, "scratch memory").map(Workspace)
    }

    pub(crate) fn raw(&self) -> &DeviceMemory {
        self.0.raw()
    }

    /// Bytes of all areas.
    pub(crate) fn n_bytes(&self) -> usize {
        self.0.n_bytes()
    }

    /// Areas of so many bytes, each on a border of [`ALIGN`].
    ///
    /// # Panics
    /// When they are more than the queue was made for.
    pub(crate) fn areas<const N: usize>(&self, sizes: [usize; N]) -> [Span<'_>; N] {
        let mut end = 0;
        sizes.map(|n| {
            let start = end;
            end += n.next_multiple_of(ALIGN);
            self.0.span(start..start + n)
        })
    }
}

/// Bytes of such areas.
pub(crate) fn bytes<const N: usize>(sizes: [usize; N]) -> usize {
    sizes.iter().map(|n| n.next_multiple_of(ALIGN)).sum()
}

/// Border that any kernel is content with.
const ALIGN: usize = 256;
