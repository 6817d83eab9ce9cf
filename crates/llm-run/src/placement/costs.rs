//! Memory that GPUs take for what only they know.

use std::collections::BTreeMap;

use llm_arch::ExpertsSpec;
use llm_cuda::{Products, costs};
use llm_plan::{DeviceCosts, GpuCosts, Launches};
use llm_tensor::{Bytes, KvShape, WorkspaceShape};

use crate::system::Gpu;

/// Costs of GPUs, which are known without a driver, but for what it takes for itself.
#[derive(Debug)]
pub(crate) struct CudaCosts {
    /// Of those of this machine, by number.
    known: BTreeMap<u32, OneGpu>,
    other: OneGpu,
    products: Products,
}

impl CudaCosts {
    /// Costs of some GPUs, and of any other.
    pub(super) fn of(gpus: &[Gpu]) -> Self {
        let products = match gpus {
            [] => Products::Own,
            _ => Products::installed(),
        };
        let of = |gpu: &Gpu| OneGpu {
            context: gpu.context() + gpu.cublas(),
            products,
        };
        CudaCosts {
            known: gpus.iter().map(|gpu| (gpu.number, of(gpu))).collect(),
            other: OneGpu {
                context: GPU_CONTEXT,
                products: Products::Own,
            },
            products,
        }
    }

    /// RAM that libraries for these GPUs take of the process.
    pub(super) fn ram(&self) -> Bytes {
        match self.products {
            Products::CuBlas => costs::CUBLAS_RAM,
            Products::Own => Bytes::ZERO,
        }
    }
}

impl GpuCosts for CudaCosts {
    fn of(&self, number: u32) -> &dyn DeviceCosts {
        self.known.get(&number).unwrap_or(&self.other)
    }
}

#[derive(Debug)]
struct OneGpu {
    context: Bytes,
    products: Products,
}

impl DeviceCosts for OneGpu {
    fn kv_pool_bytes(&self, shape: &KvShape) -> Bytes {
        costs::kv_pool_bytes(shape)
    }

    fn kv_block_len(&self, shape: &KvShape) -> usize {
        costs::kv_block_len(shape)
    }

    fn routes_bytes(&self, experts: &ExpertsSpec, n_tokens: usize) -> Bytes {
        costs::routes_bytes(&experts.routing, n_tokens)
    }

    fn workspace_bytes(&self, shape: &WorkspaceShape) -> Bytes {
        costs::workspace_bytes(shape, self.products)
    }

    fn fixed_bytes(&self) -> Bytes {
        self.context
    }

    fn launches(&self) -> Launches {
        Launches {
            layer: costs::LAUNCHES_OF_LAYER,
            expert: costs::LAUNCHES_OF_EXPERT,
            other: 1,
        }
    }
}

/// Memory that a process takes of a GPU before it allocates anything, where `llm-run doctor` has not measured it: the driver's
/// context and the code of kernels. Cards in use today take 250 to 600 MB, the newer the more.
pub(crate) const GPU_CONTEXT: Bytes = costs::CONTEXT;
