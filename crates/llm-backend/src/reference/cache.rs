//! Keys and values as the reference keeps them.

use llm_tensor::{Bytes, DType, KvShape, f32_to_le_bytes, le_bytes_to_f32};

use crate::Allocation;

/// Keys and values, `[capacity, n_kv_heads · head_dim]` each, rounded to the cache's element type.
#[derive(Debug)]
pub struct ReferenceCache {
    pub(super) shape: KvShape,
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
}

impl ReferenceCache {
    /// Elements of a position's keys, and of its values.
    pub(super) fn width(&self) -> usize {
        self.shape.n_kv_heads * self.shape.head_dim
    }

    /// Where a position lies: the last `capacity` positions share the places in turn.
    pub(super) fn slot(&self, position: usize) -> usize {
        position % self.shape.capacity
    }
}

impl Allocation for ReferenceCache {
    fn bytes(&self) -> Bytes {
        self.keys.bytes() + self.values.bytes()
    }
}

pub(super) fn round_into(src: &[f32], dtype: DType, dst: &mut [f32]) {
    let mut bytes = vec![0; src.len() * dtype.size()];
    f32_to_le_bytes(src, dtype, &mut bytes).expect("a cache is f32, f16 or bf16");
    le_bytes_to_f32(dtype, &bytes, dst).expect("a cache is f32, f16 or bf16");
}
