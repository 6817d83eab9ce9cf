//! Reasons not to compute on a GPU.

use crate::driver::Failure;

/// Absence of a GPU that the kernels run on: one sentence, for a program that goes on without.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoGpu {
    /// No library of the driver is installed.
    #[error("no CUDA driver is installed (libcuda.so.1 cannot be loaded)")]
    NoDriver,
    /// The library is not the driver's, or one long out of use.
    #[error("the CUDA driver lacks `{name}`: it is broken, or not NVIDIA's")]
    LacksFunction {
        /// What was looked for in it.
        name: &'static str,
    },
    /// The driver cannot load the kernels.
    #[error(
        "the CUDA driver is for CUDA {}.{}; the kernels need {}.{} or later",
        .found / 1000, .found % 1000 / 10, .oldest / 1000, .oldest % 1000 / 10
    )]
    OldDriver {
        /// Its version, as 11080 for 11.8.
        found: u32,
        /// The first that would do.
        oldest: u32,
    },
    /// The driver is there and fails.
    #[error("the CUDA driver fails at {operation}: {name} (code {code})")]
    Broken {
        /// What was asked of it.
        operation: String,
        /// Its code.
        code: u32,
        /// Its name of the code.
        name: String,
    },
    /// The driver works and has nothing to drive.
    #[error("the CUDA driver finds no GPU")]
    NoDevice,
    /// There are GPUs, but none of that number.
    #[error("there is no GPU {number}: the CUDA driver finds {n_gpus}")]
    NoSuchDevice {
        /// The number asked for.
        number: usize,
        /// GPUs that there are, numbered from zero.
        n_gpus: usize,
    },
    /// The GPU is older than any that the kernels were made for.
    #[error(
        "{name} has compute capability {}.{}; the kernels need {}.{} or later",
        found.0, found.1, oldest.0, oldest.1
    )]
    OldDevice {
        /// The GPU's name.
        name: String,
        /// Its compute capability.
        found: (u32, u32),
        /// The first that would do.
        oldest: (u32, u32),
    },
}

impl From<Failure> for NoGpu {
    fn from(failure: Failure) -> Self {
        NoGpu::Broken {
            operation: failure.operation,
            code: failure.code,
            name: failure.name,
        }
    }
}
