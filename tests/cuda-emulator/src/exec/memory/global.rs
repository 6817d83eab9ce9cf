//! Global memory: accesses held against the live regions, what was written of them, and counted.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::elements::{element_bytes, extend};
use super::{Access, Class, LANES, Through, addresses, lanes};
use crate::block::{Block, Warp};
use crate::device::{Direction, Home};
use crate::fault::{Fault, Kind};
use crate::program::Instruction;

pub(super) fn load_global(
    w: &mut Warp,
    b: &mut Block<'_>,
    i: &Instruction,
    m: u32,
) -> Result<(), Fault> {
    let at = addresses(w, i.o[0], i.offset);
    let bytes = element_bytes(i);
    let through = match i.control >> 17 & 1 {
        0 => Through::First,
        _ => Through::Second,
    };
    let access = match i.control >> 16 & 1 {
        0 => Access::Read(through),
        _ => Access::ReadOnly(through),
    };
    let pointers = b.global(&at, m, (bytes * i.list.len()) as u64, access)?;
    for (k, reg) in i.list.iter().enumerate() {
        if bytes == 4 && reg.class() == Class::Narrow {
            let values = std::array::from_fn(|lane| match m >> lane & 1 {
                0 => 0,
                _ => read(pointers[lane].wrapping_add(4 * k), 4) as u32,
            });
            w.registers.set_narrow(*reg, m, &values);
            continue;
        }
        let values = std::array::from_fn(|lane| match m >> lane & 1 {
            0 => 0,
            _ => extend(
                read(pointers[lane].wrapping_add(bytes * k), bytes),
                i.control,
            ),
        });
        w.registers.set_cut(*reg, m, &values);
    }
    Ok(())
}

pub(super) fn store_global(
    w: &mut Warp,
    b: &mut Block<'_>,
    i: &Instruction,
    m: u32,
) -> Result<(), Fault> {
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

impl Block<'_> {
    /// Host pointers of `n` bytes at each address, once it is known that the lanes may touch them.
    pub(in crate::exec) fn global(
        &mut self,
        addresses: &[u64; LANES],
        mask: u32,
        n: u64,
        access: Access,
    ) -> Result<[*mut u8; LANES], Fault> {
        let (mut least, mut most, mut low_bits) = (u64::MAX, 0, 0);
        for (lane, address) in addresses.iter().enumerate() {
            if mask >> lane & 1 == 1 {
                least = least.min(*address);
                most = most.max(*address);
                low_bits |= address;
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
                if access.writes() {
                    region.written.mark(at, n);
                }
            }
        }
        if let Some(stored) = launch.stored {
            for lane in lanes(mask) {
                let at = addresses[lane] - region.base;
                if access.writes() {
                    self.known.store(stored, region, at, n);
                } else if matches!(access, Access::ReadOnly(_))
                    && let Some(byte) = self.known.first(stored, region, at, n)
                {
                    let len = region.len;
                    let text = format!(
                        "reads byte {byte} of an allocation of {len} bytes through the read-only cache, and the kernel has written it"
                    );
                    return Err(Fault::at_lane(Kind::Race, lane, text));
                }
            }
        }
        if let Some(traffic) = launch.traffic
            && matches!(region.home, Home::Device(_))
        {
            // A kernel has few buffers: the search is short.
            let known = self
                .touched
                .iter()
                .position(|touched| touched.is_of(region));
            let at = known.unwrap_or_else(|| {
                self.touched.push(traffic.touched(region));
                self.touched.len() - 1
            });
            let touched = &self.touched[at];
            let first_cache = match access {
                Access::Read(Through::First) | Access::ReadOnly(Through::First) => {
                    self.first_cache.as_mut()
                }
                Access::Read(Through::Second)
                | Access::ReadOnly(Through::Second)
                | Access::Write
                | Access::Atomic => None,
            };
            if access != Access::Write {
                traffic.count(touched, addresses, mask, n, Direction::Read, first_cache);
            }
            if access.writes() {
                traffic.count(touched, addresses, mask, n, Direction::Write, None);
            }
        }
        Ok(())
    }
}

impl Access {
    fn writes(self) -> bool {
        match self {
            Self::Read(_) | Self::ReadOnly(_) => false,
            Self::Write | Self::Atomic => true,
        }
    }
}

fn verb(access: Access) -> &'static str {
    match access {
        Access::Read(_) | Access::ReadOnly(_) => "reads",
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
pub(super) fn read(pointer: *mut u8, bytes: usize) -> u64 {
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
pub(super) fn write(pointer: *mut u8, bytes: usize, value: u64) {
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
