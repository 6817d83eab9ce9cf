use llm_quant::Scheme;
use llm_tensor::Bytes;

/// Failure of a device.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The device has no room for an allocation.
    #[error(
        "{device} is out of memory: {requested} more were asked for {purpose}{}",
        .free.map(|free| format!(", and {free} are free")).unwrap_or_default()
    )]
    OutOfMemory {
        /// The device's name.
        device: String,
        /// Use that the memory was meant for.
        purpose: &'static str,
        /// Size that was asked for.
        requested: Bytes,
        /// What the device has left, where it says so.
        free: Option<Bytes>,
    },
    /// A call that the device's driver refused, or work that failed before it.
    #[error("{device} fails at {operation}: {name} (code {code})")]
    Driver {
        /// The device's name.
        device: String,
        /// What was asked of the driver, with its sizes.
        operation: String,
        /// The driver's code.
        code: u32,
        /// The driver's name of the code.
        name: String,
    },
    /// A weight in a scheme that the device cannot compute with.
    #[error(
        "{device} cannot compute with a weight [{rows}, {cols}] in {scheme}; load it as f32, f16 or bf16"
    )]
    UnsupportedWeight {
        /// The device's name.
        device: String,
        /// The weight's scheme.
        scheme: Scheme,
        /// Output features.
        rows: usize,
        /// Input features.
        cols: usize,
    },
}
