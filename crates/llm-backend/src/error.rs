use llm_quant::Scheme;
use llm_tensor::Bytes;

/// What can go wrong on a device.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The device has no room for an allocation.
    #[error("{device} is out of memory: {requested} more were asked for {purpose}")]
    OutOfMemory {
        /// The device's name.
        device: String,
        /// What was to be stored.
        purpose: &'static str,
        /// How much was asked for.
        requested: Bytes,
    },
    /// A weight in an encoding that the device cannot compute with.
    #[error("{device} cannot compute with weights of {scheme}; load them as f32, f16 or bf16")]
    UnsupportedWeight {
        /// The device's name.
        device: String,
        /// The weight's encoding.
        scheme: Scheme,
    },
}
