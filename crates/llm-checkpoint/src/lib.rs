//! Opens model checkpoints: safetensors and GGUF, single or sharded.
