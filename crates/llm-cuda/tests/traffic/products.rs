//! Products: every scheme, one, two and eight rows of activations, and tiles of 64.

use llm_backend::{LinearPart, Ops, Output};
use llm_cuda::Compute;
use llm_quant::{BlockSize, Code, FourBit, Int8, Scheme};
use llm_tensor::DType;

use crate::bench::{Bench, Needs, on_each_target};

pub(crate) const KERNELS: &[&str] = &[
    "dense_",
    "int8_quantize",
    "int8_outliers",
    "int8_rows",
    "int8_tiles",
    "int8_per_use",
    "four_bit_rows",
    "four_bit_4",
    "four_bit_8",
    "four_bit_half",
    "four_bit_sum",
    TILES,
];

/// Kernels of products of many rows.
const TILES: &str = "gemm_";

fn four_bit(code: Code, block_size: u64, double_quant: bool) -> Scheme {
    Scheme::FourBit(FourBit {
        code,
        block_size: BlockSize::new(block_size).expect("a block size"),
        double_quant,
    })
}

fn schemes() -> Vec<(&'static str, Scheme)> {
    let int8 = Int8 { threshold: 6.0 };
    vec![
        ("f32", Scheme::Dense(DType::F32)),
        ("f16", Scheme::Dense(DType::F16)),
        ("bf16", Scheme::Dense(DType::BF16)),
        ("int8", Scheme::Int8(int8)),
        (
            "bf16 quantized at each use",
            Scheme::Int8PerUse(DType::BF16, int8),
        ),
        ("nf4 of 64", four_bit(Code::Nf4, 64, false)),
        ("nf4 of 64, double", four_bit(Code::Nf4, 64, true)),
        ("fp4 of 32", four_bit(Code::Fp4, 32, false)),
        ("nf4 of 32, double", four_bit(Code::Nf4, 32, true)),
    ]
}

/// Those of which there are tiles; blocks of 32 are read as blocks of 64 are.
fn in_tiles() -> Vec<(&'static str, Scheme)> {
    let mut schemes = schemes();
    schemes.retain(|(_, scheme)| match scheme {
        Scheme::FourBit(format) => format.block_size.get() == 64,
        Scheme::Dense(_) | Scheme::Int8(_) => true,
        Scheme::Int8PerUse(..) | Scheme::Ggml(_) | Scheme::Fp8(_) | Scheme::Grouped(_) => false,
    });
    schemes
}

/// Weights whose results lie side by side, times `n` rows.
fn product(
    bench: &mut Bench,
    (name, scheme): (&str, Scheme),
    (rows, cols): (&[usize], usize),
    n: usize,
) {
    let weights: Vec<_> = rows
        .iter()
        .map(|&rows| bench.weight(scheme, (rows, cols)))
        .collect();
    let width: usize = rows.iter().sum();
    let x = bench.buffer(n * cols);
    let mut out = bench.buffer(n * width);
    let part = |(weight, _)| LinearPart { weight, bias: None };
    let parts: Vec<_> = weights
        .iter()
        .map(|(weight, n_bytes)| part((weight, n_bytes)))
        .collect();
    let of_weights: usize = weights.iter().map(|(_, n_bytes)| n_bytes).sum();
    let of = (bench.target, bench.compute);
    let n_bytes = of_weights + 4 * n * (cols + width) + between(of, scheme, (rows, cols), n);
    let what = format!("{name}, {rows:?} × {cols}, {n} rows");
    bench.check(&Needs::bytes(&what, n_bytes), |queue| {
        queue.linear(&parts, &x, Output::Write, &mut out, n)
    });
}

/// Bytes that products of many rows move beside: activations as tensor cores take them, written once and read for each weight, and
/// pieces of results where few blocks would be busy else, written and read. Before 8.0 there are tiles of
/// f16 halves for 4-bit weights alone, which several rows take.
fn between(
    (target, compute): (u32, Compute),
    scheme: Scheme,
    (rows, cols): (&[usize], usize),
    n: usize,
) -> usize {
    let are_early = target < 80 && matches!(scheme, Scheme::FourBit(_));
    let is_in_tiles = if target < 80 {
        are_early && n > 1
    } else {
        n > 8
    };
    if !is_in_tiles {
        return 0;
    }
    let (n_halves, n_beside) = match scheme {
        Scheme::FourBit(_) if are_early => (2, 0),
        Scheme::Dense(DType::BF16) if compute == Compute::Half => (2, 0),
        Scheme::Dense(DType::BF16) => (3, 0),
        Scheme::Dense(DType::F16) | Scheme::FourBit(_) if compute == Compute::Half => (1, 0),
        Scheme::Dense(DType::F16) | Scheme::FourBit(_) => (2, 0),
        // Outlier columns are summed up by themselves.
        Scheme::Int8(_) => (0, 1),
        Scheme::Dense(_)
        | Scheme::Int8PerUse(..)
        | Scheme::Ggml(_)
        | Scheme::Fp8(_)
        | Scheme::Grouped(_) => return 0,
    };
    // Blocks have 128 rows of a weight, and the emulated GPU is busy with 16; a piece has 256 columns at least.
    let n_pieces = |rows: usize| match (16 / rows.div_ceil(128)).min(cols / 256) {
        0 | 1 => 0,
        n => n + n_beside,
    };
    let of_pieces: usize = rows.iter().map(|&rows| n_pieces(rows) * rows).sum();
    2 * n_halves * n * cols * (1 + rows.len()) + 2 * 4 * n * of_pieces
}

#[test]
fn few_rows_read_each_weight_once() {
    let patterns = KERNELS.iter().filter(|&&kernels| kernels != TILES);
    let patterns: Vec<_> = patterns.copied().collect();
    on_each_target(&patterns, |bench| {
        for scheme in schemes() {
            for n in [1, 2, 4, 8] {
                product(bench, scheme, (&[256, 64, 64], 4096), n);
            }
            // Columns that tensor cores of 8.0 take no tile of.
            if matches!(scheme.1, Scheme::FourBit(_)) {
                product(bench, scheme, (&[384], 4128), 2);
            }
        }
        let int8 = Int8 { threshold: 6.0 };
        for dtype in [DType::F32, DType::F16] {
            let scheme = Scheme::Int8PerUse(dtype, int8);
            product(bench, ("quantized at each use", scheme), (&[64], 4096), 1);
        }
        bench.compute_in(Compute::Half);
        let mut in_half = schemes();
        in_half.retain(|(_, scheme)| matches!(scheme, Scheme::FourBit(_)));
        for scheme in in_half {
            for n in [1, 8] {
                product(bench, scheme, (&[256, 64, 64], 4096), n);
            }
        }
    });
}

/// In tiles of 128, 64 and 32 rows of activations. Of the last, blocks share columns of the weight, and what they leave is added
/// up.
#[test]
fn many_rows_read_each_weight_once() {
    on_each_target(&[TILES], |bench| {
        let tiles = |bench: &mut Bench, scheme| {
            product(bench, scheme, (&[2048], 128), 64);
            product(bench, scheme, (&[2048], 64), 72);
            product(bench, scheme, (&[1024], 1024), 16);
            if matches!(scheme.1, Scheme::FourBit(_)) {
                product(bench, scheme, (&[2048], 128), 24);
            }
        };
        in_tiles()
            .into_iter()
            .for_each(|scheme| tiles(bench, scheme));
        // Weights that follow each other share what activations are split into.
        if bench.target >= 80 {
            let f16 = ("f16", Scheme::Dense(DType::F16));
            product(bench, f16, (&[64, 64], 224), 64);
        }
        bench.compute_in(Compute::Half);
        let mut in_half = in_tiles();
        in_half.retain(|(_, scheme)| match scheme {
            Scheme::Dense(dtype) => *dtype != DType::F32,
            Scheme::FourBit(_) => true,
            Scheme::Int8(_)
            | Scheme::Int8PerUse(..)
            | Scheme::Ggml(_)
            | Scheme::Fp8(_)
            | Scheme::Grouped(_) => false,
        });
        in_half.into_iter().for_each(|scheme| tiles(bench, scheme));
    });
}
