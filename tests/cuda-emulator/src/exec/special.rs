//! Roots, reciprocals and transcendental functions. What the hardware approximates is one ulp or so off here too, by a
//! pattern of the operand's bits, so that nothing comes to rely on a correct last bit.

use half::{bf16, f16};

use super::half::Half;
use super::lanes::Two;
use super::round::{Rounding, flush};
use super::{Decoded, Exec, exec};
use crate::program::{Builder, Instruction, Opcode};
use crate::ptx::{Statement, Type};

pub(super) fn decode(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    let ty = op.take_type()?;
    let is_approximate = op.take("approx");
    let ftz = op.take("ftz");
    let rounding = op.take_of(&Rounding::FLOAT).map(Rounding::parse);
    if op.name == "copysign" {
        let exec: Exec = match ty {
            // The sign is the first operand's.
            Type::F32 => exec!(binary[f32, f32, f32] |a: f32, b: f32| b.copysign(a)),
            Type::F64 => exec!(binary[f64, f64, f64] |a: f64, b: f64| b.copysign(a)),
            _ => return Err("copysign of this type".into()),
        };
        let o = b.registers(&s.operands, &[ty; 3])?;
        return Ok(Instruction::of(exec, o));
    }
    let exec = match (ty, rounding) {
        (Type::F32, None) if is_approximate => approximate(op.name, ftz)?,
        (Type::F32, Some(Rounding::Nearest)) => match op.name {
            "rcp" if ftz => exec!(unary[f32, f32] |a| flush(1.0 / flush(a))),
            "rcp" => exec!(unary[f32, f32] |a: f32| 1.0 / a),
            "sqrt" if ftz => exec!(unary[f32, f32] |a| flush(a).sqrt()),
            "sqrt" => exec!(unary[f32, f32] f32::sqrt),
            _ => return Err("an unknown rounding".into()),
        },
        (Type::F64, _) => match op.name {
            "rcp" => exec!(unary[f64, f64] |a: f64| 1.0 / a),
            "sqrt" => exec!(unary[f64, f64] f64::sqrt),
            "rsqrt" => exec!(unary[f64, f64] |a: f64| 1.0 / a.sqrt()),
            _ => return Err("a function of f64".into()),
        },
        (Type::F16, None) if is_approximate => match op.name {
            "ex2" => exec!(unary[f16, f16] |a: f16| f16::of(a.wide().exp2())),
            "tanh" => exec!(unary[f16, f16] |a: f16| f16::of(a.wide().tanh())),
            _ => return Err("a function of f16".into()),
        },
        (Type::Bf16, None) if is_approximate => match op.name {
            "ex2" => exec!(unary[bf16, bf16] |a: bf16| bf16::of(a.wide().exp2())),
            "tanh" => exec!(unary[bf16, bf16] |a: bf16| bf16::of(a.wide().tanh())),
            _ => return Err("a function of bf16".into()),
        },
        (Type::F16x2, None) if is_approximate => match op.name {
            "ex2" => exec!(unary[Two<f16>, Two<f16>] |a: Two<f16>| {
                Two(f16::of(a.0.wide().exp2()), f16::of(a.1.wide().exp2()))
            }),
            "tanh" => exec!(unary[Two<f16>, Two<f16>] |a: Two<f16>| {
                Two(f16::of(a.0.wide().tanh()), f16::of(a.1.wide().tanh()))
            }),
            _ => return Err("a function of f16x2".into()),
        },
        _ => return Err("an unknown rounding, or type".into()),
    };
    let o = b.registers(&s.operands, &[ty; 2])?;
    Ok(Instruction::of(exec, o))
}

fn approximate(name: &str, ftz: bool) -> Result<Exec, String> {
    macro_rules! form {
        (|$a:ident| $e:expr) => {
            if ftz {
                exec!(unary[f32, f32] |$a: f32| {
                    let $a = flush($a);
                    flush($e)
                })
            } else {
                exec!(unary[f32, f32] |$a: f32| $e)
            }
        };
    }
    Ok(match name {
        "rcp" => form!(|a| near(a, 1.0 / f64::from(a))),
        "sqrt" => form!(|a| near(a, f64::from(a).sqrt())),
        "rsqrt" => form!(|a| near(a, 1.0 / f64::from(a).sqrt())),
        "ex2" => form!(|a| near(a, f64::from(a).exp2())),
        "lg2" => form!(|a| near(a, f64::from(a).log2())),
        "sin" => form!(|a| absolute(a, f64::from(a).sin())),
        "cos" => form!(|a| absolute(a, f64::from(a).cos())),
        "tanh" => form!(|a| relative(a, f64::from(a).tanh())),
        _ => return Err("an unknown function".into()),
    })
}

/// -1, 0 or 1 by the operand's bits.
fn pattern(a: f32) -> i32 {
    (a.to_bits().wrapping_mul(0x9e37_79b9) >> 16) as i32 % 3 - 1
}

/// A value one ulp off at most; what f32 holds exactly is exact.
fn near(a: f32, value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) == value || !nearest.is_normal() {
        return nearest;
    }
    f32::from_bits(nearest.to_bits().wrapping_add_signed(pattern(a)))
}

/// Off by 2^-22, as sine and cosine are over one turn; further out the error grows with the operand.
fn absolute(a: f32, value: f64) -> f32 {
    let error = 2f64.powi(-22) * (f64::from(a).abs() / std::f64::consts::PI).max(1.0);
    if a == 0.0 {
        return value as f32;
    }
    (value + f64::from(pattern(a)) * error) as f32
}

/// Off by 2^-12 of the value: the hardware's bound is 2^-11.
fn relative(a: f32, value: f64) -> f32 {
    if value.abs() == 1.0 {
        return value as f32;
    }
    (value * (1.0 + f64::from(pattern(a)) * 2f64.powi(-12))) as f32
}
