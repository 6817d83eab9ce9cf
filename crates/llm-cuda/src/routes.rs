//! Rows of a pass by the expert that a router chose for them, on the GPU.

use std::ops::Range;
use std::sync::Arc;

use llm_backend::{Allocation, Result, Routing};
use llm_tensor::Bytes;

use crate::card::Card;
use crate::memory::{Memory, Span};

/// A router's choice, and lists made of it.
#[derive(Debug)]
pub struct Routes {
    pub(crate) memory: Memory,
    layout: Layout,
    /// Rows of the last pass.
    pub(crate) n_tokens: usize,
}

/// Sizes of the lists.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) n_experts: usize,
    pub(crate) n_active: usize,
    /// Rows of a pass, at most.
    pub(crate) n_tokens: usize,
}

/// A list, of elements of four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    /// `[capacity, 4]`: expert, first assignment, assignments, nothing.
    Tiles,
    /// Tiles that there are, `[1]`.
    TileCount,
    /// Experts of each row, `[n_tokens, n_active]`, the likeliest first.
    Chosen,
    /// Weights of their results, likewise.
    Weights,
    /// Begin of each expert's assignments, and the end, `[n_experts + 1]`.
    Starts,
    /// Row of each assignment, by expert, `[n_tokens · n_active]`.
    Rows,
    /// Weight of its result.
    RowWeights,
    /// Assignments of each row, `[n_tokens, n_active]`, the experts rising.
    Slots,
}

impl Layout {
    /// Fewest rows of a tile.
    pub(crate) const TILE_ROWS: usize = 8;

    pub(crate) fn of(routing: &Routing, n_tokens: usize) -> Self {
        Layout {
            n_experts: routing.n_experts,
            n_active: routing.n_active,
            n_tokens,
        }
    }

    /// Assignments of a pass.
    pub(crate) fn n_assignments(&self) -> usize {
        self.n_tokens * self.n_active
    }

    /// Tiles of a pass at most.
    pub(crate) fn tile_capacity(&self) -> usize {
        self.tiles(self.n_tokens)
    }

    /// Tiles of a pass of `n_tokens` at most.
    pub(crate) fn tiles(&self, n_tokens: usize) -> usize {
        let n = n_tokens * self.n_active;
        self.n_experts.min(n) + n / Self::TILE_ROWS
    }

    fn n_elements(&self, list: List) -> usize {
        match list {
            List::Tiles => 4 * self.tile_capacity(),
            List::TileCount => 1,
            List::Starts => self.n_experts + 1,
            List::Chosen | List::Weights | List::Rows | List::RowWeights | List::Slots => {
                self.n_assignments()
            }
        }
    }

    /// Bytes of a list within the allocation.
    fn range(&self, list: List) -> Range<usize> {
        let before = List::ALL.into_iter().take_while(|&other| other != list);
        let start: usize = before.map(|other| self.n_elements(other)).sum();
        4 * start..4 * (start + self.n_elements(list))
    }
}

impl List {
    /// In the order of the allocation: what is read 16 bytes at once first.
    const ALL: [List; 8] = [
        List::Tiles,
        List::TileCount,
        List::Chosen,
        List::Weights,
        List::Starts,
        List::Rows,
        List::RowWeights,
        List::Slots,
    ];
}

impl Routes {
    pub(crate) fn new(card: &Arc<Card>, routing: &Routing, n_tokens: usize) -> Result<Self> {
        let n_bytes = bytes(routing, n_tokens).get() as usize;
        Ok(Routes {
            memory: Memory::new(card, n_bytes, "routes")?,
            layout: Layout::of(routing, n_tokens),
            n_tokens: 0,
        })
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn span(&self, list: List) -> Span<'_> {
        self.memory.span(self.layout.range(list))
    }

    /// Begin and end of an expert's assignments, two numbers.
    ///
    /// # Panics
    /// When there is no such expert.
    pub(crate) fn bounds(&self, expert: usize) -> Span<'_> {
        self.span(List::Starts).part(4 * expert..4 * (expert + 2))
    }

    /// Bytes of [`List::Starts`] within the allocation.
    pub(crate) fn starts(&self) -> Range<usize> {
        self.layout.range(List::Starts)
    }
}

impl Allocation for Routes {
    fn bytes(&self) -> Bytes {
        Bytes::new(self.memory.n_bytes() as u64)
    }
}

pub(crate) fn bytes(routing: &Routing, n_tokens: usize) -> Bytes {
    let layout = Layout::of(routing, n_tokens);
    let n_elements: usize = List::ALL
        .into_iter()
        .map(|list| layout.n_elements(list))
        .sum();
    Bytes::new(4 * n_elements as u64)
}
