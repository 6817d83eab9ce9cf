//! Every format decoded as `llm-quant` does, to the bit.

use std::num::NonZeroU64;

use llm_quant::{
    Fp8, GgmlType, GlobalScale, GroupCode, Grouped, Part, Parts, Scheme, StoredWeight,
};
use llm_tensor::DType;

use super::*;
use crate::Isa;
use crate::isa::Level;
use crate::simd::Kernel;
use crate::tests::written_at_end_of_file;

fn formats() -> Vec<Scheme> {
    let mut formats: Vec<_> = GgmlType::ALL.into_iter().map(Scheme::Ggml).collect();
    for dtype in [
        DType::F8E4M3,
        DType::F8E5M2,
        DType::F8E4M3FNUZ,
        DType::F8E5M2FNUZ,
    ] {
        for (scale, block) in [
            (DType::F32, [128, 128]),
            (DType::BF16, [1, 1 << 40]),
            (DType::F16, [2, 32]),
            (DType::U8, [3, 5]),
            (DType::F8E8M0, [1 << 40, 1 << 40]),
        ] {
            formats.push(Scheme::Fp8(Fp8 {
                dtype,
                scale,
                block,
            }));
        }
    }
    for code in [GroupCode::Int4, GroupCode::E2M1, GroupCode::Int8] {
        for (i, (scale, group)) in [
            (DType::F16, Some(128)),
            (DType::BF16, Some(32)),
            (DType::F32, None),
            (DType::F8E4M3, Some(16)),
            (DType::F8E8M0, Some(32)),
            (DType::F8E5M2, Some(48)),
            (DType::F16, Some(12)),
        ]
        .into_iter()
        .enumerate()
        {
            let global = [None, Some(GlobalScale::Factor), Some(GlobalScale::Divisor)];
            for zeros in [false, true] {
                formats.push(Scheme::Grouped(Grouped {
                    code,
                    scale,
                    group: group.and_then(NonZeroU64::new),
                    zeros: zeros && code != GroupCode::E2M1,
                    global: global[(i + usize::from(zeros)) % 3],
                    order: i % 4 == 1 && zeros,
                }));
            }
        }
    }
    formats
}

/// A weight of any bytes, each part of which ends with its file.
fn weight(scheme: Scheme, rows: usize, cols: usize, seed: u64) -> StoredWeight {
    let mut state = seed;
    let mut byte = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let parts = scheme.parts(rows as u64, cols as u64);
    StoredWeight {
        scheme,
        rows,
        cols,
        parts: parts.map(|part, info| {
            let bytes: Vec<u8> = match part {
                // From the last one to the first.
                Part::Order => (0..cols as u32).rev().flat_map(u32::to_le_bytes).collect(),
                _ => (0..info.bytes).map(|_| byte()).collect(),
            };
            written_at_end_of_file(&bytes)
        }),
    }
}

struct DecodeRow<'a> {
    weight: PackedView<'a>,
    row: usize,
    columns: Range<usize>,
    out: &'a mut [f32],
}

impl Kernel for DecodeRow<'_> {
    #[inline(always)]
    fn run<S: FourBit>(self, simd: S) {
        self.weight
            .decode_row(simd, self.row, self.columns, self.out);
    }
}

#[test]
fn values_are_those_that_the_format_means() {
    for scheme in formats() {
        for cols in [256, 768, 100, 33, 129] {
            let rows = 5;
            if let Scheme::Ggml(ty) = scheme
                && !usize::is_multiple_of(cols, ty.block_len())
            {
                continue;
            }
            for seed in 0..8 {
                let weight = weight(scheme, rows, cols, seed);
                let expected = weight.values().unwrap();
                let packed = Packed::of(&weight).unwrap();
                for level in Isa::ALL.into_iter().filter_map(Level::new) {
                    for (row, expected) in expected.chunks_exact(cols).enumerate() {
                        for columns in [
                            0..cols,
                            0..cols.min(128),
                            128.min(cols - 1) / 128 * 128..cols,
                        ] {
                            let mut found = vec![0.0; columns.len()];
                            level.run(DecodeRow {
                                weight: packed.view(),
                                row,
                                columns: columns.clone(),
                                out: &mut found,
                            });
                            for (i, (found, expected)) in
                                found.iter().zip(&expected[columns]).enumerate()
                            {
                                assert!(
                                    found.to_bits() == expected.to_bits()
                                        || found.is_nan() && expected.is_nan(),
                                    "{scheme:?}, {level:?}: element {i} of row {row} is {found}, not {expected}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_not_computed_with_is_refused() {
    let short = weight(Scheme::Ggml(GgmlType::Q4K), 2, 100, 1);
    assert!(Packed::of(&short).is_none());
    let of_scales = |scale| Fp8 {
        dtype: DType::F8E4M3,
        scale,
        block: [1, 1],
    };
    for format in [
        of_scales(DType::I8),
        Fp8 {
            dtype: DType::I8,
            ..of_scales(DType::F32)
        },
    ] {
        let weight = StoredWeight {
            scheme: Scheme::Fp8(format),
            rows: 1,
            cols: 1,
            parts: Parts::from_iter([
                (Part::Weight, written_at_end_of_file(&[0])),
                (Part::Scales, written_at_end_of_file(&[0; 4])),
            ]),
        };
        assert!(Packed::of(&weight).is_none(), "{format:?}");
    }
}
