use std::path::{Path, PathBuf};

use llm_plan::{Order, is_final};
use llm_quant::{Fp8, GlobalScale};
use llm_tensor::f32_to_le_bytes;

use super::*;
use crate::quantized::{read_elements, stored};
use crate::{BoundModel, BoundTensor};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/packed")
}

/// A checkpoint, the scheme of its projections and whether they are computed with where they lie in the file.
struct Case {
    folder: &'static str,
    scheme: &'static str,
    order: Order,
}

const fn case(folder: &'static str, scheme: &'static str, order: Order) -> Case {
    Case {
        folder,
        scheme,
        order,
    }
}

const CASES: [Case; 15] = [
    case("compressed-int4", "int4/32", Order::Rows),
    case("compressed-int4-zeros", "int4/32", Order::Strided),
    case("compressed-order", "int4/32", Order::Strided),
    case("compressed-int8", "int8/row", Order::Rows),
    case("compressed-int8-packed", "int8/32", Order::Strided),
    case("compressed-fp8", "fp8", Order::Rows),
    case("compressed-nvfp4", "nvfp4", Order::Rows),
    case("compressed-mxfp4", "mxfp4", Order::Rows),
    case("modelopt-nvfp4", "nvfp4", Order::Rows),
    case("gptq", "int4/32", Order::Strided),
    case("gptq-order-v2", "int4/32", Order::Strided),
    case("gptq-8bit", "int8/32", Order::Strided),
    case("awq", "int4/32", Order::Strided),
    case("mxfp4-experts", "mxfp4", Order::Rows),
    case("fp8-experts", "fp8", Order::Rows),
];

/// Elements of a tensor as they are stored, `[rows, cols]` or a stack of such.
fn bytes_of(checkpoint: &Checkpoint, name: &str) -> (DType, Vec<u8>) {
    let tensor = checkpoint.get(name).unwrap();
    let Encoding::Plain(dtype) = tensor.encoding else {
        panic!("{name} is {}", tensor.encoding)
    };
    let mut bytes = vec![0; tensor.shape.n_elements() as usize * dtype.size()];
    checkpoint
        .read_tensor(tensor, 0..tensor.shape.n_elements(), dtype, &mut bytes)
        .unwrap();
    (dtype, bytes)
}

/// The slots that a tensor of the expected ones holds, in order.
fn parts_of<'a>(model: &'a BoundModel, name: &str) -> Vec<BoundTensor<'a>> {
    let (stack, halves): (_, &[&str]) = match name.rsplit_once(".experts.") {
        None => return model.tensors().filter(|b| b.slot.name == name).collect(),
        Some((stack, "gate_up_proj")) => (stack, &["gate_proj", "up_proj"]),
        Some((stack, _)) => (stack, &["down_proj"]),
    };
    let mut parts = Vec::new();
    for expert in 0..4 {
        for half in halves {
            let name = format!("{stack}.experts.{expert}.{half}.weight");
            parts.extend(model.tensors().filter(|b| b.slot.name == name));
        }
    }
    parts
}

#[test]
fn matrices_are_what_the_library_dequantizes_to() {
    for Case {
        folder,
        scheme,
        order,
    } in CASES
    {
        let path = fixtures().join(folder);
        let model = BoundModel::open(&path).unwrap();
        let expected = Checkpoint::open(&path.join("expected.safetensors")).unwrap();
        for tensor in expected.tensors().filter(|it| it.name != "logits") {
            let parts = parts_of(&model, &tensor.name);
            let (dtype, expected) = bytes_of(&expected, &tensor.name);
            let mut at = 0;
            for bound in &parts {
                let what = format!("{folder}: {}", bound.slot.name);
                assert_eq!(bound.scheme.to_string(), scheme, "{what}");
                assert_eq!(bound.stored().order, order, "{what}");
                assert!(
                    is_final(bound.slot, bound.stored(), bound.scheme) == (order == Order::Rows)
                );
                let weight = stored(model.checkpoint(), bound)
                    .unwrap()
                    .checked()
                    .unwrap();
                let values = weight.values().unwrap();
                let mut found = vec![0; values.len() * dtype.size()];
                f32_to_le_bytes(&values, dtype, &mut found).unwrap();
                assert!(
                    found == expected[at..at + found.len()],
                    "{what} has other elements"
                );
                at += found.len();
                // The same from any element on, as for a device that decodes them.
                let n = values.len() as u64;
                for range in [0..n, 1..2, n / 3..n / 2 + 5, n - 65..n] {
                    let mut found = vec![0; (range.end - range.start) as usize * 4];
                    let (start, end) = (range.start as usize, range.end as usize);
                    read_elements(model.checkpoint(), bound, range, DType::F32, &mut found)
                        .unwrap();
                    assert!(
                        found == bytemuck::cast_slice::<f32, u8>(&values[start..end]),
                        "{what}"
                    );
                }
            }
            assert_eq!(at, expected.len(), "{folder}: {}", tensor.name);
        }
        assert_eq!(
            model.notices().len(),
            usize::from(["compressed-int8", "fp8-experts"].contains(&folder))
        );
    }
}

#[test]
fn odd_blocks_are_what_torch_makes_of_them() {
    let file = Checkpoint::open(&fixtures().join("blocks.safetensors")).unwrap();
    let grouped = |scale, group, global| {
        Scheme::Grouped(Grouped {
            code: GroupCode::E2M1,
            scale,
            group: std::num::NonZeroU64::new(group),
            zeros: false,
            global,
            order: false,
        })
    };
    let fp8 = |dtype| {
        Scheme::Fp8(Fp8 {
            dtype,
            scale: DType::F32,
            block: [8, 16],
        })
    };
    for (kind, scheme, cols) in [
        ("mxfp4", grouped(DType::F8E8M0, 32, None), 512),
        (
            "nvfp4-factor",
            grouped(DType::F8E4M3, 16, Some(GlobalScale::Factor)),
            512,
        ),
        (
            "nvfp4-divisor",
            grouped(DType::F8E4M3, 16, Some(GlobalScale::Divisor)),
            512,
        ),
        ("e2m1-f16", grouped(DType::F16, 32, None), 512),
        ("e2m1-bf16", grouped(DType::BF16, 32, None), 512),
        ("fp8-e4m3", fp8(DType::F8E4M3), 64),
        ("fp8-e5m2", fp8(DType::F8E5M2), 64),
    ] {
        let parts = scheme.parts(16, cols).map(|part, _| {
            let name = match part {
                Part::Weight => "codes",
                Part::Scales => "scales",
                _ => "global",
            };
            HostBytes::new(bytes_of(&file, &format!("{kind}.{name}")).1)
        });
        let weight = StoredWeight {
            scheme,
            rows: 16,
            cols: cols as usize,
            parts,
        };
        let found = weight.checked().unwrap().values().unwrap();
        let (_, expected) = bytes_of(&file, &format!("{kind}.expected"));
        let expected: &[f32] = bytemuck::cast_slice(&expected);
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let is_same = found.to_bits() == expected.to_bits();
            assert!(
                is_same || found.is_nan() && expected.is_nan(),
                "{kind} {i}: {found} {expected}"
            );
        }
    }
}
