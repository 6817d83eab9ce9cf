//! Decoding reads every weight once a token: matrix times vector against a plain read of the same bytes.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it finds")]

use llm_backend::{Backend, LinearPart, Output, WorkspaceShape};
use llm_benches::{cpu, interleaved, weights};
use llm_cpu::Cpu;
use llm_tensor::DType;

fn main() {
    let cpus = [cpu(Some(1)), cpu(None)];
    for cpu in &cpus {
        println!("{}", cpu.info().name);
        for dtype in [DType::BF16, DType::F16, DType::F32] {
            measure(cpu, "1 GB of 4096 x 4096", dtype, &large(dtype), 9);
        }
        for dtype in [DType::BF16, DType::F16, DType::F32] {
            measure(cpu, "shapes of SmolLM2-135M", dtype, &smollm2(), 15);
        }
    }
}

/// Prints the speed of a pass over all `shapes` beside that of reading the same bytes.
fn measure(cpu: &Cpu, what: &str, dtype: DType, shapes: &[(usize, usize)], n_rounds: usize) {
    let works = "a processor's operations do not fail";
    let (weights, bytes) = weights(dtype, shapes);
    let weights: Vec<_> = weights
        .into_iter()
        .map(|weight| cpu.load(weight).expect(works))
        .collect();
    let widest = |f: fn(&(usize, usize)) -> usize| shapes.iter().map(f).max().unwrap_or(0);
    let (rows, cols) = (widest(|s| s.0), widest(|s| s.1));
    let shape = WorkspaceShape {
        n_tokens: 1,
        cols,
        rows,
        context: 1,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 1,
    };
    let mut workspace = cpu.workspace(&shape).expect(works);
    let mut x = cpu.alloc(cols).expect(works);
    cpu.upload(&vec![0.5; cols], &mut x).expect(works);
    let mut out = cpu.alloc(rows).expect(works);
    let mut multiply = || {
        for weight in &weights {
            let part = LinearPart { weight, bias: None };
            cpu.linear(&[part], &x, Output::Write, &mut out, 1, &mut workspace)
                .expect(works);
        }
    };
    let mut read = || cpu.read_through(&bytes);
    let seconds = interleaved(n_rounds, &mut [&mut read, &mut multiply]);
    let speed = |seconds: f64| bytes.len() as f64 / seconds / 1e9;
    println!(
        "  {dtype:5} {what:24} read {:5.1} GB/s | matvec {:5.1} GB/s, {:7.3} ms | {:3.0}% of read",
        speed(seconds[0]),
        speed(seconds[1]),
        seconds[1] * 1e3,
        100.0 * seconds[0] / seconds[1],
    );
}

fn large(dtype: DType) -> Vec<(usize, usize)> {
    vec![(4096, 4096); 1_000_000_000usize.div_ceil(4096 * 4096 * dtype.size())]
}

fn smollm2() -> Vec<(usize, usize)> {
    let layer = [(960, 576), (576, 576), (3072, 576), (576, 1536)];
    let mut shapes = layer.repeat(30);
    shapes.push((49152, 576));
    shapes
}
