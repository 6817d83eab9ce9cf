//! Arithmetic in 32 and 64 bits.

use super::round::{Rounding, flush, saturate, two_sum};
use super::{Decoded, Exec, LANES, exec};
use crate::block::{Block, Warp};
use crate::fault::Fault;
use crate::program::{Builder, Instruction, Opcode};
use crate::ptx::{Statement, Type};

/// The four forms of an operation: plain, with subnormals flushed, saturated, both.
macro_rules! forms {
    ($ftz:expr, $sat:expr, |$a:ident, $b:ident| $e:expr) => {
        match ($ftz, $sat) {
            (false, false) => exec!(binary[f32, f32, f32] |$a: f32, $b: f32| $e),
            (true, false) => exec!(binary[f32, f32, f32] |$a: f32, $b: f32| {
                let ($a, $b) = (flush($a), flush($b));
                flush($e)
            }),
            (false, true) => exec!(binary[f32, f32, f32] |$a: f32, $b: f32| saturate($e)),
            (true, true) => exec!(binary[f32, f32, f32] |$a: f32, $b: f32| {
                let ($a, $b) = (flush($a), flush($b));
                saturate(flush($e))
            }),
        }
    };
    ($ftz:expr, $sat:expr, |$a:ident, $b:ident, $c:ident| $e:expr) => {
        match ($ftz, $sat) {
            (false, false) => {
                exec!(ternary[f32, f32, f32, f32] |$a: f32, $b: f32, $c: f32| $e)
            }
            (true, false) => exec!(ternary[f32, f32, f32, f32] |$a: f32, $b: f32, $c: f32| {
                let ($a, $b, $c) = (flush($a), flush($b), flush($c));
                flush($e)
            }),
            (false, true) => {
                exec!(ternary[f32, f32, f32, f32] |$a: f32, $b: f32, $c: f32| saturate($e))
            }
            (true, true) => exec!(ternary[f32, f32, f32, f32] |$a: f32, $b: f32, $c: f32| {
                let ($a, $b, $c) = (flush($a), flush($b), flush($c));
                saturate(flush($e))
            }),
        }
    };
}

/// An operation once for each direction of rounding, as a function of the direction.
macro_rules! directed {
    ($rounding:expr, $ftz:expr, $sat:expr, $f:ident($($x:ident),*)) => {
        match $rounding {
            Rounding::Nearest => forms!($ftz, $sat, |$($x),*| $f($($x,)* Rounding::Nearest)),
            Rounding::Zero => forms!($ftz, $sat, |$($x),*| $f($($x,)* Rounding::Zero)),
            Rounding::Down => forms!($ftz, $sat, |$($x),*| $f($($x,)* Rounding::Down)),
            Rounding::Up => forms!($ftz, $sat, |$($x),*| $f($($x,)* Rounding::Up)),
        }
    };
}

pub(super) fn decode(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement, ty: Type) -> Decoded {
    if ty == Type::F64 {
        return double(b, op, s);
    }
    let rounding = op
        .take_of(&Rounding::FLOAT)
        .map_or(Rounding::Nearest, Rounding::parse);
    let is_approximate = op.take_of(&["approx", "full"]).is_some();
    let ftz = op.take("ftz");
    let sat = op.take("sat");
    let nan = op.take("NaN");
    let is_nearest = rounding == Rounding::Nearest;
    let (exec, n): (Exec, usize) = match op.name {
        "add" if is_nearest => (forms!(ftz, sat, |a, b| a + b), 3),
        "sub" if is_nearest => (forms!(ftz, sat, |a, b| a - b), 3),
        "mul" if is_nearest => (forms!(ftz, sat, |a, b| a * b), 3),
        "fma" | "mad" if is_nearest && !ftz && !sat && has_fused() => (fused, 4),
        "fma" | "mad" if is_nearest => (forms!(ftz, sat, |a, b, c| a.mul_add(b, c)), 4),
        "add" => (directed!(rounding, ftz, sat, add(x, y)), 3),
        "sub" => (directed!(rounding, ftz, sat, sub(x, y)), 3),
        "mul" => (directed!(rounding, ftz, sat, mul(x, y)), 3),
        "fma" | "mad" => (directed!(rounding, ftz, sat, fma(x, y, z)), 4),
        "div" if is_approximate => (forms!(ftz, sat, |a, b| approximate_quotient(a, b)), 3),
        "div" if is_nearest => (forms!(ftz, sat, |a, b| a / b), 3),
        "div" => (directed!(rounding, ftz, sat, div(x, y)), 3),
        "min" if nan => (forms!(ftz, sat, |a, b| or_nan(a, b, least(a, b))), 3),
        "max" if nan => (forms!(ftz, sat, |a, b| or_nan(a, b, most(a, b))), 3),
        "min" => (forms!(ftz, sat, |a, b| least(a, b)), 3),
        "max" => (forms!(ftz, sat, |a, b| most(a, b)), 3),
        "abs" if ftz => (exec!(unary[f32, f32] |a: f32| flush(a).abs()), 2),
        "abs" => (exec!(unary[f32, f32] |a: f32| a.abs()), 2),
        "neg" if ftz => (exec!(unary[f32, f32] |a: f32| -flush(a)), 2),
        "neg" => (exec!(unary[f32, f32] |a: f32| -a), 2),
        _ => return Err("an unknown form of arithmetic".into()),
    };
    let o = b.registers(&s.operands, &[ty; 4][..n])?;
    Ok(Instruction::of(exec, o))
}

/// Whether the host can multiply and add in one rounding by itself; otherwise it is computed, at many times the cost.
fn has_fused() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has =
        std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let has = false;
    has
}

/// `fma.rn.f32`, the instruction that kernels are most full of.
fn fused(w: &mut Warp, _: &mut Block<'_>, i: &Instruction, mask: u32) -> Result<(), Fault> {
    let registers = &mut w.registers;
    let operands = [1, 2, 3].map(|at| registers.narrow(i.o[at]));
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "instructions that the host was asked for")]
    // SAFETY: this is reached only where `has_fused` has found the instructions.
    let out = unsafe { fused_lanes(operands) };
    #[cfg(not(target_arch = "x86_64"))]
    let out = fused_lanes(operands);
    registers.set_narrow(i.o[0], mask, &out);
    Ok(())
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
fn fused_lanes([a, b, c]: [&[u32; LANES]; 3]) -> [u32; LANES] {
    let mut out = [0; LANES];
    for lane in 0..LANES {
        let [a, b, c] = [a[lane], b[lane], c[lane]].map(f32::from_bits);
        out[lane] = a.mul_add(b, c).to_bits();
    }
    out
}

fn double(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    op.take("rn");
    let (exec, n): (Exec, usize) = match op.name {
        "add" => (exec!(binary[f64, f64, f64] |a, b| a + b), 3),
        "sub" => (exec!(binary[f64, f64, f64] |a, b| a - b), 3),
        "mul" => (exec!(binary[f64, f64, f64] |a, b| a * b), 3),
        "div" => (exec!(binary[f64, f64, f64] |a, b| a / b), 3),
        "min" => (exec!(binary[f64, f64, f64] f64::min), 3),
        "max" => (exec!(binary[f64, f64, f64] f64::max), 3),
        "fma" | "mad" => (exec!(ternary[f64, f64, f64, f64] f64::mul_add), 4),
        "abs" => (exec!(unary[f64, f64] f64::abs), 2),
        "neg" => (exec!(unary[f64, f64] |a: f64| -a), 2),
        _ => return Err("an unknown form of arithmetic".into()),
    };
    let o = b.registers(&s.operands, &[Type::F64; 4][..n])?;
    Ok(Instruction::of(exec, o))
}

fn add(a: f32, b: f32, rounding: Rounding) -> f32 {
    let (sum, lost) = two_sum(f64::from(a), f64::from(b));
    rounding.f32(sum, lost)
}

fn sub(a: f32, b: f32, rounding: Rounding) -> f32 {
    add(a, -b, rounding)
}

fn mul(a: f32, b: f32, rounding: Rounding) -> f32 {
    // 48 bits of a product fit in a double.
    rounding.f32(f64::from(a) * f64::from(b), 0.0)
}

fn fma(a: f32, b: f32, c: f32, rounding: Rounding) -> f32 {
    let (sum, lost) = two_sum(f64::from(a) * f64::from(b), f64::from(c));
    rounding.f32(sum, lost)
}

fn div(a: f32, b: f32, rounding: Rounding) -> f32 {
    let (a, b) = (f64::from(a), f64::from(b));
    let quotient = a / b;
    // The sign of what is left over says on which side of the quotient the exact one lies.
    let left = (-quotient).mul_add(b, a);
    rounding.f32(quotient, left * b.signum())
}

/// A quotient two ulp wrong at most, as the hardware makes it from a reciprocal.
fn approximate_quotient(a: f32, b: f32) -> f32 {
    if !b.is_finite() || b == 0.0 || b.abs() < f32::MIN_POSITIVE || b.abs() > 8.5e37 {
        return a / b;
    }
    a * (1.0 / b)
}

/// The lesser; of a number and NaN the number, of two zeros the negative.
pub(super) fn least(a: f32, b: f32) -> f32 {
    if a == b {
        f32::from_bits(a.to_bits() | b.to_bits())
    } else if a < b || b.is_nan() {
        a
    } else {
        b
    }
}

pub(super) fn most(a: f32, b: f32) -> f32 {
    if a == b {
        f32::from_bits(a.to_bits() & b.to_bits())
    } else if a > b || b.is_nan() {
        a
    } else {
        b
    }
}

pub(super) fn or_nan(a: f32, b: f32, value: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        f32::NAN
    } else {
        value
    }
}
