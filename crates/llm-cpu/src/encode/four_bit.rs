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
        match simd.buckets(&thresholds, &codes) {
            Some(buckets) => self.blocks::<S, E>(simd, InBuckets::<S>(buckets)),
            None => self.blocks::<S, E>(simd, Sought::<S>(simd.thresholds(&thresholds, &codes))),
        }
    }

    #[inline(always)]
    fn blocks<S: FourBit, E: Element>(mut self, simd: S, codes: impl Codes<S>) {
        // Steps of a block that is held in registers between finding its largest magnitude and encoding it.
        let n_steps = self.block_size / (2 * S::LANES);
        let n_held = match n_steps {
            1 => self.held::<S, E, 1>(simd, codes),
            2 => self.held::<S, E, 2>(simd, codes),
            4 => self.held::<S, E, 4>(simd, codes),
            _ => 0,
        };
        let elements = &self.elements[n_held * self.block_size * E::SIZE..];
        let packed = &mut self.packed[n_held * self.block_size / 2..];
        let blocks = elements.chunks(self.block_size * E::SIZE);
        let packed = packed.chunks_mut(self.block_size / 2);
        for ((block, packed), absmax) in blocks.zip(packed).zip(&mut self.absmax[n_held..]) {
            *absmax = largest_magnitude::<S, E>(simd, block);
            encode_block::<S, E>(simd, codes, block, reciprocal(*absmax), packed);
        }
    }

    /// Encodes the whole blocks, of `N` steps each; returns how many these are.
    #[inline(always)]
    fn held<S: FourBit, E: Element, const N: usize>(
        &mut self,
        simd: S,
        codes: impl Codes<S>,
    ) -> usize {
        let step_bytes = 2 * S::LANES * E::SIZE;
        let blocks = self.elements.chunks_exact(N * step_bytes);
        let n_blocks = blocks.len();
        let packed = self.packed.chunks_exact_mut(N * S::LANES);
        for ((block, packed), absmax) in blocks.zip(packed).zip(self.absmax.iter_mut()) {
            let mut values = [(simd.splat(0.0), simd.splat(0.0)); N];
            let mut largest = simd.splat(0.0);
            for (i, values) in values.iter_mut().enumerate() {
                let step = block.as_ptr().wrapping_add(i * step_bytes);
                for line in (0..step_bytes).step_by(CACHE_LINE) {
                    simd.prefetch(step.wrapping_add(PREFETCH_BYTES + line));
                }
                // SAFETY: a block is `N` steps of two registers of elements.
                *values = unsafe { E::load_even_odd(simd, step) };
                largest = simd.max_magnitude(simd.max_magnitude(largest, values.0), values.1);
            }
            *absmax = simd.reduce_max_magnitude(largest);
            let reciprocal = simd.splat(reciprocal(*absmax));
            for ((even, odd), packed) in values.into_iter().zip(packed.chunks_exact_mut(S::LANES)) {
                let (even, odd) = (simd.mul(even, reciprocal), simd.mul(odd, reciprocal));
                codes.store(simd, even, odd, packed);
            }
        }
        n_blocks
    }
}

/// A way to find codes. No closure, since closures are not compiled for the instruction set.
trait Codes<S: FourBit>: Copy {
    /// Writes the codes of elements that are divided by the largest magnitude, a byte a lane, `even` in the high half.
    fn store(self, simd: S, even: S::F32, odd: S::F32, dst: &mut [u8]);
}

#[derive(Clone, Copy)]
struct InBuckets<S: FourBit>(S::Buckets);

impl<S: FourBit> Codes<S> for InBuckets<S> {
    #[inline(always)]
    fn store(self, simd: S, even: S::F32, odd: S::F32, dst: &mut [u8]) {
        assert!(dst.len() >= S::LANES);
        // SAFETY: so many bytes can be written.
        unsafe { simd.store_bucketed(self.0, even, odd, dst.as_mut_ptr()) }
    }
}

#[derive(Clone, Copy)]
struct Sought<S: FourBit>(S::Thresholds);

impl<S: FourBit> Codes<S> for Sought<S> {
    #[inline(always)]
    fn store(self, simd: S, even: S::F32, odd: S::F32, dst: &mut [u8]) {
        assert!(dst.len() >= S::LANES);
        // SAFETY: so many bytes can be written.
        unsafe { simd.store_nibbles(self.0, even, odd, dst.as_mut_ptr()) }
    }
}

/// Factor of a block's elements, given their largest magnitude; of a block of zeros nothing but its zero
/// codes is asked.
#[inline(always)]
fn reciprocal(absmax: f32) -> f32 {
    if absmax == 0.0 { 0.0 } else { 1.0 / absmax }
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
    codes: impl Codes<S>,
    block: &[u8],
    reciprocal: f32,
    packed: &mut [u8],
) {
    let reciprocal = simd.splat(reciprocal);
    let n_bytes = 2 * S::LANES * E::SIZE;
    for (step, packed) in block.chunks(n_bytes).zip(packed.chunks_mut(S::LANES)) {
        let mut padded = [0; 2 * MAX_LANES * size_of::<f32>()];
        let src = if step.len() == n_bytes {
            step
        } else {
            padded[..step.len()].copy_from_slice(step);
            &padded[..]
        };
        // SAFETY: there are two registers of elements.
        let (even, odd) = unsafe { E::load_even_odd(simd, src.as_ptr()) };
        let (even, odd) = (simd.mul(even, reciprocal), simd.mul(odd, reciprocal));
        if packed.len() == S::LANES {
            codes.store(simd, even, odd, packed);
        } else {
            let mut bytes = [0; MAX_LANES];
            codes.store(simd, even, odd, &mut bytes);
            packed.copy_from_slice(&bytes[..packed.len()]);
        }
    }
}

/// Distance ahead at which elements are prefetched.
const PREFETCH_BYTES: usize = 4096;
/// Bytes of one prefetch.
const CACHE_LINE: usize = 64;
