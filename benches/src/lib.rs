//! Measuring against the machine's own limits, in one run.
//!
//! Machines are shared and clocks change, so a figure means little without the limit measured beside it: everything
//! that is compared runs in turns, round by round, and medians are reported.

use std::num::NonZeroUsize;
use std::time::Instant;

use llm_backend::HostWeight;
use llm_cpu::{Cpu, CpuOptions};
use llm_tensor::{AlignedBuf, DType, HostBytes, f32_to_le_bytes};

/// The median seconds of each of `runs`, over `n_rounds` in which each runs once after the other.
///
/// # Panics
/// Without rounds.
pub fn interleaved(n_rounds: usize, runs: &mut [&mut dyn FnMut()]) -> Vec<f64> {
    let mut seconds = vec![Vec::with_capacity(n_rounds); runs.len()];
    // The first round touches memory and wakes threads.
    for round in 0..=n_rounds {
        for (run, seconds) in runs.iter_mut().zip(&mut seconds) {
            let start = Instant::now();
            run();
            if round > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
    }
    seconds.into_iter().map(median).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The processor with `n_threads`, or with all there are.
///
/// # Panics
/// When threads cannot be started.
pub fn cpu(n_threads: Option<usize>) -> Cpu {
    Cpu::new(CpuOptions {
        threads: n_threads.and_then(NonZeroUsize::new),
        isa: None,
    })
    .expect("threads of the best instruction set start")
}

/// Weights of these `[rows, cols]`, one after the other in a single allocation; and all its bytes.
///
/// # Panics
/// When `dtype` is no weight's.
pub fn weights(dtype: DType, shapes: &[(usize, usize)]) -> (Vec<HostWeight>, HostBytes) {
    let size = |&(rows, cols): &(usize, usize)| rows * cols * dtype.size();
    let mut bytes = AlignedBuf::zeroed(shapes.iter().map(size).sum());
    let pattern: Vec<f32> = (0..4096)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 500.0)
        .collect();
    for piece in bytes.chunks_mut(pattern.len() * dtype.size()) {
        let n = piece.len() / dtype.size();
        f32_to_le_bytes(&pattern[..n], dtype, piece).expect("weights are f32, f16 or bf16");
    }
    let bytes = HostBytes::new(bytes);
    let mut at = 0;
    let weights = shapes
        .iter()
        .map(|shape| {
            let range = at..at + size(shape);
            at = range.end;
            HostWeight {
                dtype,
                rows: shape.0,
                cols: shape.1,
                bytes: bytes.slice(range),
            }
        })
        .collect();
    (weights, bytes)
}
