//! The bundled demonstration model: a first run needs no download.

use llm_tensor::HostBytes;

/// Name that stands for it wherever a model's path does.
pub(crate) const NAME: &str = "demo";

/// Path of it in messages.
pub(crate) const ORIGIN: &str = "the bundled demo model";

/// Prompt that it continues when nothing else is asked for.
pub(crate) const PROMPT: &str = "Once upon a time";

pub(crate) const CONFIG: &[u8] = include_bytes!("../assets/demo/config.json");
pub(crate) const TOKENIZER: &[u8] = include_bytes!("../assets/demo/tokenizer.json");
pub(crate) const TOKENIZER_CONFIG: &[u8] = include_bytes!("../assets/demo/tokenizer_config.json");

/// Its weights as a safetensors file, aligned so that they are computed with in place.
pub(crate) fn weights() -> HostBytes {
    HostBytes::new(&WEIGHTS.0[..])
}

#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static WEIGHTS: &Aligned<[u8]> = &Aligned(*include_bytes!("../assets/demo/model.safetensors"));
