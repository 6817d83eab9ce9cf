//! A model's placement in a run.

use llm_plan::Plan;

use super::gpus::MachineGpus;

/// Plan that a model was loaded by, and the GPUs that there were for it.
pub(crate) struct Placed {
    pub(crate) plan: Plan,
    pub(crate) gpus: MachineGpus,
}
