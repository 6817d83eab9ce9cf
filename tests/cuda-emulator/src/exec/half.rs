//! Arithmetic of 16-bit floats: computed wider, rounded once.

use half::{bf16, f16};

use super::float::{least, most, or_nan};
use super::round::{Rounding, to_bf16, to_f16};
use super::{Decoded, Exec, exec};
use crate::program::{Builder, Instruction, Opcode};
use crate::ptx::{Statement, Type};

/// A 16-bit float: what its arithmetic needs of it.
pub(super) trait Half: Copy {
    fn wide(self) -> f32;
    /// Of a value that is exact in f32, or whose rounding to f32 does no harm.
    fn of(value: f32) -> Self;
    fn of_exact(value: f64) -> Self;
}

impl Half for f16 {
    fn wide(self) -> f32 {
        self.to_f32()
    }
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn of_exact(value: f64) -> Self {
        to_f16(value, Rounding::Nearest)
    }
}

impl Half for bf16 {
    fn wide(self) -> f32 {
        self.to_f32()
    }
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn of_exact(value: f64) -> Self {
        to_bf16(value, Rounding::Nearest)
    }
}

// f32 has more than twice the bits of either format, so that rounding twice is rounding once.
pub(super) fn add<T: Half>(a: T, b: T) -> T {
    T::of(a.wide() + b.wide())
}

pub(super) fn sub<T: Half>(a: T, b: T) -> T {
    T::of(a.wide() - b.wide())
}

pub(super) fn mul<T: Half>(a: T, b: T) -> T {
    T::of(a.wide() * b.wide())
}

pub(super) fn fma<T: Half>(a: T, b: T, c: T) -> T {
    T::of_exact(f64::from(a.wide()) * f64::from(b.wide()) + f64::from(c.wide()))
}

pub(super) fn min<T: Half>(a: T, b: T) -> T {
    T::of(least(a.wide(), b.wide()))
}

pub(super) fn max<T: Half>(a: T, b: T) -> T {
    T::of(most(a.wide(), b.wide()))
}

pub(super) fn min_nan<T: Half>(a: T, b: T) -> T {
    T::of(or_nan(a.wide(), b.wide(), least(a.wide(), b.wide())))
}

pub(super) fn max_nan<T: Half>(a: T, b: T) -> T {
    T::of(or_nan(a.wide(), b.wide(), most(a.wide(), b.wide())))
}

pub(super) fn abs<T: Half>(a: T) -> T {
    T::of(a.wide().abs())
}

pub(super) fn neg<T: Half>(a: T) -> T {
    T::of(-a.wide())
}

pub(super) fn relu<T: Half>(a: T) -> T {
    T::of(most(a.wide(), 0.0))
}

pub(super) fn decode(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement, ty: Type) -> Decoded {
    op.take("rn");
    let nan = op.take("NaN");
    let rectified = op.take("relu");
    macro_rules! of_type {
        ($T:ty) => {
            match op.name {
                "fma" | "mad" if rectified => (
                    exec!(ternary[$T, $T, $T, $T] |a, b, c| relu(fma(a, b, c))),
                    4,
                ),
                _ if rectified => return Err("relu is unknown here".into()),
                "add" => (exec!(binary[$T, $T, $T] add::<$T>), 3),
                "sub" => (exec!(binary[$T, $T, $T] sub::<$T>), 3),
                "mul" => (exec!(binary[$T, $T, $T] mul::<$T>), 3),
                "fma" | "mad" => (exec!(ternary[$T, $T, $T, $T] fma::<$T>), 4),
                "min" if nan => (exec!(binary[$T, $T, $T] min_nan::<$T>), 3),
                "max" if nan => (exec!(binary[$T, $T, $T] max_nan::<$T>), 3),
                "min" => (exec!(binary[$T, $T, $T] min::<$T>), 3),
                "max" => (exec!(binary[$T, $T, $T] max::<$T>), 3),
                "abs" => (exec!(unary[$T, $T] abs::<$T>), 2),
                "neg" => (exec!(unary[$T, $T] neg::<$T>), 2),
                _ => return Err("an unknown form of arithmetic".into()),
            }
        };
    }
    let (exec, n): (Exec, usize) = if ty == Type::F16 {
        of_type!(f16)
    } else {
        of_type!(bf16)
    };
    let o = b.registers(&s.operands, &[ty; 4][..n])?;
    Ok(Instruction::of(exec, o))
}
