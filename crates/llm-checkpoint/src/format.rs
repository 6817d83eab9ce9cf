/// The file format of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Hugging Face safetensors, single or sharded.
    Safetensors,
    /// GGML's single-file format.
    Gguf,
    /// Files of `torch.save`, single or sharded.
    Torch,
}
