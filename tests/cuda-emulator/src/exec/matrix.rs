//! Tensor cores: `ldmatrix` and `mma.sync`, with the layouts of their fragments over lanes and registers.

use half::{bf16, f16};

use super::convert::tf32;
use super::memory::addresses;
use super::{Decoded, Exec, LANES, Reg};
use crate::block::{Block, Warp};
use crate::fault::{Fault, Kind};
use crate::program::{Builder, Flow, Instruction, Opcode};
use crate::ptx::{Statement, Type};

pub(super) fn decode(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    if !op.take("sync") || !op.take("aligned") {
        return Err("only the forms with .sync.aligned are known".into());
    }
    let mut out = if op.name == "ldmatrix" {
        load(b, op, s)?
    } else {
        multiply(b, op, s)?
    };
    out.flow = Flow::Warp(b.constant(false, u64::from(u32::MAX)));
    Ok(out)
}

fn whole_warp(mask: u32) -> Result<(), Fault> {
    if mask == u32::MAX {
        Ok(())
    } else {
        let text = format!("lanes {mask:08x} alone at an instruction of the whole warp");
        Err(Fault::new(Kind::Barrier, text))
    }
}

/// `ldmatrix.sync.aligned.m8n8.xN{.trans}.shared.b16 {d…}, [a]`: lane `8 q + r` names row `r` of matrix `q`.
fn load(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    if !op.take("m8n8") || !(op.take("shared") || op.take("shared::cta")) {
        return Err("an unknown form of ldmatrix".into());
    }
    let n = match op.take_of(&["x1", "x2", "x4"]) {
        Some("x1") => 1,
        Some("x2") => 2,
        Some(_) => 4,
        None => return Err("ldmatrix without its count".into()),
    };
    let is_transposed = op.take("trans");
    op.take("b16");
    let [dest, address] = &s.operands[..] else {
        return Err("ldmatrix has two operands".into());
    };
    let list = b.vector(dest, Type::B32, true)?;
    if list.len() != n {
        return Err(format!("{} registers for {n} matrices", list.len()));
    }
    let (reg, offset) = b.address(address)?;
    let mut out = Instruction::of(load_matrices, [reg; 4]);
    out.list = list;
    out.offset = offset;
    out.control = u32::from(is_transposed);
    Ok(out)
}

fn load_matrices(w: &mut Warp, b: &mut Block<'_>, i: &Instruction, m: u32) -> Result<(), Fault> {
    whole_warp(m)?;
    let at = addresses(w, i.o[0], i.offset);
    for (matrix, reg) in i.list.iter().enumerate() {
        let mut rows = [[0u16; 8]; 8];
        for (row, values) in rows.iter_mut().enumerate() {
            let lane = matrix * 8 + row;
            let by = b.by(w, lane);
            let bytes = b.shared.read(at[lane] & 0xffff_ffff, 16, by)?;
            for (value, two) in values.iter_mut().zip(bytes.chunks_exact(2)) {
                *value = u16::from_le_bytes([two[0], two[1]]);
            }
        }
        let out = std::array::from_fn(|lane| {
            let (row, col) = (lane / 4, lane % 4 * 2);
            let (low, high) = if i.control == 0 {
                (rows[row][col], rows[row][col + 1])
            } else {
                (rows[col][row], rows[col + 1][row])
            };
            u32::from(low) | u32::from(high) << 16
        });
        w.registers.set_narrow(*reg, m, &out);
    }
    Ok(())
}

/// `mma.sync.aligned.shape.row.col.d.a.b.c {d…}, {a…}, {b…}, {c…}`.
fn multiply(b: &mut Builder<'_>, op: &mut Opcode<'_>, s: &Statement) -> Decoded {
    let shape = op
        .take_of(&["m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32", "m8n8k16"])
        .ok_or("no known shape")?;
    if !op.take("row") || !op.take("col") {
        return Err("only .row.col is known".into());
    }
    let saturates = op.take("satfinite");
    let types = [
        op.take_type()?,
        op.take_type()?,
        op.take_type()?,
        op.take_type()?,
    ];
    let exec: Exec = match (shape, types) {
        ("m16n8k16", [Type::F32, Type::F16, Type::F16, Type::F32]) => {
            |w, _, i, m| floats::<16>(w, i, m, 2, half_of)
        }
        ("m16n8k8", [Type::F32, Type::F16, Type::F16, Type::F32]) => {
            |w, _, i, m| floats::<8>(w, i, m, 2, half_of)
        }
        ("m16n8k16", [Type::F32, Type::Bf16, Type::Bf16, Type::F32]) => {
            |w, _, i, m| floats::<16>(w, i, m, 2, brain_of)
        }
        ("m16n8k8", [Type::F32, Type::Bf16, Type::Bf16, Type::F32]) => {
            |w, _, i, m| floats::<8>(w, i, m, 2, brain_of)
        }
        ("m16n8k8", [Type::F32, Type::Tf32, Type::Tf32, Type::F32]) => {
            |w, _, i, m| floats::<8>(w, i, m, 1, |bits, _| tf32(bits))
        }
        ("m16n8k4", [Type::F32, Type::Tf32, Type::Tf32, Type::F32]) => {
            |w, _, i, m| floats::<4>(w, i, m, 1, |bits, _| tf32(bits))
        }
        ("m16n8k32", [Type::S32, Type::S8, Type::S8, Type::S32]) => {
            |w, _, i, m| integers::<32, 16>(w, i, m)
        }
        ("m16n8k16", [Type::S32, Type::S8, Type::S8, Type::S32]) => {
            |w, _, i, m| integers::<16, 16>(w, i, m)
        }
        ("m8n8k16", [Type::S32, Type::S8, Type::S8, Type::S32]) => {
            |w, _, i, m| integers::<16, 8>(w, i, m)
        }
        _ => return Err("a product of this shape and of these types is unknown".into()),
    };
    let [d, left, right, c] = &s.operands[..] else {
        return Err("mma has four operands".into());
    };
    let word = Type::B32;
    let parts = [
        b.vector(d, word, true)?,
        b.vector(left, word, false)?,
        b.vector(right, word, false)?,
        b.vector(c, word, false)?,
    ];
    let per_register = if types[1] == Type::Tf32 {
        1
    } else {
        4 / types[1].bytes()
    };
    let k: usize = shape
        .rsplit_once('k')
        .and_then(|(_, k)| k.parse().ok())
        .unwrap_or(0);
    let rows = if shape.starts_with("m16") { 16 } else { 8 };
    let n_right = k / (4 * per_register);
    let expected = [rows / 4, n_right * rows / 8, n_right, rows / 4];
    if parts.iter().map(|part| part.len()).ne(expected) {
        return Err(format!("fragments of other lengths than {expected:?}"));
    }
    let mut out = Instruction::of(exec, [Reg::default(); 4]);
    out.list = parts.iter().flat_map(|part| part.iter().copied()).collect();
    out.control = u32::from(saturates);
    Ok(out)
}

fn half_of(bits: u32, at: usize) -> f32 {
    f16::from_bits((bits >> (16 * at)) as u16).to_f32()
}

fn brain_of(bits: u32, at: usize) -> f32 {
    bf16::from_bits((bits >> (16 * at)) as u16).to_f32()
}

/// A fragment as a matrix: `per` elements of a row in each register, four lanes to a row, eight rows to a register; the
/// registers of the rows from 8 on come next, then those of the columns behind.
fn gather<T: Copy + Default, const K: usize, const ROWS: usize>(
    w: &Warp,
    list: &[Reg],
    per: usize,
    of: impl Fn(u32, usize) -> T,
) -> [[T; K]; ROWS] {
    let mut out = [[T::default(); K]; ROWS];
    let span = 4 * per;
    for (at, reg) in list.iter().enumerate() {
        let values = w.registers.narrow(*reg);
        let (first_row, first_col) = (at % (ROWS / 8) * 8, at / (ROWS / 8) * span);
        for lane in 0..LANES {
            for element in 0..per {
                out[first_row + lane / 4][first_col + lane % 4 * per + element] =
                    of(values[lane], element);
            }
        }
    }
    out
}

/// Place of an accumulator: its register and lane.
fn accumulator(row: usize, col: usize) -> (usize, usize) {
    (row / 8 * 2 + col % 2, row % 8 * 4 + col / 2)
}

fn floats<const K: usize>(
    w: &mut Warp,
    i: &Instruction,
    mask: u32,
    per: usize,
    of: impl Fn(u32, usize) -> f32,
) -> Result<(), Fault> {
    whole_warp(mask)?;
    let n_right = K / (4 * per);
    let (d, rest) = i.list.split_at(4);
    let (left, rest) = rest.split_at(2 * n_right);
    let (right, c) = rest.split_at(n_right);
    let a = gather::<f64, K, 16>(w, left, per, |bits, at| f64::from(of(bits, at)));
    let b = gather::<f64, K, 8>(w, right, per, |bits, at| f64::from(of(bits, at)));
    let mut columns = [[0.0; 8]; K];
    for (col, values) in b.iter().enumerate() {
        for (k, value) in values.iter().enumerate() {
            columns[k][col] = *value;
        }
    }
    let mut out: [[u32; LANES]; 4] = std::array::from_fn(|at| *w.registers.narrow(c[at]));
    for (row, left) in a.iter().enumerate() {
        // Products of 16-bit floats are exact, and their sum is rounded once.
        let mut sums = [0.0; 8];
        for (x, right) in left.iter().zip(&columns) {
            for (sum, y) in sums.iter_mut().zip(right) {
                *sum += x * y;
            }
        }
        for (col, sum) in sums.iter().enumerate() {
            let (reg, lane) = accumulator(row, col);
            let old = f64::from(f32::from_bits(out[reg][lane]));
            out[reg][lane] = ((old + sum) as f32).to_bits();
        }
    }
    for (reg, values) in d.iter().zip(&out) {
        w.registers.set_narrow(*reg, mask, values);
    }
    Ok(())
}

fn integers<const K: usize, const ROWS: usize>(
    w: &mut Warp,
    i: &Instruction,
    mask: u32,
) -> Result<(), Fault> {
    whole_warp(mask)?;
    let n_right = K / 16;
    let (d, rest) = i.list.split_at(ROWS / 4);
    let (left, rest) = rest.split_at(n_right * ROWS / 8);
    let (right, c) = rest.split_at(n_right);
    let of = |bits: u32, at: usize| i32::from((bits >> (8 * at)) as i8);
    let a = gather::<i32, K, ROWS>(w, left, 4, of);
    let b = gather::<i32, K, 8>(w, right, 4, of);
    let mut columns = [[0; 8]; K];
    for (col, values) in b.iter().enumerate() {
        for (k, value) in values.iter().enumerate() {
            columns[k][col] = *value;
        }
    }
    let mut out = [[0; LANES]; 4];
    for (values, reg) in out.iter_mut().zip(c) {
        *values = *w.registers.narrow(*reg);
    }
    for (row, left) in a.iter().enumerate() {
        let mut sums = [0; 8];
        for (x, right) in left.iter().zip(&columns) {
            for (sum, y) in sums.iter_mut().zip(right) {
                *sum += x * y;
            }
        }
        for (col, sum) in sums.into_iter().enumerate() {
            let (reg, lane) = accumulator(row, col);
            let old = out[reg][lane] as i32;
            let new = if i.control == 1 {
                old.saturating_add(sum)
            } else {
                old.wrapping_add(sum)
            };
            out[reg][lane] = new as u32;
        }
    }
    for (reg, values) in d.iter().zip(&out) {
        w.registers.set_narrow(*reg, mask, values);
    }
    Ok(())
}
