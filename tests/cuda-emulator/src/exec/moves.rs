//! Moves, addresses of variables, and conversions of addresses.

use super::memory::{CONST_WINDOW, LOCAL_WINDOW, SHARED_WINDOW};
use super::{Decoded, Exec, LANES, exec};
use crate::program::{Builder, Instruction, Opcode};
use crate::ptx::{Operand, Space, Statement, Type};

pub(super) fn decode(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    match op.name {
        "mov" => {
            let ty = op.take_type()?;
            match &s.operands[..] {
                [Operand::Vector(parts), from] => unpack(b, ty, parts, from),
                [to, Operand::Vector(parts)] => pack(b, ty, to, parts),
                _ => plain(b, ty, s),
            }
        }
        "isspacep" => {
            let exec: Exec = match op.take_space() {
                Space::Shared => |w, _, i, m| within(w, i, m, |a| a >> 40 == SHARED_WINDOW >> 40),
                Space::Local => |w, _, i, m| within(w, i, m, |a| a >> 40 == LOCAL_WINDOW >> 40),
                Space::Global => |w, _, i, m| {
                    within(w, i, m, |a| {
                        ![SHARED_WINDOW, LOCAL_WINDOW, CONST_WINDOW]
                            .iter()
                            .any(|window| a >> 40 == window >> 40)
                    })
                },
                Space::Generic | Space::Const | Space::Param => {
                    return Err("isspacep of this space".into());
                }
            };
            let o = b.registers(&s.operands, &[Type::Pred, Type::U64])?;
            Ok(Instruction::of(exec, o))
        }
        _ => convert_address(b, op, s),
    }
}

fn within(
    w: &mut crate::block::Warp,
    i: &Instruction,
    mask: u32,
    f: impl Fn(u64) -> bool,
) -> Result<(), crate::fault::Fault> {
    let a = w.registers.wide(i.o[1]);
    let bits = (0..LANES).fold(0, |bits, lane| bits | u32::from(f(a[lane])) << lane);
    w.registers.set_predicate(i.o[0], mask, bits);
    Ok(())
}

fn plain(b: &mut Builder<'_>, ty: Type, s: &Statement) -> Decoded {
    let o = b.registers(&s.operands, &[ty; 2])?;
    let exec: Exec = match ty {
        Type::Pred => |w, _, i, m| {
            let bits = w.registers.predicate(i.o[1]);
            w.registers.set_predicate(i.o[0], m, bits);
            Ok(())
        },
        _ if ty.is_wide() => exec!(unary[u64, u64] |a: u64| a),
        _ => exec!(unary[u32, u32] |a: u32| a),
    };
    Ok(Instruction::of(exec, o))
}

/// Type of one of `n` equal parts.
fn part_of(ty: Type, n: usize) -> Result<Type, String> {
    match (ty.bytes(), n) {
        (8, 2) => Ok(Type::B32),
        (8, 4) | (4, 2) => Ok(Type::B16),
        (4, 4) | (2, 2) => Ok(Type::B8),
        _ => Err(format!("{ty:?} in {n} parts")),
    }
}

/// `mov.b32 {a, b}, c`.
fn unpack(b: &mut Builder<'_>, ty: Type, parts: &[Operand], from: &Operand) -> Decoded {
    let part = part_of(ty, parts.len())?;
    let exec: Exec = |w, _, i, m| {
        let value = w.registers.extended(i.o[1]);
        let bits = i.control;
        for (at, reg) in i.list.iter().enumerate() {
            let out = value.map(|value| value >> (bits * at as u32) & (u64::MAX >> (64 - bits)));
            w.registers.set_cut(*reg, m, &out);
        }
        Ok(())
    };
    let from = b.source(from, ty)?;
    let mut out = Instruction::of(exec, [from; 4]);
    out.list = parts
        .iter()
        .map(|reg| b.dest(reg, part))
        .collect::<Result<_, _>>()?;
    out.control = 8 * part.bytes() as u32;
    Ok(out)
}

/// `mov.b32 c, {a, b}`.
fn pack(b: &mut Builder<'_>, ty: Type, to: &Operand, parts: &[Operand]) -> Decoded {
    let part = part_of(ty, parts.len())?;
    let exec: Exec = |w, _, i, m| {
        let bits = i.control;
        let mut out = [0; LANES];
        for (at, reg) in i.list.iter().enumerate() {
            let value = w.registers.narrow(*reg);
            for lane in 0..LANES {
                let cut = u64::from(value[lane]) & (u64::MAX >> (64 - bits));
                out[lane] |= cut << (bits * at as u32);
            }
        }
        w.registers.set_cut(i.o[0], m, &out);
        Ok(())
    };
    let to = b.dest(to, ty)?;
    let mut out = Instruction::of(exec, [to; 4]);
    out.list = parts
        .iter()
        .map(|reg| b.source(reg, part))
        .collect::<Result<_, _>>()?;
    out.control = 8 * part.bytes() as u32;
    Ok(out)
}

/// `cvta{.to}.space d, a`: between an address in a space and a generic one.
fn convert_address(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    let to = op.take("to");
    let space = op.take_space();
    if op.take_type()? != Type::U64 {
        return Err("addresses have 64 bits".into());
    }
    let o = b.registers(&s.operands, &[Type::U64; 2])?;
    let exec: Exec = match (space, to) {
        (Space::Global, _) => {
            b.note_pointer(o[1]);
            exec!(unary[u64, u64] |a: u64| a)
        }
        (Space::Shared, false) => exec!(unary[u64, u64] |a: u64| a.wrapping_add(SHARED_WINDOW)),
        (Space::Shared, true) => exec!(unary[u64, u64] |a: u64| a.wrapping_sub(SHARED_WINDOW)),
        (Space::Local, false) => exec!(unary[u64, u64] |a: u64| a.wrapping_add(LOCAL_WINDOW)),
        (Space::Local, true) => exec!(unary[u64, u64] |a: u64| a.wrapping_sub(LOCAL_WINDOW)),
        (Space::Const, false) => exec!(unary[u64, u64] |a: u64| a.wrapping_add(CONST_WINDOW)),
        (Space::Const, true) => exec!(unary[u64, u64] |a: u64| a.wrapping_sub(CONST_WINDOW)),
        (Space::Generic | Space::Param, _) => return Err("cvta of this space".into()),
    };
    Ok(Instruction::of(exec, o))
}
