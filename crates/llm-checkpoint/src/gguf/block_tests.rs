use llm_quant::GgmlType;
use llm_tensor::DType;

use crate::testing::{fixture, read_all};
use crate::{Checkpoint, Encoding};

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
