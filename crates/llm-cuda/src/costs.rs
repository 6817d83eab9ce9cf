//! Bytes that a GPU allocates beside weights, as functions of shapes: no driver is asked, so that plans can be made on any
//! machine.

use llm_backend::Routing;
use llm_tensor::{Bytes, KvShape, WorkspaceShape};

use crate::{Products, choose, kv_pool, ops, routes};

/// Memory that the driver and the kernels' code take of a GPU before anything is allocated, about: for plans of GPUs that are
/// not at hand. What is free on one that is says it better.
pub const CONTEXT: Bytes = Bytes::new(600 << 20);

/// Bytes of a pool of keys and values.
pub fn kv_pool_bytes(shape: &KvShape) -> Bytes {
    kv_pool::bytes(shape)
}

/// Positions of a block of such a pool.
pub fn kv_block_len(_: &KvShape) -> usize {
    kv_pool::BLOCK
}

/// Bytes of a router's choice in passes of `n_tokens`.
pub fn routes_bytes(routing: &Routing, n_tokens: usize) -> Bytes {
    routes::bytes(routing, n_tokens)
}

/// Bytes of a queue's scratch memory, that of cuBLAS among them where it has it.
pub fn workspace_bytes(shape: &WorkspaceShape, products: Products) -> Bytes {
    let of_blas = match products.has_blas(shape) {
        true => choose::BLAS_WORKSPACE,
        false => 0,
    };
    Bytes::new((ops::scratch_bytes(shape) + of_blas) as u64)
}

/// Memory that cuBLAS takes of a GPU for itself, about: a pool of its own, which it has whether it is used or not, and the code of
/// kernels.
pub const CUBLAS_CONTEXT: Bytes = Bytes::new(256 << 20);

/// RAM that cuBLAS takes when it is loaded: 162 MB for 13.1, of which 101 MB are no file's.
pub const CUBLAS_RAM: Bytes = Bytes::new(176 << 20);

/// Kernels that a layer starts in a step, about: norms, projections, rotation, keys and values, attention, and the product of
/// gate and up.
pub const LAUNCHES_OF_LAYER: u64 = 11;

/// Kernels that are started for an expert that some row goes to, about: a router's and two products, which experts that lie
/// on the GPU share.
pub const LAUNCHES_OF_EXPERT: u64 = 1;
