use llm_backend::Allocation;
use llm_tensor::{Bytes, WorkspaceShape};

use crate::isa::Geometry;
use crate::memory::Buffer;
use crate::{attention, gemm, int8};

/// Scratch memory of the operations, which use it one after the other.
#[derive(Debug)]
pub(crate) struct Workspace {
    memory: Buffer,
}

/// The tokens from which on panels of weights pay; below, weights are read row by row.
pub(crate) const GEMM_TOKENS: usize = 12;
/// The same for 4-bit weights of whole blocks, whose panels take longer to make.
pub(crate) const GEMM_TOKENS_4BIT: usize = 32;
/// Positions of a part when a single token's attention is divided among threads.
pub(crate) const PART_POSITIONS: usize = 512;

impl Workspace {
    /// # Errors
    /// What was asked for, when the system does not give it.
    pub(crate) fn new(
        shape: Option<&WorkspaceShape>,
        geometry: Geometry,
        n_threads: usize,
    ) -> Result<Self, Bytes> {
        let n_elements = shape.map_or(0, |shape| n_elements(shape, geometry, n_threads));
        Ok(Workspace {
            memory: Buffer::zeroed(n_elements)?,
        })
    }

    /// The first `n` elements.
    ///
    /// # Panics
    /// When the workspace was made for smaller calls.
    pub(crate) fn take(&mut self, n: usize) -> &mut [f32] {
        &mut self.all(n)[..n]
    }

    /// All elements, `n` at least.
    ///
    /// # Panics
    /// When the workspace was made for smaller calls.
    pub(crate) fn all(&mut self, n: usize) -> &mut [f32] {
        let memory = self.memory.as_mut_slice();
        assert!(
            n <= memory.len(),
            "a workspace of {} elements serves no call that needs {n}",
            memory.len()
        );
        memory
    }
}

impl Allocation for Workspace {
    fn bytes(&self) -> Bytes {
        self.memory.bytes()
    }
}

/// The bytes that [`Workspace::new`] allocates.
pub(crate) fn bytes(shape: &WorkspaceShape, geometry: Geometry, n_threads: usize) -> Bytes {
    Bytes::new((n_elements(shape, geometry, n_threads) * size_of::<f32>()) as u64)
}

fn n_elements(shape: &WorkspaceShape, geometry: Geometry, n_threads: usize) -> usize {
    matvec_len(
        shape.n_tokens.min(GEMM_TOKENS_4BIT - 1),
        shape.cols,
        geometry,
    )
    .max(gemm_len(shape.n_tokens, geometry, n_threads))
    .max(int8::workspace_len(
        shape.n_tokens,
        shape.cols,
        geometry,
        n_threads,
    ))
    .max(attention_len(shape.head_dim, n_threads))
    .max(partial_attention_len(
        shape.head_dim,
        shape.n_heads,
        // The first part begins with a panel's first position, which may be before the first one seen.
        (shape.context + geometry.panel).div_ceil(PART_POSITIONS),
        n_threads,
    ))
}

/// What a linear operation on few rows takes: the arranged rows.
pub(crate) fn matvec_len(n_tokens: usize, cols: usize, geometry: Geometry) -> usize {
    n_tokens * padded_cols(cols, geometry)
}

/// The elements of an arranged row: whole steps of every kernel.
pub(crate) fn padded_cols(cols: usize, geometry: Geometry) -> usize {
    cols.next_multiple_of(8 * geometry.lanes)
}

/// What a linear operation on more rows takes: a panel and a slab of the rows a thread.
pub(crate) fn gemm_len(n_tokens: usize, geometry: Geometry, n_threads: usize) -> usize {
    if n_tokens < GEMM_TOKENS {
        0
    } else {
        n_threads * gemm::scratch_len(n_tokens, geometry.panel)
    }
}

/// What attention takes.
pub(crate) fn attention_len(head_dim: usize, n_threads: usize) -> usize {
    n_threads * attention::scratch_len(head_dim)
}

/// What attention of a single token to many parts of the positions takes: unmerged results beside.
pub(crate) fn partial_attention_len(
    head_dim: usize,
    n_heads: usize,
    n_parts: usize,
    n_threads: usize,
) -> usize {
    attention_len(head_dim, n_threads) + n_heads * n_parts * attention::partial_len(head_dim)
}
