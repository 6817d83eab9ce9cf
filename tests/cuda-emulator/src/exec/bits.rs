//! Operations on bits, and dot products of bytes.

use super::{Decoded, Exec, exec, of_bits};
use crate::program::{Builder, Instruction, Opcode};
use crate::ptx::{Statement, Type};

pub(super) fn decode(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    match op.name {
        "lop3" => lop3(b, op, s),
        "prmt" => permute(b, op, s),
        "shf" => funnel(b, op, s),
        "dp4a" | "dp2a" => dot(b, op, s),
        "bfe" | "bfi" | "bfind" => field(b, op, s),
        _ => plain(b, op, s),
    }
}

fn plain(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    let ty = op.take_type()?;
    if ty == Type::Pred {
        return predicates(b, op, s);
    }
    let count_of = |ty| [Type::U32, ty];
    let (exec, types): (Exec, Vec<Type>) = match op.name {
        "and" => (
            of_bits!(ty, T => exec!(binary[T, T, T] |a, b| a & b)),
            vec![ty; 3],
        ),
        "or" => (
            of_bits!(ty, T => exec!(binary[T, T, T] |a, b| a | b)),
            vec![ty; 3],
        ),
        "xor" => (
            of_bits!(ty, T => exec!(binary[T, T, T] |a, b| a ^ b)),
            vec![ty; 3],
        ),
        "not" => (of_bits!(ty, T => exec!(unary[T, T] |a: T| !a)), vec![ty; 2]),
        "cnot" => (
            of_bits!(ty, T => exec!(unary[T, T] |a: T| T::from(a == 0))),
            vec![ty; 2],
        ),
        // Amounts of the width and more shift everything out; the amount is 32 bits wide for all types.
        "shl" => (
            of_bits!(ty, T => exec!(binary[T, u32, T] |a: T, n: u32| a.checked_shl(n).unwrap_or(0))),
            vec![ty, ty, Type::U32],
        ),
        "shr" => (shift_right(ty)?, vec![ty, ty, Type::U32]),
        "popc" => (
            of_bits!(ty, T => exec!(unary[T, u32] |a: T| a.count_ones())),
            count_of(ty).to_vec(),
        ),
        "clz" => (
            of_bits!(ty, T => exec!(unary[T, u32] |a: T| a.leading_zeros())),
            count_of(ty).to_vec(),
        ),
        "brev" => (
            of_bits!(ty, T => exec!(unary[T, T] |a: T| a.reverse_bits())),
            vec![ty; 2],
        ),
        _ => return Err("an unknown operation on bits".into()),
    };
    let o = b.registers(&s.operands, &types)?;
    Ok(Instruction::of(exec, o))
}

fn shift_right(ty: Type) -> Result<Exec, String> {
    Ok(match ty {
        Type::S16 => exec!(binary[i16, u32, i16] |a: i16, n: u32| a >> n.min(15)),
        Type::S32 => exec!(binary[i32, u32, i32] |a: i32, n: u32| a >> n.min(31)),
        Type::S64 => exec!(binary[i64, u32, i64] |a: i64, n: u32| a >> n.min(63)),
        _ => {
            of_bits!(ty, T => exec!(binary[T, u32, T] |a: T, n: u32| a.checked_shr(n).unwrap_or(0)))
        }
    })
}

fn predicates(b: &mut Builder<'_>, op: &Opcode<'_>, s: &Statement) -> Decoded {
    let exec: Exec = match op.name {
        "and" => |w, _, i, m| {
            let bits = w.registers.predicate(i.o[1]) & w.registers.predicate(i.o[2]);
            w.registers.set_predicate(i.o[0], m, bits);
            Ok(())
        },
        "or" => |w, _, i, m| {
            let bits = w.registers.predicate(i.o[1]) | w.registers.predicate(i.o[2]);
            w.registers.set_predicate(i.o[0], m, bits);
            Ok(())
        },
        "xor" => |w, _, i, m| {
            let bits = w.registers.predicate(i.o[1]) ^ w.registers.predicate(i.o[2]);
            w.registers.set_predicate(i.o[0], m, bits);
            Ok(())
        },
        "not" => |w, _, i, m| {
            let bits = !w.registers.predicate(i.o[1]);
            w.registers.set_predicate(i.o[0], m, bits);
            Ok(())
        },
        _ => return Err("an unknown operation on predicates".into()),
    };
    let n = if op.name == "not" { 2 } else { 3 };
    let o = b.registers(&s.operands, &[Type::Pred; 4][..n])?;
    Ok(Instruction::of(exec, o))
}

fn lop3(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    op.take("b32");
    let Some((crate::ptx::Operand::Number(table), rest)) = s.operands.split_last() else {
        return Err("lop3 without its table".into());
    };
    let o = b.registers(rest, &[Type::B32; 4])?;
    let exec: Exec = |w, _, i, m| {
        let table = i.control;
        super::lanes::ternary::<u32, u32, u32, u32>(&mut w.registers, &i.o, m, |a, b, c| {
            (0..8)
                .filter(|row| table >> row & 1 == 1)
                .fold(0, |out, row| {
                    let pick =
                        |value: u32, bit: u32| if row >> bit & 1 == 1 { value } else { !value };
                    out | pick(a, 2) & pick(b, 1) & pick(c, 0)
                })
        });
        Ok(())
    };
    let mut out = Instruction::of(exec, o);
    out.control = *table as u32;
    Ok(out)
}

fn permute(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    op.take("b32");
    let exec: Exec = match op.take_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]) {
        None => exec!(ternary[u32, u32, u32, u32] |a, b, selector| {
            let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
            u32::from_le_bytes(std::array::from_fn(|k| {
                let choice = selector >> (4 * k) & 15;
                let byte = bytes[choice as usize & 7];
                // The top bit of a choice asks for the byte's sign, eight times.
                if choice & 8 == 0 { byte } else { (byte as i8 >> 7) as u8 }
            }))
        }),
        Some("f4e") => exec!(ternary[u32, u32, u32, u32] |a, b, c| {
            ((u64::from(b) << 32 | u64::from(a)) >> (8 * (c & 3))) as u32
        }),
        Some("rc8") => exec!(ternary[u32, u32, u32, u32] |a: u32, _: u32, c| {
            (a >> (8 * (c & 3)) & 0xff) * 0x0101_0101
        }),
        Some("rc16") => exec!(ternary[u32, u32, u32, u32] |a: u32, _: u32, c| {
            (a >> (16 * (c & 1)) & 0xffff) * 0x0001_0001
        }),
        Some(other) => return Err(format!("prmt.{other} is unknown")),
    };
    let o = b.registers(&s.operands, &[Type::B32; 4])?;
    Ok(Instruction::of(exec, o))
}

fn funnel(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    op.take("b32");
    let direction = op.take_of(&["l", "r"]);
    let wraps = match op.take_of(&["wrap", "clamp"]) {
        Some("wrap") => true,
        Some(_) => false,
        None => return Err("shf without .wrap or .clamp".into()),
    };
    let exec: Exec = match (direction, wraps) {
        (Some("l"), true) => exec!(ternary[u32, u32, u32, u32] |a, b, n| left(a, b, n & 31)),
        (Some("l"), false) => {
            exec!(ternary[u32, u32, u32, u32] |a, b, n: u32| left(a, b, n.min(32)))
        }
        (Some("r"), true) => exec!(ternary[u32, u32, u32, u32] |a, b, n| right(a, b, n & 31)),
        (Some("r"), false) => {
            exec!(ternary[u32, u32, u32, u32] |a, b, n: u32| right(a, b, n.min(32)))
        }
        _ => return Err("shf without a direction".into()),
    };
    let o = b.registers(&s.operands, &[Type::B32; 4])?;
    Ok(Instruction::of(exec, o))
}

fn left(low: u32, high: u32, n: u32) -> u32 {
    ((u64::from(high) << 32 | u64::from(low)) << n >> 32) as u32
}

fn right(low: u32, high: u32, n: u32) -> u32 {
    ((u64::from(high) << 32 | u64::from(low)) >> n) as u32
}

fn dot(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    let (x, y) = (op.take_type()?, op.take_type()?);
    let half = op.take_of(&["lo", "hi"]);
    let exec: Exec = match (op.name, half, x, y) {
        ("dp4a", None, Type::S32, Type::S32) => exec!(ternary[u32, u32, i32, i32] |a, b, c| {
            dot4(a, b, c, |x| i32::from(x as i8), |y| i32::from(y as i8))
        }),
        ("dp4a", None, Type::U32, Type::U32) => exec!(ternary[u32, u32, i32, i32] |a, b, c| {
            dot4(a, b, c, i32::from, i32::from)
        }),
        ("dp4a", None, Type::S32, Type::U32) => exec!(ternary[u32, u32, i32, i32] |a, b, c| {
            dot4(a, b, c, |x| i32::from(x as i8), i32::from)
        }),
        ("dp4a", None, Type::U32, Type::S32) => exec!(ternary[u32, u32, i32, i32] |a, b, c| {
            dot4(a, b, c, i32::from, |y| i32::from(y as i8))
        }),
        _ => return Err("an unknown form of a dot product".into()),
    };
    let o = b.registers(&s.operands, &[Type::S32, Type::B32, Type::B32, Type::S32])?;
    Ok(Instruction::of(exec, o))
}

#[inline(always)]
fn dot4(a: u32, b: u32, c: i32, x: impl Fn(u8) -> i32, y: impl Fn(u8) -> i32) -> i32 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    (0..4).fold(c, |sum, k| sum.wrapping_add(x(a[k]) * y(b[k])))
}

/// Fields of bits: `bfe d, a, position, length`, `bfi d, field, a, position, length`, `bfind d, a`.
fn field(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    let ty = op.take_type()?;
    match op.name {
        "bfe" => {
            let exec: Exec = match ty {
                Type::U32 => exec!(ternary[u32, u32, u32, u32] |a, at, n| {
                    extract(u64::from(a), at, n, 32, false) as u32
                }),
                Type::S32 => exec!(ternary[u32, u32, u32, u32] |a: u32, at, n| {
                    extract(u64::from(a), at, n, 32, true) as u32
                }),
                Type::U64 => {
                    exec!(ternary[u64, u32, u32, u64] |a, at, n| extract(a, at, n, 64, false))
                }
                Type::S64 => {
                    exec!(ternary[u64, u32, u32, u64] |a, at, n| extract(a, at, n, 64, true))
                }
                _ => return Err("bfe of this type".into()),
            };
            let o = b.registers(&s.operands, &[ty, ty, Type::U32, Type::U32])?;
            Ok(Instruction::of(exec, o))
        }
        "bfi" => {
            let [dest, field, base, at, n] = &s.operands[..] else {
                return Err("bfi has five operands".into());
            };
            let o = [
                b.dest(dest, ty)?,
                b.source(field, ty)?,
                b.source(base, ty)?,
                b.source(at, Type::U32)?,
            ];
            let exec: Exec = |w, _, i, m| {
                let (field, base) = (w.registers.extended(i.o[1]), w.registers.extended(i.o[2]));
                let (at, n) = (w.registers.narrow(i.o[3]), w.registers.narrow(i.list[0]));
                let out = std::array::from_fn(|lane| {
                    let (at, n) = (at[lane] & 0xff, n[lane] & 0xff);
                    let ones = if n >= 64 { u64::MAX } else { (1u64 << n) - 1 };
                    let hole = ones.checked_shl(at).unwrap_or(0);
                    base[lane] & !hole | field[lane].checked_shl(at).unwrap_or(0) & hole
                });
                w.registers.set_cut(i.o[0], m, &out);
                Ok(())
            };
            let mut out = Instruction::of(exec, o);
            out.list = [b.source(n, Type::U32)?].into();
            if !matches!(ty, Type::B32 | Type::B64) {
                return Err("bfi of this type".into());
            }
            Ok(out)
        }
        _ => {
            let exec: Exec = match (ty, op.take("shiftamt")) {
                (Type::U32, false) => exec!(unary[u32, u32] |a: u32| top_bit(a.into())),
                (Type::U64, false) => exec!(unary[u64, u32] top_bit),
                // Of a negative number the highest zero is looked for.
                (Type::S32, false) => exec!(unary[i32, u32] |a: i32| {
                    top_bit(if a < 0 { !a } else { a } as u32 as u64)
                }),
                (Type::U32, true) => exec!(unary[u32, u32] |a: u32| {
                    if a == 0 { u32::MAX } else { a.leading_zeros() }
                }),
                _ => return Err("an unknown form of bfind".into()),
            };
            let o = b.registers(&s.operands, &[Type::U32, ty])?;
            Ok(Instruction::of(exec, o))
        }
    }
}

/// Index of the highest bit that is set.
fn top_bit(a: u64) -> u32 {
    a.checked_ilog2().unwrap_or(u32::MAX)
}

/// `n` bits from bit `at` on; what lies past the top of a signed value is its sign.
fn extract(a: u64, at: u32, n: u32, width: u32, is_signed: bool) -> u64 {
    let (at, n) = (at & 0xff, n & 0xff);
    let value = if is_signed && width == 32 {
        i64::from(a as i32)
    } else {
        a as i64
    };
    if n == 0 {
        return 0;
    }
    let shifted = if is_signed {
        value >> at.min(63)
    } else {
        (a.checked_shr(at).unwrap_or(0)) as i64
    };
    if n >= 64 {
        return shifted as u64;
    }
    let cut = (shifted as u64) << (64 - n);
    if is_signed {
        ((cut as i64) >> (64 - n)) as u64
    } else {
        cut >> (64 - n)
    }
}
