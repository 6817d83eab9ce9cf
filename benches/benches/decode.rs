//! Decoding reads every weight once a token: matrix times vector against a plain read of the same bytes.
//!
//! `cargo bench -p llm-benches --bench decode [-- nf4 …]` measures the schemes that are named, else all.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it finds")]

use std::sync::Arc;

use llm_backend::{Backend, LinearPart, Ops, Output, Queue};
use llm_benches::{cpu, four_bit_weights, int8_weights, interleaved, named, weights};
use llm_cpu::Cpu;
use llm_quant::{BlockSize, Code, FourBit, Int8, Scheme};
use llm_tensor::{DType, WorkspaceShape};

fn main() {
    let cpus = [cpu(Some(1)), cpu(None)];
    for cpu in &cpus {
        println!("{}", cpu.info().name);
        for scheme in schemes() {
            measure(cpu, "1 GB of 4096 x 4096", scheme, &large(scheme), 9);
        }
        for scheme in schemes() {
            measure(cpu, "shapes of SmolLM2-135M", scheme, &smollm2(), 15);
        }
    }
}

/// The ways to keep weights whose products are measured: those that are named, else all.
fn schemes() -> Vec<Scheme> {
    let four_bit = |code, double_quant| {
        Scheme::FourBit(FourBit {
            code,
            block_size: BlockSize::DEFAULT,
            double_quant,
        })
    };
    named(vec![
        Scheme::Dense(DType::BF16),
        Scheme::Dense(DType::F16),
        Scheme::Dense(DType::F32),
        Scheme::Int8(Int8 { threshold: 6.0 }),
        four_bit(Code::Nf4, false),
        four_bit(Code::Nf4, true),
        four_bit(Code::Fp4, false),
    ])
}

/// Prints the speed of a pass over all `shapes` beside that of reading the same bytes.
fn measure(cpu: &Arc<Cpu>, what: &str, scheme: Scheme, shapes: &[(usize, usize)], n_rounds: usize) {
    let works = "a processor's operations do not fail";
    let (weights, bytes) = match scheme {
        Scheme::Dense(dtype) => weights(dtype, shapes),
        Scheme::FourBit(format) => four_bit_weights(format, shapes),
        Scheme::Int8(format) => int8_weights(format, shapes),
        Scheme::Int8PerUse(..) | Scheme::Ggml(_) | Scheme::Fp8(_) | Scheme::Grouped(_) => return,
    };
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
        n_selecting: 0,
    };
    let mut queue = cpu.queue(Some(&shape)).expect(works);
    let mut x = cpu.alloc(cols).expect(works);
    queue.upload(&vec![0.5; cols], &mut x).expect(works);
    let mut out = cpu.alloc(rows).expect(works);
    let mut multiply = || {
        for weight in &weights {
            let part = LinearPart { weight, bias: None };
            queue
                .linear(&[part], &x, Output::Write, &mut out, 1)
                .expect(works);
        }
    };
    let mut read = || cpu.read_through(&bytes);
    let seconds = interleaved(n_rounds, &mut [&mut read, &mut multiply]);
    let speed = |seconds: f64| bytes.len() as f64 / seconds / 1e9;
    println!(
        "  {scheme:10} {what:24} read {:5.1} GB/s | matvec {:5.1} GB/s, {:7.3} ms | {:3.0}% of read",
        speed(seconds[0]),
        speed(seconds[1]),
        seconds[1] * 1e3,
        100.0 * seconds[0] / seconds[1],
    );
}

fn large(scheme: Scheme) -> Vec<(usize, usize)> {
    let n_bytes = scheme.stored_bytes(4096, 4096).total().get();
    vec![(4096, 4096); 1_000_000_000usize.div_ceil(n_bytes as usize)]
}

fn smollm2() -> Vec<(usize, usize)> {
    let layer = [(960, 576), (576, 576), (3072, 576), (576, 1536)];
    let mut shapes = layer.repeat(30);
    shapes.push((49152, 576));
    shapes
}
