//! Memory that devices take for what only they know.

use llm_arch::ExpertsSpec;
use llm_cpu::Cpu;
use llm_plan::DeviceCosts;
use llm_runtime::CostsOf;
use llm_tensor::{Bytes, KvShape, WorkspaceShape};

/// A GPU that nothing is known of: it keeps keys and values, and needs scratch memory, as the CPU does.
pub(super) struct GpuCosts<'a>(pub(super) CostsOf<'a, Cpu>);

impl DeviceCosts for GpuCosts<'_> {
    fn kv_pool_bytes(&self, shape: &KvShape) -> Bytes {
        self.0.kv_pool_bytes(shape)
    }

    fn kv_block_len(&self, shape: &KvShape) -> usize {
        self.0.kv_block_len(shape)
    }

    fn routes_bytes(&self, experts: &ExpertsSpec, n_tokens: usize) -> Bytes {
        self.0.routes_bytes(experts, n_tokens)
    }

    fn workspace_bytes(&self, shape: &WorkspaceShape) -> Bytes {
        self.0.workspace_bytes(shape)
    }

    fn fixed_bytes(&self) -> Bytes {
        GPU_CONTEXT
    }
}

/// Memory that a process takes of a GPU before it allocates anything: the driver's context and the code of kernels. Cards in
/// use today take 250 to 500 MB, the newer the more.
pub(crate) const GPU_CONTEXT: Bytes = Bytes::new(500_000_000);
