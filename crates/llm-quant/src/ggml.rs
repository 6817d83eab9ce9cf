//! GGML's quantized blocks and what they mean.
//!
//! Each decoder takes one block, little-endian, and gives its elements in order. Multiplications and additions are
//! done one by one in f32, in the order of GGML's own reference, so that the results are the same to the bit.
//!
//! *Source*: the structures of `ggml-common.h`, whose fields are repeated here with their offsets.

use std::fmt;

use half::f16;

mod i_quants;
mod k_quants;
mod small;

/// A quantized block type of GGML.
///
/// Exhaustive on purpose, as [`Scheme`](crate::Scheme) is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are GGML's own")]
pub enum GgmlType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    IQ2XXS,
    IQ2XS,
    IQ2S,
    IQ3XXS,
    IQ3S,
    IQ1S,
    IQ1M,
    IQ4NL,
    IQ4XS,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
}

impl GgmlType {
    /// Every block type that can be decoded.
    pub const ALL: [GgmlType; 23] = [
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::Q2K,
        GgmlType::Q3K,
        GgmlType::Q4K,
        GgmlType::Q5K,
        GgmlType::Q6K,
        GgmlType::IQ2XXS,
        GgmlType::IQ2XS,
        GgmlType::IQ2S,
        GgmlType::IQ3XXS,
        GgmlType::IQ3S,
        GgmlType::IQ1S,
        GgmlType::IQ1M,
        GgmlType::IQ4NL,
        GgmlType::IQ4XS,
        GgmlType::TQ1_0,
        GgmlType::TQ2_0,
        GgmlType::MXFP4,
        GgmlType::NVFP4,
    ];

    /// GGML's name, as `Q4_K`.
    pub const fn name(self) -> &'static str {
        match self {
            GgmlType::Q4_0 => "Q4_0",
            GgmlType::Q4_1 => "Q4_1",
            GgmlType::Q5_0 => "Q5_0",
            GgmlType::Q5_1 => "Q5_1",
            GgmlType::Q8_0 => "Q8_0",
            GgmlType::Q2K => "Q2_K",
            GgmlType::Q3K => "Q3_K",
            GgmlType::Q4K => "Q4_K",
            GgmlType::Q5K => "Q5_K",
            GgmlType::Q6K => "Q6_K",
            GgmlType::IQ2XXS => "IQ2_XXS",
            GgmlType::IQ2XS => "IQ2_XS",
            GgmlType::IQ2S => "IQ2_S",
            GgmlType::IQ3XXS => "IQ3_XXS",
            GgmlType::IQ3S => "IQ3_S",
            GgmlType::IQ1S => "IQ1_S",
            GgmlType::IQ1M => "IQ1_M",
            GgmlType::IQ4NL => "IQ4_NL",
            GgmlType::IQ4XS => "IQ4_XS",
            GgmlType::TQ1_0 => "TQ1_0",
            GgmlType::TQ2_0 => "TQ2_0",
            GgmlType::MXFP4 => "MXFP4",
            GgmlType::NVFP4 => "NVFP4",
        }
    }

    /// Elements of a block.
    pub const fn block_len(self) -> usize {
        match self {
            GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q8_0 => {
                32
            }
            GgmlType::IQ4NL | GgmlType::MXFP4 => 32,
            GgmlType::NVFP4 => 64,
            GgmlType::Q2K | GgmlType::Q3K | GgmlType::Q4K | GgmlType::Q5K | GgmlType::Q6K => 256,
            GgmlType::IQ2XXS
            | GgmlType::IQ2XS
            | GgmlType::IQ2S
            | GgmlType::IQ3XXS
            | GgmlType::IQ3S
            | GgmlType::IQ1S
            | GgmlType::IQ1M
            | GgmlType::IQ4XS
            | GgmlType::TQ1_0
            | GgmlType::TQ2_0 => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            GgmlType::Q4_0 => 18,
            GgmlType::Q4_1 => 20,
            GgmlType::Q5_0 => 22,
            GgmlType::Q5_1 => 24,
            GgmlType::Q8_0 => 34,
            GgmlType::Q2K => 84,
            GgmlType::Q3K => 110,
            GgmlType::Q4K => 144,
            GgmlType::Q5K => 176,
            GgmlType::Q6K => 210,
            GgmlType::IQ2XXS => 66,
            GgmlType::IQ2XS => 74,
            GgmlType::IQ2S => 82,
            GgmlType::IQ3XXS => 98,
            GgmlType::IQ3S => 110,
            GgmlType::IQ1S => 50,
            GgmlType::IQ1M => 56,
            GgmlType::IQ4NL => 18,
            GgmlType::IQ4XS => 136,
            GgmlType::TQ1_0 => 54,
            GgmlType::TQ2_0 => 66,
            GgmlType::MXFP4 => 17,
            GgmlType::NVFP4 => 36,
        }
    }

    /// Decodes whole blocks.
    ///
    /// # Panics
    /// When `stored` is not the blocks of exactly `out.len()` elements.
    pub fn decode(self, stored: &[u8], out: &mut [f32]) {
        match self {
            GgmlType::Q4_0 => each_block(stored, out, q4_0),
            GgmlType::Q4_1 => each_block(stored, out, q4_1),
            GgmlType::Q5_0 => each_block(stored, out, q5_0),
            GgmlType::Q5_1 => each_block(stored, out, q5_1),
            GgmlType::Q8_0 => each_block(stored, out, q8_0),
            GgmlType::Q2K => each_block(stored, out, k_quants::q2_k),
            GgmlType::Q3K => each_block(stored, out, k_quants::q3_k),
            GgmlType::Q4K => each_block(stored, out, k_quants::q4_k),
            GgmlType::Q5K => each_block(stored, out, k_quants::q5_k),
            GgmlType::Q6K => each_block(stored, out, k_quants::q6_k),
            GgmlType::IQ2XXS => each_block(stored, out, i_quants::iq2_xxs),
            GgmlType::IQ2XS => each_block(stored, out, i_quants::iq2_xs),
            GgmlType::IQ2S => each_block(stored, out, i_quants::iq2_s),
            GgmlType::IQ3XXS => each_block(stored, out, i_quants::iq3_xxs),
            GgmlType::IQ3S => each_block(stored, out, i_quants::iq3_s),
            GgmlType::IQ1S => each_block(stored, out, i_quants::iq1_s),
            GgmlType::IQ1M => each_block(stored, out, i_quants::iq1_m),
            GgmlType::IQ4NL => each_block(stored, out, small::iq4_nl),
            GgmlType::IQ4XS => each_block(stored, out, small::iq4_xs),
            GgmlType::TQ1_0 => each_block(stored, out, small::tq1_0),
            GgmlType::TQ2_0 => each_block(stored, out, small::tq2_0),
            GgmlType::MXFP4 => each_block(stored, out, small::mxfp4),
            GgmlType::NVFP4 => each_block(stored, out, small::nvfp4),
        }
    }

    /// The names of all.
    pub fn known() -> String {
        Self::ALL.map(GgmlType::name).join(", ")
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

fn each_block<const BYTES: usize, const LEN: usize>(
    stored: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let (blocks, []) = stored.as_chunks::<BYTES>() else {
        panic!("{} bytes are not whole blocks of {BYTES}", stored.len());
    };
    let (out, []) = out.as_chunks_mut::<LEN>() else {
        panic!("{} elements are not whole blocks of {LEN}", out.len());
    };
    assert_eq!(blocks.len(), out.len(), "blocks and their elements");
    for (block, out) in blocks.iter().zip(out) {
        decode(block, out);
    }
}

/// `scale: f16` at 0, `nibbles: [u8; 16]` at 2. Low nibbles are elements 0..16, high ones 16..32.
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = f16_at(block, 0);
    let (low, high) = out.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[2..]) {
        *low = scale * f32::from((byte & 0xF) as i8 - 8);
        *high = scale * f32::from((byte >> 4) as i8 - 8);
    }
}

/// `scale: f16` at 0, `min: f16` at 2, `nibbles: [u8; 16]` at 4, ordered as in Q4_0.
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (scale, min) = (f16_at(block, 0), f16_at(block, 2));
    let (low, high) = out.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[4..]) {
        *low = scale * f32::from(byte & 0xF) + min;
        *high = scale * f32::from(byte >> 4) + min;
    }
}

/// `scale: f16` at 0, `fifth_bits: u32` at 2, bit i for element i, `nibbles: [u8; 16]` at 6, ordered as in Q4_0.
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let scale = f16_at(block, 0);
    let codes = five_bit_codes(u32_at(block, 2), &block[6..]);
    for (out, code) in out.iter_mut().zip(codes) {
        *out = scale * f32::from(code as i8 - 16);
    }
}

/// `scale: f16` at 0, `min: f16` at 2, `fifth_bits: u32` at 4, `nibbles: [u8; 16]` at 8, as in Q5_0.
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (scale, min) = (f16_at(block, 0), f16_at(block, 2));
    let codes = five_bit_codes(u32_at(block, 4), &block[8..]);
    for (out, code) in out.iter_mut().zip(codes) {
        *out = scale * f32::from(code) + min;
    }
}

/// `scale: f16` at 0, `codes: [i8; 32]` at 2.
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let scale = f16_at(block, 0);
    for (out, code) in out.iter_mut().zip(&block[2..]) {
        *out = scale * f32::from(*code as i8);
    }
}

fn five_bit_codes(fifth_bits: u32, nibbles: &[u8]) -> [u8; 32] {
    let mut codes = [0; 32];
    let (low, high) = codes.split_at_mut(16);
    for (i, ((low, high), byte)) in low.iter_mut().zip(high).zip(nibbles).enumerate() {
        let fifth = |element: usize| ((fifth_bits >> element & 1) as u8) << 4;
        *low = byte & 0xF | fifth(i);
        *high = byte >> 4 | fifth(i + 16);
    }
    codes
}

fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_that_are_infinite_or_nan_spread_but_do_no_harm() {
        for ty in GgmlType::ALL {
            let mut decoded = vec![0.0; ty.block_len()];
            ty.decode(&vec![0xFF; ty.block_bytes()], &mut decoded);
            match ty {
                // Their scales have no NaN.
                GgmlType::MXFP4 => assert!(decoded.iter().all(|x| x.is_infinite()), "{ty}"),
                GgmlType::NVFP4 => assert!(decoded.iter().all(|x| x.is_finite()), "{ty}"),
                _ => assert!(decoded.iter().all(|x| x.is_nan()), "{ty}"),
            }
        }
    }
}
