//! Weights as a device computes with them, encoded from a checkpoint's rows in pieces and in parallel: of the dense
//! matrix no more exists than a piece for each thread.

use std::ops::Range;
use std::sync::Arc;

use llm_arch::{Role, Unit};
use llm_plan::{Encodings, RunOn};
use llm_quant::{
    Absmax, DoubleAbsmax, Encoder, FourBit, Int8, Int8Weight, NESTED_BLOCK, Part, Scheme,
    StoredWeight, Weight4Bit, double, dynamic_map,
};
use llm_tensor::{AlignedBuf, DType, HostBytes};
use rayon::prelude::*;

use crate::rows::Rows;
use crate::{BoundModel, BoundTensor, Result, RuntimeError, quantized};

/// The weight of a bound tensor, as `encodings` has it kept for the device that computes with it: the checkpoint's own
/// bytes where these are right.
///
/// # Errors
/// [`RuntimeError::Checkpoint`] when it cannot be read, [`RuntimeError::NotQuantizable`], [`RuntimeError::Quantized`].
pub(crate) fn weight(
    model: &BoundModel,
    bound: &BoundTensor<'_>,
    encodings: &Encodings<'_>,
    run_on: RunOn,
    encoder: &dyn Encoder,
) -> Result<StoredWeight> {
    if bound.slot.role == Role::RouterTokens {
        return numbers(model, bound);
    }
    let scheme = encodings.scheme(bound.slot, bound.stored(), run_on);
    if bound.stored().stays_in(scheme) {
        return quantized::stored(model.checkpoint(), bound);
    }
    let rows = Rows::new(model.checkpoint(), bound);
    let dense = |dtype| -> Result<StoredWeight> {
        let shape = (rows.rows, rows.cols);
        Ok(StoredWeight::dense(dtype, shape, rows.load(dtype)?))
    };
    // What is quantized is first rounded to the type that it would otherwise be kept in.
    let source = encodings.dense_dtype(bound.stored());
    match scheme {
        Scheme::Dense(dtype) => dense(dtype),
        Scheme::Int8(format) => int8(&rows, source, format, encoder),
        Scheme::Int8PerUse(dtype, _) => Ok(StoredWeight {
            scheme,
            ..dense(dtype)?
        }),
        Scheme::FourBit(format) => four_bit(&rows, source, format, encoder),
        Scheme::Ggml(_) | Scheme::Fp8(_) | Scheme::Grouped(_) => Err(RuntimeError::NotEncodable {
            path: rows.path().to_owned(),
            tensor: rows.name().to_owned(),
            scheme,
        }),
    }
}

/// The same, its parts written to ranges of `out`: of a dense weight no other copy exists.
///
/// # Errors
/// As [`weight`].
///
/// # Panics
/// When `to` is no place for it.
pub(crate) fn weight_into(
    model: &BoundModel,
    bound: &BoundTensor<'_>,
    (encodings, run_on): (&Encodings<'_>, RunOn),
    encoder: &dyn Encoder,
    (to, out): (&StoredWeight<Range<usize>>, &mut [u8]),
) -> Result<()> {
    if bound.slot.role == Role::RouterTokens {
        let weight = numbers(model, bound)?;
        let elements = &mut out[to.part(Part::Weight).clone()];
        elements.copy_from_slice(weight.part(Part::Weight));
        return Ok(());
    }
    if bound.stored().stays_in(to.scheme) {
        return quantized::read(model.checkpoint(), bound, to, out);
    }
    match to.scheme {
        Scheme::Dense(dtype) | Scheme::Int8PerUse(dtype, _) => {
            let elements = &mut out[to.part(Part::Weight).clone()];
            Rows::new(model.checkpoint(), bound).load_into(dtype, elements)
        }
        Scheme::Int8(_)
        | Scheme::FourBit(_)
        | Scheme::Ggml(_)
        | Scheme::Fp8(_)
        | Scheme::Grouped(_) => {
            let weight = weight(model, bound, encodings, run_on, encoder)?;
            for (part, bytes) in weight.parts.iter() {
                out[to.part(part).clone()].copy_from_slice(bytes);
            }
            Ok(())
        }
    }
}

/// Numbers of experts, in f32.
///
/// # Errors
/// [`RuntimeError::NoSuchExpert`] when one is not among the layer's, [`RuntimeError::SameExpert`] when a row has one twice: lists of
/// an expert's rows have each row once.
fn numbers(model: &BoundModel, bound: &BoundTensor<'_>) -> Result<StoredWeight> {
    let Unit::Layer(_, layer) = bound.slot.unit else {
        unreachable!(
            "numbers of experts are a layer's, not the {}'s",
            bound.slot.unit
        )
    };
    let n_experts = model.spec().decoder.layers[layer].mlp.n_experts();
    let rows = Rows::new(model.checkpoint(), bound);
    let stored = match bound.scheme {
        Scheme::Dense(dtype) => dtype,
        _ => unreachable!("a bound tensor of numbers has numbers"),
    };
    let mut bytes = vec![0; rows.rows * rows.cols * stored.size()];
    let n_bytes = bytes.len() as u64;
    let checkpoint = model.checkpoint();
    checkpoint.read_stored_tensor(bound.tensor, 0..n_bytes, &mut bytes)?;
    let mut values = f32s(rows.rows * rows.cols);
    let numbers = bytes.chunks_exact(stored.size()).map(|bytes| match *bytes {
        [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => unreachable!("numbers of 32 or 64 bits"),
    });
    for (value, number) in as_f32s(&mut values).iter_mut().zip(numbers) {
        let expert = usize::try_from(number).ok().filter(|&n| n < n_experts);
        let Some(expert) = expert else {
            return Err(RuntimeError::NoSuchExpert {
                path: rows.path().to_owned(),
                tensor: rows.name().to_owned(),
                number,
                n_experts,
            });
        };
        *value = expert as f32;
    }
    for (token, row) in as_f32s(&mut values).chunks_exact(rows.cols).enumerate() {
        let is_again = |&i: &usize| row[..i].contains(&row[i]);
        if let Some(i) = (1..row.len()).find(is_again) {
            return Err(RuntimeError::SameExpert {
                path: rows.path().to_owned(),
                tensor: rows.name().to_owned(),
                token,
                expert: row[i] as usize,
            });
        }
    }
    let shape = (rows.rows, rows.cols);
    Ok(StoredWeight::dense(
        DType::F32,
        shape,
        HostBytes::new(values),
    ))
}

/// The rows, taken as elements of `dtype`, in a 4-bit encoding.
fn four_bit(
    rows: &Rows<'_>,
    dtype: DType,
    format: FourBit,
    encoder: &dyn Encoder,
) -> Result<StoredWeight> {
    let n = rows.rows * rows.cols;
    let block = format.block_size.get();
    let mut packed = AlignedBuf::zeroed(n.div_ceil(2));
    let mut absmax = f32s(n.div_ceil(block));
    // Pieces are whole blocks and whole rows, but for the last.
    let unit = block / gcd(rows.cols, block);
    let piece = rows_of_a_piece(rows.cols).next_multiple_of(unit);
    let pieces = packed
        .par_chunks_mut(piece * rows.cols / 2)
        .zip(as_f32s(&mut absmax).par_chunks_mut(piece * rows.cols / block));
    let source = Source { rows, dtype };
    pieces
        .enumerate()
        .try_for_each_init(Vec::new, |scratch, (i, (packed, absmax))| {
            let elements = source.piece(i * piece, piece, scratch)?;
            encoder.encode_4bit(
                format.code,
                format.block_size,
                dtype,
                elements,
                packed,
                absmax,
            );
            source.check(elements, absmax)
        })?;
    let absmax = if format.double_quant {
        Absmax::Double(double_quantized(as_f32s(&mut absmax)))
    } else {
        Absmax::Plain(HostBytes::new(absmax))
    };
    let shape = (rows.rows, rows.cols);
    let table = *format.code.table();
    let weight = Weight4Bit::new(shape, format, table, HostBytes::new(packed), absmax);
    Ok(weight.expect(LENGTHS).into())
}

/// The rows, taken as elements of `dtype`, in LLM.int8().
fn int8(
    rows: &Rows<'_>,
    dtype: DType,
    format: Int8,
    encoder: &dyn Encoder,
) -> Result<StoredWeight> {
    let mut codes = AlignedBuf::zeroed(rows.rows * rows.cols);
    let mut absmax = f32s(rows.rows);
    let piece = rows_of_a_piece(rows.cols);
    let pieces = codes
        .par_chunks_mut(piece * rows.cols)
        .zip(as_f32s(&mut absmax).par_chunks_mut(piece));
    let source = Source { rows, dtype };
    pieces
        .enumerate()
        .try_for_each_init(Vec::new, |scratch, (i, (codes, absmax))| {
            let elements = source.piece(i * piece, piece, scratch)?;
            encoder.encode_int8(dtype, elements, rows.cols, codes, absmax);
            source.check(elements, absmax)
        })?;
    let (codes, absmax) = (HostBytes::new(codes), HostBytes::new(absmax));
    let weight = Int8Weight::new((rows.rows, rows.cols), format, codes, absmax);
    Ok(weight.expect(LENGTHS).into())
}

fn double_quantized(scales: &[f32]) -> DoubleAbsmax {
    let offset = double::offset(scales);
    let mut codes = AlignedBuf::zeroed(scales.len());
    let mut absmax = f32s(scales.len().div_ceil(NESTED_BLOCK));
    scales
        .par_chunks(NESTED_PIECE * NESTED_BLOCK)
        .zip(codes.par_chunks_mut(NESTED_PIECE * NESTED_BLOCK))
        .zip(as_f32s(&mut absmax).par_chunks_mut(NESTED_PIECE))
        .for_each(|((scales, codes), absmax)| double::encode(scales, offset, codes, absmax));
    let (codes, absmax) = (HostBytes::new(codes), HostBytes::new(absmax));
    DoubleAbsmax::new(codes, absmax, Arc::new(*dynamic_map()), offset)
        .expect("a scale for every 256 codes")
}

/// Source of the pieces' elements. They are read rather than mapped: pages of a mapping that were looked at once
/// would count as the process's until the kernel wants them back.
#[derive(Clone, Copy)]
struct Source<'a> {
    rows: &'a Rows<'a>,
    dtype: DType,
}

impl Source<'_> {
    /// The elements of `n_rows` rows from `first` on, or of as many as there are.
    fn piece(self, first: usize, n_rows: usize, scratch: &mut Vec<u8>) -> Result<&[u8]> {
        let range = first..(first + n_rows).min(self.rows.rows);
        scratch.resize(range.len() * self.rows.cols * self.dtype.size(), 0);
        self.rows.read(range, self.dtype, scratch)?;
        Ok(scratch)
    }

    /// # Errors
    /// [`RuntimeError::NotQuantizable`] when a scale says that an element is no number, or none in f16.
    fn check(self, elements: &[u8], scales: &[f32]) -> Result<()> {
        if scales.iter().all(|scale| scale.is_finite()) {
            return Ok(());
        }
        let mut wide = vec![0f32; elements.len() / self.dtype.size()];
        llm_tensor::le_bytes_to_f32(self.dtype, elements, &mut wide)
            .expect("a bound tensor's elements are floating-point");
        let culprit = wide.iter().copied().find(|x| !x.is_finite());
        let largest = || wide.iter().fold(0f32, |max, x| max.max(x.abs()));
        Err(RuntimeError::NotQuantizable {
            path: self.rows.path().to_owned(),
            tensor: self.rows.name().to_owned(),
            value: culprit.unwrap_or_else(largest),
        })
    }
}

/// So many that a piece's elements and codes stay in a second-level cache.
fn rows_of_a_piece(cols: usize) -> usize {
    (PIECE_ELEMENTS / cols.max(1)).max(1)
}

/// Memory for `n` f32.
fn f32s(n: usize) -> AlignedBuf {
    AlignedBuf::zeroed(n * size_of::<f32>())
}

fn as_f32s(bytes: &mut AlignedBuf) -> &mut [f32] {
    bytemuck::cast_slice_mut(bytes)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

const LENGTHS: &str = "as many codes and scales as the format has";
/// Elements that a thread reads and encodes at a time.
const PIECE_ELEMENTS: usize = 1 << 18;
/// Groups of scales that a thread encodes at a time.
const NESTED_PIECE: usize = 64;
