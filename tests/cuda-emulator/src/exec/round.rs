//! Roundings that Rust's own arithmetic does not have.

use half::{bf16, f16};

/// A direction of rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    Nearest,
    Zero,
    Down,
    Up,
}

impl Rounding {
    pub(crate) const FLOAT: [&'static str; 4] = ["rn", "rz", "rm", "rp"];
    pub(crate) const INTEGER: [&'static str; 4] = ["rni", "rzi", "rmi", "rpi"];

    pub(crate) fn parse(word: &str) -> Self {
        match word.as_bytes().get(1) {
            Some(b'z') => Self::Zero,
            Some(b'm') => Self::Down,
            Some(b'p') => Self::Up,
            Some(_) | None => Self::Nearest,
        }
    }

    /// `value` as an integer.
    pub(crate) fn integer(self, value: f64) -> f64 {
        match self {
            Self::Nearest => value.round_ties_even(),
            Self::Zero => value.trunc(),
            Self::Down => value.floor(),
            Self::Up => value.ceil(),
        }
    }

    /// The exact value `high + low` as f32, where `low` is below half an ulp of `high`.
    pub(crate) fn f32(self, high: f64, low: f64) -> f32 {
        let nearest = high as f32;
        if !nearest.is_finite() && !high.is_finite() {
            return nearest;
        }
        let difference = high - f64::from(nearest);
        let above = if difference == 0.0 { low } else { difference };
        // Nearest of a sum of two parts: a tie of the first is decided by the second.
        match self {
            Self::Nearest => nearest_of_two(nearest, high, low),
            Self::Down if above < 0.0 => nearest.next_down(),
            Self::Up if above > 0.0 => nearest.next_up(),
            Self::Zero if above < 0.0 && nearest > 0.0 => nearest.next_down(),
            Self::Zero if above > 0.0 && nearest < 0.0 => nearest.next_up(),
            Self::Down | Self::Up | Self::Zero => nearest,
        }
    }
}

fn nearest_of_two(nearest: f32, high: f64, low: f64) -> f32 {
    let other = if high > f64::from(nearest) {
        nearest.next_up()
    } else {
        nearest.next_down()
    };
    let middle = (f64::from(nearest) + f64::from(other)) / 2.0;
    let is_tie = low != 0.0 && high == middle && high != f64::from(nearest);
    if is_tie && (low > 0.0) == (other > nearest) {
        other
    } else {
        nearest
    }
}

/// Sum of two doubles and what its rounding lost.
pub(crate) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let back = sum - a;
    (sum, (a - (sum - back)) + (b - back))
}

/// A double in `mantissa` bits after the leading one, with exponents down to `least`, rounded as asked. Without overflow.
pub(crate) fn to_bits_of(value: f64, mantissa: i32, least: i32, rounding: Rounding) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let exponent = ((value.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(least);
    let step = f64::from_bits(((exponent - mantissa + 1023) as u64) << 52);
    // The quotient is exact: `step` is a power of two.
    rounding.integer(value / step) * step
}

pub(crate) fn to_f16(value: f64, rounding: Rounding) -> f16 {
    let rounded = to_bits_of(value, 10, -14, rounding);
    if rounded.abs() > 65504.0 && rounded.is_finite() {
        return overflow(
            rounded,
            rounding,
            f16::MAX,
            f16::INFINITY,
            f16::MIN,
            f16::NEG_INFINITY,
        );
    }
    f16::from_f32(rounded as f32)
}

pub(crate) fn to_bf16(value: f64, rounding: Rounding) -> bf16 {
    let rounded = to_bits_of(value, 7, -126, rounding);
    if rounded.abs() > f64::from(f32::from(bf16::MAX)) && rounded.is_finite() {
        return overflow(
            rounded,
            rounding,
            bf16::MAX,
            bf16::INFINITY,
            bf16::MIN,
            bf16::NEG_INFINITY,
        );
    }
    bf16::from_f32(rounded as f32)
}

fn overflow<T>(value: f64, rounding: Rounding, max: T, infinite: T, min: T, negative: T) -> T {
    let is_positive = value > 0.0;
    match (rounding, is_positive) {
        (Rounding::Nearest | Rounding::Up, true) => infinite,
        (Rounding::Zero | Rounding::Down, true) => max,
        (Rounding::Nearest | Rounding::Down, false) => negative,
        (Rounding::Zero | Rounding::Up, false) => min,
    }
}

/// Subnormal values as zero, their sign kept.
#[inline(always)]
pub(crate) fn flush(value: f32) -> f32 {
    if value.is_subnormal() {
        0f32.copysign(value)
    } else {
        value
    }
}

/// Between 0 and 1; NaN is 0.
#[inline(always)]
pub(crate) fn saturate(value: f32) -> f32 {
    if value > 0.0 { value.min(1.0) } else { 0.0 }
}
