//! The random values: such that activations stay in the range of a real model's.

use anyhow::Result;
use llm_arch::{Role, Slot};
use llm_checkpoint::CheckpointError;
use llm_tensor::{DType, f32_to_le_bytes};
use rayon::prelude::*;

/// Values by position: each is computed from the seed, the tensor's name and its index alone, so that neither the
/// number of threads nor the order of writing matters.
pub(super) struct Values {
    seed: u64,
    /// What the standard deviation of matrices that write into the residual stream is divided by.
    residual_damping: f32,
}

impl Values {
    pub(super) fn new(seed: u64, n_layers: usize) -> Self {
        Values {
            seed,
            // Two such matrices per layer: the variances of what they add sum to about 1.
            residual_damping: (2.0 * n_layers as f32).sqrt(),
        }
    }

    /// Makes the tensor's bytes, little-endian `dtype`, and hands them to `sink` in pieces of at most [`BATCH`]
    /// elements.
    ///
    /// # Errors
    /// The sink's.
    pub(super) fn write(
        &self,
        slot: &Slot,
        dtype: DType,
        mut sink: impl FnMut(&[u8]) -> Result<(), CheckpointError>,
    ) -> Result<()> {
        let (mean, std) = self.distribution(slot);
        let key = slot
            .name
            .bytes()
            .fold(self.seed, |key, byte| scramble(key ^ u64::from(byte)));
        let n_elements = slot.n_elements();
        let mut bytes = vec![0; n_elements.min(BATCH) as usize * dtype.size()];
        for start in (0..n_elements).step_by(BATCH as usize) {
            let n = (n_elements - start).min(BATCH) as usize;
            let batch = &mut bytes[..n * dtype.size()];
            batch
                .par_chunks_mut(PIECE * dtype.size())
                .enumerate()
                .try_for_each(|(piece_idx, piece)| {
                    let first = start + (piece_idx * PIECE) as u64;
                    let mut values = [0f32; PIECE];
                    let values = &mut values[..piece.len() / dtype.size()];
                    for (i, value) in values.iter_mut().enumerate() {
                        *value = mean + std * normal(key, first + i as u64);
                    }
                    f32_to_le_bytes(values, dtype, piece)
                })?;
            sink(batch)?;
        }
        Ok(())
    }

    /// The mean and the standard deviation of a tensor's values.
    fn distribution(&self, slot: &Slot) -> (f32, f32) {
        // Keeps the variance: an output is a sum of `in` products.
        let matrix = slot
            .shape
            .last()
            .map_or(1.0, |&d| (d as f32).sqrt().recip());
        match slot.role {
            Role::TokenTable | Role::PositionTable | Role::Head => (0.0, matrix),
            Role::Qkv | Role::Q | Role::K | Role::V | Role::Gate | Role::Up => (0.0, matrix),
            Role::Out | Role::Down => (0.0, matrix / self.residual_damping),
            Role::AttnNorm | Role::MlpNorm | Role::FinalNorm => (1.0, 0.1),
            Role::RopeFactors => (1.0, 0.0),
            Role::AttnNormBias | Role::MlpNormBias | Role::FinalNormBias => (0.0, 0.02),
            Role::QkvBias | Role::QBias | Role::KBias | Role::VBias => (0.0, 0.02),
            Role::OutBias | Role::GateBias | Role::UpBias | Role::DownBias => (0.0, 0.02),
        }
    }
}

/// Elements that are in memory at a time.
const BATCH: u64 = 8 << 20;

/// Elements that a thread makes at a time, on its stack.
const PIECE: usize = 8 << 10;

/// Value `idx` of a sequence that is nearly normal, with mean 0 and variance 1: a sum of four uniform 16-bit
/// numbers.
fn normal(key: u64, idx: u64) -> f32 {
    let bits = scramble(key.wrapping_add(idx.wrapping_mul(GOLDEN)));
    let sum: u32 = (0..4)
        .map(|lane| u32::from((bits >> (16 * lane)) as u16))
        .sum();
    // Each has mean (2¹⁶ − 1) / 2 and variance 2³² / 12.
    (sum as f32 - 131_070.0) * (3f32.sqrt() / 65_536.0)
}

/// A bijection of 64 bits in which every bit of the result depends on every bit of the argument.
///
/// *Source*: the output function of SplitMix64 (Steele, Lea, Flood 2014: Fast splittable pseudorandom number
/// generators), in Stafford's variant 13.
fn scramble(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// 2⁶⁴ divided by the golden ratio, made odd: multiples of it are spread evenly.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
