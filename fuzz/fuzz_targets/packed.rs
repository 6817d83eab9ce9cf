//! Quantized models: a safetensors file under the configuration of each format that it may be in.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use llm_checkpoint::Checkpoint;
use llm_runtime::BoundModel;
use llm_tensor::HostBytes;

fuzz_target!(|file: &[u8]| {
    let origin = Path::new("fuzzed");
    for config in llm_fuzz::CONFIGS {
        let bytes = HostBytes::new(file.to_vec());
        let Ok(checkpoint) = Checkpoint::from_bytes(origin, bytes) else {
            return;
        };
        if let Ok(model) = BoundModel::with_config(checkpoint, config, origin) {
            llm_fuzz::load(&model);
        }
    }
});
