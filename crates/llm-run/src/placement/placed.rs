//! A model's placement in a run.

use std::sync::Arc;

use llm_cuda::Cuda;
use llm_plan::{Budgets, Plan};

use super::gpus::MachineGpus;
use crate::load::Rounding;

/// Plan that a model was loaded by, and the GPUs that there were for it.
pub(crate) struct Placed {
    pub(crate) plan: Plan,
    /// Bytes that each memory may hold.
    pub(crate) budgets: Budgets,
    pub(crate) gpus: MachineGpus,
    /// Those that compute.
    pub(crate) opened: Vec<Arc<Cuda>>,
    /// Matrices that take activations in 8 bits, where that is asked for.
    pub(crate) rounding: Option<Rounding>,
}
