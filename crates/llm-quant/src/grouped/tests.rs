use llm_tensor::{HostBytes, f32_to_le_bytes};

use super::*;
use crate::{Part, Scheme, StoredWeight};

/// Parameters, and the value that a code, a zero, a scale of 2 and a global scale of 4 stand for.
struct Case {
    code: GroupCode,
    scale: DType,
    global: Option<GlobalScale>,
    zeros: bool,
    value: fn(u8, u8) -> f32,
}

const CASES: [Case; 6] = [
    Case {
        code: GroupCode::Int4,
        scale: DType::F16,
        global: None,
        zeros: false,
        value: |code, _| 2.0 * (f32::from(code) - 8.0),
    },
    Case {
        code: GroupCode::Int4,
        scale: DType::BF16,
        global: None,
        zeros: true,
        value: |code, zero| 2.0 * (f32::from(code) - f32::from(zero)),
    },
    Case {
        code: GroupCode::E2M1,
        scale: DType::F8E8M0,
        global: None,
        zeros: false,
        value: |code, _| 2.0 * E2M1[usize::from(code)],
    },
    Case {
        code: GroupCode::E2M1,
        scale: DType::F8E4M3,
        global: Some(GlobalScale::Factor),
        zeros: false,
        value: |code, _| 8.0 * E2M1[usize::from(code)],
    },
    Case {
        code: GroupCode::E2M1,
        scale: DType::F8E4M3,
        global: Some(GlobalScale::Divisor),
        zeros: false,
        value: |code, _| 0.5 * E2M1[usize::from(code)],
    },
    Case {
        code: GroupCode::Int8,
        scale: DType::F32,
        global: None,
        zeros: true,
        value: |code, zero| 2.0 * (f32::from(code as i8) - f32::from(zero as i8)),
    },
];

/// The number 2 as a scale.
fn two(dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F8E8M0 => vec![128],
        DType::F8E4M3 => vec![0x40],
        dtype => {
            let mut bytes = vec![0; dtype.size()];
            f32_to_le_bytes(&[2.0], dtype, &mut bytes).unwrap();
            bytes
        }
    }
}

#[test]
fn elements_are_codes_less_zeros_times_scales_in_any_part_of_the_matrix() {
    let (rows, cols) = (5usize, 22usize);
    for (i, case) in CASES.iter().enumerate() {
        for group in [
            None,
            NonZeroU64::new(4),
            NonZeroU64::new(11),
            NonZeroU64::new(32),
        ] {
            for order in [false, true] {
                let format = Grouped {
                    code: case.code,
                    scale: case.scale,
                    group,
                    zeros: case.zeros,
                    global: case.global,
                    order,
                };
                let weight = weight(format, rows, cols);
                let n_groups = format.n_groups(cols as u64) as usize;
                let expected = |at: usize| {
                    let (row, col) = (at / cols, at % cols);
                    let place = if order { (col * 7 + 3) % cols } else { col };
                    let group = group.map_or(0, |group| place / group.get() as usize);
                    (case.value)(code(case.code, row, place), zero(row * n_groups + group))
                };
                for range in [0..rows * cols, 3..4, 9..61, 21..23, 109..110, 5..5] {
                    let mut out = vec![0f32; range.len()];
                    weight.decode(range.start, &mut out).unwrap();
                    let expected: Vec<f32> = range.map(expected).collect();
                    assert_eq!(out, expected, "case {i} {group:?} {order}");
                }
            }
        }
    }
}

fn code(code: GroupCode, row: usize, place: usize) -> u8 {
    let code_of = (row * 31 + place * 5) as u8;
    match code {
        GroupCode::Int4 | GroupCode::E2M1 => code_of & 15,
        GroupCode::Int8 => code_of.wrapping_mul(37),
    }
}

fn zero(idx: usize) -> u8 {
    (idx * 3 % 17) as u8
}

/// Its scales are 2, its global scale is 4.
fn weight(format: Grouped, rows: usize, cols: usize) -> StoredWeight {
    let n_groups = rows * format.n_groups(cols as u64) as usize;
    let mut codes = vec![0; rows * format.row_bytes(cols as u64) as usize];
    for row in codes
        .chunks_mut(format.row_bytes(cols as u64) as usize)
        .enumerate()
    {
        let (row, bytes) = row;
        for place in 0..cols {
            let code = code(format.code, row, place);
            match format.code {
                GroupCode::Int8 => bytes[place] = code,
                GroupCode::Int4 | GroupCode::E2M1 => bytes[place / 2] |= code << (place % 2 * 4),
            }
        }
    }
    let scheme = Scheme::Grouped(format);
    let parts = scheme.parts(rows as u64, cols as u64).map(|part, _| {
        HostBytes::new(match part {
            Part::Weight => codes.clone(),
            Part::Scales => two(format.scale).repeat(n_groups),
            Part::Zeros => (0..n_groups).map(zero).collect(),
            Part::GlobalScale => 4f32.to_le_bytes().to_vec(),
            Part::Order => (0..cols as u32)
                .flat_map(|col| ((col * 7 + 3) % cols as u32).to_le_bytes())
                .collect(),
            other => panic!("{other:?}"),
        })
    });
    let weight = StoredWeight {
        scheme,
        rows,
        cols,
        parts,
    };
    weight.checked().unwrap()
}

#[test]
fn odd_scales_spread_but_do_no_harm() {
    for (scale, byte) in [
        (DType::F8E8M0, 0xFF),
        (DType::F8E4M3, 0x7F),
        (DType::F16, 0xFF),
    ] {
        let format = Grouped {
            code: GroupCode::E2M1,
            scale,
            group: NonZeroU64::new(16),
            zeros: false,
            global: None,
            order: false,
        };
        let mut weight = weight(format, 1, 32);
        let n_bytes = weight.part(Part::Scales).len();
        weight = weight.map(|part, bytes| match part {
            Part::Scales => HostBytes::new(vec![byte; n_bytes]),
            _ => bytes,
        });
        assert!(
            weight.values().unwrap().iter().all(|x| x.is_nan()),
            "{scale}"
        );
    }
}

#[test]
fn formats_are_called_as_people_call_them() {
    let format = |code, scale, group| Grouped {
        code,
        scale,
        group: NonZeroU64::new(group),
        zeros: false,
        global: None,
        order: false,
    };
    for (format, name, bits) in [
        (format(GroupCode::Int4, DType::F16, 128), "int4/128", 4.125),
        (
            format(GroupCode::Int8, DType::BF16, 0),
            "int8/row",
            8.00390625,
        ),
        (format(GroupCode::E2M1, DType::F8E8M0, 32), "mxfp4", 4.25),
        (format(GroupCode::E2M1, DType::F8E4M3, 16), "nvfp4", 4.5),
        (format(GroupCode::E2M1, DType::BF16, 64), "e2m1/64", 4.25),
    ] {
        let scheme = Scheme::Grouped(format);
        assert_eq!(scheme.to_string(), name);
        let bytes = scheme.stored_bytes(4096, 4096).total().get();
        assert_eq!(bytes as f64 * 8.0 / (4096.0 * 4096.0), bits, "{name}");
    }
}
