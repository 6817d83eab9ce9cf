use llm_tensor::DType;

use crate::testing::{fixture, read_all};
use crate::{Checkpoint, Encoding, GgmlType};

#[test]
fn every_type_decodes_to_the_bits_of_the_reference() {
    let expected = Checkpoint::open(&fixture("expected.safetensors")).unwrap();
    let mut seen = Vec::new();
    for file in ["all-types.gguf", "more-types.gguf", "version-2.gguf"] {
        let checkpoint = Checkpoint::open(&fixture(file)).unwrap();
        for tensor in checkpoint.tensors() {
            let reference = expected.get(&tensor.name).unwrap();
            let Encoding::Plain(dtype) = reference.encoding else {
                panic!("safetensors are plain");
            };
            assert_eq!(tensor.shape, reference.shape, "{}", tensor.name);
            // Compared as bytes: the sign of zero counts.
            assert_eq!(
                read_all(&checkpoint, &tensor.name, dtype),
                read_all(&expected, &tensor.name, dtype),
                "{}",
                tensor.name
            );
            seen.push(tensor.encoding);
        }
    }
    for ty in GgmlType::ALL {
        assert!(seen.contains(&Encoding::Block(ty)), "{ty} has a fixture");
    }
    for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
        assert!(seen.contains(&Encoding::Plain(dtype)), "{dtype} too");
    }
}

#[test]
fn scales_that_are_infinite_or_nan_spread_but_do_no_harm() {
    for ty in GgmlType::ALL {
        let mut decoded = vec![0.0; ty.block_len()];
        ty.decode(&vec![0xFF; ty.block_bytes()], &mut decoded);
        match ty {
            // Their scales have no NaN.
            GgmlType::MXFP4 => assert!(decoded.iter().all(|x| x.is_infinite()), "{ty}"),
            GgmlType::NVFP4 => assert!(decoded.iter().all(|x| x.is_finite()), "{ty}"),
            _ => assert!(decoded.iter().all(|x| x.is_nan()), "{ty}"),
        }
    }
}
