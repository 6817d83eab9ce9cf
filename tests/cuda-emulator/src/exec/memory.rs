//! Loads and stores in all state spaces.

mod elements;
mod global;
mod spaces;

use self::global::{load_global, store_global};
use self::spaces::{
    load_const, load_generic, load_local, load_param, load_shared, store_generic, store_local,
    store_shared,
};
use super::{Class, Decoded, Exec, LANES, Reg};
use crate::block::Warp;
use crate::program::{Builder, Instruction, Opcode};
use crate::ptx::{Operand, Space, Statement, Type};

pub(super) use self::spaces::outside_windows;

/// Generic addresses of shared, local and constant memory begin here; each window is 2^40 bytes.
pub(super) const SHARED_WINDOW: u64 = 0x0d00_0000_0000;
pub(super) const LOCAL_WINDOW: u64 = 0x0e00_0000_0000;
pub(super) const CONST_WINDOW: u64 = 0x0f00_0000_0000;

/// Kind of an access to global memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read(Through),
    /// Through the cache that does not see what the kernel itself stores.
    ReadOnly(Through),
    Write,
    /// Reads and writes; what it reads must have been written.
    Atomic,
}

/// Caches that a load comes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    /// The block's own, where the sectors stay for a while.
    First,
    /// The card's alone: of the sectors nothing stays with the block.
    Second,
}

pub(super) fn decode(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    if op.name.starts_with("prefetch") {
        op.take_hints(&["L1", "L2", "L2::evict_last", "L2::evict_normal"]);
        op.take_space();
        return Ok(Instruction::of(|_, _, _, _| Ok(()), [Reg::default(); 4]));
    }
    let is_read_only = op.take("nc");
    let is_past_first = PAST_FIRST.iter().any(|hint| op.take(hint));
    op.take_hints(&HINTS);
    let space = op.take_space();
    let hinted = op.take("L2::cache_hint");
    let n = match op.take_of(&["v2", "v4"]) {
        Some("v2") => 2,
        Some(_) => 4,
        None => 1,
    };
    let ty = op.take_type()?;
    let is_load = op.name != "st";
    let operands = match (&s.operands[..], hinted) {
        ([a, b], false) | ([a, b, _], true) => [a, b],
        _ => return Err("too few or too many operands".into()),
    };
    let (value, address) = if is_load {
        (operands[0], operands[1])
    } else {
        (operands[1], operands[0])
    };
    let list = b.in_memory(value, ty, is_load)?;
    if list.len() != n {
        return Err(format!(
            "a vector of {} where one of {n} is expected",
            list.len()
        ));
    }
    let (reg, offset) = b.address(address)?;
    let space = match (space, variable_of(address).and_then(|name| b.symbol(name))) {
        // Parameters of a call lie in the thread's own memory, the kernel's do not.
        (Space::Param, Some((Space::Local, _))) => Space::Local,
        (Space::Param, Some((_, at))) if is_load => {
            b.note_load(list[0], at as usize + offset as usize);
            space
        }
        (Space::Global | Space::Generic, _) => {
            b.note_pointer(reg);
            space
        }
        _ => space,
    };
    let exec: Exec = match (space, is_load) {
        (Space::Global, true) => load_global,
        (Space::Global, false) => store_global,
        (Space::Shared, true) => load_shared,
        (Space::Shared, false) => store_shared,
        (Space::Local, true) => load_local,
        (Space::Local, false) => store_local,
        (Space::Const, true) => load_const,
        (Space::Param, true) => load_param,
        (Space::Generic, true) => load_generic,
        (Space::Generic, false) => store_generic,
        (Space::Const | Space::Param, false) => return Err("a store to this space".into()),
    };
    let mut out = Instruction::of(exec, [reg; 4]);
    out.list = list;
    out.offset = offset;
    out.control = control(ty) | u32::from(is_read_only) << 16 | u32::from(is_past_first) << 17;
    b.has_read_only_loads |= is_read_only;
    Ok(out)
}

/// Name of the variable that an address is in, if it names one.
fn variable_of(address: &Operand) -> Option<&str> {
    match address {
        Operand::Address(base, _) => match &**base {
            Operand::Name(name) => Some(name),
            _ => None,
        },
        _ => None,
    }
}

/// Bytes of an element, and whether its sign is extended.
fn control(ty: Type) -> u32 {
    let is_signed = matches!(ty, Type::S8 | Type::S16 | Type::S32);
    ty.bytes() as u32 | u32::from(is_signed) << 8
}

/// Addresses of all lanes.
#[inline(always)]
pub(super) fn addresses(warp: &Warp, reg: Reg, offset: i64) -> [u64; LANES] {
    match reg.class() {
        Class::Wide => warp
            .registers
            .wide(reg)
            .map(|a| a.wrapping_add_signed(offset)),
        Class::Narrow | Class::Predicate => warp
            .registers
            .narrow(reg)
            .map(|a| u64::from(a.wrapping_add(offset as u32))),
    }
}

/// Lanes of a mask.
#[inline(always)]
pub(super) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let lane = mask.trailing_zeros();
            mask &= mask - 1;
            lane as usize
        })
    })
}

/// Of the hints and orders, those of loads that leave nothing in the first cache.
const PAST_FIRST: [&str; 9] = [
    "cg",
    "cv",
    "volatile",
    "relaxed",
    "acquire",
    "acq_rel",
    "sc",
    "mmio",
    "L1::no_allocate",
];

/// Orders of memory and hints to caches: they change no value here, where every access is done in turn.
pub(super) const HINTS: [&str; 32] = [
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "weak",
    "volatile",
    "relaxed",
    "acquire",
    "release",
    "acq_rel",
    "cta",
    "gpu",
    "sys",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L1::no_allocate",
    "L2::64B",
    "L2::128B",
    "L2::256B",
    "L2::evict_first",
    "L2::evict_last",
    "L2::evict_normal",
    "noftz",
    "sc",
    "mmio",
    "proxy",
    "async",
];
