//! Atomic operations on global and shared memory.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use half::{bf16, f16};

use super::half::{Half, add};
use super::memory::{Access, HINTS, SHARED_WINDOW, addresses, lanes, outside_windows};
use super::{Decoded, Exec, LANES, Reg};
use crate::block::{Block, Warp};
use crate::fault::Fault;
use crate::program::{Builder, Instruction, Opcode};
use crate::ptx::{Space, Statement, Type};

pub(super) fn decode(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    op.take_hints(&HINTS);
    let space = op.take_space();
    let what = op
        .take_of(&[
            "add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec",
        ])
        .ok_or("an unknown atomic operation")?;
    let ty = op.take_type()?;
    let at = kind_of(what, ty)?;
    let returns = op.name == "atom";
    let mut operands = s.operands.iter();
    let mut next = || operands.next().ok_or("too few operands");
    let dest = if returns { Some(next()?) } else { None };
    let address = next()?;
    let value = next()?;
    let swap = if what == "cas" { Some(next()?) } else { None };
    let (reg, offset) = b.address(address)?;
    if matches!(space, Space::Global | Space::Generic) {
        b.note_pointer(reg);
    }
    let value = b.source(value, ty)?;
    let o = [
        dest.map_or(Ok(Reg::default()), |dest| b.dest(dest, ty))?,
        reg,
        value,
        swap.map_or(Ok(value), |swap| b.source(swap, ty))?,
    ];
    let exec: Exec = match space {
        Space::Global => |w, b, i, m| global(w, b, i, m),
        Space::Shared => |w, b, i, m| shared(w, b, i, m, 0),
        Space::Generic => |w, b, i, m| {
            let outside = outside_windows(&addresses(w, i.o[1], i.offset), m);
            if outside != 0 {
                global(w, b, i, outside)?;
            }
            if m & !outside != 0 {
                shared(w, b, i, m & !outside, SHARED_WINDOW)?;
            }
            Ok(())
        },
        Space::Local | Space::Const | Space::Param => {
            return Err("an atomic operation on this space".into());
        }
    };
    let mut out = Instruction::of(exec, o);
    out.offset = offset;
    out.control = at | u32::from(returns) << 8;
    Ok(out)
}

/// What an operation makes of the old value and its operands.
type Combine = fn(u64, u64, u64) -> u64;

/// Operations with their type and bytes; an instruction has the index of its own.
const KINDS: [(&str, Type, usize, Combine); 33] = [
    ("add", Type::U32, 4, |old, a, _| old.wrapping_add(a)),
    ("add", Type::S32, 4, |old, a, _| old.wrapping_add(a)),
    ("add", Type::U64, 8, |old, a, _| old.wrapping_add(a)),
    ("add", Type::F32, 4, |old, a, _| {
        (f32::from_bits(old as u32) + f32::from_bits(a as u32))
            .to_bits()
            .into()
    }),
    ("add", Type::F64, 8, |old, a, _| {
        (f64::from_bits(old) + f64::from_bits(a)).to_bits()
    }),
    ("add", Type::F16, 2, |old, a, _| {
        half_sum::<f16>(old, a, f16::from_bits, f16::to_bits)
    }),
    ("add", Type::Bf16, 2, |old, a, _| {
        half_sum::<bf16>(old, a, bf16::from_bits, bf16::to_bits)
    }),
    ("add", Type::F16x2, 4, |old, a, _| {
        half_sum::<f16>(old, a, f16::from_bits, f16::to_bits)
            | half_sum::<f16>(old >> 16, a >> 16, f16::from_bits, f16::to_bits) << 16
    }),
    ("add", Type::Bf16x2, 4, |old, a, _| {
        half_sum::<bf16>(old, a, bf16::from_bits, bf16::to_bits)
            | half_sum::<bf16>(old >> 16, a >> 16, bf16::from_bits, bf16::to_bits) << 16
    }),
    ("min", Type::U32, 4, |old, a, _| {
        (old as u32).min(a as u32).into()
    }),
    ("min", Type::S32, 4, |old, a, _| {
        (old as i32).min(a as i32) as u32 as u64
    }),
    ("min", Type::U64, 8, |old, a, _| old.min(a)),
    ("min", Type::S64, 8, |old, a, _| {
        (old as i64).min(a as i64) as u64
    }),
    ("max", Type::U32, 4, |old, a, _| {
        (old as u32).max(a as u32).into()
    }),
    ("max", Type::S32, 4, |old, a, _| {
        (old as i32).max(a as i32) as u32 as u64
    }),
    ("max", Type::U64, 8, |old, a, _| old.max(a)),
    ("max", Type::S64, 8, |old, a, _| {
        (old as i64).max(a as i64) as u64
    }),
    ("and", Type::B32, 4, |old, a, _| old & a),
    ("and", Type::B64, 8, |old, a, _| old & a),
    ("or", Type::B32, 4, |old, a, _| old | a),
    ("or", Type::B64, 8, |old, a, _| old | a),
    ("xor", Type::B32, 4, |old, a, _| old ^ a),
    ("xor", Type::B64, 8, |old, a, _| old ^ a),
    ("exch", Type::B32, 4, |_, a, _| a),
    ("exch", Type::B64, 8, |_, a, _| a),
    ("cas", Type::B16, 2, swap),
    ("cas", Type::B32, 4, swap),
    ("cas", Type::B64, 8, swap),
    (
        "inc",
        Type::U32,
        4,
        |old, a, _| if old >= a { 0 } else { old + 1 },
    ),
    ("dec", Type::U32, 4, |old, a, _| {
        if old == 0 || old > a { a } else { old - 1 }
    }),
    ("add", Type::S64, 8, |old, a, _| old.wrapping_add(a)),
    ("exch", Type::U32, 4, |_, a, _| a),
    ("cas", Type::U32, 4, swap),
];

fn swap(old: u64, expected: u64, new: u64) -> u64 {
    if old == expected { new } else { old }
}

fn half_sum<T: Half>(a: u64, b: u64, of: fn(u16) -> T, bits: fn(T) -> u16) -> u64 {
    bits(add(of(a as u16), of(b as u16))).into()
}

fn kind_of(what: &str, ty: Type) -> Result<u32, String> {
    KINDS
        .iter()
        .position(|(name, known, _, _)| *name == what && *known == ty)
        .map(|at| at as u32)
        .ok_or_else(|| format!("{what} of type {ty:?} is unknown"))
}

fn cut(value: u64, bytes: usize) -> u64 {
    value & (u64::MAX >> (64 - 8 * bytes))
}

fn finish(w: &mut Warp, i: &Instruction, mask: u32, old: &[u64; LANES]) {
    if i.control >> 8 & 1 == 1 {
        w.registers.set_cut(i.o[0], mask, old);
    }
}

#[expect(
    unsafe_code,
    reason = "memory of the device is reached by its host pointer"
)]
fn global(w: &mut Warp, b: &mut Block<'_>, i: &Instruction, m: u32) -> Result<(), Fault> {
    let (_, _, bytes, combine) = KINDS[(i.control & 0xff) as usize];
    let at = addresses(w, i.o[1], i.offset);
    let pointers = b.global(&at, m, bytes as u64, Access::Atomic)?;
    let (a, c) = (w.registers.extended(i.o[2]), w.registers.extended(i.o[3]));
    let mut out = [0; LANES];
    for lane in lanes(m) {
        let new = |old: u64| {
            cut(
                combine(old, cut(a[lane], bytes), cut(c[lane], bytes)),
                bytes,
            )
        };
        let pointer = pointers[lane];
        // SAFETY: `Block::global` held the pointer against the live regions and its alignment.
        out[lane] = unsafe {
            match bytes {
                2 => AtomicU16::from_ptr(pointer.cast())
                    .fetch_update(Relaxed, Relaxed, |old| Some(new(old.into()) as u16))
                    .map_or_else(u64::from, u64::from),
                4 => AtomicU32::from_ptr(pointer.cast())
                    .fetch_update(Relaxed, Relaxed, |old| Some(new(old.into()) as u32))
                    .map_or_else(u64::from, u64::from),
                _ => AtomicU64::from_ptr(pointer.cast())
                    .fetch_update(Relaxed, Relaxed, |old| Some(new(old)))
                    .unwrap_or_else(|old| old),
            }
        };
    }
    finish(w, i, m, &out);
    Ok(())
}

fn shared(
    w: &mut Warp,
    b: &mut Block<'_>,
    i: &Instruction,
    m: u32,
    window: u64,
) -> Result<(), Fault> {
    let (_, _, bytes, combine) = KINDS[(i.control & 0xff) as usize];
    let at = addresses(w, i.o[1], i.offset);
    let (a, c) = (w.registers.extended(i.o[2]), w.registers.extended(i.o[3]));
    let mut out = [0; LANES];
    for lane in lanes(m) {
        let by = b.by(w, lane);
        let place = b.shared.atomic(at[lane].wrapping_sub(window), bytes, by)?;
        let mut old = [0; 8];
        old[..bytes].copy_from_slice(place);
        out[lane] = u64::from_le_bytes(old);
        let new = combine(out[lane], cut(a[lane], bytes), cut(c[lane], bytes));
        place.copy_from_slice(&new.to_le_bytes()[..bytes]);
    }
    finish(w, i, m, &out);
    Ok(())
}
