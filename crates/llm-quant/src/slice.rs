//! Some rows of a stored matrix, as a matrix of their own: the same bytes, elsewhere or not.

use std::ops::Range;

use crate::double::NESTED_BLOCK;
use crate::parts::Part;
use crate::scheme::Scheme;
use crate::stored::StoredWeight;

impl Scheme {
    /// Rows at whose multiples a matrix `[rows, cols]` can be cut so that what is cut off is one in the same scheme, with no byte
    /// changed; `rows` where it cannot be cut.
    pub fn row_step(self, rows: u64, cols: u64) -> u64 {
        let step = match self {
            Scheme::Dense(_)
            | Scheme::Int8(_)
            | Scheme::Int8PerUse(..)
            | Scheme::Ggml(_)
            | Scheme::Grouped(_) => 1,
            Scheme::FourBit(format) => {
                // Blocks, and groups of their scales, run on across the ends of rows.
                let block = format.block_size.get() as u64;
                let group = match format.double_quant {
                    true => block * NESTED_BLOCK as u64,
                    false => block,
                };
                group / common_divisor(group, cols)
            }
            // Where all rows share their scales, any of them do.
            Scheme::Fp8(format) => match format.block[0] {
                height if height >= rows => 1,
                height => height,
            },
        };
        step.clamp(1, rows.max(1))
    }
}

impl<T> StoredWeight<T> {
    /// Some rows as a matrix of their own; `cut` makes some bytes of what stands for all of a part.
    ///
    /// # Panics
    /// When they do not begin at a multiple of [`Scheme::row_step`], or end neither there nor at the end.
    pub fn slice(
        &self,
        rows: Range<usize>,
        mut cut: impl FnMut(Part, &T, Range<u64>) -> T,
    ) -> StoredWeight<T> {
        let (n_rows, cols) = (self.rows as u64, self.cols as u64);
        let (start, end) = (rows.start as u64, rows.end as u64);
        let step = self.scheme.row_step(n_rows, cols);
        assert!(
            start < end
                && start.is_multiple_of(step)
                && (end == n_rows || end < n_rows && end.is_multiple_of(step)),
            "rows {rows:?} of {n_rows} in {}, which is cut at multiples of {step}",
            self.scheme
        );
        let windows = self
            .scheme
            .window(n_rows, cols, &(start * cols..end * cols));
        StoredWeight {
            scheme: self.scheme,
            rows: rows.len(),
            cols: self.cols,
            parts: windows.map(|part, window| cut(part, self.part(part), window)),
        }
    }
}

/// The greatest; `a` where `b` is zero.
fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use llm_tensor::{DType, HostBytes};

    use super::*;
    use crate::{BlockSize, Code, FourBit, Fp8, GgmlType, Int8};

    fn schemes() -> Vec<Scheme> {
        let four_bit = |block_size, double_quant| {
            Scheme::FourBit(FourBit {
                code: Code::Nf4,
                block_size: BlockSize::new(block_size).unwrap(),
                double_quant,
            })
        };
        let fp8 = |block| {
            Scheme::Fp8(Fp8 {
                dtype: DType::F8E4M3,
                scale: DType::F32,
                block,
            })
        };
        vec![
            Scheme::Dense(DType::F32),
            Scheme::Dense(DType::BF16),
            Scheme::Int8(Int8 { threshold: 6.0 }),
            Scheme::Int8PerUse(DType::F16, Int8 { threshold: 6.0 }),
            four_bit(64, false),
            four_bit(32, true),
            Scheme::Ggml(GgmlType::Q8_0),
            Scheme::Ggml(GgmlType::Q4K),
            fp8([128, 128]),
            fp8([4, 32]),
            fp8([1, 256]),
            fp8([1000, 1000]),
        ]
    }

    #[test]
    fn slices_have_the_values_of_the_whole() {
        for scheme in schemes() {
            for cols in [256, 96, 100, 1] {
                if matches!(scheme, Scheme::Ggml(ty) if cols % ty.block_len() != 0) {
                    continue;
                }
                for rows in [1, 3, 64, 200] {
                    let (r, c) = (rows as u64, cols as u64);
                    let step = scheme.row_step(r, c) as usize;
                    let mut next = 1u32;
                    let parts = scheme.parts(r, c).map(|_, info| {
                        let byte = |_| {
                            next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                            // No byte of an infinity or of a NaN.
                            (next >> 24) as u8 & 0x3f
                        };
                        HostBytes::new((0..info.bytes).map(byte).collect::<Vec<_>>())
                    });
                    let whole = StoredWeight {
                        scheme,
                        rows,
                        cols,
                        parts,
                    };
                    let values = whole.values().unwrap();
                    for n_steps in [1, 2, 7] {
                        let mut found = Vec::new();
                        for start in (0..rows).step_by(step * n_steps) {
                            let of = start..(start + step * n_steps).min(rows);
                            let slice = whole.slice(of, |_, bytes, window| {
                                bytes.slice(window.start as usize..window.end as usize)
                            });
                            found.extend(slice.checked().unwrap().values().unwrap());
                        }
                        assert_eq!(found, values, "[{rows}, {cols}] in {scheme} by {step}");
                    }
                }
            }
        }
    }

    #[test]
    fn four_bit_matrices_are_cut_where_groups_of_scales_end() {
        let scheme = Scheme::FourBit(FourBit {
            code: Code::Nf4,
            block_size: BlockSize::DEFAULT,
            double_quant: true,
        });
        assert_eq!(scheme.row_step(4096, 4096), 4);
        assert_eq!(scheme.row_step(4096, 1600), 256);
        assert_eq!(scheme.row_step(100, 1600), 100);
    }
}
