//! What the fuzz targets share. To run one, with a nightly compiler, from the repository's root:
//!
//! ```sh
//! cargo +nightly fuzz run torch_zip fuzz/corpus/torch_zip tests/fixtures/pickle
//! ```

use std::path::Path;
use std::sync::Arc;

use llm_backend::Reference;
use llm_checkpoint::{Checkpoint, Encoding};
use llm_plan::WeightDType;
use llm_quant::Scalar;
use llm_runtime::{BoundModel, Limits, LoadOptions};
use llm_tensor::{DType, HostBytes};

/// Opens `bytes` as whatever they begin like and reads from every tensor.
pub fn open_and_read(bytes: Vec<u8>) {
    if let Ok(checkpoint) = Checkpoint::from_bytes(Path::new("fuzzed"), HostBytes::new(bytes)) {
        read_both_ends(&checkpoint);
    }
}

/// Reads the first and the last elements of every tensor: what opens must be readable.
pub fn read_both_ends(checkpoint: &Checkpoint) {
    for tensor in checkpoint.tensors() {
        let dtype = match tensor.encoding {
            Encoding::Plain(dtype) => dtype,
            Encoding::Block(_) => DType::F32,
            Encoding::Opaque(_) => {
                let n_bytes = tensor.contiguous_bytes();
                let n = n_bytes.min(1000);
                let mut out = vec![0; n as usize];
                checkpoint
                    .read_stored(&tensor.name, n_bytes - n..n_bytes, &mut out)
                    .expect("what opens is readable");
                continue;
            }
        };
        let n_elements = tensor.shape.n_elements();
        let n = n_elements.min(1000);
        let mut out = vec![0; n as usize * dtype.size()];
        for range in [0..n, n_elements - n..n_elements] {
            checkpoint
                .read_into(&tensor.name, range, dtype, &mut out)
                .expect("what opens is readable");
        }
        checkpoint.view(&tensor.name).expect("what opens is there");
    }
}

/// `bytes`, made to begin with `front` whatever they were: so the fuzzer need not find it.
pub fn with_front(front: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut file = bytes.to_vec();
    file.resize(bytes.len().max(front.len()), 0);
    file[..front.len()].copy_from_slice(front);
    file
}

/// Configurations of the fixtures, whose files are a corpus:
///
/// ```sh
/// mkdir -p fuzz/corpus/packed
/// for f in tests/fixtures/packed/*/model.safetensors; do cp $f fuzz/corpus/packed/$(basename $(dirname $f)); done
/// ```
pub const CONFIGS: [&[u8]; 14] = [
    include_bytes!("../../tests/fixtures/packed/awq/config.json"),
    include_bytes!("../../tests/fixtures/packed/compressed-fp8/config.json"),
    include_bytes!("../../tests/fixtures/packed/compressed-int4/config.json"),
    include_bytes!("../../tests/fixtures/packed/compressed-int8/config.json"),
    include_bytes!("../../tests/fixtures/packed/compressed-mxfp4/config.json"),
    include_bytes!("../../tests/fixtures/packed/compressed-nvfp4/config.json"),
    include_bytes!("../../tests/fixtures/packed/fp8-experts/config.json"),
    include_bytes!("../../tests/fixtures/packed/fp8-experts-powers/config.json"),
    include_bytes!("../../tests/fixtures/packed/fp8-experts-whole/config.json"),
    include_bytes!("../../tests/fixtures/packed/gptq/config.json"),
    include_bytes!("../../tests/fixtures/packed/gptq-8bit/config.json"),
    include_bytes!("../../tests/fixtures/packed/gptq-order-v2/config.json"),
    include_bytes!("../../tests/fixtures/packed/modelopt-nvfp4/config.json"),
    include_bytes!("../../tests/fixtures/packed/mxfp4-experts/config.json"),
];

/// Loads a model, its weights as they are stored and as f32; what cannot be loaded is refused.
pub fn load(model: &BoundModel) {
    let limits = Limits {
        n_sequences: 1,
        context: 4,
        n_tokens: 2,
        n_logits: 1,
    };
    for dtype in [WeightDType::Auto, WeightDType::As(DType::F32)] {
        let options = LoadOptions {
            dtype,
            quant: None,
            encoder: &Scalar,
            limits,
            offload: None,
        };
        let reference = Arc::new(Reference::new());
        let _ = llm_runtime::load(model, &reference, &options, &mut |_| ());
    }
}
