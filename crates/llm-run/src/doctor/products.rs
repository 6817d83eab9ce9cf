//! Products of many rows, as a prompt's are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use llm_backend::{Backend, LinearPart, Ops, Output, Queue};
use llm_cpu::{Cpu, CpuOptions};
use llm_quant::StoredWeight;
use llm_tensor::{DType, HostBytes, WorkspaceShape};

use super::extent::Extent;

/// Multiplications a second that all threads together make in bf16: the median of several rounds.
///
/// # Errors
/// When the system refuses a thread.
pub(super) fn of_cpu(extent: Extent) -> Result<f64> {
    let cpu = Arc::new(Cpu::new(CpuOptions::default())?);
    let bytes = HostBytes::new(vec![0; SIDE * SIDE * DType::BF16.size()]);
    let weight = cpu.load(StoredWeight::dense(DType::BF16, (SIDE, SIDE), bytes))?;
    let (x, mut out) = (cpu.alloc(N_ROWS * SIDE)?, cpu.alloc(N_ROWS * SIDE)?);
    let mut queue = cpu.queue(Some(&WorkspaceShape {
        n_tokens: N_ROWS,
        cols: SIDE,
        rows: SIDE,
        context: 1,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 1,
        n_selecting: 0,
    }))?;
    let part = LinearPart {
        weight: &weight,
        bias: None,
    };
    let mut round = || {
        let begin = Instant::now();
        queue.linear(&[part], &x, Output::Write, &mut out, N_ROWS)?;
        queue.finish()?;
        anyhow::Ok(begin.elapsed())
    };
    // The first round wakes the threads.
    round()?;
    let rounds = (0..extent.gpu_rounds).map(|_| round());
    let mut rounds = rounds.collect::<Result<Vec<_>>>()?;
    rounds.sort();
    let median = rounds[rounds.len() / 2].max(Duration::from_nanos(1));
    Ok((N_ROWS * SIDE * SIDE) as f64 / median.as_secs_f64())
}

const SIDE: usize = 1024;
const N_ROWS: usize = 256;
