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

/// The types: each with its name, and with its decoder, whose arguments say how large a block is.
macro_rules! ggml_types {
    ($($ty:ident $name:ident $decode:path;)+) => {
        /// A quantized block type of GGML.
        ///
        /// Exhaustive on purpose, as [`Scheme`](crate::Scheme) is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the names are GGML's own")]
        pub enum GgmlType {
            $($ty,)+
        }

        impl GgmlType {
            /// Every block type that can be decoded.
            pub const ALL: [GgmlType; FORMATS.len()] = [$(GgmlType::$ty),+];
        }

        const FORMATS: &[Format] = &[$(Format {
            name: stringify!($name),
            sizes: sizes($decode),
            decode: |stored, out| each_block(stored, out, $decode),
        }),+];
    };
}

ggml_types! {
    Q4_0 Q4_0 q4_0;
    Q4_1 Q4_1 q4_1;
    Q5_0 Q5_0 q5_0;
    Q5_1 Q5_1 q5_1;
    Q8_0 Q8_0 q8_0;
    Q2K Q2_K k_quants::q2_k;
    Q3K Q3_K k_quants::q3_k;
    Q4K Q4_K k_quants::q4_k;
    Q5K Q5_K k_quants::q5_k;
    Q6K Q6_K k_quants::q6_k;
    IQ2XXS IQ2_XXS i_quants::iq2_xxs;
    IQ2XS IQ2_XS i_quants::iq2_xs;
    IQ2S IQ2_S i_quants::iq2_s;
    IQ3XXS IQ3_XXS i_quants::iq3_xxs;
    IQ3S IQ3_S i_quants::iq3_s;
    IQ1S IQ1_S i_quants::iq1_s;
    IQ1M IQ1_M i_quants::iq1_m;
    IQ4NL IQ4_NL small::iq4_nl;
    IQ4XS IQ4_XS small::iq4_xs;
    TQ1_0 TQ1_0 small::tq1_0;
    TQ2_0 TQ2_0 small::tq2_0;
    MXFP4 MXFP4 small::mxfp4;
    NVFP4 NVFP4 small::nvfp4;
}

/// What is known of a type.
struct Format {
    /// GGML's name.
    name: &'static str,
    /// Bytes of a block, and its elements.
    sizes: (usize, usize),
    decode: fn(&[u8], &mut [f32]),
}

impl GgmlType {
    /// In the order of declaration.
    const fn format(self) -> &'static Format {
        &FORMATS[self as usize]
    }

    /// GGML's name, as `Q4_K`.
    pub const fn name(self) -> &'static str {
        self.format().name
    }

    /// Elements of a block.
    pub const fn block_len(self) -> usize {
        self.format().sizes.1
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.format().sizes.0
    }

    /// Decodes whole blocks.
    ///
    /// # Panics
    /// When `stored` is not the blocks of exactly `out.len()` elements.
    pub fn decode(self, stored: &[u8], out: &mut [f32]) {
        (self.format().decode)(stored, out);
    }

    /// Decodes as many elements as `out` takes, from element `first` of the first block on; what is left of the last block
    /// is not looked at.
    ///
    /// # Panics
    /// When `stored` has not so many blocks.
    pub fn decode_from(self, first: usize, stored: &[u8], out: &mut [f32]) {
        let (len, n_bytes) = (self.block_len(), self.block_bytes());
        let part = |at: usize, skip: usize, out: &mut [f32]| {
            let mut block = [0f32; MAX_BLOCK_LEN];
            let block = &mut block[..len];
            self.decode(&stored[at * n_bytes..][..n_bytes], block);
            out.copy_from_slice(&block[skip..][..out.len()]);
        };
        let (mut at, mut skip, mut out) = (first / len, first % len, out);
        if skip > 0 {
            let (front, rest) = out.split_at_mut((len - skip).min(out.len()));
            part(at, skip, front);
            (at, skip, out) = (at + 1, 0, rest);
        }
        let (whole, rest) = out.split_at_mut(out.len() / len * len);
        let n_blocks = whole.len() / len;
        self.decode(&stored[at * n_bytes..][..n_blocks * n_bytes], whole);
        if !rest.is_empty() {
            part(at + n_blocks, skip, rest);
        }
    }

    /// The names of all.
    pub fn known() -> String {
        Self::ALL.map(GgmlType::name).join(", ")
    }
}

/// Elements of the longest block.
const MAX_BLOCK_LEN: usize = 256;

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

const fn sizes<const BYTES: usize, const LEN: usize>(
    _: fn(&[u8; BYTES], &mut [f32; LEN]),
) -> (usize, usize) {
    (BYTES, LEN)
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
