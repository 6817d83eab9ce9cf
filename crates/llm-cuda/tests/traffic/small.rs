//! Operations beside products and attention.

use llm_backend::{
    Backend, Batch, Groups, HeadProducts, Heads, KvColumns, MatrixSide, NormOp, Ops, Rotary, Rows,
    Run, Xielu,
};
use llm_cuda::CudaWeight;
use llm_quant::{BlockSize, Code, FourBit, Int8, Scheme};
use llm_tensor::{Activation, ClampedGate, DType, GateOrder, KvShape, KvValues, Norm, Pairing};

use crate::bench::{Bench, Needs, on_each_target};

pub(crate) const KERNELS: &[&str] = &[
    "embed_",
    "positions_",
    "gather_rows",
    "norm_rms",
    "norm_layer",
    "norm_heads",
    "unit_heads",
    "ungroup",
    "rotary_",
    "head_products_",
    "add",
    "scale",
    "activate_",
    "gate_relu",
    "gate_gelu",
    "gate_silu",
    "gate_clamped",
    "argmax_",
    "kv_append",
    "kv_copy_blocks",
];

/// Elements of a row, and rows of a pass.
const WIDTH: usize = 512;
const N: usize = 8;

#[test]
fn rows_of_tables_are_read_once() {
    let four_bit = |double_quant| {
        Scheme::FourBit(FourBit {
            code: Code::Nf4,
            block_size: BlockSize::DEFAULT,
            double_quant,
        })
    };
    let schemes = [
        Scheme::Dense(DType::F32),
        Scheme::Dense(DType::F16),
        Scheme::Dense(DType::BF16),
        Scheme::Int8(Int8 { threshold: 6.0 }),
        four_bit(false),
        four_bit(true),
    ];
    on_each_target(&["embed_", "positions_", "gather_rows"], |bench| {
        let ids: Vec<u32> = (0..N as u32).map(|i| i * 7 % 50).collect();
        let ids = bench.index(&ids);
        let mut x = bench.buffer(N * WIDTH);
        for scheme in schemes {
            let (table, n_bytes) = bench.weight(scheme, (50, WIDTH));
            let rows = n_bytes * N / 50;
            let what = format!("embedding in {scheme}");
            bench.check(&Needs::bytes(&what, rows + 4 * N * (1 + WIDTH)), |queue| {
                queue.embed(&table, &ids, N, 1.5, &mut x)
            });
            let what = format!("positions in {scheme}");
            bench.check(
                &Needs::bytes(&what, rows + 4 * N * (1 + 2 * WIDTH)),
                |queue| queue.add_positions(&table, &ids, N, &mut x),
            );
        }
        let all = bench.buffer(50 * WIDTH);
        bench.check(
            &Needs::bytes("rows gathered", 4 * N * (1 + 2 * WIDTH)),
            |queue| queue.gather_rows(&all, &ids, N, WIDTH, &mut x),
        );
    });
}

fn norm_op<'a>(
    norm: Norm,
    gain: &'a CudaWeight,
    bias: &'a CudaWeight,
) -> NormOp<'a, llm_cuda::Cuda> {
    NormOp {
        norm,
        eps: 1e-5,
        gain_offset: 0.0,
        gain,
        bias: (norm == Norm::Layer).then_some(bias),
    }
}

#[test]
fn norms_read_and_write_each_row_once() {
    on_each_target(
        &[
            "norm_rms",
            "norm_layer",
            "norm_heads",
            "unit_heads",
            "ungroup",
        ],
        |bench| {
            let x = bench.buffer(N * 4 * WIDTH);
            let mut out = bench.buffer(N * 4 * WIDTH);
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                for norm in [Norm::Rms, Norm::Layer] {
                    let n_vectors = if norm == Norm::Layer { 2 } else { 1 };
                    for width in [WIDTH, 4 * WIDTH] {
                        let [gain, bias] =
                            [(); 2].map(|()| bench.weight(Scheme::Dense(dtype), (1, width)).0);
                        let what = format!("{norm:?} of {width} in {dtype}");
                        let n_bytes = 8 * N * width + n_vectors * width * dtype.size();
                        bench.check(&Needs::bytes(&what, n_bytes), |queue| {
                            queue.norm(&norm_op(norm, &gain, &bias), &x, &mut out, N)
                        });
                    }
                    let [gain, bias] =
                        [(); 2].map(|()| bench.weight(Scheme::Dense(dtype), (1, 64)).0);
                    let heads = Heads {
                        first: 8,
                        n_heads: 4,
                        head_dim: 64,
                        row_width: 2 * WIDTH,
                    };
                    let what = format!("{norm:?} of heads in {dtype}");
                    let n_bytes = 8 * N * 4 * 64 + n_vectors * 64 * dtype.size();
                    bench.check(&Needs::bytes(&what, n_bytes), |queue| {
                        queue.norm_heads(&norm_op(norm, &gain, &bias), &heads, &mut out, N)
                    });
                }
            }
            let heads = Heads {
                first: 8,
                n_heads: 4,
                head_dim: 64,
                row_width: 2 * WIDTH,
            };
            bench.check(&Needs::bytes("unit heads", 8 * N * 4 * 64), |queue| {
                queue.unit_heads(1e-5, &heads, &mut out, N)
            });
            let groups = Groups {
                n_groups: 2,
                parts: Groups::parts(&[128, 64, 64], 2, 0),
                first: 0,
                row_width: 512,
                out_width: 512,
            };
            bench.check(
                &Needs::bytes("heads brought into order", 8 * N * 8 * 64),
                |queue| queue.ungroup(&groups, &x, &mut out, N),
            );
        },
    );
}

#[test]
fn rows_are_turned_in_place() {
    on_each_target(&["rotary_"], |bench| {
        let mut x = bench.buffer(N * 2 * WIDTH);
        for pairing in [Pairing::Halves, Pairing::Adjacent] {
            for rotary_dim in [64, 32] {
                let op = Rotary {
                    n_heads: 12,
                    head_dim: 64,
                    first: 0,
                    rotary_dim,
                    pairing,
                    row_width: 2 * WIDTH,
                };
                let angles = bench.buffer(N * rotary_dim);
                let what = format!("{op:?}");
                let n_bytes = 8 * N * 12 * rotary_dim + 4 * N * rotary_dim;
                bench.check(&Needs::bytes(&what, n_bytes), |queue| {
                    queue.rotate(&op, &angles, &mut x, N)
                });
            }
        }
    });
}

#[test]
fn rows_of_heads_are_read_once() {
    on_each_target(&["head_products_"], |bench| {
        let (n_heads, n_rows, cols, carried) = (4, 128, WIDTH, 64);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let (weight, n_bytes) = bench.weight(Scheme::Dense(dtype), (n_heads * n_rows, cols));
            for side in [MatrixSide::Rows, MatrixSide::Columns] {
                let op = HeadProducts {
                    weight: &weight,
                    n_heads,
                    stride: n_rows,
                    first: 0,
                    n_rows,
                    cols,
                    side,
                    carried,
                };
                let (from, to) = op.widths();
                let x = bench.buffer(N * from);
                let mut out = bench.buffer(N * to);
                let what = format!("heads by {side:?} of {dtype}");
                let n_bytes = n_bytes + 4 * N * (from + to);
                bench.check(&Needs::bytes(&what, n_bytes), |queue| {
                    queue.head_products(&op, &x, &mut out, N)
                });
            }
        }
    });
}

#[test]
fn elements_are_read_and_written_once() {
    let gates = ["gate_relu", "gate_gelu", "gate_silu", "gate_clamped"];
    let kernels = [&["add", "scale", "activate_", "argmax_"][..], &gates].concat();
    on_each_target(&kernels, |bench| {
        let (wide, mut x) = (bench.buffer(2 * N * WIDTH), bench.buffer(N * WIDTH));
        bench.check(&Needs::bytes("a sum", 12 * N * WIDTH), |queue| {
            queue.add(&wide, &mut x, WIDTH, N)
        });
        let by = bench.weight(Scheme::Dense(DType::BF16), (1, 1)).0;
        bench.check(&Needs::bytes("a product", 8 * N * WIDTH), |queue| {
            queue.scale_by(&by, &mut x, WIDTH, N)
        });
        let (by, n_bytes) = bench.weight(Scheme::Dense(DType::BF16), (1, WIDTH));
        bench.check(
            &Needs::bytes("columns' products", 8 * N * WIDTH + n_bytes),
            |queue| queue.scale_by(&by, &mut x, WIDTH, N),
        );
        let weights = bench.buffer(N);
        bench.check(&Needs::bytes("a gated sum", 12 * N * WIDTH), |queue| {
            queue.add_gated(&weights, &wide, &mut x, WIDTH, N)
        });
        let runs = [0.5, 2.0].map(|factor| Run {
            n_columns: WIDTH / 2,
            factor,
        });
        bench.check(&Needs::bytes("a multiple", 8 * N * WIDTH), |queue| {
            queue.scale(&runs, &mut x, N)
        });
        for order in [GateOrder::Halves, GateOrder::Pairs] {
            let gate = ClampedGate {
                alpha: 1.702,
                limit: 7.0,
                added: 1.0,
                order,
            };
            let what = format!("a clamped gate, {order:?}");
            bench.check(&Needs::bytes(&what, 12 * N * WIDTH), |queue| {
                queue.gate_clamped(&gate, &wide, &mut x, WIDTH, N)
            });
        }
        for activation in [
            Activation::Relu,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::Silu,
            Activation::ReluSquared,
        ] {
            let what = format!("{activation:?}");
            bench.check(&Needs::bytes(&what, 8 * N * WIDTH), |queue| {
                queue.activate(activation, &mut x, WIDTH, N)
            });
            let what = format!("{activation:?} of a gate");
            bench.check(&Needs::bytes(&what, 12 * N * WIDTH), |queue| {
                queue.gate(activation, &wide, &mut x, WIDTH, N)
            });
        }
        let number = bench.weight(Scheme::Dense(DType::F32), (1, 1)).0;
        let op = Xielu {
            alpha_p: &number,
            alpha_n: &number,
            beta: &number,
            eps: &number,
        };
        bench.check(&Needs::bytes("xIELU", 8 * N * WIDTH), |queue| {
            queue.activate_xielu(&op, &mut x, WIDTH, N)
        });
        let vocab = N * WIDTH;
        for n in [1, 2] {
            let what = format!("the largest of {n} rows");
            bench.check(&Needs::bytes(&what, 4 * n * vocab), |queue| {
                queue.argmax(&wide, vocab, &mut [None; 2][..n])
            });
        }
    });
}

#[test]
fn keys_and_values_are_written_once() {
    on_each_target(&["kv_append", "kv_copy_blocks"], |bench: &mut Bench| {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let shape = KvShape {
                n_kv_heads: 4,
                head_dim: 64,
                values: KvValues::Own,
                capacity: 64,
                n_sequences: 4,
                dtype,
            };
            let mut pool = bench.cuda.kv_pool(&shape).expect("a pool");
            let width = 2 * 4 * 64;
            // Two sequences, one of a single row.
            let rows = [(0, 1, 40), (1, N - 1, 10)].map(|(first, n_tokens, start)| Rows {
                first,
                n_tokens,
                start,
                n_positions: start + n_tokens,
            });
            let kv = bench.buffer(N * (WIDTH + width));
            let rows_index = bench.index(&rows.map(|rows| rows.words()).concat());
            let tables = bench.index(&[5, 1, 3, 0]);
            let batch = Batch {
                rows: &rows,
                rows_index: &rows_index,
                tables: &tables,
                table_len: 2,
            };
            let columns = KvColumns {
                first: WIDTH,
                row_width: WIDTH + width,
            };
            let what = format!("keys and values in {dtype}");
            bench.check(
                &Needs::bytes(&what, N * width * (4 + dtype.size())),
                |queue| queue.append(&kv, &columns, &batch, &mut pool),
            );
            let block = 32 * width * dtype.size();
            let what = format!("blocks copied in {dtype}");
            bench.check(&Needs::bytes(&what, 2 * 2 * block), |queue| {
                queue.copy_blocks(&mut pool, &[(5, 6), (1, 7)])
            });
        }
    });
}
