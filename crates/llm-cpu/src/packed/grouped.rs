//! Codes with a scale for each group of a row's elements.

use std::num::NonZeroU64;
use std::ops::Range;

use llm_quant::{E2M1, GlobalScale, GroupCode, Grouped, GroupedRows, Part};
use llm_tensor::{DType, le_bytes_to_f32};

use super::{PIECE, PackedView, RowDecoder, Sink, Visitor};
use crate::simd::{E4M3_FACTOR, FourBit, MAX_LANES};

/// True if the scales are computed with.
pub(super) fn is_known(format: Grouped) -> bool {
    matches!(
        format.scale,
        DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3 | DType::F8E5M2 | DType::F8E8M0
    )
}

/// Calls `visitor` with the decoder of a format.
#[inline(always)]
pub(super) fn visit<S: FourBit>(weight: PackedView<'_>, format: Grouped, visitor: impl Visitor) {
    let group = format.group.map(NonZeroU64::get);
    let is_even = group.is_none_or(|group| group.is_multiple_of(MAX_LANES as u64));
    if S::IS_PORTABLE || !is_even || format.order {
        let rows = GroupedRows::of(weight.stored).expect("the scheme was looked at");
        return visitor.visit(Plain(rows));
    }
    let groups = Groups::new(weight, format);
    match format.code {
        GroupCode::Int4 | GroupCode::E2M1 => visitor.visit(Nibbles(groups)),
        GroupCode::Int8 => visitor.visit(Bytes(groups)),
    }
}

/// Groups of whole registers, in the order of the columns.
#[derive(Clone, Copy)]
struct Groups<'a> {
    format: Grouped,
    cols: usize,
    /// Elements of a group, and groups of a row.
    len: usize,
    n_groups: usize,
    row_bytes: usize,
    codes: &'a [u8],
    scales: &'a [u8],
    zeros: Option<&'a [u8]>,
    global: f32,
}

impl<'a> Groups<'a> {
    #[inline(always)]
    fn new(weight: PackedView<'a>, format: Grouped) -> Self {
        let cols = weight.cols as u64;
        // Of a whole row at most, hence within usize.
        let len = format.group.map_or(cols, |group| group.get().min(cols));
        Groups {
            format,
            cols: weight.cols,
            len: len.max(1) as usize,
            n_groups: format.n_groups(cols) as usize,
            row_bytes: format.row_bytes(cols) as usize,
            codes: weight.elements,
            scales: weight.stored.part(Part::Scales),
            zeros: weight.stored.parts.get(Part::Zeros).map(|zeros| &zeros[..]),
            global: weight
                .stored
                .parts
                .get(Part::GlobalScale)
                .map_or(1.0, |global| {
                    f32::from_le_bytes([global[0], global[1], global[2], global[3]])
                }),
        }
    }

    /// The scales of some groups of a row, at most [`GROUPS`].
    #[inline(always)]
    fn scales<S: FourBit>(&self, simd: S, row: usize, groups: Range<usize>) -> [f32; GROUPS] {
        let n = groups.len();
        let size = self.format.scale.size();
        let bytes = &self.scales[(row * self.n_groups + groups.start) * size..][..n * size];
        let mut scales = [0.0; GROUPS];
        match self.format.scale {
            DType::F8E4M3 => {
                let mut codes = [0; GROUPS];
                codes[..n].copy_from_slice(bytes);
                let factor = simd.splat(E4M3_FACTOR);
                for at in (0..GROUPS).step_by(S::LANES) {
                    // SAFETY: groups are whole registers of codes.
                    let values = unsafe { simd.load_e4m3(codes[at..].as_ptr()) };
                    simd.put(&mut scales, at, simd.mul(values, factor));
                }
            }
            DType::F8E8M0 => {
                for (scale, &exponent) in scales.iter_mut().zip(bytes) {
                    *scale = f32::from_bits(match exponent {
                        0 => 0x0040_0000,
                        255 => 0x7fc0_0000,
                        _ => u32::from(exponent) << 23,
                    });
                }
            }
            DType::F16 => {
                for (scale, bits) in scales.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *scale = simd.f16_at(bits, 0);
                }
            }
            DType::BF16 => {
                for (scale, &[low, high]) in scales.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *scale = f32::from_le_bytes([0, 0, low, high]);
                }
            }
            other => le_bytes_to_f32(other, bytes, &mut scales[..n]).expect("scales are numbers"),
        }
        let global = simd.splat(self.global);
        for at in (0..GROUPS).step_by(S::LANES) {
            let values = simd.get(&scales, at);
            let values = match self.format.global {
                None => values,
                Some(GlobalScale::Factor) => simd.mul(values, global),
                Some(GlobalScale::Divisor) => simd.div(values, global),
            };
            simd.put(&mut scales, at, values);
        }
        scales
    }

    /// The number that codes of a group are lessened by.
    #[inline(always)]
    fn zero(&self, row: usize, group: usize) -> f32 {
        let zero = self.zeros.map(|zeros| zeros[row * self.n_groups + group]);
        match (self.format.code, zero) {
            (GroupCode::Int4, zero) => zero.map_or(8.0, f32::from),
            (GroupCode::Int8, zero) => zero.map_or(0.0, |zero| f32::from(zero as i8)),
            (GroupCode::E2M1, _) => 0.0,
        }
    }
}

/// What differs between codes of 4 and of 8 bits.
trait Code: Copy + Send + Sync {
    type Opened<S: FourBit>: Copy;

    fn groups(&self) -> &Groups<'_>;
    /// What serves a group's codes.
    fn open<S: FourBit>(self, simd: S, scale: f32, zero: f32) -> Self::Opened<S>;
    /// The values of `LANES` codes of a row from an even column on.
    ///
    /// # Safety
    /// `src` can be read for as many codes.
    unsafe fn values<S: FourBit>(simd: S, opened: Self::Opened<S>, src: *const u8) -> S::F32;
    /// Bytes of `n` codes.
    fn n_bytes(n: usize) -> usize;
}

#[derive(Clone, Copy)]
struct Nibbles<'a>(Groups<'a>);

impl Code for Nibbles<'_> {
    /// The codes' values.
    type Opened<S: FourBit> = S::Table;

    #[inline(always)]
    fn groups(&self) -> &Groups<'_> {
        &self.0
    }

    #[inline(always)]
    fn open<S: FourBit>(self, simd: S, scale: f32, zero: f32) -> S::Table {
        let table = match self.0.format.code {
            GroupCode::E2M1 => simd.table(&E2M1),
            GroupCode::Int4 | GroupCode::Int8 => {
                // Small whole numbers: exact.
                simd.affine_table(simd.table(&LINEAR), 1.0, zero)
            }
        };
        simd.scaled_table(table, scale)
    }

    #[inline(always)]
    unsafe fn values<S: FourBit>(simd: S, table: S::Table, src: *const u8) -> S::F32 {
        // SAFETY: as the caller promises.
        simd.choose(table, unsafe { simd.load_nibbles(src) })
    }

    #[inline(always)]
    fn n_bytes(n: usize) -> usize {
        n.div_ceil(2)
    }
}

#[derive(Clone, Copy)]
struct Bytes<'a>(Groups<'a>);

impl Code for Bytes<'_> {
    /// Scale and zero.
    type Opened<S: FourBit> = [S::F32; 2];

    #[inline(always)]
    fn groups(&self) -> &Groups<'_> {
        &self.0
    }

    #[inline(always)]
    fn open<S: FourBit>(self, simd: S, scale: f32, zero: f32) -> [S::F32; 2] {
        [simd.splat(scale), simd.splat(zero)]
    }

    #[inline(always)]
    unsafe fn values<S: FourBit>(simd: S, [scale, zero]: [S::F32; 2], src: *const u8) -> S::F32 {
        // SAFETY: as the caller promises.
        let codes = unsafe { simd.load_i8(src) };
        simd.mul(simd.sub(codes, zero), scale)
    }

    #[inline(always)]
    fn n_bytes(n: usize) -> usize {
        n
    }
}

impl RowDecoder for Nibbles<'_> {
    const STEP: usize = STEP;

    #[inline(always)]
    fn decode<S: FourBit>(
        self,
        simd: S,
        row: usize,
        columns: Range<usize>,
        sink: &mut impl Sink<S>,
    ) {
        decode(self, simd, row, columns, sink);
    }
}

impl RowDecoder for Bytes<'_> {
    const STEP: usize = STEP;

    #[inline(always)]
    fn decode<S: FourBit>(
        self,
        simd: S,
        row: usize,
        columns: Range<usize>,
        sink: &mut impl Sink<S>,
    ) {
        decode(self, simd, row, columns, sink);
    }
}

/// Columns of groups of whole registers.
#[inline(always)]
fn decode<S: FourBit, C: Code>(
    code: C,
    simd: S,
    row: usize,
    columns: Range<usize>,
    sink: &mut impl Sink<S>,
) {
    let groups = code.groups();
    let codes = &groups.codes[row * groups.row_bytes..][..groups.row_bytes];
    assert!(columns.end <= groups.cols);
    let mut first = columns.start;
    let mut group = first / groups.len;
    while first < columns.end {
        let n_groups = GROUPS.min((columns.end - 1) / groups.len + 1 - group);
        let scales = groups.scales(simd, row, group..group + n_groups);
        for &scale in &scales[..n_groups] {
            let opened = code.open(simd, scale, groups.zero(row, group));
            group += 1;
            let end = columns.end.min(group * groups.len);
            while first + 2 * S::LANES <= end {
                for at in [0, S::LANES] {
                    let values = code_values::<S, C>(simd, opened, codes, first + at);
                    sink.take(first, at, values);
                }
                first += 2 * S::LANES;
            }
            if first + S::LANES <= end {
                let values = code_values::<S, C>(simd, opened, codes, first);
                take_one(first, values, sink);
                first += S::LANES;
            }
            if first < end {
                let (mut padded, mut lanes) = ([0; MAX_LANES], [0.0; MAX_LANES]);
                let n_bytes = C::n_bytes(end - first);
                padded[..n_bytes].copy_from_slice(&codes[C::n_bytes(first)..][..n_bytes]);
                // SAFETY: as many codes as lanes.
                let values = unsafe { C::values(simd, opened, padded.as_ptr()) };
                // What codes beyond the last would stand for is not zero.
                simd.put(&mut lanes, 0, values);
                lanes[end - first..].fill(0.0);
                take_one(first, simd.get(&lanes, 0), sink);
                first = end;
            }
        }
    }
}

/// The values of `LANES` codes of a row from a column on.
#[inline(always)]
fn code_values<S: FourBit, C: Code>(
    simd: S,
    opened: C::Opened<S>,
    codes: &[u8],
    first: usize,
) -> S::F32 {
    let src = &codes[C::n_bytes(first)..][..C::n_bytes(S::LANES)];
    // SAFETY: as many codes as lanes.
    unsafe { C::values(simd, opened, src.as_ptr()) }
}

/// Gives `sink` a register that has no neighbour in its group; its place in a pair is known when code is compiled.
#[inline(always)]
fn take_one<S: FourBit>(first: usize, values: S::F32, sink: &mut impl Sink<S>) {
    if (first / S::LANES).is_multiple_of(2) {
        sink.take(first, 0, values);
    } else {
        sink.take(first - S::LANES, S::LANES, values);
    }
}

/// Groups of any length, and codes in any order, decoded as `llm-quant` does.
#[derive(Clone, Copy)]
struct Plain<'a>(GroupedRows<'a>);

impl RowDecoder for Plain<'_> {
    const STEP: usize = STEP;

    #[inline(always)]
    fn decode<S: FourBit>(
        self,
        simd: S,
        row: usize,
        columns: Range<usize>,
        sink: &mut impl Sink<S>,
    ) {
        let mut piece = [0.0; PIECE];
        for first in columns.clone().step_by(PIECE) {
            let n = PIECE.min(columns.end - first);
            self.0.decode(row, first, &mut piece[..n]);
            for step in (0..n).step_by(2 * S::LANES) {
                sink.take(first + step, 0, simd.get(&piece[..n], step));
                if step + S::LANES < n {
                    let values = simd.get(&piece[..n], step + S::LANES);
                    sink.take(first + step, S::LANES, values);
                }
            }
        }
    }
}

/// Columns that are decoded together.
const STEP: usize = 2 * MAX_LANES;
/// Groups whose scales are looked up together: those of a piece of the shortest groups.
const GROUPS: usize = PIECE / MAX_LANES;
/// Codes themselves.
const LINEAR: [f32; 16] = [
    0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.,
];
