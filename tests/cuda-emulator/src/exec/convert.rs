//! Conversions between types, with all roundings.

use half::{bf16, f16};

use super::lanes::Two;
use super::round::{Rounding, flush, saturate, to_bf16, to_f16};
use super::{Decoded, Exec, Registers, exec};
use crate::program::{Builder, Instruction, Opcode};
use crate::ptx::{Statement, Type};

pub(super) fn decode(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    let (to, from) = (op.take_type()?, op.take_type()?);
    let form = Form {
        to,
        from,
        whole: op.take_of(&Rounding::INTEGER).map(Rounding::parse),
        rounding: op.take_of(&Rounding::FLOAT).map(Rounding::parse),
        ftz: op.take("ftz"),
        sat: op.take("sat"),
        relu: op.take("relu"),
    };
    match (to, from) {
        (Type::F16x2 | Type::Bf16x2, Type::F32) => return pack(b, s, &form),
        (Type::Tf32, Type::F32) if op.take("rna") => {
            let o = b.registers(&s.operands, &[Type::B32, Type::F32])?;
            // Ties away from zero: half a step more, then cut.
            let exec = exec!(unary[u32, u32] |bits: u32| bits.wrapping_add(0x1000) & !0x1fff);
            return Ok(Instruction::of(exec, o));
        }
        _ => {}
    }
    let [dest, source] = &s.operands[..] else {
        return Err("cvt has two operands".into());
    };
    // Registers may be wider than their types.
    let wide = (b.at_least(dest, to), b.at_least(source, from));
    let exec = match common(&form) {
        Some(exec) if wide.0.is_wide() == to.is_wide() && wide.1.is_wide() == from.is_wide() => {
            exec
        }
        _ => general,
    };
    let o = b.registers(&s.operands, &[wide.0, wide.1])?;
    let mut out = Instruction::of(exec, o);
    out.control = form.encode()?;
    Ok(out)
}

/// What a conversion does.
#[derive(Clone, Copy)]
struct Form {
    to: Type,
    from: Type,
    /// Rounding to an integer.
    whole: Option<Rounding>,
    rounding: Option<Rounding>,
    ftz: bool,
    sat: bool,
    relu: bool,
}

impl Form {
    fn encode(&self) -> Result<u32, String> {
        let at = |ty| {
            TYPES
                .iter()
                .position(|known| *known == ty)
                .map(|at| at as u32)
                .ok_or_else(|| format!("type {ty:?} is unknown here"))
        };
        let direction = |rounding: Option<Rounding>| match rounding {
            None => 0,
            Some(Rounding::Nearest) => 1,
            Some(Rounding::Zero) => 2,
            Some(Rounding::Down) => 3,
            Some(Rounding::Up) => 4,
        };
        Ok(at(self.to)?
            | at(self.from)? << 4
            | direction(self.whole) << 8
            | direction(self.rounding) << 11
            | u32::from(self.ftz) << 14
            | u32::from(self.sat) << 15
            | u32::from(self.relu) << 16)
    }

    fn decode(control: u32) -> Self {
        let direction = |bits: u32| match bits & 7 {
            1 => Some(Rounding::Nearest),
            2 => Some(Rounding::Zero),
            3 => Some(Rounding::Down),
            4 => Some(Rounding::Up),
            _ => None,
        };
        Self {
            to: TYPES[control as usize & 15],
            from: TYPES[control as usize >> 4 & 15],
            whole: direction(control >> 8),
            rounding: direction(control >> 11),
            ftz: control >> 14 & 1 == 1,
            sat: control >> 15 & 1 == 1,
            relu: control >> 16 & 1 == 1,
        }
    }

    fn of_float(&self, value: f64) -> u64 {
        if is_float(self.to) {
            self.float(value)
        } else {
            self.integer(value)
        }
    }

    fn float(&self, value: f64) -> u64 {
        let mut value = value;
        if let Some(whole) = self.whole {
            value = whole.integer(value);
        }
        if self.relu {
            value = if value > 0.0 { value } else { 0.0 };
        }
        if self.sat {
            value = if value > 0.0 { value.min(1.0) } else { 0.0 };
        }
        let rounding = self.rounding.unwrap_or(Rounding::Nearest);
        match self.to {
            Type::F16 => u64::from(to_f16(value, rounding).to_bits()),
            Type::Bf16 => u64::from(to_bf16(value, rounding).to_bits()),
            Type::F32 => {
                let out = if value.is_finite() {
                    rounding.f32(value, 0.0)
                } else {
                    value as f32
                };
                u64::from(if self.ftz { flush(out) } else { out }.to_bits())
            }
            _ => value.to_bits(),
        }
    }

    /// NaN is 0, what is out of range is the nearest in it.
    fn integer(&self, value: f64) -> u64 {
        let whole = self.whole.unwrap_or(Rounding::Zero).integer(value);
        let (least, most) = range(self.to);
        if whole.is_nan() {
            0
        } else {
            (whole as i128).clamp(least, most) as u64
        }
    }

    fn of_integer(&self, value: i128) -> u64 {
        let rounding = self.rounding.unwrap_or(Rounding::Nearest);
        match self.to {
            Type::F32 if rounding == Rounding::Nearest => u64::from((value as f32).to_bits()),
            Type::F32 => {
                let high = value as f64;
                let low = (value - high as i128) as f64;
                u64::from(rounding.f32(high, low).to_bits())
            }
            Type::F64 => (value as f64).to_bits(),
            Type::F16 => u64::from(to_f16(value as f64, rounding).to_bits()),
            Type::Bf16 => u64::from(to_bf16(value as f64, rounding).to_bits()),
            to if self.sat => {
                let (least, most) = range(to);
                value.clamp(least, most) as u64
            }
            // Cut to the type, and extended by its sign again, as the register may be wider.
            Type::S8 => value as i8 as u64,
            Type::S16 => value as i16 as u64,
            Type::S32 => value as i32 as u64,
            Type::U8 | Type::B8 => value as u8 as u64,
            Type::U16 | Type::B16 => value as u16 as u64,
            Type::U32 | Type::B32 => value as u32 as u64,
            _ => value as u64,
        }
    }
}

/// Any conversion, lane by lane.
fn general(
    w: &mut crate::block::Warp,
    _: &mut crate::block::Block<'_>,
    i: &Instruction,
    mask: u32,
) -> Result<(), crate::fault::Fault> {
    convert(&mut w.registers, i, mask);
    Ok(())
}

fn convert(registers: &mut Registers, i: &Instruction, mask: u32) {
    let form = Form::decode(i.control);
    let values = registers.extended(i.o[1]);
    let out = values.map(|bits| match form.from {
        Type::F16 => form.of_float(f16::from_bits(bits as u16).to_f64()),
        Type::Bf16 => form.of_float(bf16::from_bits(bits as u16).to_f64()),
        Type::F32 => {
            let value = f32::from_bits(bits as u32);
            form.of_float(f64::from(if form.ftz { flush(value) } else { value }))
        }
        Type::F64 => form.of_float(f64::from_bits(bits)),
        Type::S8 => form.of_integer(i128::from(bits as i8)),
        Type::S16 => form.of_integer(i128::from(bits as i16)),
        Type::S32 => form.of_integer(i128::from(bits as i32)),
        Type::S64 => form.of_integer(i128::from(bits as i64)),
        Type::U8 | Type::B8 => form.of_integer(i128::from(bits as u8)),
        Type::U16 | Type::B16 => form.of_integer(i128::from(bits as u16)),
        Type::U32 | Type::B32 => form.of_integer(i128::from(bits as u32)),
        _ => form.of_integer(i128::from(bits)),
    });
    registers.set_cut(i.o[0], mask, &out);
}

/// The conversions that kernels are full of.
fn common(form: &Form) -> Option<Exec> {
    let plain = !form.ftz && !form.sat && !form.relu;
    let nearest = matches!(form.rounding, None | Some(Rounding::Nearest));
    let exec: Exec = match (form.to, form.from) {
        (Type::F32, Type::F32) if form.sat && form.whole.is_none() && !form.ftz => {
            exec!(unary[f32, f32] saturate)
        }
        _ if !plain => return None,
        (Type::F32, Type::F16) => exec!(unary[f16, f32] f16::to_f32),
        (Type::F32, Type::Bf16) => exec!(unary[bf16, f32] bf16::to_f32),
        (Type::F16, Type::F32) if nearest => exec!(unary[f32, f16] f16::from_f32),
        (Type::Bf16, Type::F32) if nearest => exec!(unary[f32, bf16] bf16::from_f32),
        (Type::F32, Type::S32) if nearest => exec!(unary[i32, f32] |a: i32| a as f32),
        (Type::F32, Type::U32) if nearest => exec!(unary[u32, f32] |a: u32| a as f32),
        (Type::F32, Type::U16) if nearest => exec!(unary[u16, f32] |a: u16| f32::from(a)),
        (Type::F32, Type::S16) if nearest => exec!(unary[i16, f32] |a: i16| f32::from(a)),
        // `as` takes NaN to 0 and holds the rest in range, as PTX does.
        (Type::S32, Type::F32) => match form.whole? {
            Rounding::Nearest => exec!(unary[f32, i32] |a: f32| a.round_ties_even() as i32),
            Rounding::Zero => exec!(unary[f32, i32] |a: f32| a as i32),
            Rounding::Down => exec!(unary[f32, i32] |a: f32| a.floor() as i32),
            Rounding::Up => exec!(unary[f32, i32] |a: f32| a.ceil() as i32),
        },
        (Type::S64, Type::S32) => exec!(unary[i32, i64] |a: i32| i64::from(a)),
        (Type::U64, Type::U32) => exec!(unary[u32, u64] |a: u32| u64::from(a)),
        (Type::U64 | Type::S64, Type::U16) => exec!(unary[u16, u64] |a: u16| u64::from(a)),
        (Type::U32 | Type::S32, Type::U64 | Type::S64) => exec!(unary[u64, u32] |a: u64| a as u32),
        (Type::U32 | Type::S32, Type::U16) => exec!(unary[u16, u32] |a: u16| u32::from(a)),
        (Type::U32 | Type::S32, Type::S16) => exec!(unary[i16, i32] |a: i16| i32::from(a)),
        (Type::U16 | Type::S16, Type::U32 | Type::S32) => {
            exec!(unary[u32, u16] |a: u32| a as u16)
        }
        _ => return None,
    };
    Some(exec)
}

/// `cvt.rn.f16x2.f32 d, a, b`: `a` to the upper half, `b` to the lower.
fn pack(b: &mut Builder<'_>, s: &Statement, form: &Form) -> Decoded {
    let o = b.registers(&s.operands, &[form.to, Type::F32, Type::F32])?;
    let exec: Exec = match (form.to, form.rounding, form.relu) {
        (Type::F16x2, Some(Rounding::Nearest), false) => {
            exec!(binary[f32, f32, Two<f16>] |a, b| Two(f16::from_f32(b), f16::from_f32(a)))
        }
        (Type::F16x2, Some(Rounding::Zero), false) => {
            exec!(binary[f32, f32, Two<f16>] |a: f32, b: f32| {
                Two(to_f16(f64::from(b), Rounding::Zero), to_f16(f64::from(a), Rounding::Zero))
            })
        }
        (Type::Bf16x2, Some(Rounding::Nearest), false) => {
            exec!(binary[f32, f32, Two<bf16>] |a, b| Two(bf16::from_f32(b), bf16::from_f32(a)))
        }
        (Type::Bf16x2, Some(Rounding::Zero), false) => {
            exec!(binary[f32, f32, Two<bf16>] |a: f32, b: f32| {
                Two(to_bf16(f64::from(b), Rounding::Zero), to_bf16(f64::from(a), Rounding::Zero))
            })
        }
        _ => return Err("an unknown form of packing".into()),
    };
    Ok(Instruction::of(exec, o))
}

fn is_float(ty: Type) -> bool {
    matches!(ty, Type::F16 | Type::Bf16 | Type::F32 | Type::F64)
}

fn range(ty: Type) -> (i128, i128) {
    match ty {
        Type::S8 => (i8::MIN.into(), i8::MAX.into()),
        Type::S16 => (i16::MIN.into(), i16::MAX.into()),
        Type::S32 => (i32::MIN.into(), i32::MAX.into()),
        Type::S64 => (i64::MIN.into(), i64::MAX.into()),
        Type::U8 | Type::B8 => (0, u8::MAX.into()),
        Type::U16 | Type::B16 => (0, u16::MAX.into()),
        Type::U32 | Type::B32 => (0, u32::MAX.into()),
        _ => (0, u64::MAX.into()),
    }
}

/// tf32 as the tensor cores read it: the lower 13 bits are not looked at.
pub(super) fn tf32(bits: u32) -> f32 {
    f32::from_bits(bits & !0x1fff)
}

const TYPES: [Type; 12] = [
    Type::U8,
    Type::U16,
    Type::U32,
    Type::U64,
    Type::S8,
    Type::S16,
    Type::S32,
    Type::S64,
    Type::F16,
    Type::Bf16,
    Type::F32,
    Type::F64,
];
