//! Quantizing pieces of matrices; callers share pieces among threads.

mod four_bit;

use llm_quant::{BlockSize, Code, Encoder, Weight4Bit};
use llm_tensor::DType;

use crate::four_bit::{Decode, FourBitView};
use crate::simd::ElementType;
use crate::{Cpu, int8};
use four_bit::Encode;

impl Encoder for Cpu {
    fn encode_4bit(
        &self,
        code: Code,
        block_size: BlockSize,
        dtype: DType,
        elements: &[u8],
        packed: &mut [u8],
        absmax: &mut [f32],
    ) {
        let Some(element) = ElementType::of(dtype) else {
            panic!("elements of {dtype} are not encoded");
        };
        let n = elements.len() / element.size();
        assert_eq!(packed.len(), n.div_ceil(2), "half a byte an element");
        let n_blocks = n.div_ceil(block_size.get());
        assert_eq!(absmax.len(), n_blocks, "a scale for every block");
        self.level.run(Encode {
            code,
            block_size: block_size.get(),
            element,
            elements,
            packed,
            absmax,
        });
    }

    fn encode_int8(
        &self,
        dtype: DType,
        elements: &[u8],
        cols: usize,
        codes: &mut [u8],
        absmax: &mut [f32],
    ) {
        int8::encode_int8(self.level, dtype, elements, cols, codes, absmax);
    }

    fn decode_4bit(&self, weight: &Weight4Bit, first: usize, out: &mut [f32]) {
        self.level.run(Decode {
            weight: FourBitView::new(weight),
            first,
            out,
        });
    }
}

#[cfg(test)]
mod tests;
