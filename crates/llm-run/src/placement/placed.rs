//! A model's placement in a run.

use std::sync::Arc;

use llm_cuda::Cuda;
use llm_plan::Plan;

use super::gpus::MachineGpus;

/// Plan that a model was loaded by, and the GPUs that there were for it.
pub(crate) struct Placed {
    pub(crate) plan: Plan,
    pub(crate) gpus: MachineGpus,
    /// Those that compute.
    pub(crate) opened: Vec<Arc<Cuda>>,
}
