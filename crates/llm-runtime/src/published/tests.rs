use std::num::NonZeroU64;

use super::*;

fn read(text: &str) -> Parsed<Option<Published>> {
    Published::from_json(&serde_json::from_str(text).unwrap())
}

#[test]
fn configurations_say_how_tensors_are_read() {
    let gptq = |bits, group_size, desc_act, zeros_plus| {
        Published::Gptq(Gptq {
            bits,
            group_size: GroupSize::Of(NonZeroU64::new(group_size)),
            desc_act,
            zeros_plus,
        })
    };
    for (text, expected) in [
        (
            r#"{"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": true, "sym": true, "adapter": null}"#,
            gptq(4, 128, true, 0x1111_1111),
        ),
        (
            r#"{"quant_method": "gptq", "bits": 8, "group_size": -1, "checkpoint_format": "gptq"}"#,
            gptq(8, 0, false, 0x0101_0101),
        ),
        (
            r#"{"quant_method": "gptq", "bits": 4, "group_size": 64, "checkpoint_format": "gptq_v2"}"#,
            gptq(4, 64, false, 0),
        ),
        (
            r#"{"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"+:.*down.*": {"group_size": 32}}}"#,
            Published::Gptq(Gptq {
                bits: 4,
                group_size: GroupSize::Usual(NonZeroU64::new(128)),
                desc_act: false,
                zeros_plus: 0x1111_1111,
            }),
        ),
        (
            r#"{"quant_method": "awq", "bits": 4, "zero_point": true}"#,
            Published::Awq(GroupSize::Untold),
        ),
        (
            r#"{"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true, "version": "GEMM"}"#,
            Published::Awq(GroupSize::Of(NonZeroU64::new(128))),
        ),
        (
            r#"{"quant_method": "modelopt", "quant_algo": "NVFP4"}"#,
            Published::ModelOpt(Some(Scheme::Grouped(Grouped::NVFP4))),
        ),
        (
            r#"{"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}"#,
            Published::Mxfp4,
        ),
        (
            r#"{"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"group_0": {
                "targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "block",
                "block_structure": [128, 128]}, "input_activations": {"num_bits": 8, "type": "float"}}}}"#,
            Published::Compressed(Compressed {
                scheme: Some(Scheme::Fp8(llm_quant::Fp8 {
                    block: [128, 128],
                    ..FP8
                })),
                block_size: Some([128, 128]),
                activations: Some("input_activations: float 8".to_owned()),
            }),
        ),
    ] {
        assert_eq!(read(text), Ok(Some(expected)), "{text}");
    }
    assert_eq!(
        read(r#"{"quant_method": "bitsandbytes", "load_in_8bit": true}"#),
        Ok(None)
    );
}

#[test]
fn what_would_be_read_otherwise_is_refused_by_key() {
    let group = |weights: &str| {
        format!(
            r#"{{"quant_method": "compressed-tensors", "config_groups": {{"group_0": {{"weights": {weights}}}}}}}"#
        )
    };
    for (text, key) in [
        (r#"{"quant_method": "gptq", "bits": 3, "group_size": 128}"#.to_owned(), "`bits`"),
        (r#"{"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}"#.to_owned(), "`checkpoint_format`"),
        (r#"{"quant_method": "gptq", "bits": 4, "pack_dtype": "int64"}"#.to_owned(), "`pack_dtype`"),
        (r#"{"quant_method": "gptq", "bits": 4, "group_size": 0}"#.to_owned(), "`group_size`"),
        (r#"{"quant_method": "gptq", "bits": 4, "desc_act": 1}"#.to_owned(), "`desc_act`"),
        (r#"{"quant_method": "gptq", "bits": 4, "rotation": "hadamard"}"#.to_owned(), "`rotation`"),
        (r#"{"quant_method": "awq", "bits": 4, "version": "gemv"}"#.to_owned(), "`version`"),
        (r#"{"quant_method": "awq", "bits": 4, "zero_point": false}"#.to_owned(), "`zero_point`"),
        (r#"{"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}"#.to_owned(), "`quant_algo`"),
        (r#"{"quant_method": "mxfp4", "wild": true}"#.to_owned(), "`wild`"),
        (
            r#"{"quant_method": "compressed-tensors", "format": "marlin-24", "config_groups": {}}"#.to_owned(),
            "`format`",
        ),
        (r#"{"quant_method": "compressed-tensors"}"#.to_owned(), "`config_groups`"),
        (
            r#"{"quant_method": "compressed-tensors", "config_groups": {}, "sparsity_config": {"format": "sparse-24-bitmask"}}"#
                .to_owned(),
            "`sparsity_config`",
        ),
        (
            r#"{"quant_method": "compressed-tensors", "config_groups": {},
                "transform_config": {"config_groups": {"R1": {"type": "hadamard"}}}}"#
                .to_owned(),
            "`transform_config`",
        ),
        (group(r#"{"num_bits": 3, "type": "int"}"#), "`num_bits`"),
        (group(r#"{"num_bits": 8, "type": "float", "strategy": "block"}"#), "`block_structure`"),
        (group(r#"{"num_bits": 4, "strategy": "spiral"}"#), "`strategy`"),
        (group(r#"{"num_bits": 4, "wild": 1}"#), "`wild`"),
    ] {
        let error = read(&text).unwrap_err().to_string();
        assert!(error.contains(key), "{text}: {error}");
    }
}
