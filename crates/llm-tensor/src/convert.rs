//! Between the element types that weights are kept in. Rounding is to nearest, ties to even, as the references do.

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

use crate::{DType, TensorError, float8};

/// Elements that are widened at a time when neither side is f32: small enough for the stack, large enough for SIMD.
const PIECE: usize = 1024;

/// Writes the elements of `src`, stored as `from`, into `dst` as `to`.
///
/// # Errors
/// [`TensorError::NoConversion`] unless `from` is floating-point and `to` among f64, f32, f16 and bf16, or they are the
/// same.
///
/// # Panics
/// When `src` and `dst` do not hold equally many whole elements.
pub fn convert_elements(
    from: DType,
    src: &[u8],
    to: DType,
    dst: &mut [u8],
) -> Result<(), TensorError> {
    let n = src.len() / from.size();
    assert_eq!(
        (src.len(), dst.len()),
        (n * from.size(), n * to.size()),
        "{from} and {to} elements differ in number"
    );
    if from == to {
        dst.copy_from_slice(src);
        return Ok(());
    }
    let mut wide = [0f32; PIECE];
    for (src, dst) in src
        .chunks(PIECE * from.size())
        .zip(dst.chunks_mut(PIECE * to.size()))
    {
        let wide = &mut wide[..src.len() / from.size()];
        le_bytes_to_f32(from, src, wide)?;
        f32_to_le_bytes(wide, to, dst)?;
    }
    Ok(())
}

/// Widens (from f64: rounds) the elements of `src`, stored as `from`, into `dst`.
///
/// # Errors
/// [`TensorError::NoConversion`] unless `from` is floating-point.
///
/// # Panics
/// When `src` does not hold `dst.len()` elements.
pub fn le_bytes_to_f32(from: DType, src: &[u8], dst: &mut [f32]) -> Result<(), TensorError> {
    assert_eq!(
        src.len(),
        dst.len() * from.size(),
        "{from} elements differ in number"
    );
    match from {
        DType::F32 => bytemuck::cast_slice_mut(dst).copy_from_slice(src),
        DType::F64 => {
            for (d, s) in dst.iter_mut().zip(src.as_chunks::<8>().0) {
                *d = f64::from_le_bytes(*s) as f32;
            }
        }
        DType::F16 | DType::BF16 => {
            let mut bits = [0u16; PIECE];
            for (src, dst) in src.chunks(PIECE * 2).zip(dst.chunks_mut(PIECE)) {
                let bits = &mut bits[..dst.len()];
                // Files promise no alignment, so the halves go through an aligned piece.
                bytemuck::cast_slice_mut(bits).copy_from_slice(src);
                match from {
                    DType::F16 => bits.reinterpret_cast::<f16>().convert_to_f32_slice(dst),
                    _ => bits.reinterpret_cast::<bf16>().convert_to_f32_slice(dst),
                }
            }
        }
        DType::F8E4M3 => widen(src, dst, &float8::E4M3),
        DType::F8E5M2 => widen(src, dst, &float8::E5M2),
        DType::F8E4M3FNUZ => widen(src, dst, &float8::E4M3FNUZ),
        DType::F8E5M2FNUZ => widen(src, dst, &float8::E5M2FNUZ),
        DType::F8E8M0 => widen(src, dst, &float8::E8M0),
        DType::C64
        | DType::I64
        | DType::I32
        | DType::I16
        | DType::I8
        | DType::U64
        | DType::U32
        | DType::U16
        | DType::U8
        | DType::Bool => {
            return Err(TensorError::NoConversion {
                from: from.name(),
                to: DType::F32.name(),
            });
        }
    }
    Ok(())
}

fn widen(src: &[u8], dst: &mut [f32], values: &[f32; 256]) {
    for (dst, code) in dst.iter_mut().zip(src) {
        *dst = values[usize::from(*code)];
    }
}

/// Rounds (to f64: widens) `src` into the elements of `dst`, stored as `to`.
///
/// # Errors
/// [`TensorError::NoConversion`] unless `to` is f64, f32, f16 or bf16.
///
/// # Panics
/// When `dst` does not hold `src.len()` elements.
pub fn f32_to_le_bytes(src: &[f32], to: DType, dst: &mut [u8]) -> Result<(), TensorError> {
    assert_eq!(
        dst.len(),
        src.len() * to.size(),
        "{to} elements differ in number"
    );
    match to {
        DType::F32 => dst.copy_from_slice(bytemuck::cast_slice(src)),
        DType::F64 => {
            for (d, s) in dst.as_chunks_mut::<8>().0.iter_mut().zip(src) {
                *d = f64::from(*s).to_le_bytes();
            }
        }
        DType::F16 | DType::BF16 => {
            let mut bits = [0u16; PIECE];
            for (src, dst) in src.chunks(PIECE).zip(dst.chunks_mut(PIECE * 2)) {
                let bits = &mut bits[..src.len()];
                match to {
                    DType::F16 => bits
                        .reinterpret_cast_mut::<f16>()
                        .convert_from_f32_slice(src),
                    _ => bits
                        .reinterpret_cast_mut::<bf16>()
                        .convert_from_f32_slice(src),
                }
                dst.copy_from_slice(bytemuck::cast_slice(bits));
            }
        }
        DType::F8E4M3
        | DType::F8E5M2
        | DType::F8E4M3FNUZ
        | DType::F8E5M2FNUZ
        | DType::F8E8M0
        | DType::C64
        | DType::I64
        | DType::I32
        | DType::I16
        | DType::I8
        | DType::U64
        | DType::U32
        | DType::U16
        | DType::U8
        | DType::Bool => {
            return Err(TensorError::NoConversion {
                from: DType::F32.name(),
                to: to.name(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(values: &[f32], dtype: DType) -> Vec<u8> {
        let mut bytes = vec![0; values.len() * dtype.size()];
        f32_to_le_bytes(values, dtype, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn rounds_ties_to_even_and_keeps_infinities() {
        // 1 + 2⁻⁸ lies halfway between two bf16 values, 1 + 3·2⁻⁸ too; the even neighbours are 1 and 1 + 2⁻⁶.
        let values = [
            1.0 + 2f32.powi(-8),
            1.0 + 3.0 * 2f32.powi(-8),
            f32::INFINITY,
            -0.0,
            1e-40,
        ];
        let mut back = [0f32; 5];
        le_bytes_to_f32(DType::BF16, &bytes_of(&values, DType::BF16), &mut back).unwrap();
        assert_eq!(back[..4], [1.0, 1.0 + 2f32.powi(-6), f32::INFINITY, -0.0]);
        assert!(
            (back[4] - 1e-40).abs() <= 2f32.powi(-134),
            "subnormals survive, within half of their step"
        );
        le_bytes_to_f32(
            DType::F16,
            &bytes_of(&[65_520.0, 0.1], DType::F16),
            &mut back[..2],
        )
        .unwrap();
        assert_eq!(back[..2], [f32::INFINITY, 0.099_975_586]);
    }

    #[test]
    fn every_pair_of_float_types_agrees_with_going_through_f32() {
        let values: Vec<f32> = (0..3000)
            .map(|i| ((i as f32) * 0.37).sin() * 100.0)
            .collect();
        let floats = [DType::F64, DType::F32, DType::F16, DType::BF16];
        for from in floats {
            let src = bytes_of(&values, from);
            let mut wide = vec![0f32; values.len()];
            le_bytes_to_f32(from, &src, &mut wide).unwrap();
            for to in floats {
                let mut dst = vec![0; values.len() * to.size()];
                convert_elements(from, &src, to, &mut dst).unwrap();
                assert_eq!(dst, bytes_of(&wide, to), "{from} to {to}");
            }
        }
    }

    #[test]
    fn unaligned_sources_are_read() {
        let mut shifted = vec![0u8];
        shifted.extend(bytes_of(&[1.5, -2.25], DType::BF16));
        let mut out = [0f32; 2];
        le_bytes_to_f32(DType::BF16, &shifted[1..], &mut out).unwrap();
        assert_eq!(out, [1.5, -2.25]);
    }

    #[test]
    fn integers_are_no_weights() {
        assert!(convert_elements(DType::I8, &[1], DType::F32, &mut [0; 4]).is_err());
        assert!(convert_elements(DType::I8, &[1], DType::I8, &mut [0]).is_ok());
    }
}
