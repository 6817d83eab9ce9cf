//! Measuring against the machine's own limits, in one run.
//!
//! Machines are shared and clocks change, so a figure means little without the limit measured beside it: everything
//! that is compared runs in turns, round by round, and medians are reported.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use llm_backend::{Backend, LinearPart, Ops, Output, Queue};
use llm_cpu::{Cpu, CpuOptions};
use llm_quant::{
    Absmax, DoubleAbsmax, FourBit, Int8, Int8Weight, NESTED_BLOCK, Scheme, StoredWeight,
    Weight4Bit, dynamic_map,
};
use llm_tensor::{AlignedBuf, DType, HostBytes, WorkspaceShape, f32_to_le_bytes};

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
pub fn cpu(n_threads: Option<usize>) -> Arc<Cpu> {
    let cpu = Cpu::new(CpuOptions {
        threads: n_threads.and_then(NonZeroUsize::new),
        isa: None,
        ..CpuOptions::default()
    });
    Arc::new(cpu.expect("threads of the best instruction set start"))
}

/// Those of `schemes` that the command line names, or all.
pub fn named(schemes: Vec<Scheme>) -> Vec<Scheme> {
    // Cargo adds `--bench` to what it passes on.
    let named: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let is_named = |scheme: &Scheme| named.is_empty() || named.contains(&scheme.to_string());
    schemes.into_iter().filter(is_named).collect()
}

/// Multiplies all `weights` `[rows, cols]` with `n_tokens` rows, one weight after the other, whenever it is called.
///
/// # Panics
/// When the processor's operations fail, which they do not.
pub fn products<'a>(
    cpu: &Arc<Cpu>,
    weights: &'a [<Cpu as Backend>::Weight],
    (rows, cols): (usize, usize),
    n_tokens: usize,
) -> impl FnMut() + 'a {
    const WORKS: &str = "a processor's operations do not fail";
    let shape = WorkspaceShape {
        n_tokens,
        cols,
        rows,
        context: 1,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 1,
        n_selecting: 0,
    };
    let mut queue = cpu.queue(Some(&shape)).expect(WORKS);
    let mut x = cpu.alloc(n_tokens * cols).expect(WORKS);
    queue
        .upload(&vec![0.5; n_tokens * cols], &mut x)
        .expect(WORKS);
    let mut out = cpu.alloc(n_tokens * rows).expect(WORKS);
    move || {
        for weight in weights {
            let parts = [LinearPart { weight, bias: None }];
            let output = Output::Write;
            queue
                .linear(&parts, &x, output, &mut out, n_tokens)
                .expect(WORKS);
        }
    }
}

/// Weights of these `[rows, cols]`, one after the other in a single allocation; and all its bytes.
///
/// # Panics
/// When `dtype` is no weight's.
pub fn weights(dtype: DType, shapes: &[(usize, usize)]) -> (Vec<StoredWeight>, HostBytes) {
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
            StoredWeight::dense(dtype, *shape, bytes.slice(range))
        })
        .collect();
    (weights, bytes)
}

/// Weights of these `[rows, cols]` in LLM.int8(), as [`weights`].
///
/// # Panics
/// When the bytes do not fit the format, which they do.
pub fn int8_weights(format: Int8, shapes: &[(usize, usize)]) -> (Vec<StoredWeight>, HostBytes) {
    let length = |&(rows, cols): &(usize, usize)| rows * (cols + size_of::<f32>());
    let mut bytes = AlignedBuf::zeroed(shapes.iter().map(length).sum());
    let mut rest = &mut bytes[..];
    for &(rows, cols) in shapes {
        let (codes, behind) = rest.split_at_mut(rows * cols);
        for (i, code) in codes.iter_mut().enumerate() {
            *code = (i * 37 % 251) as u8;
        }
        let (scales, behind) = behind.split_at_mut(rows * size_of::<f32>());
        for scale in scales.chunks_exact_mut(size_of::<f32>()) {
            scale.copy_from_slice(&0.02f32.to_le_bytes());
        }
        rest = behind;
    }
    let bytes = HostBytes::new(bytes);
    let mut at = 0;
    let mut next = |n: usize| {
        at += n;
        bytes.slice(at - n..at)
    };
    let weights = shapes
        .iter()
        .map(|&(rows, cols)| {
            let (codes, absmax) = (next(rows * cols), next(rows * size_of::<f32>()));
            let weight = Int8Weight::new((rows, cols), format, codes, absmax);
            weight.expect("as many bytes as the format takes").into()
        })
        .collect();
    (weights, bytes)
}

/// Weights of these `[rows, cols]` in a 4-bit format, as [`weights`].
///
/// # Panics
/// When the bytes do not fit the format, which they do.
pub fn four_bit_weights(
    format: FourBit,
    shapes: &[(usize, usize)],
) -> (Vec<StoredWeight>, HostBytes) {
    let n_blocks = |n: usize| n.div_ceil(format.block_size.get());
    // Codes, then scales: f32, or a byte each and f32 for groups of them.
    let lengths = |&(rows, cols): &(usize, usize)| {
        let (n, n_blocks) = (rows * cols, n_blocks(rows * cols));
        if format.double_quant {
            [n.div_ceil(2), n_blocks, 4 * n_blocks.div_ceil(NESTED_BLOCK)]
        } else {
            [n.div_ceil(2), 0, 4 * n_blocks]
        }
    };
    let mut bytes = AlignedBuf::zeroed(shapes.iter().flat_map(lengths).sum());
    let mut rest = &mut bytes[..];
    for shape in shapes {
        let [n_codes, n_scale_codes, n_scales] = lengths(shape);
        let (codes, behind) = rest.split_at_mut(n_codes + n_scale_codes);
        for (i, code) in codes.iter_mut().enumerate() {
            *code = (i * 37 % 251) as u8;
        }
        let (scales, behind) = behind.split_at_mut(n_scales);
        for scale in scales.chunks_exact_mut(4) {
            scale.copy_from_slice(&0.02f32.to_le_bytes());
        }
        rest = behind;
    }
    let bytes = HostBytes::new(bytes);
    let mut at = 0;
    let mut next = |n: usize| {
        at += n;
        bytes.slice(at - n..at)
    };
    let weights = shapes
        .iter()
        .map(|shape| {
            let [packed, codes, scales] = lengths(shape).map(&mut next);
            let absmax = if format.double_quant {
                let map = Arc::new(*dynamic_map());
                let double = DoubleAbsmax::new(codes, scales, map, 0.03);
                Absmax::Double(double.expect("a scale for every group"))
            } else {
                Absmax::Plain(scales)
            };
            let table = *format.code.table();
            let weight = Weight4Bit::new(*shape, format, table, packed, absmax);
            weight.expect("as many bytes as the format takes").into()
        })
        .collect();
    (weights, bytes)
}
