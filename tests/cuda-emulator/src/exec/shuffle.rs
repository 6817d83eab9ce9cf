//! Exchanges between the lanes of a warp.

use super::memory::lanes;
use super::{Decoded, Exec, LANES, Reg};
use crate::block::{MASKS_MAY_DIFFER, Warp};
use crate::fault::{Fault, Kind};
use crate::program::{Builder, Flow, Instruction, Opcode};
use crate::ptx::{Operand, Statement, Type};

pub(super) fn decode(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    if op.name == "activemask" {
        op.take("b32");
        let o = b.registers(&s.operands, &[Type::B32])?;
        return Ok(Instruction::of(
            |w, _, i, m| {
                w.registers.set_narrow(i.o[0], m, &[m; LANES]);
                Ok(())
            },
            o,
        ));
    }
    if !op.take("sync") {
        return Err("only the forms with .sync are known".into());
    }
    match op.name {
        "shfl" => shuffle(b, op, s),
        "vote" => vote(b, op, s),
        "redux" => reduce(b, op, s),
        _ => matching(b, op, s),
    }
}

/// The result operand and the predicate beside it.
fn result_of(operand: &Operand) -> (&Operand, Option<&Operand>) {
    match operand {
        Operand::Pair(value, predicate) => (value, Some(predicate)),
        one => (one, None),
    }
}

/// `shfl.sync.mode.b32 d{|p}, a, b, c, members`.
fn shuffle(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    op.take("b32");
    let mode = op
        .take_of(&["up", "down", "bfly", "idx"])
        .ok_or("no known mode")?;
    let [dest, value, by, clamp, members] = &s.operands[..] else {
        return Err("shfl.sync has five operands".into());
    };
    let (dest, predicate) = result_of(dest);
    let exec: Exec = match mode {
        // Upwards the end that is not passed is the lower one; it is computed like the upper.
        "up" => |w, _, i, m| exchange(w, i, m, |lane, n, _, end| (lane - n, lane - n >= end)),
        "down" => |w, _, i, m| exchange(w, i, m, |lane, n, _, most| (lane + n, lane + n <= most)),
        "bfly" => |w, _, i, m| exchange(w, i, m, |lane, n, _, most| (lane ^ n, lane ^ n <= most)),
        _ => |w, _, i, m| {
            // Of an index only the bits inside of the segment count.
            exchange(w, i, m, |_, n, least, most| (least | n, least | n <= most))
        },
    };
    let mut out = Instruction::of(
        exec,
        [
            b.dest(dest, Type::B32)?,
            b.source(value, Type::B32)?,
            b.source(by, Type::B32)?,
            b.source(clamp, Type::B32)?,
        ],
    );
    if let Some(predicate) = predicate {
        out.list = [b.dest(predicate, Type::Pred)?].into();
    }
    out.control = u32::from(mode == "idx");
    out.flow = Flow::Warp(b.source(members, Type::B32)?);
    Ok(out)
}

/// Gives each lane the value of the one that `source` names: by lane, operand, and the ends of its segment.
fn exchange(
    w: &mut Warp,
    i: &Instruction,
    mask: u32,
    source: impl Fn(i32, i32, i32, i32) -> (i32, bool),
) -> Result<(), Fault> {
    let value = w.registers.narrow(i.o[1]);
    let (by, clamp) = (w.registers.narrow(i.o[2]), w.registers.narrow(i.o[3]));
    let is_index = i.control & 1 == 1;
    let mut out = [0; LANES];
    let mut inside = 0;
    for lane in lanes(mask) {
        let segment = (clamp[lane] >> 8 & 31) as i32;
        let end = (clamp[lane] & 31) as i32;
        let at = lane as i32;
        let least = at & segment;
        let most = at & segment | end & !segment;
        let n = if is_index {
            (by[lane] & 31) as i32 & !segment
        } else {
            (by[lane] & 31) as i32
        };
        let (from, is_inside) = source(at, n, least, most);
        let from = if is_inside { from as usize & 31 } else { lane };
        if mask >> from & 1 == 0 {
            return Err(Fault::at_lane(
                Kind::Failed,
                lane,
                format!("reads lane {from}, which does not take part"),
            ));
        }
        out[lane] = value[from];
        inside |= u32::from(is_inside) << lane;
    }
    w.registers.set_narrow(i.o[0], mask, &out);
    if let [predicate] = &i.list[..] {
        w.registers.set_predicate(*predicate, mask, inside);
    }
    Ok(())
}

/// `vote.sync.mode d, {!}p, members`.
fn vote(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    let mode = op
        .take_of(&["ballot", "all", "any", "uni"])
        .ok_or("no known mode")?;
    let ty = op.take_type()?;
    let [dest, truth, members] = &s.operands[..] else {
        return Err("vote.sync has three operands".into());
    };
    let (truth, is_negated) = match truth {
        Operand::Not(name) => (b.predicate_named(name)?, true),
        other => (b.source(other, Type::Pred)?, false),
    };
    let exec: Exec = match mode {
        "ballot" => |w, _, i, m| {
            let bits = truths(w, i, m);
            w.registers.set_narrow(i.o[0], m, &[bits; LANES]);
            Ok(())
        },
        "all" => |w, _, i, m| decide(w, i, m, |bits, m| bits == m),
        "any" => |w, _, i, m| decide(w, i, m, |bits, _| bits != 0),
        _ => |w, _, i, m| decide(w, i, m, |bits, m| bits == m || bits == 0),
    };
    let dest = b.dest(dest, ty)?;
    let mut out = Instruction::of(exec, [dest, truth, Reg::default(), Reg::default()]);
    out.control = u32::from(is_negated);
    out.flow = Flow::Warp(b.source(members, Type::B32)?);
    Ok(out)
}

fn truths(w: &Warp, i: &Instruction, mask: u32) -> u32 {
    let bits = w.registers.predicate(i.o[1]);
    (if i.control & 1 == 1 { !bits } else { bits }) & mask
}

fn decide(
    w: &mut Warp,
    i: &Instruction,
    mask: u32,
    f: impl Fn(u32, u32) -> bool,
) -> Result<(), Fault> {
    let holds = f(truths(w, i, mask), mask);
    w.registers
        .set_predicate(i.o[0], mask, if holds { u32::MAX } else { 0 });
    Ok(())
}

/// `redux.sync.op.type d, a, members`.
fn reduce(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    let what = op
        .take_of(&["add", "min", "max", "and", "or", "xor"])
        .ok_or("no known operation")?;
    let ty = op.take_type()?;
    macro_rules! fold {
        ($T:ty, $f:expr) => {
            |w, _, i, m| {
                let value = *w.registers.narrow(i.o[1]);
                let all = lanes(m).map(|lane| value[lane] as $T).reduce($f);
                w.registers
                    .set_narrow(i.o[0], m, &[all.unwrap_or_default() as u32; LANES]);
                Ok(())
            }
        };
    }
    let exec: Exec = match (what, ty) {
        ("add", Type::U32 | Type::S32) => fold!(u32, u32::wrapping_add),
        ("min", Type::U32) => fold!(u32, u32::min),
        ("min", Type::S32) => fold!(i32, i32::min),
        ("max", Type::U32) => fold!(u32, u32::max),
        ("max", Type::S32) => fold!(i32, i32::max),
        ("and", Type::B32) => fold!(u32, |a, b| a & b),
        ("or", Type::B32) => fold!(u32, |a, b| a | b),
        ("xor", Type::B32) => fold!(u32, |a, b| a ^ b),
        _ => return Err("redux of this type".into()),
    };
    let [dest, value, members] = &s.operands[..] else {
        return Err("redux.sync has three operands".into());
    };
    let o = [
        b.dest(dest, ty)?,
        b.source(value, ty)?,
        Reg::default(),
        Reg::default(),
    ];
    let mut out = Instruction::of(exec, o);
    out.flow = Flow::Warp(b.source(members, Type::B32)?);
    Ok(out)
}

/// `match.any.sync.type d, a, members` and `match.all.sync.type d|p, a, members`.
fn matching(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    let mode = op.take_of(&["any", "all"]).ok_or("no known mode")?;
    let ty = op.take_type()?;
    let [dest, value, members] = &s.operands[..] else {
        return Err("match.sync has three operands".into());
    };
    let (dest, predicate) = result_of(dest);
    let exec: Exec = if mode == "any" {
        |w, _, i, m| {
            let value = w.registers.extended(i.o[1]);
            let out = std::array::from_fn(|lane| {
                lanes(m)
                    .filter(|other| value[*other] == value[lane])
                    .fold(0u32, |bits, other| bits | 1 << other)
            });
            w.registers.set_narrow(i.o[0], m, &out);
            Ok(())
        }
    } else {
        |w, _, i, m| {
            let value = w.registers.extended(i.o[1]);
            let first = value[m.trailing_zeros() as usize];
            let same = lanes(m).all(|lane| value[lane] == first);
            w.registers
                .set_narrow(i.o[0], m, &[if same { m } else { 0 }; LANES]);
            if let [predicate] = &i.list[..] {
                w.registers
                    .set_predicate(*predicate, m, if same { u32::MAX } else { 0 });
            }
            Ok(())
        }
    };
    let o = [
        b.dest(dest, Type::B32)?,
        b.source(value, ty)?,
        Reg::default(),
        Reg::default(),
    ];
    let mut out = Instruction::of(exec, o);
    if let Some(predicate) = predicate {
        out.list = [b.dest(predicate, Type::Pred)?].into();
    }
    out.flow = Flow::Warp(b.source(members, Type::B32)?);
    out.control = MASKS_MAY_DIFFER;
    Ok(out)
}
