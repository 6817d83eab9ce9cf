//! Codes with a scale for each group of a row's elements.

use std::num::NonZeroU64;
use std::ops::Range;

use llm_quant::{E2M1, GlobalScale, GroupCode, Grouped, GroupedRows, Part};
use llm_tensor::DType;

use super::scale::{number_at, power};
use super::{LINEAR, PIECE, PackedView, RowDecoder, Sink, Visitor};
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
        GroupCode::E2M1 if format == Grouped::MXFP4 => visitor.visit(Mxfp4(groups)),
        GroupCode::Int4 | GroupCode::E2M1 => visitor.visit(Nibbles(groups)),
        GroupCode::Int8 => visitor.visit(Bytes(groups)),
    }
}

/// True if groups are one register or whole steps, in the order of the columns.
fn is_regular(format: Grouped) -> bool {
    let group = format.group.map(NonZeroU64::get);
    let is_even = |n: u64| n == MAX_LANES as u64 || n.is_multiple_of(STEP as u64);
    !format.order && group.is_none_or(is_even)
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

    /// The scale of a group.
    #[inline(always)]
    fn scale<S: FourBit>(&self, simd: S, row: usize, group: usize) -> f32 {
        let i = row * self.n_groups + group;
        let scale = number_at(simd, self.format.scale, self.scales, i);
        match self.format.global {
            None => scale,
            Some(GlobalScale::Factor) => scale * self.global,
            Some(GlobalScale::Divisor) => scale / self.global,
        }
    }

    /// The scales of the groups from one on, as many as there are up to [`GROUPS`]; anything behind the last.
    #[inline(always)]
    fn scales<S: FourBit>(&self, simd: S, row: usize, group: usize) -> [f32; GROUPS] {
        let n = GROUPS.min(self.n_groups - group);
        let mut scales = [0.0; GROUPS];
        if self.format.scale != DType::F8E4M3 || n < GROUPS {
            for (i, scale) in scales.iter_mut().enumerate().take(n) {
                *scale = self.scale(simd, row, group + i);
            }
            return scales;
        }
        let codes = &self.scales[row * self.n_groups + group..][..GROUPS];
        let (factor, global) = (simd.splat(E4M3_FACTOR), simd.splat(self.global));
        for at in (0..GROUPS).step_by(S::LANES) {
            // SAFETY: groups are whole registers of codes.
            let values = unsafe { simd.load_e4m3(codes[at..].as_ptr()) };
            let values = simd.mul(values, factor);
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
        let values = self.values(simd);
        let codes = &self.0.codes[row * self.0.row_bytes..][..self.0.row_bytes];
        let step = 2 * S::LANES;
        let mut first = columns.start;
        if !len.is_multiple_of(step) && len != cols {
            return self.decode_short(simd, row, columns, sink);
        }
        let mut group = first / len;
        while first < columns.end {
            // Zeros are small whole numbers, as codes are: their difference is exact.
            let zero = self.0.zero(row, group);
            let table = simd.affine_table(values, 1.0, zero);
            let table = simd.scaled_table(table, self.0.scale(simd, row, group));
            group += 1;
            let end = columns.end.min(group * len);
            while first + step <= end {
                let codes = simd.bytes(codes, first / 2);
                sink.take(first, 0, simd.choose(table, codes));
                let odd = simd.choose(table, simd.shift_right(codes, 4));
                sink.take(first, S::LANES, odd);
                first += step;
            }
            if first < end {
                let [even, odd] = last_nibbles(simd, codes, first, end);
                let both = [simd.choose(table, even), simd.choose(table, odd)];
                take_last(simd, first, end, both, sink);
                first = end;
            }
        }
    }
}

impl Nibbles<'_> {
    /// Of groups of half a step.
    #[inline(always)]
    fn decode_short<S: FourBit>(
        self,
        simd: S,
        row: usize,
        columns: Range<usize>,
        sink: &mut impl Sink<S>,
    ) {
        let n_groups = self.0.n_groups;
        let values = self.values(simd);
        let codes = &self.0.codes[row * self.0.row_bytes..][..self.0.row_bytes];
        let step = 2 * S::LANES;
        for piece in columns.clone().step_by(PIECE) {
            let end = columns.end.min(piece + PIECE);
            let begin = piece / MAX_LANES;
            let scales = self.0.scales(simd, row, begin);
            for first in (piece..end).step_by(step) {
                let low = first / MAX_LANES;
                let high = ((first + S::LANES) / MAX_LANES).min(n_groups - 1);
                let scale = simd.spread([scales[low - begin], scales[high - begin]]);
                let zeros = match self.0.format.code {
                    GroupCode::E2M1 => simd.splat(0.0),
                    GroupCode::Int4 | GroupCode::Int8 => {
                        simd.spread([self.0.zero(row, low), self.0.zero(row, high)])
                    }
                };
                let value =
                    |codes: S::Words| simd.mul(simd.sub(simd.choose(values, codes), zeros), scale);
                if first + step <= end {
                    let codes = simd.bytes(codes, first / 2);
                    sink.take(first, 0, value(codes));
                    sink.take(first, S::LANES, value(simd.shift_right(codes, 4)));
                } else {
                    let [even, odd] = last_nibbles(simd, codes, first, end);
                    take_last(simd, first, end, [value(even), value(odd)], sink);
                }
            }
        }
    }

    /// What codes stand for, without zero and scale.
    #[inline(always)]
    fn values<S: FourBit>(self, simd: S) -> S::Table {
        simd.table(match self.0.format.code {
            GroupCode::E2M1 => &E2M1,
            GroupCode::Int4 | GroupCode::Int8 => &LINEAR,
        })
    }
}

/// The format of that name, in whole groups: what [`Nibbles`] would do, with nothing left to decide.
#[derive(Clone, Copy)]
struct Mxfp4<'a>(Groups<'a>);

impl Mxfp4<'_> {
    const GROUP: usize = 32;
}

impl RowDecoder for Mxfp4<'_> {
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
        let values = simd.table(&E2M1);
        let whole = columns.start..columns.end / Self::GROUP * Self::GROUP;
        let codes = &self.0.codes[row * self.0.row_bytes..][whole.start / 2..whole.end / 2];
        let scales = &self.0.scales[row * self.0.n_groups..][whole.start / Self::GROUP..];
        let mut first = whole.start;
        for (codes, &exponent) in codes.chunks_exact(Self::GROUP / 2).zip(scales) {
            let table = simd.scaled_table(values, power(exponent));
            for step in (0..Self::GROUP).step_by(2 * S::LANES) {
                let codes = simd.bytes(codes, step / 2);
                sink.take(first + step, 0, simd.choose(table, codes));
                let odd = simd.choose(table, simd.shift_right(codes, 4));
                sink.take(first + step, S::LANES, odd);
            }
            first += Self::GROUP;
        }
        if first < columns.end {
            Nibbles(self.0).decode(simd, row, first..columns.end, sink);
        }
    }
}

/// The codes of even columns and of odd ones of a row's last columns; anything from column `end` on.
#[inline(always)]
fn last_nibbles<S: FourBit>(simd: S, codes: &[u8], first: usize, end: usize) -> [S::Words; 2] {
    let codes = &codes[first / 2..end.div_ceil(2)];
    let mut padded = [0; MAX_LANES];
    padded[..codes.len()].copy_from_slice(codes);
    let codes = simd.bytes(&padded, 0);
    [codes, simd.shift_right(codes, 4)]
}

/// Gives `sink` the values of a row's last columns, with zeros from column `end` on, where codes stand for something else.
#[inline(always)]
fn take_last<S: FourBit>(
    simd: S,
    first: usize,
    end: usize,
    mut both: [S::F32; 2],
    sink: &mut impl Sink<S>,
) {
    for (i, values) in both.iter_mut().enumerate() {
        let mut lanes = [0.0; MAX_LANES];
        simd.put(&mut lanes, 0, *values);
        lanes[(end - first + 1 - i) / 2..].fill(0.0);
        *values = simd.get(&lanes, 0);
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
            let scale = simd.splat(self.0.scale(simd, row, group));
            let zero = simd.splat(self.0.zero(row, group));
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
                let values = simd.mul(simd.sub(simd.signed(&padded, 0), zero), scale);
                simd.put(&mut lanes, 0, values);
                lanes[n..].fill(0.0);
                take_one(first, simd.get(&lanes, 0), sink);
                first += n;
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
