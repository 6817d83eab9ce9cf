//! Loads and stores in all state spaces.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::{Class, Decoded, Exec, LANES, Reg};
use crate::block::{Block, Warp};
use crate::device::Direction;
use crate::fault::{Fault, Kind};
use crate::program::{Builder, Instruction, Opcode};
use crate::ptx::{Operand, Space, Statement, Type};

/// Generic addresses of shared, local and constant memory begin here; each window is 2^40 bytes.
pub(super) const SHARED_WINDOW: u64 = 0x0d00_0000_0000;
pub(super) const LOCAL_WINDOW: u64 = 0x0e00_0000_0000;
pub(super) const CONST_WINDOW: u64 = 0x0f00_0000_0000;

/// Kind of an access to global memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    /// Reads and writes; what it reads must have been written.
    Atomic,
}

pub(super) fn decode(b: &mut Builder, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    if op.name.starts_with("prefetch") {
        op.take_hints(&["L1", "L2", "L2::evict_last", "L2::evict_normal"]);
        op.take_space();
        return Ok(Instruction::of(|_, _, _, _| Ok(()), [Reg::default(); 4]));
    }
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
    if is_load && space == Space::Param && reg.is_constant() {
        if let Operand::Address(base, _) = address
            && let Operand::Name(name) = &**base
            && let Some(at) = b.symbol(name)
        {
            b.note_load(list[0], at as usize + offset as usize);
        }
    } else if matches!(space, Space::Global | Space::Generic) {
        b.note_pointer(reg);
    }
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
    out.control = control(ty);
    Ok(out)
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
pub(super) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |lane| mask >> lane & 1 == 1)
}

impl Block<'_> {
    /// Host pointers of `n` bytes at each address, once it is known that the lanes may touch them.
    pub(super) fn global(
        &mut self,
        addresses: &[u64; LANES],
        mask: u32,
        n: u64,
        access: Access,
    ) -> Result<[*mut u8; LANES], Fault> {
        let (mut least, mut most, mut low_bits) = (u64::MAX, 0, 0);
        for lane in 0..LANES {
            if mask >> lane & 1 == 1 {
                least = least.min(addresses[lane]);
                most = most.max(addresses[lane]);
                low_bits |= addresses[lane];
            }
        }
        if low_bits & (n - 1) != 0 {
            return Err(misaligned(addresses, mask, n));
        }
        let is_one = self.view.find(least, most.saturating_add(n)).is_some();
        let mut out = [std::ptr::null_mut(); LANES];
        if is_one {
            self.region_pointers(addresses, mask, n, access, &mut out)?;
        } else {
            for lane in lanes(mask) {
                self.region_pointers(addresses, 1 << lane, n, access, &mut out)?;
            }
        }
        Ok(out)
    }

    /// As [`Self::global`], of addresses that lie in one region if they lie in any.
    fn region_pointers(
        &mut self,
        addresses: &[u64; LANES],
        mask: u32,
        n: u64,
        access: Access,
        out: &mut [*mut u8; LANES],
    ) -> Result<(), Fault> {
        let first = addresses[mask.trailing_zeros() as usize];
        if self.view.find(first, first.saturating_add(n)).is_none() {
            let lane = mask.trailing_zeros() as usize;
            let text = self.view.describe(first);
            return Err(Fault::at_lane(
                Kind::Address,
                lane,
                format!("{} {n} bytes: {text}", verb(access)),
            ));
        }
        let launch = self.launch;
        let Some(region) = self.view.find(first, first + n) else {
            return Err(Fault::new(Kind::Address, "no region"));
        };
        for lane in 0..LANES {
            if mask >> lane & 1 == 1 {
                out[lane] = region.pointer(addresses[lane]);
            }
        }
        if !region.written.is_full() {
            for lane in lanes(mask) {
                let at = addresses[lane] - region.base;
                if access != Access::Write
                    && launch.unwritten
                    && let Some(byte) = region.written.first_unwritten(at, n)
                {
                    let len = region.len;
                    let text = format!(
                        "reads byte {byte} of an allocation of {len} bytes, which nothing wrote"
                    );
                    return Err(Fault::at_lane(Kind::Uninitialized, lane, text));
                }
                if access != Access::Read {
                    region.written.mark(at, n);
                }
            }
        }
        if let Some(traffic) = launch.traffic
            && matches!(region.home, crate::device::Home::Device(_))
        {
            let touched = match &self.touched {
                Some(touched) if touched.is_of(region) => touched,
                _ => &*self.touched.insert(traffic.touched(region)),
            };
            if access != Access::Write {
                traffic.count(touched, addresses, mask, n, Direction::Read);
            }
            if access != Access::Read {
                traffic.count(touched, addresses, mask, n, Direction::Write);
            }
        }
        Ok(())
    }
}

fn verb(access: Access) -> &'static str {
    match access {
        Access::Read => "reads",
        Access::Write => "writes",
        Access::Atomic => "changes",
    }
}

#[cold]
fn misaligned(addresses: &[u64; LANES], mask: u32, n: u64) -> Fault {
    let lane = lanes(mask)
        .find(|lane| addresses[*lane] & (n - 1) != 0)
        .unwrap_or(0);
    let text = format!("{n} bytes at {:#x}: not aligned", addresses[lane]);
    Fault::at_lane(Kind::Misaligned, lane, text)
}

/// One element of 1 to 8 bytes.
#[inline(always)]
#[expect(
    unsafe_code,
    reason = "memory of the device is reached by its host pointer"
)]
fn read(pointer: *mut u8, bytes: usize) -> u64 {
    // SAFETY: the pointer comes from `Block::global`, which held it against the live regions and its alignment. Other blocks
    // access the same bytes atomically too, so that there is no data race in the host's sense.
    unsafe {
        match bytes {
            1 => AtomicU8::from_ptr(pointer).load(Relaxed).into(),
            2 => AtomicU16::from_ptr(pointer.cast()).load(Relaxed).into(),
            4 => AtomicU32::from_ptr(pointer.cast()).load(Relaxed).into(),
            _ => AtomicU64::from_ptr(pointer.cast()).load(Relaxed),
        }
    }
}

#[inline(always)]
#[expect(
    unsafe_code,
    reason = "memory of the device is reached by its host pointer"
)]
fn write(pointer: *mut u8, bytes: usize, value: u64) {
    // SAFETY: as in `read`.
    unsafe {
        match bytes {
            1 => AtomicU8::from_ptr(pointer).store(value as u8, Relaxed),
            2 => AtomicU16::from_ptr(pointer.cast()).store(value as u16, Relaxed),
            4 => AtomicU32::from_ptr(pointer.cast()).store(value as u32, Relaxed),
            _ => AtomicU64::from_ptr(pointer.cast()).store(value, Relaxed),
        }
    }
}

#[inline(always)]
fn extend(value: u64, control: u32) -> u64 {
    match control {
        0x101 => value as i8 as u64,
        0x102 => value as i16 as u64,
        0x104 => value as i32 as u64,
        _ => value,
    }
}

fn element_bytes(i: &Instruction) -> usize {
    (i.control & 0xff) as usize
}

fn load_global(w: &mut Warp, b: &mut Block<'_>, i: &Instruction, m: u32) -> Result<(), Fault> {
    let at = addresses(w, i.o[0], i.offset);
    let bytes = element_bytes(i);
    let pointers = b.global(&at, m, (bytes * i.list.len()) as u64, Access::Read)?;
    for (k, reg) in i.list.iter().enumerate() {
        macro_rules! of_bytes {
            ($n:literal) => {
                std::array::from_fn(|lane| {
                    if m >> lane & 1 == 0 {
                        return 0;
                    }
                    extend(read(pointers[lane].wrapping_add($n * k), $n), i.control)
                })
            };
        }
        let values: [u64; LANES] = match bytes {
            1 => of_bytes!(1),
            2 => of_bytes!(2),
            4 => of_bytes!(4),
            _ => of_bytes!(8),
        };
        w.registers.set_cut(*reg, m, &values);
    }
    Ok(())
}

fn store_global(w: &mut Warp, b: &mut Block<'_>, i: &Instruction, m: u32) -> Result<(), Fault> {
    let at = addresses(w, i.o[0], i.offset);
    let bytes = element_bytes(i);
    let pointers = b.global(&at, m, (bytes * i.list.len()) as u64, Access::Write)?;
    for (k, reg) in i.list.iter().enumerate() {
        let values = w.registers.extended(*reg);
        for lane in lanes(m) {
            write(pointers[lane].wrapping_add(bytes * k), bytes, values[lane]);
        }
    }
    Ok(())
}

/// Reads each lane's bytes by `bytes_of`, and puts them into the registers of the list.
#[inline(always)]
fn load_lanes(
    w: &mut Warp,
    i: &Instruction,
    mask: u32,
    mut bytes_of: impl FnMut(&Warp, usize, &mut [u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let bytes = element_bytes(i);
    let mut out = [[0u64; LANES]; 4];
    for lane in lanes(mask) {
        let mut buffer = [0; 32];
        bytes_of(w, lane, &mut buffer[..bytes * i.list.len()])?;
        for (k, values) in out.iter_mut().enumerate().take(i.list.len()) {
            let mut element = [0; 8];
            element[..bytes].copy_from_slice(&buffer[bytes * k..][..bytes]);
            values[lane] = extend(u64::from_le_bytes(element), i.control);
        }
    }
    for (reg, values) in i.list.iter().zip(&out) {
        w.registers.set_cut(*reg, mask, values);
    }
    Ok(())
}

/// Takes each lane's bytes from the registers of the list, and gives them to `put`.
#[inline(always)]
fn store_lanes(
    w: &Warp,
    i: &Instruction,
    mask: u32,
    mut put: impl FnMut(usize, &[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let bytes = element_bytes(i);
    let mut values = [[0u64; LANES]; 4];
    for (reg, values) in i.list.iter().zip(&mut values) {
        *values = w.registers.extended(*reg);
    }
    for lane in lanes(mask) {
        let mut buffer = [0; 32];
        for (k, values) in values.iter().enumerate().take(i.list.len()) {
            buffer[bytes * k..][..bytes].copy_from_slice(&values[lane].to_le_bytes()[..bytes]);
        }
        put(lane, &buffer[..bytes * i.list.len()])?;
    }
    Ok(())
}

fn load_shared(w: &mut Warp, b: &mut Block<'_>, i: &Instruction, m: u32) -> Result<(), Fault> {
    let at = addresses(w, i.o[0], i.offset);
    load_lanes(w, i, m, |w, lane, out| {
        let by = b.by(w, lane);
        out.copy_from_slice(b.shared.read(at[lane], out.len(), by)?);
        Ok(())
    })
}

fn store_shared(w: &mut Warp, b: &mut Block<'_>, i: &Instruction, m: u32) -> Result<(), Fault> {
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
    if at % n as u64 != 0 {
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
}

fn load_local(w: &mut Warp, b: &mut Block<'_>, i: &Instruction, m: u32) -> Result<(), Fault> {
    let at = addresses(w, i.o[0], i.offset);
    load_lanes(w, i, m, |w, lane, out| {
        let n = out.len();
        out.copy_from_slice(b.local_of(w.index * 32 + lane, at[lane], n)?);
        Ok(())
    })
}

fn store_local(w: &mut Warp, b: &mut Block<'_>, i: &Instruction, m: u32) -> Result<(), Fault> {
    let at = addresses(w, i.o[0], i.offset);
    store_lanes(w, i, m, |lane, bytes| {
        b.local_of(w.index * 32 + lane, at[lane], bytes.len())?
            .copy_from_slice(bytes);
        Ok(())
    })
}

fn load_const(w: &mut Warp, b: &mut Block<'_>, i: &Instruction, m: u32) -> Result<(), Fault> {
    let at = addresses(w, i.o[0], i.offset);
    let bank = &b.launch.program.constant_bank;
    load_lanes(w, i, m, |_, lane, out| {
        let range = slice_of(at[lane], out.len(), bank.len(), lane, "constant memory")?;
        out.copy_from_slice(&bank[range]);
        Ok(())
    })
}

fn load_param(w: &mut Warp, b: &mut Block<'_>, i: &Instruction, m: u32) -> Result<(), Fault> {
    let at = addresses(w, i.o[0], i.offset);
    let params = b.launch.params;
    load_lanes(w, i, m, |_, lane, out| {
        let range = slice_of(at[lane], out.len(), params.len(), lane, "parameters")?;
        out.copy_from_slice(&params[range]);
        Ok(())
    })
}

fn load_generic(w: &mut Warp, b: &mut Block<'_>, i: &Instruction, m: u32) -> Result<(), Fault> {
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
                let bank = &b.launch.program.constant_bank;
                let range = slice_of(
                    a - CONST_WINDOW,
                    out.len(),
                    bank.len(),
                    lane,
                    "constant memory",
                )?;
                out.copy_from_slice(&bank[range]);
            }
            _ => {
                let pointers = b.global(&at, 1 << lane, out.len() as u64, Access::Read)?;
                for (k, byte) in out.iter_mut().enumerate() {
                    *byte = read(pointers[lane].wrapping_add(k), 1) as u8;
                }
            }
        }
        Ok(())
    })
}

fn store_generic(w: &mut Warp, b: &mut Block<'_>, i: &Instruction, m: u32) -> Result<(), Fault> {
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
pub(super) fn outside_windows(at: &[u64; LANES], mask: u32) -> u32 {
    lanes(mask)
        .filter(|lane| !(SHARED_WINDOW..CONST_WINDOW + WINDOW).contains(&at[*lane]))
        .fold(0, |bits, lane| bits | 1 << lane)
}

const WINDOW: u64 = 1 << 40;

/// Orders of memory and hints to caches: they change no value here, where every access is done in turn.
pub(super) const HINTS: [&str; 33] = [
    "nc",
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
