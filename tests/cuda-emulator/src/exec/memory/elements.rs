//! The way between bytes in memory and registers, element by element.

use super::{LANES, lanes};
use crate::block::Warp;
use crate::fault::Fault;
use crate::program::Instruction;

/// Reads each lane's elements by `bytes_of`, and puts them into the registers of the list. Once for each size of an element,
/// so that copies are of a known length.
#[inline(always)]
pub(super) fn load_lanes(
    w: &mut Warp,
    i: &Instruction,
    mask: u32,
    bytes_of: impl FnMut(&Warp, usize, &mut [u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    match element_bytes(i) {
        1 => load_elements::<1>(w, i, mask, bytes_of),
        2 => load_elements::<2>(w, i, mask, bytes_of),
        4 => load_elements::<4>(w, i, mask, bytes_of),
        _ => load_elements::<8>(w, i, mask, bytes_of),
    }
}

#[inline(always)]
pub(super) fn load_elements<const N: usize>(
    w: &mut Warp,
    i: &Instruction,
    mask: u32,
    mut bytes_of: impl FnMut(&Warp, usize, &mut [u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let widen = |element: [u8; N]| {
        let mut all = [0; 8];
        all[..N].copy_from_slice(&element);
        extend(u64::from_le_bytes(all), i.control)
    };
    if let [reg] = &i.list[..] {
        let mut out = [0; LANES];
        for lane in lanes(mask) {
            let mut element = [0; N];
            bytes_of(w, lane, &mut element)?;
            out[lane] = widen(element);
        }
        w.registers.set_cut(*reg, mask, &out);
        return Ok(());
    }
    let mut out = [[0; LANES]; 4];
    for lane in lanes(mask) {
        let mut elements = [[0; N]; 4];
        bytes_of(w, lane, elements[..i.list.len()].as_flattened_mut())?;
        for (values, element) in out.iter_mut().zip(elements) {
            values[lane] = widen(element);
        }
    }
    for (reg, values) in i.list.iter().zip(&out) {
        w.registers.set_cut(*reg, mask, values);
    }
    Ok(())
}

/// Takes each lane's bytes from the registers of the list, and gives them to `put`.
#[inline(always)]
pub(super) fn store_lanes(
    w: &Warp,
    i: &Instruction,
    mask: u32,
    put: impl FnMut(usize, &[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    match element_bytes(i) {
        1 => store_elements::<1>(w, i, mask, put),
        2 => store_elements::<2>(w, i, mask, put),
        4 => store_elements::<4>(w, i, mask, put),
        _ => store_elements::<8>(w, i, mask, put),
    }
}

#[inline(always)]
pub(super) fn store_elements<const N: usize>(
    w: &Warp,
    i: &Instruction,
    mask: u32,
    mut put: impl FnMut(usize, &[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let narrow = |value: u64| -> [u8; N] {
        let all = value.to_le_bytes();
        std::array::from_fn(|k| all[k])
    };
    if let [reg] = &i.list[..] {
        let values = w.registers.extended(*reg);
        for lane in lanes(mask) {
            put(lane, &narrow(values[lane]))?;
        }
        return Ok(());
    }
    let mut values = [[0u64; LANES]; 4];
    for (reg, values) in i.list.iter().zip(&mut values) {
        *values = w.registers.extended(*reg);
    }
    for lane in lanes(mask) {
        let elements: [[u8; N]; 4] = std::array::from_fn(|k| narrow(values[k][lane]));
        put(lane, elements[..i.list.len()].as_flattened())?;
    }
    Ok(())
}

#[inline(always)]
pub(super) fn extend(value: u64, control: u32) -> u64 {
    match control & 0xffff {
        0x101 => value as i8 as u64,
        0x102 => value as i16 as u64,
        0x104 => value as i32 as u64,
        _ => value,
    }
}

pub(super) fn element_bytes(i: &Instruction) -> usize {
    (i.control & 0xff) as usize
}
