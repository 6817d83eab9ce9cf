//! What instructions do. Each family has a room: how it is decoded stands beside what it computes.

mod async_copy;
mod atomic;
mod bits;
mod compare;
mod convert;
mod float;
mod flow;
mod half;
mod integer;
mod lanes;
mod matrix;
mod memory;
mod moves;
mod packed;
mod round;
mod shuffle;
mod special;
#[cfg(test)]
mod tests;

pub(crate) use async_copy::Copies;
pub(crate) use flow::{RETURN, exit};
pub(crate) use lanes::{Class, LANES, Reg, Registers, Row};

use crate::block::{Block, Warp};
use crate::fault::Fault;
use crate::program::{Builder, Instruction, Opcode};
use crate::ptx::Statement;

/// What an instruction does to the lanes of a mask.
pub(crate) type Exec = fn(&mut Warp, &mut Block<'_>, &Instruction, u32) -> Result<(), Fault>;

type Decoded = Result<Instruction, String>;

/// The instruction that a statement is, or what is not understood in it.
pub(crate) fn decode(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    match op.name {
        "add" | "sub" | "mul" | "mad" | "fma" | "div" | "min" | "max" | "abs" | "neg" => {
            arithmetic(b, op, s)
        }
        "rem" | "sad" | "mul24" | "mad24" => integer::decode(b, op, s, None),
        "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "shf" | "lop3" | "prmt"
        | "popc" | "clz" | "brev" | "bfe" | "bfi" | "bfind" | "dp4a" | "dp2a" => {
            bits::decode(b, op, s)
        }
        "setp" | "set" | "selp" | "slct" | "testp" => compare::decode(b, op, s),
        "copysign" | "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => {
            special::decode(b, op, s)
        }
        "cvt" => convert::decode(b, op, s),
        "mov" | "cvta" | "isspacep" => moves::decode(b, op, s),
        "ld" | "ldu" | "st" | "prefetch" | "prefetchu" => memory::decode(b, op, s),
        "atom" | "red" => atomic::decode(b, op, s),
        "shfl" | "vote" | "match" | "activemask" | "redux" => shuffle::decode(b, op, s),
        "ldmatrix" | "mma" => matrix::decode(b, op, s),
        "cp" => async_copy::decode(b, op, s),
        "bra" | "brx" | "ret" | "exit" | "bar" | "barrier" | "membar" | "fence" | "trap"
        | "brkpt" | "nanosleep" | "griddepcontrol" => flow::decode(b, op, s),
        _ => Err("an unknown instruction".into()),
    }
}

/// Arithmetic by the kind of its type.
fn arithmetic(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    use crate::ptx::Type;
    let ty = op.take_type()?;
    match ty {
        Type::F32 | Type::F64 => float::decode(b, op, s, ty),
        Type::F16 | Type::Bf16 => half::decode(b, op, s, ty),
        Type::F16x2 | Type::Bf16x2 => packed::decode(b, op, s, ty),
        Type::U16
        | Type::U32
        | Type::U64
        | Type::S16
        | Type::S32
        | Type::S64
        | Type::U8
        | Type::S8
        | Type::B8
        | Type::B16
        | Type::B32
        | Type::B64
        | Type::Tf32
        | Type::Pred => integer::decode(b, op, s, Some(ty)),
    }
}

/// An instruction over registers alone: how many operands, their types in Rust with the result's last, what it computes.
macro_rules! exec {
    ($arity:ident [$($t:ty),*] $f:expr) => {
        (|warp: &mut $crate::block::Warp,
          _: &mut $crate::block::Block<'_>,
          i: &$crate::program::Instruction,
          mask: u32| {
            $crate::exec::lanes::$arity::<$($t),*>(&mut warp.registers, &i.o, mask, $f);
            Ok(())
        }) as $crate::exec::Exec
    };
}
pub(crate) use exec;

/// The body once for each integer type of 16 bits and more, with a name for the type; an error for others.
macro_rules! integers {
    ($ty:expr, $T:ident => $body:expr) => {
        match $ty {
            Type::U16 => {
                type $T = u16;
                $body
            }
            Type::S16 => {
                type $T = i16;
                $body
            }
            Type::U32 => {
                type $T = u32;
                $body
            }
            Type::S32 => {
                type $T = i32;
                $body
            }
            Type::U64 => {
                type $T = u64;
                $body
            }
            Type::S64 => {
                type $T = i64;
                $body
            }
            other => return Err(format!("type {other:?} is unknown here")),
        }
    };
}
pub(crate) use integers;

/// The body once for each type of bits, with a name for the type.
macro_rules! of_bits {
    ($ty:expr, $T:ident => $body:expr) => {
        match $ty {
            Type::B16 | Type::U16 => {
                type $T = u16;
                $body
            }
            Type::B32 | Type::U32 => {
                type $T = u32;
                $body
            }
            Type::B64 | Type::U64 => {
                type $T = u64;
                $body
            }
            other => return Err(format!("type {other:?} is unknown here")),
        }
    };
}
pub(crate) use of_bits;
