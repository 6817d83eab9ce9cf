//! Kernels that no token waits for again and again: they are launched, and not counted.

use llm_backend::{Groups, LinearPart, NormOp, Ops, Output, Rotary};
use llm_quant::{BlockSize, Code, FourBit, Int8, Scheme};
use llm_tensor::{Activation, DType, Norm, Pairing};

use crate::attention::{CASE, Case};
use crate::bench::{Bench, on_each_target};

/// Beginnings of names.
pub(crate) const KERNELS: &[&str] = &[
    // Heads of sizes that are no multiple of 8, and of more than 256 elements, and what reads keys anew for each head.
    "attention_any",
    "attention_entries",
    "attention_wide",
    // Weights at odd addresses or of odd widths.
    "general_",
    "packed_any",
    // Products by cuBLAS, which nobody counts, are of weights too large for a test: `tests/cublas.rs` has a few.
    "blas_",
    "packed_parts",
    // Weights are encoded once, and decoded to be saved.
    "four_bit_encode",
    "four_bit_double_",
    "four_bit_decode",
    "int8_encode",
    "int8_decode",
];

/// Ends of names: of odd widths, and of vectors of two types.
pub(crate) const ENDS: [&str; 2] = ["_odd", "_any"];

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const INT8: Scheme = Scheme::Int8(Int8 { threshold: 6.0 });
const WORKS: &str = "an operation of an odd shape works";

fn four_bit(double_quant: bool) -> Scheme {
    Scheme::FourBit(FourBit {
        code: Code::Nf4,
        block_size: BlockSize::DEFAULT,
        double_quant,
    })
}

#[test]
fn odd_shapes_are_computed() {
    on_each_target(
        &[
            "attention_any",
            "attention_entries",
            "attention_wide",
            "general_",
            "packed_any",
            "embed_*_odd",
            "positions_*_odd",
            "rotary_*_odd",
            "gate_*_odd",
            "norm_*_any",
        ],
        |bench| {
            for dtype in DTYPES {
                for head_dim in [20, 320] {
                    let n_positions = 100;
                    Case {
                        dtype,
                        head_dim,
                        n_positions,
                        ..CASE
                    }
                    .run(bench);
                }
                Case {
                    dtype,
                    rate: Some(4),
                    n_positions: 100,
                    ..CASE
                }
                .run(bench);
            }
            products(bench);
            rows(bench);
        },
    );
}

fn products(bench: &mut Bench) {
    let packed = crate::packed::schemes()
        .into_iter()
        .map(|scheme| (scheme, (3, 512)));
    let odd = [Scheme::Dense(DType::F32), INT8].map(|scheme| (scheme, (5, 7)));
    for (scheme, (rows, cols)) in odd.into_iter().chain(packed) {
        let (weight, _) = bench.weight(scheme, (rows, cols));
        let part = LinearPart {
            weight: &weight,
            bias: None,
        };
        let x = bench.buffer(3 * cols);
        let mut out = bench.buffer(3 * rows);
        let multiplied = bench.queue.linear(&[part], &x, Output::Write, &mut out, 3);
        multiplied.expect(WORKS);
    }
}

fn rows(bench: &mut Bench) {
    const N: usize = 3;
    const WIDTH: usize = 33;
    let ids = bench.index(&[4, 0, 2]);
    let mut x = bench.buffer(N * 2 * WIDTH);
    for double_quant in [false, true] {
        let (table, _) = bench.weight(four_bit(double_quant), (5, WIDTH));
        bench
            .queue
            .embed(&table, &ids, N, 1.0, &mut x)
            .expect(WORKS);
        let added = bench.queue.add_positions(&table, &ids, N, &mut x);
        added.expect(WORKS);
    }
    let op = Rotary {
        n_heads: 1,
        head_dim: WIDTH,
        first: 0,
        rotary_dim: 32,
        pairing: Pairing::Adjacent,
        row_width: WIDTH,
    };
    let angles = bench.buffer(N * 32);
    bench.queue.rotate(&op, &angles, &mut x, N).expect(WORKS);
    let gate_up = bench.buffer(N * 2 * WIDTH);
    for activation in [
        Activation::Relu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Silu,
        Activation::ReluSquared,
    ] {
        let gated = bench.queue.gate(activation, &gate_up, &mut x, WIDTH, N);
        gated.expect(WORKS);
    }
    let gain = bench.weight(Scheme::Dense(DType::F16), (1, WIDTH)).0;
    let bias = bench.weight(Scheme::Dense(DType::F32), (1, WIDTH)).0;
    for norm in [Norm::Rms, Norm::Layer] {
        let op = NormOp {
            norm,
            eps: 1e-5,
            gain_offset: 0.0,
            gain: &gain,
            bias: Some(&bias),
        };
        bench.queue.norm(&op, &gate_up, &mut x, N).expect(WORKS);
        let heads = llm_backend::Heads {
            first: 0,
            n_heads: 1,
            head_dim: WIDTH,
            row_width: WIDTH,
        };
        let normed = bench.queue.norm_heads(&op, &heads, &mut x, N);
        normed.expect(WORKS);
    }
    let groups = Groups {
        n_groups: 1,
        parts: Groups::parts(&[11, 11, 11], 1, 0),
        first: 0,
        row_width: 33,
        out_width: 33,
    };
    let ungrouped = bench.queue.ungroup(&groups, &gate_up, &mut x, N);
    ungrouped.expect(WORKS);
}

#[test]
fn weights_are_encoded_and_decoded() {
    on_each_target(
        &[
            "four_bit_encode",
            "four_bit_double_",
            "four_bit_decode",
            "int8_encode",
            "int8_decode",
        ],
        |bench| {
            for dtype in DTYPES {
                let (weight, _) = bench.weight(Scheme::Dense(dtype), (16, 128));
                for scheme in [INT8, four_bit(false), four_bit(true)] {
                    let encoded = bench.queue.encode(&weight, scheme).expect(WORKS);
                    bench.queue.decode(&encoded, dtype).expect(WORKS);
                }
            }
        },
    );
}
