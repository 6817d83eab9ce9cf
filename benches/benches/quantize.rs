//! Quantizing reads every element of a dense weight once: against a plain read of the same bytes, on one thread, as
//! callers share pieces among threads.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it finds")]

use llm_backend::Backend;
use llm_benches::{cpu, four_bit_weights, interleaved, weights};
use llm_cpu::Cpu;
use llm_quant::{BlockSize, Code, Encoder, FourBit, Weight4Bit};
use llm_tensor::DType;

fn main() {
    let cpu = cpu(Some(1));
    println!("{}", cpu.info().name);
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        for code in Code::ALL {
            encode_4bit(&cpu, code, dtype);
        }
    }
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        encode_int8(&cpu, dtype);
    }
    for code in Code::ALL {
        decode_4bit(&cpu, code);
    }
}

/// Shape of a matrix's piece: sources and results come from memory, not from a cache.
const SHAPE: (usize, usize) = (16384, 8192);

fn encode_4bit(cpu: &Cpu, code: Code, dtype: DType) {
    let (_, elements) = weights(dtype, &[SHAPE]);
    let n = SHAPE.0 * SHAPE.1;
    let block_size = BlockSize::DEFAULT;
    let mut packed = vec![0; n / 2];
    let mut absmax = vec![0.0; n / block_size.get()];
    let mut encode =
        || cpu.encode_4bit(code, block_size, dtype, &elements, &mut packed, &mut absmax);
    let what = format!("{dtype} to {code}");
    report(cpu, &what, &elements, elements.len(), &mut encode);
}

fn encode_int8(cpu: &Cpu, dtype: DType) {
    let (_, elements) = weights(dtype, &[SHAPE]);
    let (rows, cols) = SHAPE;
    let mut codes = vec![0; rows * cols];
    let mut absmax = vec![0.0; rows];
    let mut encode = || cpu.encode_int8(dtype, &elements, cols, &mut codes, &mut absmax);
    let what = format!("{dtype} to int8");
    report(cpu, &what, &elements, elements.len(), &mut encode);
}

fn decode_4bit(cpu: &Cpu, code: Code) {
    let format = FourBit {
        code,
        block_size: BlockSize::DEFAULT,
        double_quant: false,
    };
    let (weights, bytes) = four_bit_weights(format, &[SHAPE]);
    let Some(weight) = Weight4Bit::of(&weights[0]) else {
        return;
    };
    let mut out = vec![0f32; SHAPE.0 * SHAPE.1];
    let n_bytes = size_of_val(&out[..]);
    let mut decode = || cpu.decode_4bit(&weight, 0, &mut out);
    report(
        cpu,
        &format!("{code} to f32, written"),
        &bytes,
        n_bytes,
        &mut decode,
    );
}

/// Prints how fast `run` gets through `n_bytes`, beside how fast `bytes` are read.
fn report(cpu: &Cpu, what: &str, bytes: &[u8], n_bytes: usize, run: &mut dyn FnMut()) {
    let mut read = || cpu.read_through(bytes);
    let seconds = interleaved(9, &mut [&mut read, run]);
    println!(
        "  {what:24} read {:5.1} GB/s | {:5.1} GB/s, {:7.3} ms",
        bytes.len() as f64 / seconds[0] / 1e9,
        n_bytes as f64 / seconds[1] / 1e9,
        seconds[1] * 1e3,
    );
}
