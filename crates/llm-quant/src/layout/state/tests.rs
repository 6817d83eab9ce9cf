use proptest::prelude::*;

use super::*;

const PLAIN: &str =
    r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [64, 96]}"#;
const NESTED: &str = r#"{"quant_type": "fp4", "blocksize": 4096, "dtype": "bfloat16", "shape": [64, 96], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 2.5616455078125}"#;

fn states() -> impl Strategy<Value = QuantState> {
    let any_f32 = any::<u32>().prop_map(f32::from_bits);
    let offset = any_f32.prop_filter("finite", |offset| offset.is_finite());
    let extents = any::<[u64; 2]>().prop_map(|[rows, cols]| match rows.checked_mul(cols) {
        Some(_) => [rows, cols],
        None => [rows >> 32, cols >> 32],
    });
    (
        prop::sample::select(&Code::ALL[..]),
        prop::sample::select(vec![32, 64, 128, 256, 512, 1024, 2048, 4096]),
        prop::sample::select(vec![DType::F32, DType::F16, DType::BF16]),
        prop_oneof![extents, any::<u64>().prop_map(|rows| [rows, 1])],
        prop::option::of(offset),
    )
        .prop_map(
            |(code, block_size, dtype, shape, nested_offset)| QuantState {
                code,
                block_size: BlockSize::new(block_size).unwrap(),
                dtype,
                shape,
                nested_offset,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn states_survive_a_round_trip(state in states()) {
        for json in [state.to_json(), state.to_json_padded()] {
            let back = QuantState::parse(&json).unwrap();
            prop_assert_eq!(back, state);
            let bits = |state: QuantState| state.nested_offset.map(f32::to_bits);
            prop_assert_eq!(bits(back), bits(state));
        }
    }

    #[test]
    fn damaged_json_does_not_panic(
        state in states(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..6),
    ) {
        let mut json = state.to_json();
        for (at, byte, kind) in edits {
            let at = at.index(json.len());
            match kind {
                0 => json[at] = byte,
                1 => json.insert(at, byte),
                _ => json.truncate(at + 1),
            }
        }
        let _ = QuantState::parse(&json);
    }

    #[test]
    fn any_bytes_do_not_panic(json in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = QuantState::parse(&json);
    }
}

#[test]
fn writes_what_python_writes() {
    let mut state = QuantState {
        code: Code::Nf4,
        block_size: BlockSize::DEFAULT,
        dtype: DType::F16,
        shape: [64, 96],
        nested_offset: None,
    };
    assert_eq!(String::from_utf8(state.to_json()).unwrap(), PLAIN);
    state = QuantState {
        code: Code::Fp4,
        block_size: BlockSize::new(4096).unwrap(),
        dtype: DType::BF16,
        nested_offset: Some(2.5616455),
        ..state
    };
    assert_eq!(String::from_utf8(state.to_json()).unwrap(), NESTED);
}

#[test]
fn numbers_are_spelled_as_in_python() {
    let cases = [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1.0, "1.0"),
        (2.5616455078125, "2.5616455078125"),
        (f64::from(0.1f32), "0.10000000149011612"),
        (f64::from(1e-4f32), "9.999999747378752e-05"),
        (1e-4, "0.0001"),
        (1e-5, "1e-05"),
        (f64::from(f32::from_bits(1)), "1.401298464324817e-45"),
        (1e15, "1000000000000000.0"),
        (9999999999999998.0, "9999999999999998.0"),
        (1e16, "1e+16"),
        (-1.25e16, "-1.25e+16"),
        (f64::from(f32::MAX), "3.4028234663852886e+38"),
    ];
    for (x, expected) in cases {
        assert_eq!(python_repr(x), expected);
    }
}

#[test]
fn the_longest_state_fits() {
    let state = QuantState {
        code: Code::Nf4,
        block_size: BlockSize::new(4096).unwrap(),
        dtype: DType::BF16,
        // More than a matrix can have: both extents have all 20 digits.
        shape: [u64::MAX; 2],
        nested_offset: Some(-1.1754942e-38),
    };
    let json = state.to_json();
    // A sign, 17 digits with their point, and an exponent of two digits with its sign: no f32 takes more.
    assert!(json.ends_with(b" -1.1754942106924411e-38}"));
    assert!(json.len() <= MAX_JSON, "{}", json.len());
    assert_eq!(state.to_json_padded().len(), MAX_JSON);
}

#[test]
fn order_and_white_space_do_not_matter() {
    let json =
        "\n {\"shape\":[3,5],\"dtype\":\"float32\",\"blocksize\":32,\"quant_type\":\"fp4\"}\t ";
    let state = QuantState::parse(json.as_bytes()).unwrap();
    assert_eq!((state.shape, state.dtype), ([3, 5], DType::F32));
    assert_eq!((state.code, state.block_size.get()), (Code::Fp4, 32));
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        (
            PLAIN,
            r#""nf4""#,
            r#""nf3""#,
            "`quant_type` is \"nf3\", expected nf4 or fp4",
        ),
        (
            PLAIN,
            "64,",
            "65,",
            "`blocksize` is 65, expected a power of two",
        ),
        (PLAIN, "64,", "-64,", "`blocksize` is -64"),
        (PLAIN, r#""blocksize": 64, "#, "", "`blocksize` is missing"),
        (
            PLAIN,
            "float16",
            "int8",
            "`dtype` is \"int8\", expected float32, float16 or bfloat16",
        ),
        (
            PLAIN,
            "[64, 96]",
            "[64]",
            "`shape` is [64], expected two extents",
        ),
        (PLAIN, "[64, 96]", "[64, 96.5]", "`shape` is [64,96.5]"),
        (
            PLAIN,
            "[64, 96]",
            "[4294967296, 4294967296]",
            "`shape` is [4294967296,4294967296]",
        ),
        (PLAIN, "shape", "shapes", "key `shapes` is not understood"),
        (PLAIN, "}", "", "no JSON object"),
        (
            NESTED,
            "256",
            "128",
            "`nested_blocksize` is 128, expected 256",
        ),
        (
            NESTED,
            "float32",
            "float16",
            "`nested_dtype` is \"float16\", expected float32",
        ),
        (
            NESTED,
            "2.5616455078125",
            "1e39",
            "`nested_offset` is 1e+39",
        ),
        (NESTED, "2.5616455078125", "NaN", "no JSON object"),
        (
            NESTED,
            r#", "nested_offset": 2.5616455078125"#,
            "",
            "`nested_offset` is missing",
        ),
    ];
    for (json, from, to, expected) in cases {
        let json = json.replacen(from, to, 1);
        let error = QuantState::parse(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let nested_arrays = "[".repeat(4000);
    for json in ["[]", "", "null", &nested_arrays, &" ".repeat(5000)] {
        let error = QuantState::parse(json.as_bytes()).unwrap_err();
        assert!(matches!(error, QuantError::NoState { .. }), "{error}");
    }
}
