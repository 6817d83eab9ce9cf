//! What the fuzz targets share. To run one, with a nightly compiler, from the repository's root:
//!
//! ```sh
//! cargo +nightly fuzz run torch_zip fuzz/corpus/torch_zip tests/fixtures/pickle
//! ```

use std::path::Path;

use llm_checkpoint::{Checkpoint, Encoding};
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
