//! The GPU: its facts, and the bandwidths that all else is compared with.

use anyhow::Result;
use llm_cuda::{Cuda, MeasureExtent, probe};
use serde_json::json;

use crate::Extent;

/// Prints facts and bandwidths as a line of JSON.
///
/// # Errors
/// When there is no GPU, or it fails.
pub(crate) fn run(extent: Extent) -> Result<()> {
    let driver = probe()?;
    let gpu = Cuda::new(0)?;
    let facts = gpu.facts();
    let (free, total) = gpu.memory()?;
    let extent = match extent {
        Extent::Small => MeasureExtent {
            on_gpu: 1 << 16,
            on_host: 1 << 16,
            n_rounds: 1,
            n_launches: 16,
        },
        Extent::Full => MeasureExtent {
            on_gpu: 1 << 30,
            on_host: 256 << 20,
            n_rounds: 9,
            n_launches: 256,
        },
    };
    let (rates, times) = (gpu.measure(extent)?, gpu.measure_launches(extent)?);
    println!(
        "{}",
        json!({
            "what": "card",
            "name": facts.name,
            "n_gpus": driver.gpus.len(),
            "compute_capability": format!("{}.{}", facts.compute_capability.0, facts.compute_capability.1),
            "driver_cuda": format!("{}.{}", driver.version / 1000, driver.version % 1000 / 10),
            "n_multiprocessors": facts.n_multiprocessors,
            "total_bytes": total.get(),
            "free_bytes": free.get(),
            // What is read and what is written counted both.
            "copy_bytes_per_second": rates.copy,
            "to_gpu_pinned_bytes_per_second": rates.to_gpu.pinned,
            "to_gpu_pageable_bytes_per_second": rates.to_gpu.pageable,
            "from_gpu_pinned_bytes_per_second": rates.from_gpu.pinned,
            "from_gpu_pageable_bytes_per_second": rates.from_gpu.pageable,
            "launch_seconds": times.launch,
            "launch_in_graph_seconds": times.launch_in_graph,
            "hand_over_seconds": times.hand_over,
        })
    );
    Ok(())
}
