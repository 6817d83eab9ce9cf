//! Placement of a model in the memories of this machine, for a plan and for the load that follows it.

pub(crate) mod budgets;
pub(crate) mod costs;
pub(crate) mod flags;
pub(crate) mod gpus;
pub(crate) mod offload;
pub(crate) mod placed;
pub(crate) mod program;
pub(crate) mod request;
