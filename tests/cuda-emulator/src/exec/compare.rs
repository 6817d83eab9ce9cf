//! Comparisons and selections.

use std::cmp::Ordering;

use half::{bf16, f16};

use super::lanes::{Lane, Two};
use super::{Decoded, Exec, LANES, Reg, exec};
use crate::block::Warp;
use crate::program::{Builder, Instruction, Opcode};
use crate::ptx::{Operand, Statement, Type};

pub(super) fn decode(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    match op.name {
        "setp" => set_predicate(b, op, s),
        "set" => set_value(b, op, s),
        "selp" => select(b, op, s),
        "slct" => {
            let (ty, by) = (op.take_type()?, op.take_type()?);
            let exec: Exec = match (ty.bytes(), by) {
                (4, Type::S32) => {
                    exec!(ternary[u32, u32, i32, u32] |a, b, c| if c >= 0 { a } else { b })
                }
                (4, Type::F32) => {
                    exec!(ternary[u32, u32, f32, u32] |a, b, c| if c >= 0.0 { a } else { b })
                }
                _ => return Err("slct of these types".into()),
            };
            let o = b.registers(&s.operands, &[ty, ty, ty, by])?;
            Ok(Instruction::of(exec, o))
        }
        _ => test(b, op, s),
    }
}

/// `setp.cmp{.bool}.type p{|q}, a, b{, {!}c}`: `q` is what `p` is for the opposite comparison.
fn set_predicate(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    let ty = op.take_type()?;
    op.take("ftz");
    let comparison = op.take_of(&COMPARISONS).ok_or("no known comparison")?;
    let combine = op.take_of(&["and", "or", "xor"]);
    let [dest, left, right, rest @ ..] = &s.operands[..] else {
        return Err("too few operands".into());
    };
    if matches!(ty, Type::F16x2 | Type::Bf16x2) {
        let Operand::Pair(p, q) = dest else {
            return Err("two predicates are expected".into());
        };
        let results = [b.dest(p, Type::Pred)?, b.dest(q, Type::Pred)?];
        return two_predicates(b, results, [left, right], ty, comparison);
    }
    let (dest, opposite) = match dest {
        Operand::Pair(p, q) => (&**p, Some(b.dest(q, Type::Pred)?)),
        one => (one, None),
    };
    let mut control = 0;
    let third = match (combine, rest) {
        (None, []) => Reg::default(),
        (Some(combine), [third]) => {
            control = match combine {
                "and" => AND,
                "or" => OR,
                _ => XOR,
            };
            match third {
                Operand::Not(name) => {
                    control |= NOT;
                    b.predicate_named(name)?
                }
                other => b.source(other, Type::Pred)?,
            }
        }
        _ => return Err("operands and combination do not fit".into()),
    };
    let mut out = Instruction::of(
        comparing(comparison, ty)?,
        [
            b.dest(dest, Type::Pred)?,
            b.source(left, ty)?,
            b.source(right, ty)?,
            third,
        ],
    );
    out.list = opposite.into_iter().collect();
    out.control = control;
    Ok(out)
}

/// Writes the bits of a comparison, combined with a third operand where there is one.
fn finish_predicate(warp: &mut Warp, i: &Instruction, mask: u32, bits: u32) {
    let third = if i.control == 0 {
        0
    } else {
        let third = warp.registers.predicate(i.o[3]);
        if i.control & NOT == 0 { third } else { !third }
    };
    let combined = |bits: u32| match i.control & !NOT {
        AND => bits & third,
        OR => bits | third,
        XOR => bits ^ third,
        _ => bits,
    };
    warp.registers.set_predicate(i.o[0], mask, combined(bits));
    if let [opposite] = &i.list[..] {
        warp.registers
            .set_predicate(*opposite, mask, combined(!bits));
    }
}

fn compare<T: Lane>(warp: &Warp, i: &Instruction, f: impl Fn(T, T) -> bool) -> u32 {
    use super::lanes::Cell;
    let a = T::Cell::row(&warp.registers, i.o[1]);
    let b = T::Cell::row(&warp.registers, i.o[2]);
    (0..LANES).fold(0, |bits, lane| {
        bits | u32::from(f(T::of(a[lane]), T::of(b[lane]))) << lane
    })
}

/// The instruction that compares as `ty`.
fn comparing(comparison: &str, ty: Type) -> Result<Exec, String> {
    macro_rules! exec_of {
        ($T:ty, $f:expr) => {
            (|w, _, i, m| {
                let bits = compare::<$T>(w, i, $f);
                finish_predicate(w, i, m, bits);
                Ok(())
            }) as Exec
        };
    }
    macro_rules! ordered {
        ($T:ty) => {
            match comparison {
                "eq" => exec_of!($T, |a, b| a == b),
                "ne" => exec_of!($T, |a, b| a != b),
                "lt" | "lo" => exec_of!($T, |a, b| a < b),
                "le" | "ls" => exec_of!($T, |a, b| a <= b),
                "gt" | "hi" => exec_of!($T, |a, b| a > b),
                "ge" | "hs" => exec_of!($T, |a, b| a >= b),
                _ => return Err(format!("comparison {comparison} of integers")),
            }
        };
    }
    macro_rules! partial {
        ($T:ty) => {
            match comparison {
                "eq" => exec_of!($T, |a: $T, b: $T| a == b),
                "ne" => exec_of!($T, |a: $T, b: $T| by(a, b, false, Ordering::is_ne)),
                "lt" => exec_of!($T, |a: $T, b: $T| a < b),
                "le" => exec_of!($T, |a: $T, b: $T| a <= b),
                "gt" => exec_of!($T, |a: $T, b: $T| a > b),
                "ge" => exec_of!($T, |a: $T, b: $T| a >= b),
                // Those with a u are true of NaN.
                "equ" => exec_of!($T, |a: $T, b: $T| by(a, b, true, Ordering::is_eq)),
                "neu" => exec_of!($T, |a: $T, b: $T| a != b),
                "ltu" => exec_of!($T, |a: $T, b: $T| by(a, b, true, Ordering::is_lt)),
                "leu" => exec_of!($T, |a: $T, b: $T| by(a, b, true, Ordering::is_le)),
                "gtu" => exec_of!($T, |a: $T, b: $T| by(a, b, true, Ordering::is_gt)),
                "geu" => exec_of!($T, |a: $T, b: $T| by(a, b, true, Ordering::is_ge)),
                "num" => exec_of!($T, |a: $T, b: $T| !a.is_nan() && !b.is_nan()),
                "nan" => exec_of!($T, |a: $T, b: $T| a.is_nan() || b.is_nan()),
                _ => return Err(format!("comparison {comparison} of floats")),
            }
        };
    }
    Ok(match ty {
        Type::U16 | Type::B16 => ordered!(u16),
        Type::S16 => ordered!(i16),
        Type::U32 | Type::B32 => ordered!(u32),
        Type::S32 => ordered!(i32),
        Type::U64 | Type::B64 => ordered!(u64),
        Type::S64 => ordered!(i64),
        Type::F16 => partial!(f16),
        Type::Bf16 => partial!(bf16),
        Type::F32 => partial!(f32),
        Type::F64 => partial!(f64),
        other => return Err(format!("comparison of type {other:?}")),
    })
}

/// What an order says, or what is said where there is none.
#[inline(always)]
fn by<T: PartialOrd>(a: T, b: T, of_nan: bool, holds: fn(Ordering) -> bool) -> bool {
    a.partial_cmp(&b).map_or(of_nan, holds)
}

/// `setp.cmp.f16x2 p|q, a, b`: a predicate for each half.
fn two_predicates(
    b: &mut Builder<'_>,
    results: [Reg; 2],
    operands: [&Operand; 2],
    ty: Type,
    comparison: &str,
) -> Decoded {
    let Some(at) = ORDERED.iter().position(|known| *known == comparison) else {
        return Err(format!("comparison {comparison} of two halves"));
    };
    let exec: Exec = if ty == Type::F16x2 {
        |w, _, i, m| {
            for (half, reg) in [i.o[0], i.o[3]].into_iter().enumerate() {
                let bits = compare::<Two<f16>>(w, i, |a, b| {
                    let (a, b) = if half == 0 { (a.0, b.0) } else { (a.1, b.1) };
                    holds(i.control, a.partial_cmp(&b))
                });
                w.registers.set_predicate(reg, m, bits);
            }
            Ok(())
        }
    } else {
        |w, _, i, m| {
            for (half, reg) in [i.o[0], i.o[3]].into_iter().enumerate() {
                let bits = compare::<Two<bf16>>(w, i, |a, b| {
                    let (a, b) = if half == 0 { (a.0, b.0) } else { (a.1, b.1) };
                    holds(i.control, a.partial_cmp(&b))
                });
                w.registers.set_predicate(reg, m, bits);
            }
            Ok(())
        }
    };
    let mut out = Instruction::of(
        exec,
        [
            results[0],
            b.source(operands[0], ty)?,
            b.source(operands[1], ty)?,
            results[1],
        ],
    );
    out.control = at as u32;
    Ok(out)
}

/// `set.cmp.dtype.stype d, a, b`: all ones, or 1.0, where the comparison holds. It becomes two instructions, the first into
/// predicates of its own.
fn set_value(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    let (to, ty) = (op.take_type()?, op.take_type()?);
    op.take("ftz");
    let comparison = op.take_of(&COMPARISONS).ok_or("no known comparison")?;
    let [dest, left, right] = &s.operands[..] else {
        return Err("set has three operands".into());
    };
    let one = match to {
        Type::U32 | Type::S32 => u32::MAX,
        Type::F32 => 1f32.to_bits(),
        Type::F16 => 0x3c00,
        Type::Bf16 => 0x3f80,
        Type::F16x2 => 0x3c00_3c00,
        Type::Bf16x2 => 0x3f80_3f80,
        _ => return Err("set of this type".into()),
    };
    let predicates = [b.fresh_predicate(), b.fresh_predicate()];
    let first = if matches!(ty, Type::F16x2 | Type::Bf16x2) {
        two_predicates(b, predicates, [left, right], ty, comparison)?
    } else {
        let (left, right) = (b.source(left, ty)?, b.source(right, ty)?);
        let o = [predicates[0], left, right, Reg::default()];
        let mut out = Instruction::of(comparing(comparison, ty)?, o);
        // Not used, but for the opposite.
        out.list = [predicates[1]].into();
        out
    };
    b.push(first, s.line);
    let exec: Exec = if matches!(ty, Type::F16x2 | Type::Bf16x2) {
        |w, _, i, m| {
            let low = w.registers.predicate(i.o[1]);
            let high = w.registers.predicate(i.o[2]);
            let out = std::array::from_fn(|lane| {
                let part = |bits: u32, mask: u32| if bits >> lane & 1 == 1 { mask } else { 0 };
                i.control & (part(low, 0xffff) | part(high, 0xffff_0000))
            });
            w.registers.set_narrow(i.o[0], m, &out);
            Ok(())
        }
    } else {
        |w, _, i, m| {
            let holds = w.registers.predicate(i.o[1]);
            let out = std::array::from_fn(|lane| (holds >> lane & 1) * i.control);
            w.registers.set_narrow(i.o[0], m, &out);
            Ok(())
        }
    };
    let dest = b.dest(dest, to)?;
    let mut out = Instruction::of(exec, [dest, predicates[0], predicates[1], Reg::default()]);
    out.control = one;
    Ok(out)
}

fn holds(comparison: u32, order: Option<Ordering>) -> bool {
    order.is_some_and(|order| match ORDERED[comparison as usize] {
        "eq" => order.is_eq(),
        "ne" => order.is_ne(),
        "lt" => order.is_lt(),
        "le" => order.is_le(),
        "gt" => order.is_gt(),
        _ => order.is_ge(),
    })
}

fn select(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    let ty = op.take_type()?;
    let o = b.registers(&s.operands, &[ty, ty, ty, Type::Pred])?;
    let exec: Exec = if ty.is_wide() {
        |w, _, i, m| {
            let chosen = w.registers.predicate(i.o[3]);
            let (a, b) = (w.registers.wide(i.o[1]), w.registers.wide(i.o[2]));
            let out = std::array::from_fn(|lane| {
                if chosen >> lane & 1 == 1 {
                    a[lane]
                } else {
                    b[lane]
                }
            });
            w.registers.set_wide(i.o[0], m, &out);
            Ok(())
        }
    } else {
        |w, _, i, m| {
            let chosen = w.registers.predicate(i.o[3]);
            let (a, b) = (w.registers.narrow(i.o[1]), w.registers.narrow(i.o[2]));
            let out = std::array::from_fn(|lane| {
                if chosen >> lane & 1 == 1 {
                    a[lane]
                } else {
                    b[lane]
                }
            });
            w.registers.set_narrow(i.o[0], m, &out);
            Ok(())
        }
    };
    Ok(Instruction::of(exec, o))
}

/// `testp.kind.type p, a`.
fn test(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    let ty = op.take_type()?;
    if ty != Type::F32 {
        return Err("testp of this type".into());
    }
    let kind = op
        .take_of(&[
            "finite",
            "infinite",
            "number",
            "notanumber",
            "normal",
            "subnormal",
        ])
        .ok_or("no known kind")?;
    macro_rules! exec_of {
        ($f:expr) => {
            |w, _, i, m| {
                let bits = compare::<f32>(w, i, |a, _| $f(a));
                w.registers.set_predicate(i.o[0], m, bits);
                Ok(())
            }
        };
    }
    let exec: Exec = match kind {
        "finite" => exec_of!(f32::is_finite),
        "infinite" => exec_of!(f32::is_infinite),
        "number" => exec_of!(|a: f32| !a.is_nan()),
        "notanumber" => exec_of!(f32::is_nan),
        "normal" => exec_of!(f32::is_normal),
        _ => exec_of!(f32::is_subnormal),
    };
    let [p, a, _, _] = b.registers(&s.operands, &[Type::Pred, ty])?;
    Ok(Instruction::of(exec, [p, a, a, Reg::default()]))
}

const ORDERED: [&str; 6] = ["eq", "ne", "lt", "le", "gt", "ge"];
const COMPARISONS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu",
    "geu", "num", "nan",
];
const AND: u32 = 1;
const OR: u32 = 2;
const XOR: u32 = 3;
const NOT: u32 = 4;
