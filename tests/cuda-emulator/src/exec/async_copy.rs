//! Copies from global to shared memory that arrive when they are waited for, and not before.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use super::memory::{Access, HINTS, Through, addresses, lanes};
use super::{Class, Decoded, LANES, Reg};
use crate::block::{Block, Warp};
use crate::fault::{Fault, Kind};
use crate::program::{Builder, Instruction, Opcode};
use crate::ptx::{Operand, Statement, Type};
use crate::shared::{By, Shared};

/// Copies of a warp's threads that are under way.
#[derive(Default)]
pub(crate) struct Copies {
    pending: Vec<Pending>,
    /// Groups that each lane has committed.
    committed: [u64; LANES],
}

struct Pending {
    lane: usize,
    /// Number of the group that it was committed with.
    group: Option<u64>,
    to: u64,
    bytes: [u8; 16],
    n: usize,
}

impl Copies {
    fn commit(&mut self, mask: u32) {
        for pending in &mut self.pending {
            if mask >> pending.lane & 1 == 1 && pending.group.is_none() {
                pending.group = Some(self.committed[pending.lane]);
            }
        }
        for lane in lanes(mask) {
            self.committed[lane] += 1;
        }
    }

    /// Lets all groups arrive but the newest `n`.
    fn wait(&mut self, mask: u32, n: u64, warp: usize, pc: u32, shared: &mut Shared) {
        let committed = self.committed;
        self.pending.retain(|pending| {
            let is_old = pending
                .group
                .is_some_and(|group| group + n < committed[pending.lane]);
            let arrives = mask >> pending.lane & 1 == 1 && is_old;
            if arrives {
                let by = By {
                    thread: warp * 32 + pending.lane,
                    pc,
                };
                shared.end_copy(pending.to, &pending.bytes[..pending.n], by);
            }
            !arrives
        });
    }

    /// Lets everything arrive, as it does at the latest when a thread ends.
    pub(crate) fn finish(&mut self, mask: u32, warp: usize, pc: u32, shared: &mut Shared) {
        if !self.pending.is_empty() {
            self.commit(mask);
            self.wait(mask, 0, warp, pc, shared);
        }
    }
}

pub(super) fn decode(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    if !op.take("async") {
        return Err("an unknown form of cp".into());
    }
    if op.take("commit_group") {
        return Ok(Instruction::of(
            |w, _, _, m| {
                w.copies.commit(m);
                Ok(())
            },
            [Reg::default(); 4],
        ));
    }
    if op.take("wait_all") {
        return Ok(Instruction::of(
            |w, b, _, m| {
                w.copies.finish(m, w.index, w.running, &mut b.shared);
                Ok(())
            },
            [Reg::default(); 4],
        ));
    }
    if op.take("wait_group") {
        let [Operand::Number(n)] = &s.operands[..] else {
            return Err("wait_group has a number".into());
        };
        let mut out = Instruction::of(
            |w, b, i, m| {
                let n = u64::from(i.control);
                w.copies.wait(m, n, w.index, w.running, &mut b.shared);
                Ok(())
            },
            [Reg::default(); 4],
        );
        out.control = *n as u32;
        return Ok(out);
    }
    copy(b, op, s)
}

/// `cp.async.ca.shared.global [to], [from], n{, n_read};`
fn copy(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    if !(op.take("shared") || op.take("shared::cta")) || !op.take("global") {
        return Err("only copies from global to shared memory are known".into());
    }
    let whole_only = op.take("cg");
    if op.take("L2::cache_hint") {
        return Err("a cache policy is unknown here".into());
    }
    op.take_hints(&HINTS);
    let [to, from, Operand::Number(n), rest @ ..] = &s.operands[..] else {
        return Err("two addresses and a number of bytes are expected".into());
    };
    if !(matches!(n, 4 | 8) && !whole_only || *n == 16) {
        return Err(format!("a copy of {n} bytes"));
    }
    let (to, to_offset) = b.address(to)?;
    let (from, from_offset) = b.address(from)?;
    b.note_pointer(from);
    let n_read = match rest {
        [] => b.constant(false, *n),
        [one] => b.source(one, Type::U32)?,
        _ => return Err("too many operands".into()),
    };
    // The offset of the destination has no field of its own: it becomes a constant.
    let to_offset = b.constant(true, to_offset as u64);
    let mut out = Instruction::of(issue, [to, from, n_read, to_offset]);
    out.offset = from_offset;
    out.control = *n as u32 | u32::from(whole_only) << 8;
    Ok(out)
}

/// Copies with `cg` leave nothing in the first cache, those with `ca` do.
fn through(i: &Instruction) -> Access {
    Access::Read(match i.control >> 8 {
        0 => Through::First,
        _ => Through::Second,
    })
}

#[expect(
    unsafe_code,
    reason = "memory of the device is reached by its host pointer"
)]
fn issue(w: &mut Warp, b: &mut Block<'_>, i: &Instruction, m: u32) -> Result<(), Fault> {
    let n = (i.control & 255) as usize;
    let to_offset = w.registers.wide(i.o[3])[0] as i64;
    let (to, from) = (
        addresses(w, i.o[0], to_offset),
        addresses(w, i.o[1], i.offset),
    );
    let n_read = *w.registers.narrow(i.o[2]);
    debug_assert_eq!(i.o[2].class(), Class::Narrow);
    // What is not read is zero. Lanes that read less than all are few: one by one.
    for lane in lanes(m) {
        let n_read = n_read[lane] as usize;
        if n_read > n {
            let text = format!("copies {n_read} of {n} bytes");
            return Err(Fault::at_lane(Kind::Failed, lane, text));
        }
        let by = b.by(w, lane);
        b.shared.begin_copy(to[lane], n, by)?;
    }
    let full = lanes(m)
        .filter(|lane| n_read[*lane] as usize == n)
        .fold(0, |bits, lane| bits | 1 << lane);
    let mut pointers = [std::ptr::null_mut(); LANES];
    if full != 0 {
        pointers = b.global(&from, full, n as u64, through(i))?;
    }
    for lane in lanes(m & !full) {
        let part = n_read[lane];
        // Bytes one by one: a part need not be a power of two.
        for k in 0..u64::from(part) {
            let at = from.map(|a| a + k);
            let one = b.global(&at, 1 << lane, 1, through(i))?;
            if k == 0 {
                pointers[lane] = one[lane];
            }
        }
        if from[lane] % n as u64 != 0 {
            let text = format!("{n} bytes at {:#x}: not aligned", from[lane]);
            return Err(Fault::at_lane(Kind::Misaligned, lane, text));
        }
    }
    for lane in lanes(m) {
        let mut bytes = [0; 16];
        for (k, byte) in bytes.iter_mut().enumerate().take(n_read[lane] as usize) {
            // SAFETY: `Block::global` held these bytes against the live regions.
            *byte = unsafe { AtomicU8::from_ptr(pointers[lane].wrapping_add(k)) }.load(Relaxed);
        }
        w.copies.pending.push(Pending {
            lane,
            group: None,
            to: to[lane],
            bytes,
            n,
        });
    }
    Ok(())
}
