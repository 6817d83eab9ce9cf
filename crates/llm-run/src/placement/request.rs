//! Request for a plan, from the command line and the machine.

use anyhow::Result;
use llm_arch::{ModelSpec, Skeleton};
use llm_cpu::Cpu;
use llm_plan::{
    Costs, DEFAULT_SLICE, Encodings, Limits, Offload, Request, RunOn, StoredTensor, Strategy,
};
use llm_runtime::{BoundModel, CostsOf, OffloadFolder};
use llm_tensor::Bytes;

use super::budgets::MemoryBudgets;
use super::costs::CudaCosts;
use crate::cli::PlaceArgs;

/// Memories and devices that a plan is made for, and how the user wants them used.
pub(crate) struct PlanSetting<'a> {
    cpu: CostsOf<'a, Cpu>,
    load_piece: Bytes,
    slice: Bytes,
    strategy: &'a Strategy,
    pub(crate) memories: MemoryBudgets,
    gpus: CudaCosts,
}

impl<'a> PlanSetting<'a> {
    /// The setting of a plan in which `cpu` computes. Offload files of `model`, in its encodings, are looked for.
    pub(crate) fn new(
        cpu: &'a Cpu,
        args: &'a PlaceArgs,
        model: Option<(&BoundModel, &Encodings<'_>)>,
    ) -> Result<Self> {
        let offloaded = |folder: OffloadFolder| match model {
            Some((model, encodings)) => Ok(folder.bytes_of(model, encodings, RunOn::Cpu)?),
            None => Ok(Bytes::ZERO),
        };
        let memories = MemoryBudgets::new(args, &offloaded)?;
        Ok(PlanSetting {
            cpu: CostsOf(cpu),
            gpus: CudaCosts::of(&memories.gpus.found),
            load_piece: Bytes::new(cpu.n_threads() as u64 * LOAD_PIECE),
            slice: DEFAULT_SLICE,
            strategy: &args.device_map,
            memories,
        })
    }

    /// The request for a model whose checkpoint holds its slots as `stored`, and with which the process takes `program`
    /// for itself.
    pub(crate) fn request<'r>(
        &'r self,
        skeleton: &'r Skeleton,
        stored: &'r [StoredTensor],
        encodings: Encodings<'r>,
        limits: Limits,
        program: Bytes,
    ) -> Request<'r> {
        let libraries = match self.memories.budgets.gpus.is_empty() {
            true => Bytes::ZERO,
            false => self.gpus.ram(),
        };
        Request {
            skeleton,
            stored,
            encodings,
            kv_dtype: None,
            limits,
            load_piece: self.load_piece,
            slice: self.slice,
            budgets: self.memories.budgets.clone(),
            strategy: self.strategy.clone(),
            offload: Offload::Stream,
            costs: Costs {
                cpu: &self.cpu,
                gpu: &self.gpus,
                program: program + libraries,
            },
        }
    }
}

/// The passes of `n_sequences` sequences of `context` positions.
pub(crate) fn limits(
    spec: &ModelSpec,
    context: usize,
    n_sequences: usize,
    n_logits: usize,
) -> Limits {
    let n_tokens = match spec.encoder {
        // An encoder sees all of its prompt at once.
        Some(_) => context,
        None => PASS.min(context.saturating_mul(n_sequences)),
    };
    Limits {
        n_sequences,
        context,
        n_tokens: n_tokens.max(n_sequences),
        n_logits: n_logits.max(n_sequences),
    }
}

/// Rows of a pass: enough that weights are read once for many tokens, few enough that activations stay small.
const PASS: usize = 512;
/// Bytes that a thread reads of a tensor at a time: 2¹⁸ elements of the widest type.
const LOAD_PIECE: u64 = 4 << 18;
