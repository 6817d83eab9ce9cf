//! Size of the scratch memory that serves every operation.

use llm_quant::Activations;
use llm_tensor::{Bytes, WorkspaceShape};

use crate::attention::{PART_POSITIONS, attention_len, partial_attention_len};
use crate::delta::delta_len;
use crate::digits::Digits;
use crate::gemm::gemm_len;
use crate::int8;
use crate::isa::Geometry;
use crate::matvec::{GEMM_TOKENS_4BIT, matvec_len};
use crate::select::select_len;
use crate::whole;

/// Bytes of a queue's scratch memory.
pub(crate) fn bytes(
    shape: &WorkspaceShape,
    geometry: Geometry,
    n_threads: usize,
    activations: Activations,
) -> Bytes {
    Bytes::new((n_elements(shape, geometry, n_threads, activations) * size_of::<f32>()) as u64)
}

/// f32 of a queue's scratch memory.
pub(crate) fn n_elements(
    shape: &WorkspaceShape,
    geometry: Geometry,
    n_threads: usize,
    activations: Activations,
) -> usize {
    let digits = match activations {
        Activations::F32 => Digits::Three,
        Activations::Q8 => Digits::One,
    };
    let whole = whole::workspace_len(digits, shape.n_tokens, shape.cols, n_threads);
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
    .max(whole)
    .max(attention_len(shape.head_dim, n_threads))
    .max(delta_len(
        shape.n_tokens,
        shape.head_dim,
        geometry,
        n_threads,
    ))
    .max(select_len(
        shape.n_selecting,
        shape.context,
        geometry,
        n_threads,
    ))
    .max(partial_attention_len(
        shape.head_dim,
        shape.n_heads,
        // The first part begins with a panel's first position, which may be before the first one seen.
        (shape.context + geometry.panel).div_ceil(PART_POSITIONS),
        n_threads,
    ))
}
