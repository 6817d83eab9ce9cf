//! Codes with a scale for each group of a row's elements.

use std::num::NonZeroU64;
use std::ops::Range;

use llm_quant::{E2M1, GlobalScale, GroupCode, Grouped, GroupedRows, Part};
use llm_tensor::{DType, le_bytes_to_f32};

use super::{PIECE, PackedView, RowDecoder, Sink, Visitor};
use crate::simd::{E4M3_FACTOR, FourBit, MAX_LANES, Order};

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
    if !is_regular(format) || S::IS_PORTABLE && format.code == GroupCode::Int8 {
        let rows = GroupedRows::of(weight.stored).expect("the scheme was looked at");
        return visitor.visit(Plain(rows));
    }
    let groups = Groups::new(weight, format);
    match format.code {
        GroupCode::Int4 | GroupCode::E2M1 => visitor.visit(Nibbles(groups)),
        GroupCode::Int8 => visitor.visit(Bytes(groups)),
    }
}

/// True if groups are whole registers, in the order of the columns.
fn is_regular(format: Grouped) -> bool {
    let group = format.group.map(NonZeroU64::get);
    !format.order && group.is_none_or(|group| group.is_multiple_of(MAX_LANES as u64))
}

/// Order in which values come of columns.
pub(super) fn order(format: Grouped) -> Order {
    match format.code {
        GroupCode::Int4 | GroupCode::E2M1 if is_regular(format) => Nibbles::ORDER,
        GroupCode::Int4 | GroupCode::E2M1 | GroupCode::Int8 => Order::Straight,
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

    /// The scales of some groups of a row, at most [`GROUPS`]; anything behind the last.
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
            DType::F32 => {
                for (scale, &bytes) in scales.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *scale = f32::from_le_bytes(bytes);
                }
            }
            other => le_bytes_to_f32(other, bytes, &mut scales[..n]).expect("scales are numbers"),
        }
        let Some(global) = self.format.global else {
            return scales;
        };
        for at in (0..n).step_by(S::LANES) {
            let values = simd.get(&scales, at);
            let values = match global {
                GlobalScale::Factor => simd.mul(values, simd.splat(self.global)),
                GlobalScale::Divisor => simd.div(values, simd.splat(self.global)),
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

/// Codes of 4 bits: of a step, two registers, those of even columns come before those of odd ones.
#[derive(Clone, Copy)]
struct Nibbles<'a>(Groups<'a>);

impl RowDecoder for Nibbles<'_> {
    const STEP: usize = STEP;
    const ORDER: Order = Order::EvenOdd;

    #[inline(always)]
    fn decode<S: FourBit>(
        self,
        simd: S,
        row: usize,
        columns: Range<usize>,
        sink: &mut impl Sink<S>,
    ) {
        let Groups { len, cols, .. } = self.0;
        let values = simd.table(match self.0.format.code {
            GroupCode::E2M1 => &E2M1,
            GroupCode::Int4 | GroupCode::Int8 => &LINEAR,
        });
        let step = 2 * S::LANES;
        let is_whole = len.is_multiple_of(step) || len == cols;
        let mut first = columns.start;
        let mut group = first / len;
        while first < columns.end {
            let groups = group..self.0.n_groups.min(group + GROUPS);
            let scales = self.0.scales(simd, row, groups);
            let end = columns.end.min((group + GROUPS) * len);
            for &scale in &scales {
                if first >= end {
                    break;
                }
                if !is_whole {
                    break;
                }
                // Zeros are small whole numbers, as codes are: their difference is exact.
                let zero = self.0.zero(row, group);
                let table = simd.scaled_table(simd.affine_table(values, 1.0, zero), scale);
                group += 1;
                let end = end.min(group * len);
                while first < end {
                    let [even, odd] = self.nibbles(simd, row, first, end);
                    let both = [even, odd].map(|codes| simd.choose(table, codes));
                    take_pair(simd, first, end, both, sink);
                    first += step;
                }
                first = end;
            }
            // A step is the end of one group and the beginning of another.
            while first < end {
                let half = |i: usize| ((first + i * S::LANES) / len).min(self.0.n_groups - 1);
                let halves = [half(0), half(1)];
                let zeros = simd.spread(halves.map(|group| self.0.zero(row, group)));
                let scale = simd.spread(halves.map(|i| scales[i - group]));
                let codes = self.nibbles(simd, row, first, end);
                let both =
                    codes.map(|codes| simd.mul(simd.sub(simd.choose(values, codes), zeros), scale));
                take_pair(simd, first, end, both, sink);
                first += step;
            }
            if !is_whole {
                group += GROUPS;
                first = end;
            }
        }
    }
}

impl Nibbles<'_> {
    /// The codes of even columns and of odd ones of a step from `first` on; anything from column `end` on.
    #[inline(always)]
    fn nibbles<S: FourBit>(self, simd: S, row: usize, first: usize, end: usize) -> [S::Words; 2] {
        let codes = &self.0.codes[row * self.0.row_bytes..][first / 2..end.div_ceil(2)];
        let words = if codes.len() >= S::LANES {
            simd.bytes(codes, 0)
        } else {
            let mut padded = [0; MAX_LANES];
            padded[..codes.len()].copy_from_slice(codes);
            simd.bytes(&padded, 0)
        };
        [words, simd.shift_right(words, 4)]
    }
}

/// Gives `sink` a step's values, with zeros from column `end` on, where codes stand for something else.
#[inline(always)]
fn take_pair<S: FourBit>(
    simd: S,
    first: usize,
    end: usize,
    mut both: [S::F32; 2],
    sink: &mut impl Sink<S>,
) {
    let n = end - first;
    if n < 2 * S::LANES {
        for (i, values) in both.iter_mut().enumerate() {
            let mut lanes = [0.0; MAX_LANES];
            simd.put(&mut lanes, 0, *values);
            lanes[(n + 1 - i) / 2..].fill(0.0);
            *values = simd.get(&lanes, 0);
        }
    }
    let [even, odd] = both;
    sink.take(first, 0, even);
    sink.take(first, S::LANES, odd);
}

/// Codes of 8 bits.
#[derive(Clone, Copy)]
struct Bytes<'a>(Groups<'a>);

impl RowDecoder for Bytes<'_> {
    const STEP: usize = STEP;
    const ORDER: Order = Order::Straight;

    #[inline(always)]
    fn decode<S: FourBit>(
        self,
        simd: S,
        row: usize,
        columns: Range<usize>,
        sink: &mut impl Sink<S>,
    ) {
        let Groups { len, cols, .. } = self.0;
        let codes = &self.0.codes[row * cols..][..cols];
        let mut first = columns.start;
        let mut group = first / len;
        while first < columns.end {
            let groups = group..self.0.n_groups.min(group + GROUPS);
            let scales = self.0.scales(simd, row, groups);
            for scale in scales {
                if first >= columns.end {
                    break;
                }
                let (scale, zero) = (simd.splat(scale), simd.splat(self.0.zero(row, group)));
                let value = |codes: S::F32| simd.mul(simd.sub(codes, zero), scale);
                group += 1;
                let end = columns.end.min(group * len);
                while first + 2 * S::LANES <= end {
                    for at in [0, S::LANES] {
                        let codes = simd.signed(codes, first + at);
                        sink.take(first, at, simd.mul(simd.sub(codes, zero), scale));
                    }
                    first += 2 * S::LANES;
                }
                while first < end {
                    let n = S::LANES.min(end - first);
                    let (mut padded, mut lanes) = ([0; MAX_LANES], [0.0; MAX_LANES]);
                    padded[..n].copy_from_slice(&codes[first..first + n]);
                    simd.put(&mut lanes, 0, value(simd.signed(&padded, 0)));
                    lanes[n..].fill(0.0);
                    take_one(first, simd.get(&lanes, 0), sink);
                    first += n;
                }
            }
        }
    }
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
    const ORDER: Order = Order::Straight;

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
