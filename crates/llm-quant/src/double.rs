//! Double quantization: the scales of 4-bit blocks, quantized to 8 bits themselves.

mod map;
mod nearest;

use std::sync::Arc;

use llm_tensor::HostBytes;

use crate::floats::{f32_at, largest_magnitude};
use crate::{QuantError, Result};

/// Scales that share a scale of their own.
pub const NESTED_BLOCK: usize = 256;

/// The values of the 256 codes of a scale, sorted.
pub fn dynamic_map() -> &'static [f32; 256] {
    &map::DYNAMIC_MAP
}

/// The scales of a matrix's blocks in 8 bits: `scale[i] = map[codes[i]] · absmax[i / 256] + offset`, each step in f32.
#[derive(Debug, Clone)]
pub struct DoubleAbsmax {
    codes: HostBytes,
    absmax: HostBytes,
    map: Arc<[f32; 256]>,
    offset: f32,
}

impl DoubleAbsmax {
    /// Scales whose bytes are there: a code a block, and `absmax`, f32 in little-endian, one for 256 of them. `map` is
    /// the one that a file brings, else [`dynamic_map`].
    ///
    /// # Errors
    /// [`QuantError::NestedLength`] when `absmax` does not fit the codes.
    pub fn new(
        codes: HostBytes,
        absmax: HostBytes,
        map: Arc<[f32; 256]>,
        offset: f32,
    ) -> Result<Self> {
        let expected = codes.len().div_ceil(NESTED_BLOCK) * 4;
        if absmax.len() != expected {
            return Err(QuantError::NestedLength {
                n_blocks: codes.len() as u64,
                expected: expected as u64,
                found: absmax.len() as u64,
            });
        }
        Ok(DoubleAbsmax {
            codes,
            absmax,
            map,
            offset,
        })
    }

    /// A code a block.
    pub fn codes(&self) -> &HostBytes {
        &self.codes
    }

    /// A scale for 256 codes each, f32 in little-endian, at any alignment.
    pub fn absmax(&self) -> &HostBytes {
        &self.absmax
    }

    /// The value of each code.
    pub fn map(&self) -> &[f32; 256] {
        &self.map
    }

    /// Offset of all scales.
    pub fn offset(&self) -> f32 {
        self.offset
    }

    /// The scale of a block.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn decode(&self, block: usize) -> f32 {
        let code = self.codes[block];
        let of_group = f32_at(&self.absmax, block / NESTED_BLOCK);
        scale(self.map[usize::from(code)], of_group, self.offset)
    }
}

/// The scale of a code's `value` in a group with a scale of its own: two roundings.
pub(crate) fn scale(value: f32, of_group: f32, offset: f32) -> f32 {
    value * of_group + offset
}

/// Mean of the scales, which [`encode`] takes from them first.
///
/// Summed in f64, which makes it the true mean in f32; the references sum in f32 in an order of their own.
pub fn offset(scales: &[f32]) -> f32 {
    let sum: f64 = scales.iter().map(|&scale| f64::from(scale)).sum();
    (sum / scales.len().max(1) as f64) as f32
}

/// Encodes whole groups of 256 scales (the last of a matrix may be short), less `offset`, to the nearest code.
///
/// As the CUDA reference does it: times the reciprocal of the group's largest magnitude, to the nearest value by the
/// midpoints in f32. In the middle, where that reference's choice hangs on the path of its search, the lower value is
/// taken, as for 4-bit codes. The reference for CPUs looks codes up by 16 rounded bits, and is off by a step or two for
/// some in a thousand.
///
/// A group that holds a scale that is not finite gets one itself; its codes mean nothing.
///
/// # Panics
/// When `codes` is not as long as `scales`, or `absmax` does not have one for each group.
pub fn encode(scales: &[f32], offset: f32, codes: &mut [u8], absmax: &mut [f32]) {
    assert_eq!(codes.len(), scales.len(), "a code for every scale");
    assert_eq!(
        absmax.len(),
        scales.len().div_ceil(NESTED_BLOCK),
        "a scale for every group"
    );
    let groups = scales
        .chunks(NESTED_BLOCK)
        .zip(codes.chunks_mut(NESTED_BLOCK));
    for ((scales, codes), absmax) in groups.zip(absmax) {
        *absmax = largest_magnitude(scales.iter().map(|scale| scale - offset));
        let reciprocal = if *absmax == 0.0 { 0.0 } else { 1.0 / *absmax };
        for (scale, code) in scales.iter().zip(codes) {
            *code = nearest::code((scale - offset) * reciprocal);
        }
    }
}

#[cfg(test)]
mod tests;
