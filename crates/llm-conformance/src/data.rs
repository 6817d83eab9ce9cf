use std::iter;

use llm_tensor::{DType, HostBytes, f32_to_le_bytes, le_bytes_to_f32};

use crate::{Backend, DenseWeight, HostWeight};

/// The element types of weights and caches.
pub(super) const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Deterministic numbers (SplitMix64, Steele et al. 2014).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly within ±`magnitude`.
    pub(super) fn values(&mut self, n: usize, magnitude: f32) -> Vec<f32> {
        let unit = |bits: u64| (bits >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        (0..n).map(|_| unit(self.next()) * magnitude).collect()
    }

    /// A weight within ±1.
    pub(super) fn weight(&mut self, dtype: DType, rows: usize, cols: usize) -> HostWeight {
        let values = self.values(rows * cols, 1.0);
        weight(dtype, rows, cols, &values)
    }
}

/// A weight at an odd address.
pub(super) fn weight(dtype: DType, rows: usize, cols: usize, values: &[f32]) -> HostWeight {
    let mut bytes = vec![0; values.len() * dtype.size()];
    f32_to_le_bytes(values, dtype, &mut bytes).expect("weights are f32, f16 or bf16");
    HostWeight::Dense(DenseWeight {
        dtype,
        rows,
        cols,
        bytes: at_odd_address(&bytes),
    })
}

/// Bytes that start at an odd address and end with their allocation, as the last of a file may.
pub(super) fn at_odd_address(bytes: &[u8]) -> HostBytes {
    let moved: Box<[u8]> = iter::once(&0).chain(bytes).copied().collect();
    HostBytes::new(moved).slice(1..1 + bytes.len())
}

/// The elements of a weight that is multiplied as they are.
pub(super) fn widened(weight: &HostWeight) -> Vec<f32> {
    match weight {
        HostWeight::Dense(weight) => {
            let mut values = vec![0.0; weight.rows * weight.cols];
            le_bytes_to_f32(weight.dtype, &weight.bytes, &mut values)
                .expect("weights are f32, f16 or bf16");
            values
        }
        HostWeight::FourBit(weight) => (0..weight.rows() * weight.cols())
            .map(|i| weight.element(i))
            .collect(),
        HostWeight::Int8(_) | HostWeight::Int8PerUse(..) => {
            panic!("a weight that is multiplied as its elements")
        }
    }
}

/// `values` on the device.
pub(super) fn uploaded<B: Backend>(backend: &B, values: &[f32]) -> B::Buffer {
    let mut buffer = backend.alloc(values.len()).expect(WORKS);
    backend.upload(values, &mut buffer).expect(WORKS);
    buffer
}

/// The first `n` elements of a buffer.
pub(super) fn downloaded<B: Backend>(backend: &B, buffer: &B::Buffer, n: usize) -> Vec<f32> {
    let mut values = vec![0.0; n];
    backend.download(buffer, &mut values).expect(WORKS);
    values
}

/// What an operation's failure is reported with.
pub(super) const WORKS: &str = "the operations of a conforming backend do not fail";
