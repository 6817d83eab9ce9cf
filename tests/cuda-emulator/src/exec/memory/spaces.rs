//! Shared, local, constant and parameter memory, and addresses that may lie in any.

use super::elements::{element_bytes, extend, load_lanes, store_lanes};
use super::global::{load_global, read, store_global, write};
use super::{
    Access, CONST_WINDOW, Class, LANES, LOCAL_WINDOW, SHARED_WINDOW, Through, addresses, lanes,
};
use crate::block::{Block, Warp};
use crate::fault::{Fault, Kind};
use crate::program::Instruction;

pub(super) fn load_shared(
    w: &mut Warp,
    b: &mut Block<'_>,
    i: &Instruction,
    m: u32,
) -> Result<(), Fault> {
    let at = addresses(w, i.o[0], i.offset);
    let is_narrow = i.list.iter().all(|reg| reg.class() == Class::Narrow);
    match (element_bytes(i), i.list.len()) {
        (4, 1) if is_narrow => return load_words::<1>(w, b, i, m, &at),
        (4, 2) if is_narrow => return load_words::<2>(w, b, i, m, &at),
        (4, 4) if is_narrow => return load_words::<4>(w, b, i, m, &at),
        _ => {}
    }
    load_lanes(w, i, m, |w, lane, out| {
        let by = b.by(w, lane);
        out.copy_from_slice(b.shared.read(at[lane], out.len(), by)?);
        Ok(())
    })
}

/// The loads that kernels are full of: of one, two or four words.
#[inline(always)]
fn load_words<const N: usize>(
    w: &mut Warp,
    b: &mut Block<'_>,
    i: &Instruction,
    m: u32,
    at: &[u64; LANES],
) -> Result<(), Fault> {
    let mut out = [[0; LANES]; N];
    for lane in lanes(m) {
        let by = b.by(w, lane);
        let words = b.shared.words::<N>(at[lane], by)?;
        for (values, word) in out.iter_mut().zip(words) {
            values[lane] = word;
        }
    }
    for (reg, values) in i.list.iter().zip(&out) {
        w.registers.set_narrow(*reg, m, values);
    }
    Ok(())
}

pub(super) fn store_shared(
    w: &mut Warp,
    b: &mut Block<'_>,
    i: &Instruction,
    m: u32,
) -> Result<(), Fault> {
    let at = addresses(w, i.o[0], i.offset);
    store_lanes(w, i, m, |lane, bytes| {
        let by = b.by(w, lane);
        b.shared.write(at[lane], bytes, by)
    })
}

/// Bytes of a slice that an access names.
fn slice_of(
    at: u64,
    n: usize,
    len: usize,
    lane: usize,
    what: &str,
) -> Result<std::ops::Range<usize>, Fault> {
    if at.checked_add(n as u64).is_none_or(|end| end > len as u64) {
        let text = format!("{n} bytes at {at:#x} of {len:#x} bytes of {what}");
        return Err(Fault::at_lane(Kind::Address, lane, text));
    }
    if at & (n as u64 - 1) != 0 {
        let text = format!("{n} bytes at {at:#x} of {what}: not aligned");
        return Err(Fault::at_lane(Kind::Misaligned, lane, text));
    }
    Ok(at as usize..at as usize + n)
}

impl Block<'_> {
    /// Bytes of one thread's local memory.
    fn local_of(&mut self, thread: usize, at: u64, n: usize) -> Result<&mut [u8], Fault> {
        let len = self.launch.program.local_bytes;
        let range = slice_of(at, n, len, thread % 32, "local memory")?;
        Ok(&mut self.local[thread * len..][range])
    }

    /// Bytes of constant memory.
    fn constant(&self, lane: usize, at: u64, n: usize) -> Result<&[u8], Fault> {
        let bank = &self.launch.program.constant_bank;
        Ok(&bank[slice_of(at, n, bank.len(), lane, "constant memory")?])
    }
}

pub(super) fn load_local(
    w: &mut Warp,
    b: &mut Block<'_>,
    i: &Instruction,
    m: u32,
) -> Result<(), Fault> {
    let at = addresses(w, i.o[0], i.offset);
    load_lanes(w, i, m, |w, lane, out| {
        let n = out.len();
        out.copy_from_slice(b.local_of(w.index * 32 + lane, at[lane], n)?);
        Ok(())
    })
}

pub(super) fn store_local(
    w: &mut Warp,
    b: &mut Block<'_>,
    i: &Instruction,
    m: u32,
) -> Result<(), Fault> {
    let at = addresses(w, i.o[0], i.offset);
    store_lanes(w, i, m, |lane, bytes| {
        b.local_of(w.index * 32 + lane, at[lane], bytes.len())?
            .copy_from_slice(bytes);
        Ok(())
    })
}

pub(super) fn load_const(
    w: &mut Warp,
    b: &mut Block<'_>,
    i: &Instruction,
    m: u32,
) -> Result<(), Fault> {
    let at = addresses(w, i.o[0], i.offset);
    load_lanes(w, i, m, |_, lane, out| {
        out.copy_from_slice(b.constant(lane, at[lane], out.len())?);
        Ok(())
    })
}

pub(super) fn load_param(
    w: &mut Warp,
    b: &mut Block<'_>,
    i: &Instruction,
    m: u32,
) -> Result<(), Fault> {
    let at = addresses(w, i.o[0], i.offset);
    let params = b.launch.params;
    if i.o[0].is_constant() {
        // One value for all.
        let n = element_bytes(i);
        let range = slice_of(at[0], n * i.list.len(), params.len(), 0, "parameters")?;
        for (reg, element) in i.list.iter().zip(params[range].chunks_exact(n)) {
            let value = element
                .iter()
                .rev()
                .fold(0u64, |value, byte| value << 8 | u64::from(*byte));
            let value = extend(value, i.control);
            match reg.class() {
                Class::Narrow => w.registers.set_narrow(*reg, m, &[value as u32; LANES]),
                Class::Wide | Class::Predicate => w.registers.set_cut(*reg, m, &[value; LANES]),
            }
        }
        return Ok(());
    }
    load_lanes(w, i, m, |_, lane, out| {
        let range = slice_of(at[lane], out.len(), params.len(), lane, "parameters")?;
        out.copy_from_slice(&params[range]);
        Ok(())
    })
}

pub(super) fn load_generic(
    w: &mut Warp,
    b: &mut Block<'_>,
    i: &Instruction,
    m: u32,
) -> Result<(), Fault> {
    let at = addresses(w, i.o[0], i.offset);
    let outside = outside_windows(&at, m);
    if outside == m {
        return load_global(w, b, i, m);
    }
    load_lanes(w, i, m, |w, lane, out| {
        let a = at[lane];
        match a & !(WINDOW - 1) {
            SHARED_WINDOW => {
                let by = b.by(w, lane);
                out.copy_from_slice(b.shared.read(a - SHARED_WINDOW, out.len(), by)?);
            }
            LOCAL_WINDOW => {
                let n = out.len();
                out.copy_from_slice(b.local_of(w.index * 32 + lane, a - LOCAL_WINDOW, n)?);
            }
            CONST_WINDOW => {
                out.copy_from_slice(b.constant(lane, a - CONST_WINDOW, out.len())?);
            }
            _ => {
                let pointers = b.global(
                    &at,
                    1 << lane,
                    out.len() as u64,
                    Access::Read(Through::First),
                )?;
                for (k, byte) in out.iter_mut().enumerate() {
                    *byte = read(pointers[lane].wrapping_add(k), 1) as u8;
                }
            }
        }
        Ok(())
    })
}

pub(super) fn store_generic(
    w: &mut Warp,
    b: &mut Block<'_>,
    i: &Instruction,
    m: u32,
) -> Result<(), Fault> {
    let at = addresses(w, i.o[0], i.offset);
    let outside = outside_windows(&at, m);
    if outside == m {
        return store_global(w, b, i, m);
    }
    store_lanes(w, i, m, |lane, bytes| {
        let a = at[lane];
        match a & !(WINDOW - 1) {
            SHARED_WINDOW => {
                let by = b.by(w, lane);
                b.shared.write(a - SHARED_WINDOW, bytes, by)?;
            }
            LOCAL_WINDOW => {
                b.local_of(w.index * 32 + lane, a - LOCAL_WINDOW, bytes.len())?
                    .copy_from_slice(bytes);
            }
            CONST_WINDOW => {
                return Err(Fault::at_lane(
                    Kind::Address,
                    lane,
                    "writes to constant memory",
                ));
            }
            _ => {
                let pointers = b.global(&at, 1 << lane, bytes.len() as u64, Access::Write)?;
                for (k, byte) in bytes.iter().enumerate() {
                    write(pointers[lane].wrapping_add(k), 1, u64::from(*byte));
                }
            }
        }
        Ok(())
    })
}

/// Lanes of the mask whose generic address is in global memory.
pub(in crate::exec) fn outside_windows(at: &[u64; LANES], mask: u32) -> u32 {
    lanes(mask)
        .filter(|lane| !(SHARED_WINDOW..CONST_WINDOW + WINDOW).contains(&at[*lane]))
        .fold(0, |bits, lane| bits | 1 << lane)
}

const WINDOW: u64 = 1 << 40;
