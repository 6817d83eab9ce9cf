//! Sequences that decode together share each pass over the weights: few rows times a matrix, against one row and
//! against multiplying and adding in registers only.
//!
//! `cargo bench -p llm-benches --bench batch [-- nf4 …]` measures the schemes that are named, else all.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it finds")]

use std::sync::Arc;

use llm_backend::Backend;
use llm_benches::{cpu, four_bit_weights, int8_weights, interleaved, named, products, weights};
use llm_cpu::Cpu;
use llm_quant::{BlockSize, Code, FourBit, Int8, Scheme};
use llm_tensor::DType;

/// Of a Llama of 1.1 billion parameters, `[rows, cols]`.
const SHAPES: [(usize, usize); 3] = [(2048, 2048), (5632, 2048), (2048, 5632)];
const N_TOKENS: [usize; 8] = [1, 2, 3, 4, 6, 8, 12, 16];
/// Elements of all matrices of a shape: more than caches hold of the wider types.
const N_ELEMENTS: usize = 1 << 26;

fn main() {
    let cpu = cpu(None);
    println!("{}", cpu.info().name);
    for scheme in schemes() {
        for (rows, cols) in SHAPES {
            measure(&cpu, scheme, rows, cols);
        }
    }
}

/// The ways to keep weights whose products are measured: those that are named, else all.
fn schemes() -> Vec<Scheme> {
    let nf4 = |double_quant| {
        Scheme::FourBit(FourBit {
            code: Code::Nf4,
            block_size: BlockSize::DEFAULT,
            double_quant,
        })
    };
    named(vec![
        Scheme::Dense(DType::BF16),
        Scheme::Int8(Int8 { threshold: 6.0 }),
        nf4(false),
        nf4(true),
    ])
}

const WORKS: &str = "a processor's operations do not fail";

/// Prints what a pass takes for each number of tokens.
fn measure(cpu: &Arc<Cpu>, scheme: Scheme, rows: usize, cols: usize) {
    let shapes = vec![(rows, cols); N_ELEMENTS.div_ceil(rows * cols)];
    let weights = match scheme {
        Scheme::Dense(dtype) => weights(dtype, &shapes).0,
        Scheme::FourBit(format) => four_bit_weights(format, &shapes).0,
        Scheme::Int8(format) => int8_weights(format, &shapes).0,
        Scheme::Int8PerUse(..) | Scheme::Ggml(_) | Scheme::Fp8(_) | Scheme::Grouped(_) => return,
    };
    let weights: Vec<_> = weights
        .into_iter()
        .map(|weight| cpu.load(weight).expect(WORKS))
        .collect();
    let mut n_peak = 0;
    let mut peak = || n_peak = cpu.multiply_add(200_000);
    let mut passes: Vec<_> = N_TOKENS
        .into_iter()
        .map(|n_tokens| products(cpu, &weights, (rows, cols), n_tokens))
        .collect();
    let mut runs: Vec<&mut dyn FnMut()> = vec![&mut peak];
    runs.extend(passes.iter_mut().map(|pass| pass as &mut dyn FnMut()));
    let seconds = interleaved(9, &mut runs);
    drop(passes);
    let (peak, seconds) = (n_peak as f64 / seconds[0], &seconds[1..]);
    println!(
        "  {scheme}, {rows} x {cols}, peak {:.0} GFLOP/s",
        peak / 1e9
    );
    for (n_tokens, &time) in N_TOKENS.into_iter().zip(seconds) {
        let n_operations = 2 * shapes.len() * rows * cols * n_tokens;
        println!(
            "    {n_tokens:2} tokens {:8.3} ms, {:5.2} x one token | {:3.0}% of peak",
            time * 1e3,
            time / seconds[0],
            100.0 * n_operations as f64 / time / peak,
        );
    }
}
