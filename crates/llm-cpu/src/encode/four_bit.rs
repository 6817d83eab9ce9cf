use half::{bf16, f16};
use llm_quant::Code;

use crate::simd::{Element, ElementType, FourBit, Kernel, MAX_LANES};

/// Encodes whole blocks, of which the last may be short.
pub(super) struct Encode<'a> {
    pub(super) code: Code,
    pub(super) block_size: usize,
    pub(super) element: ElementType,
    pub(super) elements: &'a [u8],
    /// Half a byte an element.
    pub(super) packed: &'a mut [u8],
    /// One a block.
    pub(super) absmax: &'a mut [f32],
}

impl Kernel for Encode<'_> {
    #[inline(always)]
    fn run<S: FourBit>(self, simd: S) {
        match self.element {
            ElementType::F32 => self.all::<S, f32>(simd),
            ElementType::F16 => self.all::<S, f16>(simd),
            ElementType::Bf16 => self.all::<S, bf16>(simd),
        }
    }
}

impl Encode<'_> {
    #[inline(always)]
    fn all<S: FourBit, E: Element>(self, simd: S) {
        let (thresholds, codes) = self.code.thresholds();
        let thresholds = simd.thresholds(&thresholds, &codes);
        let blocks = self.elements.chunks(self.block_size * E::SIZE);
        let packed = self.packed.chunks_mut(self.block_size / 2);
        for ((block, packed), absmax) in blocks.zip(packed).zip(self.absmax) {
            *absmax = largest_magnitude::<S, E>(simd, block);
            // Of a block of zeros nothing but its zero codes is asked.
            let reciprocal = if *absmax == 0.0 { 0.0 } else { 1.0 / *absmax };
            encode_block::<S, E>(simd, thresholds, block, reciprocal, packed);
        }
    }
}

/// Of which NaN is the largest.
#[inline(always)]
fn largest_magnitude<S: FourBit, E: Element>(simd: S, block: &[u8]) -> f32 {
    let mut largest = simd.splat(0.0);
    let mut steps = block.chunks_exact(2 * S::LANES * E::SIZE);
    for step in &mut steps {
        simd.prefetch(step.as_ptr().wrapping_add(PREFETCH_BYTES));
        // SAFETY: a step is two registers of elements.
        let (first, second) = unsafe { E::load_pair(simd, step.as_ptr()) };
        largest = simd.max_magnitude(simd.max_magnitude(largest, first), second);
    }
    let rest = steps.remainder();
    if !rest.is_empty() {
        // SAFETY: so many elements are there, fewer than two registers of them.
        let pair = unsafe { E::load_pair_part(simd, rest.as_ptr(), rest.len() / E::SIZE) };
        largest = simd.max_magnitude(simd.max_magnitude(largest, pair.0), pair.1);
    }
    simd.reduce_max_magnitude(largest)
}

/// Writes the codes of elements times `reciprocal`; half a byte beyond the last is the code of zero.
#[inline(always)]
fn encode_block<S: FourBit, E: Element>(
    simd: S,
    thresholds: S::Thresholds,
    block: &[u8],
    reciprocal: f32,
    packed: &mut [u8],
) {
    let reciprocal = simd.splat(reciprocal);
    let n_bytes = 2 * S::LANES * E::SIZE;
    for (step, packed) in block.chunks(n_bytes).zip(packed.chunks_mut(S::LANES)) {
        if step.len() == n_bytes {
            // SAFETY: a step is two registers of elements, and its codes as many bytes as there are lanes.
            unsafe {
                let (even, odd) = E::load_even_odd(simd, step.as_ptr());
                let (even, odd) = (simd.mul(even, reciprocal), simd.mul(odd, reciprocal));
                simd.store_nibbles(thresholds, even, odd, packed.as_mut_ptr());
            }
        } else {
            let mut elements = [0; 2 * MAX_LANES * size_of::<f32>()];
            elements[..step.len()].copy_from_slice(step);
            let mut bytes = [0; MAX_LANES];
            // SAFETY: as above.
            unsafe {
                let (even, odd) = E::load_even_odd(simd, elements.as_ptr());
                let (even, odd) = (simd.mul(even, reciprocal), simd.mul(odd, reciprocal));
                simd.store_nibbles(thresholds, even, odd, bytes.as_mut_ptr());
            }
            packed.copy_from_slice(&bytes[..packed.len()]);
        }
    }
}

/// How far ahead elements are asked for.
const PREFETCH_BYTES: usize = 4096;
