//! Formats of weights whose codes are multiplied with those of activations.

mod k_quants;
mod nibbles;
mod small;

use llm_quant::GgmlType;

use crate::simd::dot::{DotSimd, GROUPS};

/// A block type. No `map` of arrays of registers in it: the compiler may leave its closures calls. What its fields are and mean is told where `llm-quant` decodes it.
///
/// Elements are codes, less an offset, times a scale, less a minimum. Those of 32 columns, a group, are looked at together.
pub(super) trait Format: Copy + Send + Sync {
    /// Groups of a block: 1 or [`GROUPS`].
    const LEN: usize;
    /// Bytes of a block.
    const BYTES: usize;
    const CODES: Codes;
    const SCALES: Scales;
    /// True if there are minimums.
    const HAS_MINS: bool;

    /// The scales of `n` groups, of whole blocks, at most [`GROUPS`].
    fn factors<S: DotSimd>(simd: S, blocks: &[u8], n: usize) -> Factors<S>;
    /// The codes of a group, counted from the first of `blocks`.
    fn codes<S: DotSimd>(simd: S, blocks: &[u8], group: usize) -> S::Codes;
}

/// Range of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codes {
    /// From 0 to 127, too large by an offset.
    Above(u8),
    /// From −128 to 127.
    Signed,
}

/// Columns of a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scales {
    /// 32: those of the first half count.
    Whole,
    /// 16.
    Halves,
}

/// Scales and minimums of up to [`GROUPS`] groups: of the groups' first halves, and of their second ones.
#[derive(Clone, Copy)]
pub(super) struct Factors<S: DotSimd> {
    pub(super) scales: [S::F32; 2],
    pub(super) mins: [S::F32; 2],
}

impl<S: DotSimd> Factors<S> {
    /// Of whole groups.
    #[inline(always)]
    fn whole(scales: S::F32, mins: S::F32) -> Self {
        Factors {
            scales: [scales; 2],
            mins: [mins; 2],
        }
    }

    /// Scales alone.
    #[inline(always)]
    fn scales(simd: S, scales: [S::F32; 2]) -> Self {
        Factors {
            scales,
            mins: [simd.zero(); 2],
        }
    }
}

/// Something done with a matrix whatever its format.
pub(super) trait Visitor {
    fn visit<F: Format>(self, format: F);
}

/// Calls `visitor` with a type that [`llm_quant::Activations::Q8`] is taken for.
///
/// # Panics
/// When it is another.
pub(super) fn visit(ty: GgmlType, visitor: impl Visitor) {
    match ty {
        GgmlType::Q4_0 => visitor.visit(nibbles::Q4_0),
        GgmlType::Q4_1 => visitor.visit(nibbles::Q4_1),
        GgmlType::IQ4NL => visitor.visit(nibbles::Iq4Nl),
        GgmlType::IQ4XS => visitor.visit(nibbles::Iq4Xs),
        GgmlType::MXFP4 => visitor.visit(nibbles::Mxfp4),
        GgmlType::Q5_0 => visitor.visit(small::Q5_0),
        GgmlType::Q5_1 => visitor.visit(small::Q5_1),
        GgmlType::Q8_0 => visitor.visit(small::Q8_0),
        GgmlType::Q2K => visitor.visit(k_quants::Q2K),
        GgmlType::Q3K => visitor.visit(k_quants::Q3K),
        GgmlType::Q4K => visitor.visit(k_quants::Q4K),
        GgmlType::Q5K => visitor.visit(k_quants::Q5K),
        GgmlType::Q6K => visitor.visit(k_quants::Q6K),
        GgmlType::IQ2XXS
        | GgmlType::IQ2XS
        | GgmlType::IQ2S
        | GgmlType::IQ3XXS
        | GgmlType::IQ3S
        | GgmlType::IQ1S
        | GgmlType::IQ1M
        | GgmlType::TQ1_0
        | GgmlType::TQ2_0
        | GgmlType::NVFP4 => panic!("activations are not rounded for {ty:?}"),
    }
}

/// The f16 at a byte of each of `n` blocks.
#[inline(always)]
fn f16_of_blocks<S: DotSimd>(
    simd: S,
    blocks: &[u8],
    n_bytes: usize,
    at: usize,
    n: usize,
) -> S::F32 {
    let mut bits = [0; GROUPS];
    for (i, bits) in bits.iter_mut().enumerate() {
        // Of the last block again, rather than of none.
        let at = i.min(n - 1) * n_bytes + at;
        *bits = u16::from_le_bytes([blocks[at], blocks[at + 1]]);
    }
    simd.of_f16(bits)
}

/// The f16 at a byte, in all lanes.
#[inline(always)]
fn f16_at<S: DotSimd>(simd: S, block: &[u8], at: usize) -> S::F32 {
    simd.splat_f16(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// A block, whose bytes are then there without a look at its length.
#[inline(always)]
fn block_of<const N: usize>(block: &[u8]) -> &[u8; N] {
    block.first_chunk().expect("a whole block")
}

/// 32 bytes from `at` on.
///
/// # Panics
/// When there are fewer.
#[inline(always)]
fn load<S: DotSimd>(simd: S, bytes: &[u8], at: usize) -> S::Codes {
    let bytes = &bytes[at..][..32];
    // SAFETY: as many bytes.
    unsafe { simd.load(bytes.as_ptr()) }
}

/// The halves of 16 bytes from `at` on.
///
/// # Panics
/// When there are fewer.
#[inline(always)]
fn load_nibbles<S: DotSimd>(simd: S, bytes: &[u8], at: usize) -> S::Codes {
    let bytes = &bytes[at..][..16];
    // SAFETY: as many bytes.
    unsafe { simd.load_nibbles(bytes.as_ptr()) }
}
