//! Memory that GPUs take for what only they know.

use llm_arch::ExpertsSpec;
use llm_backend::Routing;
use llm_cuda::costs;
use llm_plan::DeviceCosts;
use llm_tensor::{Bytes, KvShape, WorkspaceShape};

/// Costs of a GPU, which are those of all: known without a driver.
pub(super) struct CudaCosts;

impl DeviceCosts for CudaCosts {
    fn kv_pool_bytes(&self, shape: &KvShape) -> Bytes {
        costs::kv_pool_bytes(shape)
    }

    fn kv_block_len(&self, shape: &KvShape) -> usize {
        costs::kv_block_len(shape)
    }

    fn routes_bytes(&self, experts: &ExpertsSpec, n_tokens: usize) -> Bytes {
        let routing = Routing {
            n_experts: experts.n_experts,
            n_active: experts.n_active,
            weighting: experts.weighting,
        };
        costs::routes_bytes(&routing, n_tokens)
    }

    fn workspace_bytes(&self, shape: &WorkspaceShape) -> Bytes {
        costs::workspace_bytes(shape)
    }

    fn fixed_bytes(&self) -> Bytes {
        GPU_CONTEXT
    }
}

/// Memory that a process takes of a GPU before it allocates anything: the driver's context and the code of kernels. Cards in
/// use today take 250 to 600 MB, the newer the more.
pub(crate) const GPU_CONTEXT: Bytes = costs::CONTEXT;
