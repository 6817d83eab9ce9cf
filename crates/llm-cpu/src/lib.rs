//! SIMD kernels and threads for the CPU.
//!
//! [`Cpu`] is a [`Backend`](llm_backend::Backend) that computes with weights where they lie, a mapped file or the
//! heap, in the encoding they have. Activations and sums are f32, but for weights in LLM.int8(), whose activations are
//! quantized and summed in integers. Kernels are written once over lanes of f32, or of integers, and compiled for each
//! [`Isa`]; threads share an operation by fixed rows or heads. So results are
//! reproducible: the same machine gives the same bits in every run and with any number of threads. Another
//! instruction set, or computing another number of tokens at once, changes the order of sums, hence the rounding.

#![allow(
    unsafe_code,
    reason = "intrinsics, unaligned weights and threads that share an output need it"
)]

mod arrange;
mod attention;
mod backend;
mod compress;
mod conv;
mod delta;
mod dense;
mod digits;
mod elementwise;
mod encode;
mod error;
mod four_bit;
mod gates;
mod gemm;
mod heads;
mod hyper;
mod int8;
mod isa;
mod kv_pool;
mod linear;
mod math;
mod matvec;
mod memory;
mod norm;
mod packed;
mod pages;
mod pairs;
mod pool;
mod probe;
mod queue;
mod residual;
mod routes;
mod select;
mod share;
mod simd;
mod state_space;
mod states;
mod streams;
mod tile;
mod weight;
mod whole;
mod workspace;

pub use error::CpuError;
pub use isa::Isa;
pub use kv_pool::KvPool;
pub use matvec::FEW_ROWS;
pub use memory::Buffer;
pub use pages::CpuPages;
pub use pairs::Compute;
pub use queue::CpuQueue;
pub use routes::Routes;
pub use weight::Weight;

use std::num::NonZeroUsize;
use std::str::FromStr;
use std::thread;

use llm_backend::DeviceInfo;
use llm_quant::Activations;

use crate::isa::Level;
use crate::pairs::PairLevel;
use crate::pool::Pool;
use crate::simd::dot::DotLevel;
use crate::simd::int::IntLevel;

/// Resources that a [`Cpu`] may use; the default is all there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads, the caller included. By default as many as may run at once, by affinity and cgroup quota.
    pub threads: Option<NonZeroUsize>,
    /// The instruction set. By default the best that the machine has.
    pub isa: Option<Isa>,
    /// The type that activations and weights of many tokens are multiplied in. By default exact.
    pub compute: Compute,
    /// The type that activations are multiplied with packed weights in. By default exact.
    pub activations: Activations,
}

/// The processor and its memory.
///
/// ```
/// use std::sync::Arc;
///
/// use llm_backend::{Backend, LinearPart, Ops, Output, Queue};
/// use llm_cpu::{Cpu, CpuOptions};
/// use llm_quant::StoredWeight;
/// use llm_tensor::{DType, HostBytes, WorkspaceShape};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cpu = Arc::new(Cpu::new(CpuOptions::default())?);
/// let bf16 = [0x3f80u16, 0x4000, 0x4040, 0x4080].map(u16::to_le_bytes).concat();
/// let weight = cpu.load(StoredWeight::dense(DType::BF16, (2, 2), HostBytes::new(bf16)))?;
/// let (mut x, mut out) = (cpu.alloc(2)?, cpu.alloc(2)?);
///
/// let largest = WorkspaceShape { n_tokens: 1, cols: 2, rows: 2, context: 1, n_heads: 1, n_kv_heads: 1, head_dim: 1, n_selecting: 0 };
/// let mut queue = cpu.queue(Some(&largest))?;
/// queue.upload(&[1.0, 10.0], &mut x)?;
/// queue.linear(&[LinearPart { weight: &weight, bias: None }], &x, Output::Write, &mut out, 1)?;
///
/// let mut results = [0.0; 2];
/// queue.download(&out, &mut results)?;
/// assert_eq!(results, [21.0, 43.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Cpu {
    info: DeviceInfo,
    isa: Isa,
    level: Level,
    int_level: IntLevel,
    pair_level: Option<PairLevel>,
    dot_level: DotLevel,
    activations: Activations,
    pool: Pool,
}

impl Cpu {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`CpuError::MissingIsa`] when the machine lacks the instruction set asked for, [`CpuError::TooManyThreads`] when
    /// they would be in each other's way, [`CpuError::Spawn`] when the system refuses a thread.
    pub fn new(options: CpuOptions) -> Result<Cpu, CpuError> {
        let isa = options.isa.unwrap_or_else(Isa::detect);
        let level = Level::new(isa).ok_or_else(|| CpuError::MissingIsa {
            isa,
            best: Isa::detect(),
        })?;
        let n_processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let n_threads = options.threads.map_or(n_processors, NonZeroUsize::get);
        // Threads that share an operation wait for each other: far more than there are processors never end.
        let most = MOST_THREADS.max(2 * n_processors);
        if n_threads > most {
            return Err(CpuError::TooManyThreads {
                n_threads,
                n_processors,
                most,
            });
        }
        let plural = if n_threads == 1 { "" } else { "s" };
        Ok(Cpu {
            info: DeviceInfo {
                name: format!("cpu ({isa}, {n_threads} thread{plural})"),
            },
            isa,
            level,
            int_level: IntLevel::of(level),
            pair_level: PairLevel::of(level, options.compute),
            dot_level: DotLevel::of(level),
            activations: options.activations,
            // More threads than processors would only wait for each other; their shares are done by those that there are.
            pool: Pool::with_shares(n_threads, n_threads.min(n_processors))?,
        })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads that an operation is split for, the caller included; no more run than there are processors.
    pub fn n_threads(&self) -> usize {
        self.pool.n_shares()
    }
}

impl FromStr for Isa {
    type Err = CpuError;

    fn from_str(name: &str) -> Result<Self, CpuError> {
        Self::ALL
            .into_iter()
            .find(|isa| isa.name() == name.to_ascii_lowercase())
            .ok_or_else(|| CpuError::UnknownIsa {
                name: name.to_owned(),
            })
    }
}

/// Threads that any machine is asked for.
const MOST_THREADS: usize = 64;

#[cfg(test)]
mod tests;
