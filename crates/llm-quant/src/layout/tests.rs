use super::*;
use crate::{BlockSize, Code, FourBit, Int8};

fn format(double_quant: bool) -> FourBit {
    FourBit {
        code: Code::Nf4,
        block_size: BlockSize::DEFAULT,
        double_quant,
    }
}

/// Each part as `name dtype dims`.
fn described(scheme: Scheme, rows: u64, cols: u64, storage: DType) -> Vec<String> {
    let describe = |part: PartTensor| {
        format!(
            "{} {} {:?}",
            part.part.name("a.weight"),
            part.dtype,
            part.dims
        )
    };
    let parts = tensors(scheme, rows, cols, storage).unwrap();
    parts.into_iter().map(describe).collect()
}

#[test]
fn parts_have_their_types_and_shapes() {
    let plain = described(Scheme::FourBit(format(false)), 5, 7, DType::U8);
    assert_eq!(
        plain,
        [
            "a.weight u8 [18, 1]",
            "a.weight.absmax f32 [1]",
            "a.weight.quant_map f32 [16]",
            "a.weight.quant_state.bitsandbytes__nf4 u8 [256]",
        ]
    );
    let double = described(Scheme::FourBit(format(true)), 512, 256, DType::BF16);
    assert_eq!(
        double,
        [
            "a.weight bf16 [32768, 1]",
            "a.weight.absmax u8 [2048]",
            "a.weight.quant_map f32 [16]",
            "a.weight.nested_absmax f32 [8]",
            "a.weight.nested_quant_map f32 [256]",
            "a.weight.quant_state.bitsandbytes__nf4 u8 [256]",
        ]
    );
    let int8 = Int8 { threshold: 6.0 };
    let eight_bit = described(Scheme::Int8(int8), 5, 7, DType::U8);
    assert_eq!(
        eight_bit,
        [
            "a.weight i8 [5, 7]",
            "a.SCB f32 [5]",
            "a.weight_format u8 []"
        ]
    );
    for scheme in [
        Scheme::Dense(DType::F16),
        Scheme::Int8PerUse(DType::F16, int8),
    ] {
        assert_eq!(described(scheme, 5, 7, DType::U8), ["a.weight f16 [5, 7]"]);
    }
}

#[test]
fn storage_that_does_not_fit_is_refused() {
    let scheme = Scheme::FourBit(format(false));
    let error = tensors(scheme, 5, 7, DType::F32).unwrap_err().to_string();
    assert!(
        error.contains("18 bytes") && error.contains("f32"),
        "{error}"
    );
}

#[test]
fn names_lead_back_to_their_matrix() {
    for weight in ["model.layers.0.mlp.up_proj.weight", "weight"] {
        for part in Part::IN_FILES {
            let name = part.name(weight);
            assert_eq!(
                Part::of_name(&name),
                Some((weight.to_owned(), part)),
                "{name}"
            );
        }
    }
    for name in [
        "a.bias",
        "a.my_SCB",
        "a.quant_map",
        "a.weight.absmax.b",
        "a.weight.quant_state.nf4",
    ] {
        assert_eq!(Part::of_name(name), None, "{name}");
    }
}

#[test]
fn only_rows_are_read() {
    assert_eq!(check_weight_format(0), Ok(()));
    for (format, name) in [
        (1, "col32"),
        (2, "col_turing"),
        (3, "col_ampere"),
        (9, "number 9"),
    ] {
        let error = check_weight_format(format).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}
