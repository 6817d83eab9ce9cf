use llm_tensor::{DType, convert_elements};
use proptest::prelude::*;

use crate::testing::read_all;
use crate::torch::testing::{dict, open, storage, tensor, zip_of};
use crate::{Checkpoint, Layout};

/// A checkpoint of one tensor `t` over a storage of 32-bit integers that count up.
fn view(len: i64, offset: i64, dims: &[i64], strides: &[i64]) -> Checkpoint {
    let elements: Vec<u8> = (0..len as i32).flat_map(i32::to_le_bytes).collect();
    let value = dict(&[(
        "t",
        tensor(storage("IntStorage", "0", len), offset, dims, strides),
    )]);
    open(zip_of(&value, &elements)).unwrap()
}

/// The elements of such a tensor, one by one.
fn naive(offset: i64, dims: &[i64], strides: &[i64]) -> Vec<i32> {
    let mut elements = vec![offset as i32];
    for (extent, stride) in dims.iter().zip(strides) {
        let steps = |e| (0..*extent).map(move |i| e + (i * stride) as i32);
        elements = elements.into_iter().flat_map(steps).collect();
    }
    elements
}

fn bytes(elements: &[i32]) -> Vec<u8> {
    elements
        .iter()
        .copied()
        .flat_map(i32::to_le_bytes)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_range_of_any_view_is_what_a_walk_finds(
        axes in prop::collection::vec((1i64..9, 0i64..40), 0..5),
        offset in 0i64..50,
        (a, b) in (0.0f64..=1.0, 0.0f64..=1.0),
    ) {
        let (dims, strides): (Vec<_>, Vec<_>) = axes.into_iter().unzip();
        let expected = naive(offset, &dims, &strides);
        let n_elements = expected.len();
        // Long enough, also for tensors that repeat elements.
        let last = *expected.iter().max().unwrap() as i64;
        let len = (last + 1).max(n_elements as i64);
        let checkpoint = view(len, offset, &dims, &strides);
        let at = |part: f64| (part * n_elements as f64) as usize;
        let range = at(a.min(b))..at(a.max(b));
        let mut found = vec![0; range.len() * 4];
        let elements = range.start as u64..range.end as u64;
        checkpoint.read_into("t", elements, DType::I32, &mut found).unwrap();
        prop_assert_eq!(found, bytes(&expected[range]));
    }
}

#[test]
fn large_views_are_read_in_pieces() {
    // Transposed; every third column of every second row; a column; planes turned around; far apart.
    let cases: [(i64, &[i64], &[i64]); 5] = [
        (0, &[900, 1100], &[1, 900]),
        (7, &[400, 300], &[2048, 3]),
        (5, &[500_000], &[2]),
        (0, &[60, 110, 150], &[1, 60 * 150, 60]),
        (3, &[300], &[4099]),
    ];
    for (offset, dims, strides) in cases {
        let expected = naive(offset, dims, strides);
        let last = i64::from(*expected.iter().max().unwrap());
        let checkpoint = view(last + 1, offset, dims, strides);
        let info = checkpoint.get("t").unwrap();
        assert!(matches!(info.layout, Layout::Strided(_)), "{dims:?}");
        assert!(checkpoint.view("t").unwrap().is_none());
        assert!(
            read_all(&checkpoint, "t", DType::I32) == bytes(&expected),
            "{dims:?}"
        );
        let n = expected.len() as u64;
        for range in [1..n, 0..n - 1, n / 3..n / 3 + 2, n / 2..n, n..n] {
            let mut found = vec![0; (range.end - range.start) as usize * 4];
            checkpoint
                .read_into("t", range.clone(), DType::I32, &mut found)
                .unwrap();
            let part = &expected[range.start as usize..range.end as usize];
            assert!(found == bytes(part), "{dims:?} {range:?}");
        }
    }
}

#[test]
fn views_are_converted_like_anything_else() {
    let (rows, cols) = (700, 600);
    let stored: Vec<u8> = (0..rows * cols)
        .flat_map(|i| ((i as f32) * 0.01).sin().to_le_bytes())
        .collect();
    let transposed = tensor(
        storage("FloatStorage", "0", rows * cols),
        0,
        &[cols, rows],
        &[1, cols],
    );
    let checkpoint = open(zip_of(&dict(&[("t", transposed)]), &stored)).unwrap();
    let wide = read_all(&checkpoint, "t", DType::F32);
    for (i, j) in [(0, 0), (1, 0), (0, 1), (599, 699), (17, 400)] {
        let element = |bytes: &[u8], at: i64| bytes[at as usize * 4..][..4].to_vec();
        assert_eq!(element(&wide, i * rows + j), element(&stored, j * cols + i));
    }
    for dtype in [DType::BF16, DType::F16, DType::F64] {
        let mut expected = vec![0; (rows * cols) as usize * dtype.size()];
        convert_elements(DType::F32, &wide, dtype, &mut expected).unwrap();
        assert!(read_all(&checkpoint, "t", dtype) == expected, "{dtype}");
    }
}
