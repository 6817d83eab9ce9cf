//! Arithmetic of two 16-bit floats in one register.

use half::{bf16, f16};

use super::half::{abs, add, fma, max, max_nan, min, min_nan, mul, neg, relu, sub};
use super::lanes::Two;
use super::{Decoded, Exec, exec};
use crate::program::{Builder, Instruction, Opcode};
use crate::ptx::{Statement, Type};

/// An operation on both halves.
macro_rules! both {
    ($T:ty, $f:ident(a)) => {
        exec!(unary[Two<$T>, Two<$T>] |a: Two<$T>| Two($f(a.0), $f(a.1)))
    };
    ($T:ty, $f:ident(a, b)) => {
        exec!(binary[Two<$T>, Two<$T>, Two<$T>] |a: Two<$T>, b: Two<$T>| {
            Two($f(a.0, b.0), $f(a.1, b.1))
        })
    };
    ($T:ty, $f:ident(a, b, c)) => {
        exec!(ternary[Two<$T>, Two<$T>, Two<$T>, Two<$T>] |a: Two<$T>, b: Two<$T>, c: Two<$T>| {
            Two($f(a.0, b.0, c.0), $f(a.1, b.1, c.1))
        })
    };
}

pub(super) fn decode(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement, ty: Type) -> Decoded {
    op.take("rn");
    let nan = op.take("NaN");
    let rectified = op.take("relu");
    macro_rules! of_type {
        ($T:ty) => {
            match op.name {
                "fma" | "mad" if rectified => (both!($T, fma_relu(a, b, c)), 4),
                _ if rectified => return Err("relu is unknown here".into()),
                "add" => (both!($T, add(a, b)), 3),
                "sub" => (both!($T, sub(a, b)), 3),
                "mul" => (both!($T, mul(a, b)), 3),
                "fma" | "mad" => (both!($T, fma(a, b, c)), 4),
                "min" if nan => (both!($T, min_nan(a, b)), 3),
                "max" if nan => (both!($T, max_nan(a, b)), 3),
                "min" => (both!($T, min(a, b)), 3),
                "max" => (both!($T, max(a, b)), 3),
                "abs" => (both!($T, abs(a)), 2),
                "neg" => (both!($T, neg(a)), 2),
                _ => return Err("an unknown form of arithmetic".into()),
            }
        };
    }
    let (exec, n): (Exec, usize) = if ty == Type::F16x2 {
        of_type!(f16)
    } else {
        of_type!(bf16)
    };
    let o = b.registers(&s.operands, &[ty; 4][..n])?;
    Ok(Instruction::of(exec, o))
}

fn fma_relu<T: super::half::Half>(a: T, b: T, c: T) -> T {
    relu(fma(a, b, c))
}
