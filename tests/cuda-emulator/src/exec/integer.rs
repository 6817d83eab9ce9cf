//! Integer arithmetic.

use super::{Decoded, Exec, exec, integers};
use crate::program::{Builder, Instruction, Opcode};
use crate::ptx::{Statement, Type};

pub(super) fn decode(
    b: &mut Builder<'_>,
    op: &mut Opcode<'_>,
    s: &Statement,
    ty: Option<Type>,
) -> Decoded {
    let ty = match ty {
        Some(ty) => ty,
        None => op.take_type()?,
    };
    let part = op.take_of(&["lo", "hi", "wide"]);
    let saturates = op.take("sat");
    if saturates && !(matches!(op.name, "add" | "sub") && ty == Type::S32) {
        return Err("saturation is unknown here".into());
    }
    let exec: Exec = match (op.name, part) {
        ("add", None) if saturates => exec!(binary[i32, i32, i32] i32::saturating_add),
        ("sub", None) if saturates => exec!(binary[i32, i32, i32] i32::saturating_sub),
        ("add", None) => integers!(ty, T => exec!(binary[T, T, T] T::wrapping_add)),
        ("sub", None) => integers!(ty, T => exec!(binary[T, T, T] T::wrapping_sub)),
        ("mul", Some("lo")) => integers!(ty, T => exec!(binary[T, T, T] T::wrapping_mul)),
        ("mul", Some("hi")) => high(ty)?,
        ("mul", Some("wide")) => return wide(b, s, ty),
        ("mul24", Some("lo")) => match ty {
            Type::U32 => {
                exec!(binary[u32, u32, u32] |a, b| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff))
            }
            _ => return Err("only mul24.lo.u32 is known".into()),
        },
        ("mad", Some("lo")) => {
            integers!(ty, T => exec!(ternary[T, T, T, T] |a, b, c| a.wrapping_mul(b).wrapping_add(c)))
        }
        ("mad", Some("hi")) => mad_high(ty)?,
        ("mad", Some("wide")) => return mad_wide(b, s, ty),
        // What the hardware gives for a division by zero is all ones; for a remainder the dividend.
        ("div", None) => integers!(ty, T => exec!(binary[T, T, T] |a: T, b: T| {
            if b == 0 { !0 } else { a.wrapping_div(b) }
        })),
        ("rem", None) => integers!(ty, T => exec!(binary[T, T, T] |a: T, b: T| {
            if b == 0 { a } else { a.wrapping_rem(b) }
        })),
        ("min", None) => integers!(ty, T => exec!(binary[T, T, T] |a: T, b: T| a.min(b))),
        ("max", None) => integers!(ty, T => exec!(binary[T, T, T] |a: T, b: T| a.max(b))),
        ("sad", None) => integers!(ty, T => exec!(ternary[T, T, T, T] |a: T, b: T, c: T| {
            c.wrapping_add(a.max(b).wrapping_sub(a.min(b)))
        })),
        ("abs", None) => match ty {
            Type::S16 => exec!(unary[i16, i16] i16::wrapping_abs),
            Type::S32 => exec!(unary[i32, i32] i32::wrapping_abs),
            Type::S64 => exec!(unary[i64, i64] i64::wrapping_abs),
            _ => return Err("abs of an unsigned type".into()),
        },
        ("neg", None) => integers!(ty, T => exec!(unary[T, T] T::wrapping_neg)),
        _ => return Err("an unknown form of integer arithmetic".into()),
    };
    let n = s.operands.len();
    let types = [ty; 4];
    let o = b.registers(&s.operands, types.get(..n).ok_or("too many operands")?)?;
    let expected = match op.name {
        "abs" | "neg" => 2,
        "mad" | "sad" => 4,
        _ => 3,
    };
    if n != expected {
        return Err(format!("{n} operands, {expected} known"));
    }
    Ok(Instruction::of(exec, o))
}

fn high(ty: Type) -> Result<Exec, String> {
    Ok(match ty {
        Type::U16 => {
            exec!(binary[u16, u16, u16] |a, b| ((u32::from(a) * u32::from(b)) >> 16) as u16)
        }
        Type::S16 => {
            exec!(binary[i16, i16, i16] |a, b| ((i32::from(a) * i32::from(b)) >> 16) as i16)
        }
        Type::U32 => {
            exec!(binary[u32, u32, u32] |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32)
        }
        Type::S32 => {
            exec!(binary[i32, i32, i32] |a, b| ((i64::from(a) * i64::from(b)) >> 32) as i32)
        }
        Type::U64 => {
            exec!(binary[u64, u64, u64] |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64)
        }
        Type::S64 => {
            exec!(binary[i64, i64, i64] |a, b| ((i128::from(a) * i128::from(b)) >> 64) as i64)
        }
        _ => return Err("mul.hi of this type".into()),
    })
}

fn mad_high(ty: Type) -> Result<Exec, String> {
    Ok(match ty {
        Type::U32 => exec!(ternary[u32, u32, u32, u32] |a, b, c| {
            (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)
        }),
        Type::S32 => exec!(ternary[i32, i32, i32, i32] |a, b, c| {
            (((i64::from(a) * i64::from(b)) >> 32) as i32).wrapping_add(c)
        }),
        Type::U64 => exec!(ternary[u64, u64, u64, u64] |a, b, c| {
            (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c)
        }),
        Type::S64 => exec!(ternary[i64, i64, i64, i64] |a, b, c| {
            (((i128::from(a) * i128::from(b)) >> 64) as i64).wrapping_add(c)
        }),
        _ => return Err("mad.hi of this type".into()),
    })
}

/// Products twice as wide as their factors.
fn wide(b: &mut Builder<'_>, s: &Statement, ty: Type) -> Decoded {
    let (exec, to): (Exec, Type) = match ty {
        Type::U16 => (
            exec!(binary[u16, u16, u32] |a, b| u32::from(a) * u32::from(b)),
            Type::U32,
        ),
        Type::S16 => (
            exec!(binary[i16, i16, i32] |a, b| i32::from(a) * i32::from(b)),
            Type::S32,
        ),
        Type::U32 => (
            exec!(binary[u32, u32, u64] |a, b| u64::from(a) * u64::from(b)),
            Type::U64,
        ),
        Type::S32 => (
            exec!(binary[i32, i32, i64] |a, b| i64::from(a) * i64::from(b)),
            Type::S64,
        ),
        _ => return Err("mul.wide of this type".into()),
    };
    let o = b.registers(&s.operands, &[to, ty, ty])?;
    Ok(Instruction::of(exec, o))
}

fn mad_wide(b: &mut Builder<'_>, s: &Statement, ty: Type) -> Decoded {
    let (exec, to): (Exec, Type) = match ty {
        Type::U16 => (
            exec!(ternary[u16, u16, u32, u32] |a, b, c| {
                (u32::from(a) * u32::from(b)).wrapping_add(c)
            }),
            Type::U32,
        ),
        Type::S16 => (
            exec!(ternary[i16, i16, i32, i32] |a, b, c| {
                (i32::from(a) * i32::from(b)).wrapping_add(c)
            }),
            Type::S32,
        ),
        Type::U32 => (
            exec!(ternary[u32, u32, u64, u64] |a, b, c| {
                (u64::from(a) * u64::from(b)).wrapping_add(c)
            }),
            Type::U64,
        ),
        Type::S32 => (
            exec!(ternary[i32, i32, i64, i64] |a, b, c| {
                (i64::from(a) * i64::from(b)).wrapping_add(c)
            }),
            Type::S64,
        ),
        _ => return Err("mad.wide of this type".into()),
    };
    let o = b.registers(&s.operands, &[to, ty, ty, to])?;
    Ok(Instruction::of(exec, o))
}
