use std::iter;
use std::ops::Range;
use std::sync::Arc;

use llm_backend::{Backend, Queue};
use llm_quant::StoredWeight;
use llm_tensor::{DType, HostBytes, WorkspaceShape, f32_to_le_bytes};

/// The element types of weights and caches.
pub(crate) const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Deterministic numbers (SplitMix64, Steele et al. 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly below `n`, nearly.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// Evenly within ±`magnitude`.
    pub(crate) fn values(&mut self, n: usize, magnitude: f32) -> Vec<f32> {
        let unit = |bits: u64| (bits >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        (0..n).map(|_| unit(self.next()) * magnitude).collect()
    }

    /// A weight within ±1.
    pub(crate) fn weight(&mut self, dtype: DType, rows: usize, cols: usize) -> StoredWeight {
        let values = self.values(rows * cols, 1.0);
        weight(dtype, rows, cols, &values)
    }
}

/// A weight at an odd address.
pub(crate) fn weight(dtype: DType, rows: usize, cols: usize, values: &[f32]) -> StoredWeight {
    let mut bytes = vec![0; values.len() * dtype.size()];
    f32_to_le_bytes(values, dtype, &mut bytes).expect("weights are f32, f16 or bf16");
    StoredWeight::dense(dtype, (rows, cols), at_odd_address(&bytes))
}

/// Bytes that start at an odd address and end with their allocation, as the last of a file may.
pub(crate) fn at_odd_address(bytes: &[u8]) -> HostBytes {
    let moved: Box<[u8]> = iter::once(&0).chain(bytes).copied().collect();
    HostBytes::new(moved).slice(1..1 + bytes.len())
}

/// The elements of a weight.
pub(crate) fn widened(weight: &StoredWeight) -> Vec<f32> {
    weight.values().expect("elements of weights are numbers")
}

/// Memory of a device, and a queue to compute in it.
pub(crate) struct Device<B: Backend> {
    backend: Arc<B>,
    pub(crate) queue: B::Queue,
}

impl<B: Backend> Device<B> {
    /// For operations that need no scratch memory worth speaking of.
    pub(crate) fn new(backend: &Arc<B>) -> Self {
        Self::with_workspace(backend, &SMALL)
    }

    pub(crate) fn with_workspace(backend: &Arc<B>, shape: &WorkspaceShape) -> Self {
        Device {
            backend: Arc::clone(backend),
            queue: backend.queue(Some(shape)).expect(WORKS),
        }
    }

    pub(crate) fn zeros(&self, n: usize) -> B::Buffer {
        self.backend.alloc(n).expect(WORKS)
    }

    pub(crate) fn buffer(&mut self, values: &[f32]) -> B::Buffer {
        let mut buffer = self.zeros(values.len());
        self.queue.upload(values, &mut buffer).expect(WORKS);
        buffer
    }

    pub(crate) fn index(&mut self, values: &[u32]) -> B::Index {
        let mut index = self.backend.alloc_index(values.len()).expect(WORKS);
        self.queue.upload_index(values, &mut index).expect(WORKS);
        index
    }

    pub(crate) fn load(&self, weight: StoredWeight) -> B::Weight {
        self.backend.load(weight).expect(WORKS)
    }

    pub(crate) fn elements(&self, vector: &B::Weight, range: Range<usize>) -> B::Weight {
        self.backend.elements(vector, range)
    }

    /// The first `n` elements of a buffer.
    pub(crate) fn read(&mut self, buffer: &B::Buffer, n: usize) -> Vec<f32> {
        let mut values = vec![0.0; n];
        self.queue.download(buffer, &mut values).expect(WORKS);
        values
    }
}

/// A workspace for what is not tried.
pub(crate) const SMALL: WorkspaceShape = WorkspaceShape {
    n_tokens: 1,
    cols: 1,
    rows: 1,
    context: 1,
    n_heads: 1,
    n_kv_heads: 1,
    head_dim: 1,
    n_selecting: 0,
};

/// Message of an operation's failure.
pub(crate) const WORKS: &str = "the operations of a conforming backend do not fail";
