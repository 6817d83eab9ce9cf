//! Registers of a warp: 32 lanes of each, read and written as rows.

use std::sync::Arc;

use half::{bf16, f16};

pub(crate) const LANES: usize = 32;

/// 32 lanes of a 32-bit register, or of one half of a register pair; a 64-bit register is two adjacent rows.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Row(pub(crate) [u32; LANES]);

impl Row {
    pub(crate) const ZERO: Self = Self([0; LANES]);
}

/// Index of a register: its first row, or its predicate, with its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Reg(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Predicate,
    Narrow,
    Wide,
}

impl Reg {
    pub(crate) fn new(class: Class, index: usize) -> Self {
        let index = index as u32;
        assert!(index <= INDEX, "too many registers");
        Self(match class {
            Class::Predicate => index | PREDICATE,
            Class::Narrow => index,
            Class::Wide => index | WIDE,
        })
    }

    pub(crate) fn constant(class: Class, index: usize) -> Self {
        Self(Self::new(class, index).0 | CONSTANT)
    }

    pub(crate) fn class(self) -> Class {
        if self.0 & PREDICATE != 0 {
            Class::Predicate
        } else if self.0 & WIDE != 0 {
            Class::Wide
        } else {
            Class::Narrow
        }
    }

    pub(crate) fn is_constant(self) -> bool {
        self.0 & CONSTANT != 0
    }

    pub(crate) fn index(self) -> usize {
        (self.0 & INDEX) as usize
    }
}

const CONSTANT: u32 = 1 << 31;
const WIDE: u32 = 1 << 30;
const PREDICATE: u32 = 1 << 29;
const INDEX: u32 = PREDICATE - 1;

/// Values of a warp's registers.
pub(crate) struct Registers {
    rows: Vec<Row>,
    /// One bit a lane.
    predicates: Vec<u32>,
    constants: Arc<[Row]>,
}

impl Registers {
    pub(crate) fn new(
        mut rows: Vec<Row>,
        n_rows: usize,
        n_predicates: usize,
        constants: Arc<[Row]>,
    ) -> Self {
        if rows.len() < n_rows {
            rows.resize(n_rows, Row::ZERO);
        }
        Self {
            rows,
            predicates: vec![0; n_predicates],
            constants,
        }
    }

    /// Rows, to be used for another warp.
    pub(crate) fn into_rows(self) -> Vec<Row> {
        self.rows
    }

    #[inline(always)]
    fn rows_at(&self, reg: Reg) -> &[Row] {
        let rows = if reg.is_constant() {
            &self.constants[..]
        } else {
            &self.rows[..]
        };
        &rows[reg.index()..]
    }

    #[inline(always)]
    pub(crate) fn narrow(&self, reg: Reg) -> &[u32; LANES] {
        &self.rows_at(reg)[0].0
    }

    #[inline(always)]
    pub(crate) fn wide(&self, reg: Reg) -> &[u64; LANES] {
        let rows = &self.rows_at(reg)[..2];
        #[expect(
            unsafe_code,
            reason = "two rows of 32-bit lanes are one of 64-bit lanes"
        )]
        // SAFETY: two adjacent rows are 256 bytes without padding, aligned to 64; any bits are a u64.
        unsafe {
            &*rows.as_ptr().cast::<[u64; LANES]>()
        }
    }

    #[inline(always)]
    fn wide_mut(&mut self, reg: Reg) -> &mut [u64; LANES] {
        let rows = &mut self.rows[reg.index()..][..2];
        #[expect(
            unsafe_code,
            reason = "two rows of 32-bit lanes are one of 64-bit lanes"
        )]
        // SAFETY: as in `wide`; the rows are borrowed for as long as the result is.
        unsafe {
            &mut *rows.as_mut_ptr().cast::<[u64; LANES]>()
        }
    }

    #[inline(always)]
    pub(crate) fn set_narrow(&mut self, reg: Reg, mask: u32, values: &[u32; LANES]) {
        let row = &mut self.rows[reg.index()].0;
        if mask == u32::MAX {
            *row = *values;
        } else {
            for lane in 0..LANES {
                if mask >> lane & 1 == 1 {
                    row[lane] = values[lane];
                }
            }
        }
    }

    #[inline(always)]
    pub(crate) fn set_wide(&mut self, reg: Reg, mask: u32, values: &[u64; LANES]) {
        let row = self.wide_mut(reg);
        if mask == u32::MAX {
            *row = *values;
        } else {
            for lane in 0..LANES {
                if mask >> lane & 1 == 1 {
                    row[lane] = values[lane];
                }
            }
        }
    }

    #[inline(always)]
    pub(crate) fn predicate(&self, reg: Reg) -> u32 {
        self.predicates[reg.index()]
    }

    #[inline(always)]
    pub(crate) fn set_predicate(&mut self, reg: Reg, mask: u32, bits: u32) {
        let old = &mut self.predicates[reg.index()];
        *old = *old & !mask | bits & mask;
    }

    /// Values of a register of either width, zero-extended.
    pub(crate) fn extended(&self, reg: Reg) -> [u64; LANES] {
        match reg.class() {
            Class::Wide => *self.wide(reg),
            Class::Narrow => self.narrow(reg).map(u64::from),
            Class::Predicate => {
                let bits = self.predicate(reg);
                std::array::from_fn(|lane| u64::from(bits >> lane & 1))
            }
        }
    }

    /// Values written to a register of either width, cut to it.
    pub(crate) fn set_cut(&mut self, reg: Reg, mask: u32, values: &[u64; LANES]) {
        match reg.class() {
            Class::Wide => self.set_wide(reg, mask, values),
            Class::Narrow => self.set_narrow(reg, mask, &values.map(|value| value as u32)),
            Class::Predicate => {
                let bits =
                    (0..LANES).fold(0, |bits, lane| bits | ((values[lane] & 1) as u32) << lane);
                self.set_predicate(reg, mask, bits);
            }
        }
    }
}

/// Bits that a register holds in one lane.
pub(crate) trait Cell: Copy {
    const ZERO: Self;
    fn row(registers: &Registers, reg: Reg) -> &[Self; LANES];
    fn store(registers: &mut Registers, reg: Reg, mask: u32, values: &[Self; LANES]);
}

impl Cell for u32 {
    const ZERO: Self = 0;
    #[inline(always)]
    fn row(registers: &Registers, reg: Reg) -> &[Self; LANES] {
        registers.narrow(reg)
    }
    #[inline(always)]
    fn store(registers: &mut Registers, reg: Reg, mask: u32, values: &[Self; LANES]) {
        registers.set_narrow(reg, mask, values);
    }
}

impl Cell for u64 {
    const ZERO: Self = 0;
    #[inline(always)]
    fn row(registers: &Registers, reg: Reg) -> &[Self; LANES] {
        registers.wide(reg)
    }
    #[inline(always)]
    fn store(registers: &mut Registers, reg: Reg, mask: u32, values: &[Self; LANES]) {
        registers.set_wide(reg, mask, values);
    }
}

/// A value in one lane. What is narrower than its register is cut when it is read, and extended by its sign when written.
pub(crate) trait Lane: Copy {
    type Cell: Cell;
    fn of(cell: Self::Cell) -> Self;
    fn cell(self) -> Self::Cell;
}

macro_rules! integer_lanes {
    ($($lane:ty => $cell:ty),*) => {$(
        impl Lane for $lane {
            type Cell = $cell;
            #[inline(always)]
            fn of(cell: $cell) -> Self { cell as Self }
            #[inline(always)]
            fn cell(self) -> $cell { self as $cell }
        }
    )*};
}
integer_lanes!(u8 => u32, i8 => u32, u16 => u32, i16 => u32, u32 => u32, i32 => u32, u64 => u64, i64 => u64);

macro_rules! float_lanes {
    ($($lane:ty, $bits:ty => $cell:ty),*) => {$(
        impl Lane for $lane {
            type Cell = $cell;
            #[inline(always)]
            fn of(cell: $cell) -> Self { <$lane>::from_bits(cell as $bits) }
            #[inline(always)]
            fn cell(self) -> $cell { <$cell>::from(self.to_bits()) }
        }
    )*};
}
float_lanes!(f16, u16 => u32, bf16, u16 => u32, f32, u32 => u32, f64, u64 => u64);

/// Two halves of a 32-bit register, the lower first.
#[derive(Clone, Copy)]
pub(crate) struct Two<T>(pub(crate) T, pub(crate) T);

impl<T: Lane<Cell = u32>> Lane for Two<T> {
    type Cell = u32;
    #[inline(always)]
    fn of(cell: u32) -> Self {
        Self(T::of(cell & 0xffff), T::of(cell >> 16))
    }
    #[inline(always)]
    fn cell(self) -> u32 {
        self.0.cell() & 0xffff | self.1.cell() << 16
    }
}

#[inline(always)]
pub(crate) fn unary<A: Lane, D: Lane>(
    registers: &mut Registers,
    o: &[Reg; 4],
    mask: u32,
    f: impl Fn(A) -> D,
) {
    let a = A::Cell::row(registers, o[1]);
    let mut out = [D::Cell::ZERO; LANES];
    for lane in 0..LANES {
        out[lane] = f(A::of(a[lane])).cell();
    }
    D::Cell::store(registers, o[0], mask, &out);
}

#[inline(always)]
pub(crate) fn binary<A: Lane, B: Lane, D: Lane>(
    registers: &mut Registers,
    o: &[Reg; 4],
    mask: u32,
    f: impl Fn(A, B) -> D,
) {
    let a = A::Cell::row(registers, o[1]);
    let b = B::Cell::row(registers, o[2]);
    let mut out = [D::Cell::ZERO; LANES];
    for lane in 0..LANES {
        out[lane] = f(A::of(a[lane]), B::of(b[lane])).cell();
    }
    D::Cell::store(registers, o[0], mask, &out);
}

#[inline(always)]
pub(crate) fn ternary<A: Lane, B: Lane, C: Lane, D: Lane>(
    registers: &mut Registers,
    o: &[Reg; 4],
    mask: u32,
    f: impl Fn(A, B, C) -> D,
) {
    let a = A::Cell::row(registers, o[1]);
    let b = B::Cell::row(registers, o[2]);
    let c = C::Cell::row(registers, o[3]);
    let mut out = [D::Cell::ZERO; LANES];
    for lane in 0..LANES {
        out[lane] = f(A::of(a[lane]), B::of(b[lane]), C::of(c[lane])).cell();
    }
    D::Cell::store(registers, o[0], mask, &out);
}
