//! Operations that threads share the results of. Under Miri, where any work is enough for threads, it is found out who
//! writes to what another reads.

use llm_backend::{Attention, Backend, Batch, KvColumns, Mask, NormOp, Ops, Queue, Rows};
use llm_quant::{Absmax, BlockSize, Code, FourBit, Int8, Int8Weight, StoredWeight, Weight4Bit};
use llm_tensor::{DType, HostBytes, KvShape, KvValues, Norm};

use super::{cpu, product, shape};
use crate::Isa;
use crate::attention::PART_POSITIONS;
use crate::matvec::{GEMM_TOKENS, GEMM_TOKENS_4BIT};

fn values(n: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0)
        .collect()
}

fn bytes(values: &[f32]) -> HostBytes {
    HostBytes::new(bytemuck::cast_slice::<f32, u8>(values).to_vec())
}

/// A weight of each kind of products, and as many tokens as tiles take.
fn weights((rows, cols): (usize, usize)) -> [(StoredWeight, usize); 3] {
    let n = rows * cols;
    let dense = StoredWeight::dense(DType::F32, (rows, cols), bytes(&values(n)));
    let codes = || HostBytes::new((0..n).map(|i| (i * 89) as u8).collect::<Vec<_>>());
    let int8 = Int8 { threshold: 0.9 };
    let int8 = Int8Weight::new((rows, cols), int8, codes(), bytes(&values(rows)));
    let format = FourBit {
        code: Code::Nf4,
        block_size: BlockSize::new(32).unwrap(),
        double_quant: false,
    };
    let absmax = Absmax::Plain(bytes(&values(n.div_ceil(32))));
    let packed = codes().slice(0..n.div_ceil(2));
    let nf4 = Weight4Bit::new((rows, cols), format, *Code::Nf4.table(), packed, absmax);
    [
        (dense, GEMM_TOKENS),
        (int8.unwrap().into(), GEMM_TOKENS),
        (nf4.unwrap().into(), GEMM_TOKENS_4BIT),
    ]
}

#[test]
fn products_are_shared_out() {
    let (one, three) = (cpu(Isa::Portable, 1), cpu(Isa::Portable, 3));
    let (rows, cols) = (19, 32);
    for (weight, tile_tokens) in weights((rows, cols)) {
        for n_tokens in [1, tile_tokens] {
            let x = values(n_tokens * cols);
            let [found, expected] =
                [&three, &one].map(|cpu| product(cpu, weight.clone(), (rows, cols), &x));
            assert_eq!(found, expected, "{} of {n_tokens}", weight.scheme);
        }
    }
}

/// A few rows of one sequence, and one of another whose positions are divided among threads.
fn attended(n_threads: usize) -> Vec<f32> {
    let (n_heads, n_kv_heads, head_dim) = (4, 2, 4);
    let (q_width, width) = (16, 32);
    let n_held = PART_POSITIONS + 9;
    let cpu = cpu(Isa::Portable, n_threads);
    let pool_shape = KvShape {
        n_kv_heads,
        head_dim,
        values: KvValues::Own,
        capacity: n_held + 1,
        n_sequences: 2,
        dtype: DType::F32,
    };
    let table_len = pool_shape.table_len(cpu.kv_block_len(&pool_shape));
    let mut queue = cpu.queue(Some(&shape(64, width, width))).unwrap();
    let mut pool = cpu.kv_pool(&pool_shape).unwrap();
    let blocks: Vec<u32> = (0..2 * table_len as u32).collect();
    let mut tables = cpu.alloc_index(blocks.len()).unwrap();
    queue.upload_index(&blocks, &mut tables).unwrap();
    let rows_index = cpu.alloc_index(2 * Rows::N_WORDS).unwrap();
    let rows = |first, n_tokens, start| Rows {
        first,
        n_tokens,
        start,
        n_positions: start + n_tokens,
    };
    let (held, next) = (
        [rows(0, 0, 0), rows(0, n_held, 0)],
        [rows(0, 5, 0), rows(5, 1, n_held)],
    );
    let [held, next] = [&held, &next].map(|rows| Batch {
        rows,
        rows_index: &rows_index,
        tables: &tables,
        table_len,
    });
    let columns = KvColumns {
        first: q_width,
        row_width: width,
    };
    let mut x = cpu.alloc(n_held * width).unwrap();
    queue.upload(&values(n_held * width), &mut x).unwrap();
    queue.append(&x, &columns, &held, &mut pool).unwrap();
    queue.append(&x, &columns, &next, &mut pool).unwrap();
    let op = Attention {
        n_heads,
        n_kv_heads,
        head_dim,
        row_width: width,
        scale: 0.5,
        soft_cap: None,
        mask: Mask::Causal { window: None },
        bias: None,
        sinks: None,
        selected: None,
        beside: None,
    };
    let mut out = cpu.alloc(6 * q_width).unwrap();
    queue.attention(&op, &x, &next, &pool, &mut out).unwrap();
    let gain = StoredWeight::dense(DType::F32, (1, q_width), bytes(&values(q_width)));
    let norm = NormOp {
        norm: Norm::Layer,
        eps: 1e-5,
        gain_offset: 0.0,
        gain: &cpu.load(gain).unwrap(),
        bias: None,
    };
    let mut normed = cpu.alloc(6 * q_width).unwrap();
    queue.norm(&norm, &out, &mut normed, 6).unwrap();
    queue.add(&out, &mut normed, q_width, 6).unwrap();
    normed.as_slice().to_vec()
}

#[test]
fn attention_is_shared_out() {
    let expected = attended(1);
    assert!(expected.iter().all(|x| x.is_finite()));
    assert_eq!(attended(3), expected);
}
