//! Codes of four bits, looked up in a table that has the scale in it: low nibbles first, then high ones.

use super::{Block, Sink};
use crate::packed::LINEAR;
use crate::simd::FourBit;

/// Gives `sink` the values of bytes from `at` on: those of `N` low nibbles from the first table, those of the high ones, `N`
/// elements later, from the second.
#[inline(always)]
fn look_up<S: FourBit, const N: usize>(
    simd: S,
    [low, high]: [S::Table; 2],
    bytes: &[u8],
    first: usize,
    sink: &mut impl Sink<S>,
) {
    for at in (0..N).step_by(S::LANES) {
        let codes = simd.bytes(bytes, at);
        sink.take(first, at, simd.choose(low, codes));
        sink.take(first, N + at, simd.choose(high, simd.shift_right(codes, 4)));
    }
}

/// A block type of 32 elements with one scale, whose table is `$table` and whose bytes begin behind the scale.
macro_rules! scaled_tables {
    ($($ty:ident $bytes:literal $table:ident $scale:expr;)+) => {$(
        #[derive(Clone, Copy)]
        pub(super) struct $ty;

        impl Block for $ty {
            const LEN: usize = 32;
            const PART: usize = 32;
            type Opened = f32;

            #[inline(always)]
            fn n_bytes(self) -> usize {
                $bytes
            }

            #[inline(always)]
            fn open<S: FourBit>(self, simd: S, block: &[u8]) -> f32 {
                $scale(simd, block)
            }

            #[inline(always)]
            fn part<S: FourBit>(
                self,
                simd: S,
                block: &[u8],
                scale: &f32,
                _: usize,
                first: usize,
                sink: &mut impl Sink<S>,
            ) {
                let table = simd.scaled_table(simd.table(&$table), *scale);
                look_up::<S, 16>(simd, [table; 2], &block[$bytes - 16..], first, sink);
            }
        }
    )+};
}

scaled_tables! {
    Q4_0 18 CENTRED f16_scale;
    Iq4Nl 18 NON_LINEAR f16_scale;
    Mxfp4 17 E2M1 half_of_power;
}

#[inline(always)]
fn f16_scale<S: FourBit>(simd: S, block: &[u8]) -> f32 {
    simd.f16_at(block, 0)
}

/// Half of 2^(exponent - 127), since the values of the table are doubled.
#[inline(always)]
fn half_of_power<S: FourBit>(_: S, block: &[u8]) -> f32 {
    let exponent = u32::from(block[0]);
    f32::from_bits(if exponent < 2 {
        0x0020_0000 << exponent
    } else {
        (exponent - 1) << 23
    })
}

#[derive(Clone, Copy)]
pub(super) struct Q4_1;

impl Block for Q4_1 {
    const LEN: usize = 32;
    const PART: usize = 32;
    type Opened = [f32; 2];

    #[inline(always)]
    fn n_bytes(self) -> usize {
        20
    }

    #[inline(always)]
    fn open<S: FourBit>(self, simd: S, block: &[u8]) -> [f32; 2] {
        [simd.f16_at(block, 0), simd.f16_at(block, 2)]
    }

    #[inline(always)]
    fn part<S: FourBit>(
        self,
        simd: S,
        block: &[u8],
        &[scale, min]: &[f32; 2],
        _: usize,
        first: usize,
        sink: &mut impl Sink<S>,
    ) {
        let table = simd.affine_table(simd.table(&LINEAR), scale, -min);
        look_up::<S, 16>(simd, [table; 2], &block[4..], first, sink);
    }
}

#[derive(Clone, Copy)]
pub(super) struct Q4K;

impl Block for Q4K {
    const LEN: usize = 256;
    const PART: usize = 64;
    /// Scale and minimum of each 32 elements.
    type Opened = [[f32; 8]; 2];

    #[inline(always)]
    fn n_bytes(self) -> usize {
        144
    }

    #[inline(always)]
    fn open<S: FourBit>(self, simd: S, block: &[u8]) -> [[f32; 8]; 2] {
        scales_and_mins(simd, block)
    }

    #[inline(always)]
    fn part<S: FourBit>(
        self,
        simd: S,
        block: &[u8],
        [scales, mins]: &[[f32; 8]; 2],
        part: usize,
        first: usize,
        sink: &mut impl Sink<S>,
    ) {
        let linear = simd.table(&LINEAR);
        let table = |i: usize| simd.affine_table(linear, scales[i], mins[i]);
        let tables = [table(2 * part), table(2 * part + 1)];
        look_up::<S, 32>(simd, tables, &block[16 + 32 * part..][..32], first, sink);
    }
}

/// The scales and minimums of a block of Q4_K or Q5_K.
#[inline(always)]
pub(super) fn scales_and_mins<S: FourBit>(simd: S, block: &[u8]) -> [[f32; 8]; 2] {
    let word =
        |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    // Four of each at a time.
    let (a, b, c) = (word(4), word(8), word(12));
    let upper = |word: u32| (word >> 6 & 0x0303_0303) << 4;
    let codes = [
        (u64::from(a & 0x3f3f_3f3f), c & 0x0f0f_0f0f | upper(a)),
        (u64::from(b & 0x3f3f_3f3f), c >> 4 & 0x0f0f_0f0f | upper(b)),
    ];
    let factors = [simd.f16_at(block, 0), simd.f16_at(block, 2)];
    let [scales, mins] = codes.map(|(low, high)| (low | u64::from(high) << 32).to_le_bytes());
    [
        scales.map(|code| factors[0] * f32::from(code)),
        mins.map(|code| factors[1] * f32::from(code)),
    ]
}

#[derive(Clone, Copy)]
pub(super) struct Iq4Xs;

impl Block for Iq4Xs {
    const LEN: usize = 256;
    const PART: usize = 32;
    type Opened = [f32; 8];

    #[inline(always)]
    fn n_bytes(self) -> usize {
        136
    }

    #[inline(always)]
    fn open<S: FourBit>(self, simd: S, block: &[u8]) -> [f32; 8] {
        let scale = simd.f16_at(block, 0);
        let high = u16::from_le_bytes([block[2], block[3]]);
        std::array::from_fn(|i| {
            let low = block[4 + i / 2] >> (i % 2 * 4) & 0xF;
            let code = low | ((high >> (2 * i) & 3) as u8) << 4;
            scale * f32::from(code as i8 - 32)
        })
    }

    #[inline(always)]
    fn part<S: FourBit>(
        self,
        simd: S,
        block: &[u8],
        scales: &[f32; 8],
        part: usize,
        first: usize,
        sink: &mut impl Sink<S>,
    ) {
        let table = simd.scaled_table(simd.table(&NON_LINEAR), scales[part]);
        look_up::<S, 16>(simd, [table; 2], &block[8 + 16 * part..][..16], first, sink);
    }
}

/// Codes less 8.
const CENTRED: [f32; 16] = [
    -8., -7., -6., -5., -4., -3., -2., -1., 0., 1., 2., 3., 4., 5., 6., 7.,
];
/// The numbers of E2M1, doubled so that they are whole.
const E2M1: [f32; 16] = [
    0., 1., 2., 3., 4., 6., 8., 12., 0., -1., -2., -3., -4., -6., -8., -12.,
];
/// The values of IQ4_NL.
const NON_LINEAR: [f32; 16] = [
    -127., -104., -83., -65., -49., -35., -22., -10., 1., 13., 25., 38., 53., 69., 89., 113.,
];
