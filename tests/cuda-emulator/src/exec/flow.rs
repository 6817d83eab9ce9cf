//! Branches, ends and barriers.

use super::{Decoded, Reg};
use crate::fault::{Fault, Kind};
use crate::program::{Builder, Flow, Instruction, Opcode, Vote};
use crate::ptx::{Operand, Statement, Type};

pub(super) fn decode(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    op.take_hints(&["uni", "aligned", "cta"]);
    match op.name {
        "bra" => {
            let [Operand::Name(label)] = &s.operands[..] else {
                return Err("a branch to no label".into());
            };
            b.branch_to(label);
            Ok(nothing())
        }
        "brx" => {
            op.take("idx");
            let [index, Operand::Name(table)] = &s.operands[..] else {
                return Err("brx.idx has an index and a table".into());
            };
            b.branch_to(table);
            let mut out = nothing();
            out.o[1] = b.source(index, Type::U32)?;
            Ok(out)
        }
        "ret" if b.is_in_function() => {
            b.branch_to(RETURN);
            Ok(nothing())
        }
        "ret" | "exit" => Ok(exit()),
        "bar" | "barrier" => barrier(b, op, s),
        "trap" | "brkpt" => Ok(Instruction::of(
            |_, _, _, _| Err(Fault::new(Kind::Failed, "a trap")),
            [Reg::default(); 4],
        )),
        // Every access is done in turn, so that there is nothing to order.
        "membar" | "fence" => {
            op.take_hints(&["gl", "sys", "gpu", "sc", "acq_rel", "proxy", "async"]);
            Ok(nothing())
        }
        // A kernel begins when the one before it in its stream has ended.
        "griddepcontrol" => {
            op.take_hints(&["wait", "launch_dependents"]);
            Ok(nothing())
        }
        _ => {
            op.take("u32");
            Ok(nothing())
        }
    }
}

/// Label at the end of a function's body, which no PTX has of itself.
pub(crate) const RETURN: &str = "(return)";

/// An instruction that does nothing.
fn nothing() -> Instruction {
    Instruction::of(|_, _, _, _| Ok(()), [Reg::default(); 4])
}

/// The end of a thread.
pub(crate) fn exit() -> Instruction {
    Instruction {
        flow: Flow::Exit,
        ..nothing()
    }
}

fn barrier(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    let mut out = nothing();
    if op.take("warp") {
        op.take("sync");
        let [members] = &s.operands[..] else {
            return Err("bar.warp.sync has a member mask".into());
        };
        out.flow = Flow::Warp(b.source(members, Type::B32)?);
        out.exec = |w, b, _, _| {
            b.shared.warp_barrier(w.index);
            Ok(())
        };
        return Ok(out);
    }
    let is_vote = op.take("red");
    let waits = is_vote || op.take("sync") || !op.take("arrive");
    let mut operands = &s.operands[..];
    let mut vote = None;
    if is_vote {
        let kind = match op.take_of(&["popc", "and", "or"]) {
            Some("popc") => Vote::Count,
            Some("and") => Vote::All,
            Some(_) => Vote::Any,
            None => return Err("a barrier with an unknown vote".into()),
        };
        let ty = op.take_type()?;
        let [dest, rest @ .., truth] = operands else {
            return Err("too few operands".into());
        };
        out.o[0] = b.dest(dest, ty)?;
        out.o[1] = match truth {
            Operand::Not(name) => {
                out.control = 1;
                b.predicate_named(name)?
            }
            other => b.source(other, Type::Pred)?,
        };
        vote = Some(kind);
        operands = rest;
    }
    let (id, n_threads) = match operands {
        [id] => (b.source(id, Type::U32)?, None),
        [id, n] => (b.source(id, Type::U32)?, Some(b.source(n, Type::U32)?)),
        _ => return Err("a barrier has a number, and a count of threads".into()),
    };
    if !waits && n_threads.is_none() {
        return Err("an arrival without a count of threads".into());
    }
    out.flow = Flow::Barrier {
        id,
        n_threads,
        waits,
        vote,
    };
    Ok(out)
}
