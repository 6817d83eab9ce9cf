use half::f16;
use llm_tensor::{DType, le_bytes_to_f32};

use crate::code::Code;
use crate::floats::largest_magnitude;
use crate::int8::factors::code_factor;
use crate::{BlockSize, Weight4Bit};

/// Encodes and decodes pieces of matrices; implementations give the same bits.
pub trait Encoder: Sync {
    /// Encodes elements of `dtype` (f32, f16 or bf16, little-endian at any alignment), whole blocks of a matrix of
    /// which the last may be short: their codes, two a byte, the first in the high nibble, and the largest magnitude
    /// of each block. Zeros have the code of zero, and so has the other half of an odd last byte.
    ///
    /// A block that holds a NaN or an infinity gets a scale that is not finite; its codes mean nothing.
    ///
    /// # Panics
    /// When `packed` or `absmax` are not as long as that takes, or the dtype is another.
    fn encode_4bit(
        &self,
        code: Code,
        block_size: BlockSize,
        dtype: DType,
        elements: &[u8],
        packed: &mut [u8],
        absmax: &mut [f32],
    );

    /// Encodes rows of `cols` elements of `dtype`, as above, through f16: their codes, i8, and the largest magnitude of
    /// each row.
    ///
    /// A row that holds a NaN or an infinity, or what is one in f16, gets a scale that is not finite; its codes mean
    /// nothing.
    ///
    /// # Panics
    /// When `codes` or `absmax` are not as long as that takes, or the dtype is another.
    fn encode_int8(
        &self,
        dtype: DType,
        elements: &[u8],
        cols: usize,
        codes: &mut [u8],
        absmax: &mut [f32],
    );

    /// Decodes the elements of `weight` from `first` on, counted row by row, into `out`.
    ///
    /// # Panics
    /// When they leave the matrix.
    fn decode_4bit(&self, weight: &Weight4Bit, first: usize, out: &mut [f32]);
}

/// The plain meaning, element by element.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scalar;

impl Encoder for Scalar {
    fn encode_4bit(
        &self,
        code: Code,
        block_size: BlockSize,
        dtype: DType,
        elements: &[u8],
        packed: &mut [u8],
        absmax: &mut [f32],
    ) {
        let n = elements.len() / dtype.size();
        assert_eq!(packed.len(), n.div_ceil(2), "half a byte an element");
        let n_blocks = n.div_ceil(block_size.get());
        assert_eq!(absmax.len(), n_blocks, "a scale for every block");
        let blocks = elements.chunks(block_size.get() * dtype.size());
        let packed = packed.chunks_mut(block_size.get() / 2);
        let mut wide = vec![0f32; block_size.get()];
        for ((block, packed), absmax) in blocks.zip(packed).zip(absmax) {
            let wide = &mut wide[..block.len() / dtype.size()];
            widen(dtype, block, wide);
            *absmax = largest_magnitude(wide.iter().copied());
            // Of a block of zeros nothing but its zero codes is asked.
            let reciprocal = if *absmax == 0.0 { 0.0 } else { 1.0 / *absmax };
            for (pair, byte) in wide.chunks(2).zip(packed) {
                let high = code.encode(pair[0] * reciprocal);
                let low = code.encode(pair.get(1).map_or(0.0, |x| x * reciprocal));
                *byte = high << 4 | low;
            }
        }
    }

    fn encode_int8(
        &self,
        dtype: DType,
        elements: &[u8],
        cols: usize,
        codes: &mut [u8],
        absmax: &mut [f32],
    ) {
        let n = elements.len() / dtype.size();
        assert_eq!(codes.len(), n, "a byte an element");
        assert_eq!(absmax.len() * cols, n, "a scale for every row");
        let rows = elements.chunks_exact(cols * dtype.size());
        let mut wide = vec![0f32; cols];
        for ((row, codes), absmax) in rows.zip(codes.chunks_exact_mut(cols)).zip(absmax) {
            widen(dtype, row, &mut wide);
            wide.iter_mut()
                .for_each(|x| *x = f16::from_f32(*x).to_f32());
            *absmax = largest_magnitude(wide.iter().copied());
            let factor = code_factor(*absmax);
            for (x, code) in wide.iter().zip(codes) {
                *code = (x * factor).round_ties_even() as i8 as u8;
            }
        }
    }

    fn decode_4bit(&self, weight: &Weight4Bit, first: usize, out: &mut [f32]) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = weight.element(first + i);
        }
    }
}

fn widen(dtype: DType, elements: &[u8], wide: &mut [f32]) {
    assert!(dtype.is_weight(), "elements of {dtype} are not encoded");
    le_bytes_to_f32(dtype, elements, wide).expect("weights widen to f32");
}
