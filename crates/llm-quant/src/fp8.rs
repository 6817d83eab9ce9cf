//! 8-bit floating-point numbers with scales for blocks of them, as DeepSeek and transformers' `fp8` store matrices.

use std::ops::Range;

use llm_tensor::DType;

use crate::floats::number_at;

/// The parameters of scaled 8-bit floating-point numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fp8 {
    /// The type of the numbers.
    pub dtype: DType,
    /// The type of their scales; bytes are exponents, as those of [`DType::F8E8M0`].
    pub scale: DType,
    /// Rows and columns that share a scale.
    pub block: [u64; 2],
}

impl Fp8 {
    /// Rows and columns of the scales of a matrix `[rows, cols]`.
    pub fn grid(self, rows: u64, cols: u64) -> [u64; 2] {
        let [height, width] = self.block;
        [rows.div_ceil(height), cols.div_ceil(width)]
    }

    /// The scales of elements `range` of a matrix with rows of `cols`: whole rows of blocks.
    pub(crate) fn scales_of(self, cols: u64, range: &Range<u64>) -> Range<u64> {
        let (cols, height) = (cols.max(1), self.block[0]);
        let [rows, n] = self.grid(range.end.div_ceil(cols), cols);
        range.start / cols / height * n..rows * n
    }

    /// Multiplies elements `range`, widened in `out`, with their `scales`: those of [`Fp8::scales_of`].
    pub(crate) fn scale(self, cols: u64, range: &Range<u64>, scales: &[u8], out: &mut [f32]) {
        let [height, width] = self.block;
        let n_scales = cols.div_ceil(width);
        let first = self.scales_of(cols, range).start;
        let dtype = match self.scale {
            DType::U8 => DType::F8E8M0,
            other => other,
        };
        let mut at = range.start;
        while at < range.end {
            let (row, col) = (at / cols, at % cols);
            // To the end of the block's part of the row.
            let n = ((col / width + 1) * width)
                .min(cols)
                .min(col + range.end - at)
                - col;
            let idx = (row / height * n_scales + col / width - first) as usize;
            let scale = number_at(dtype, scales, idx);
            let from = (at - range.start) as usize;
            for x in &mut out[from..from + n as usize] {
                *x *= scale;
            }
            at += n;
        }
    }
}

#[cfg(test)]
mod tests {
    use llm_tensor::HostBytes;

    use crate::{Fp8Rows, Part, Parts, Scheme, StoredWeight};

    use super::*;

    #[test]
    fn elements_are_multiplied_with_the_scale_of_their_block() {
        let (rows, cols) = (7usize, 10usize);
        for (block, scale) in [
            ([7, 10], DType::F32),
            ([1, 10], DType::BF16),
            ([3, 4], DType::F32),
            ([2, 3], DType::U8),
            ([1, 1], DType::F8E8M0),
        ] {
            let format = Fp8 {
                dtype: DType::F8E4M3,
                scale,
                block,
            };
            let [n_rows, n_cols] = format.grid(rows as u64, cols as u64);
            let scale_of = |i: u64| 2f32.powi((i % 9) as i32 - 4);
            let scales = (0..n_rows * n_cols).flat_map(|i| match scale {
                DType::F32 => scale_of(i).to_le_bytes().to_vec(),
                DType::BF16 => scale_of(i).to_le_bytes()[2..].to_vec(),
                _ => vec![(127 + i % 9 - 4) as u8],
            });
            let scales = HostBytes::new(scales.collect::<Vec<_>>());
            // 0x38 is 1, and so on upwards by eighths.
            let codes: Vec<u8> = (0..rows * cols).map(|i| 0x38 + (i % 8) as u8).collect();
            let weight = StoredWeight {
                scheme: Scheme::Fp8(format),
                rows,
                cols,
                parts: Parts::from_iter([
                    (Part::Weight, HostBytes::new(codes)),
                    (Part::Scales, scales),
                ]),
            };
            let weight = weight.checked().unwrap();
            for range in [0..rows * cols, 3..4, 9..31, 69..70, 5..5] {
                let mut out = vec![0f32; range.len()];
                weight.decode(range.start, &mut out).unwrap();
                let expected = range.map(|i| {
                    let (row, col) = ((i / cols) as u64, (i % cols) as u64);
                    let place = row / block[0] * n_cols + col / block[1];
                    (1.0 + (i % 8) as f32 / 8.0) * scale_of(place)
                });
                assert_eq!(out, expected.collect::<Vec<_>>(), "{block:?} {scale}");
            }
            let whole = weight.values().unwrap();
            for (row, first, n) in [(0, 0, 10), (6, 3, 7), (3, 9, 1), (2, 4, 0)] {
                let mut out = vec![0f32; n];
                Fp8Rows::new(&weight, format).decode(row, first, &mut out);
                assert_eq!(out, whole[row * cols + first..][..n]);
            }
        }
    }
}
