//! Small operations where the conformance suite does not go: weights at any address, vectors of unlike types, rings that are
//! shorter than what is appended, and calls that are refused.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cuda_emulator::harness::Machine;
use llm_backend::{
    Backend, Batch, Heads, HostPages, KvColumns, NormOp, Ops, Queue, Reference, Rotary,
    RouterVectors, Routing, Rows,
};
use llm_cuda::Cuda;
use llm_quant::{BlockSize, Code, FourBit, Int8, Scheme, StoredWeight};
use llm_tensor::{Activation, DType, HostBytes, KvShape, KvValues, Norm, Pairing, Weighting};

/// Compute capabilities, times ten, whose PTX differs.
const TARGETS: [u32; 2] = [75, 80];

fn emulated(check: impl Fn(&Arc<Cuda>)) {
    for target in TARGETS {
        Machine::new()
            .compute(target)
            .inside(|| check(&Arc::new(Cuda::new(0).unwrap())));
    }
}

/// A weight of random bytes that are numbers.
fn weight(scheme: Scheme, (rows, cols): (usize, usize), seed: u64) -> StoredWeight {
    let mut state = seed;
    let mut next = || {
        // Numerical Recipes' generator of 64 bits.
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as u32
    };
    let parts = scheme.parts(rows as u64, cols as u64).map(|_, info| {
        let n = info.bytes as usize / info.dtype.size();
        let bytes: Vec<u8> = match info.dtype {
            // Magnitudes below 2: neither infinite nor not a number.
            DType::F32 => (0..n)
                .flat_map(|_| (next() & 0xbfff_ffff).to_le_bytes())
                .collect(),
            DType::F16 | DType::BF16 => (0..n)
                .flat_map(|_| (next() as u16 & 0xbfff).to_le_bytes())
                .collect(),
            _ => (0..n).map(|_| next() as u8).collect(),
        };
        HostBytes::new(bytes)
    });
    StoredWeight {
        scheme,
        rows,
        cols,
        parts,
    }
}

/// Loads a weight into a place, its parts one after the other from byte `first` on.
fn placed<B: Backend>(
    backend: &Arc<B>,
    queue: &mut B::Queue,
    weight: &StoredWeight,
    first: usize,
) -> (B::Place, B::Weight) {
    let n_bytes = first + weight.stored_bytes().total().get() as usize;
    let mut pages = backend.host_pages(n_bytes).unwrap();
    let mut place = backend.place(n_bytes).unwrap();
    let mut end = first;
    let ranges = pages.fill(|pages| {
        weight.clone().map(|_, bytes| {
            let range = end..end + bytes.len();
            pages[range.clone()].copy_from_slice(&bytes);
            end = range.end;
            range
        })
    });
    queue.bring(&pages, 0..end, &mut place, 0).unwrap();
    let weight = backend.placed(&place, &ranges).unwrap();
    (place, weight)
}

fn schemes() -> Vec<Scheme> {
    let four_bit = |code, double_quant| {
        Scheme::FourBit(FourBit {
            code,
            block_size: BlockSize::new(32).unwrap(),
            double_quant,
        })
    };
    let mut schemes = vec![
        Scheme::Int8(Int8 { threshold: 6.0 }),
        four_bit(Code::Nf4, false),
        four_bit(Code::Fp4, true),
    ];
    schemes.extend([DType::F32, DType::F16, DType::BF16].map(Scheme::Dense));
    schemes
}

/// Embeds rows of a placed table, and adds others to them.
fn tables<B: Backend>(backend: &Arc<B>) -> Vec<f32> {
    let mut queue = backend.queue(None).unwrap();
    let mut results = Vec::new();
    let ids = [4, 0, 4, 2];
    let mut index = backend.alloc_index(ids.len()).unwrap();
    queue.upload_index(&ids, &mut index).unwrap();
    for (i, scheme) in schemes().into_iter().enumerate() {
        for first in [0, 1, 2] {
            for cols in [7, 34, 600] {
                let table = weight(scheme, (5, cols), i as u64 + 1);
                let (_place, table) = placed(backend, &mut queue, &table, first);
                let n = ids.len() * cols;
                let mut out = backend.alloc(n).unwrap();
                queue
                    .embed(&table, &index, ids.len(), 1.5, &mut out)
                    .unwrap();
                queue
                    .add_positions(&table, &index, ids.len(), &mut out)
                    .unwrap();
                let at = results.len();
                results.resize(at + n, 0.0);
                queue.download(&out, &mut results[at..]).unwrap();
            }
        }
    }
    results
}

#[test]
fn tables_are_read_wherever_they_lie() {
    let expected = tables(&Arc::new(Reference::new()));
    emulated(|cuda| assert_eq!(tables(cuda), expected));
}

/// Rows and heads by vectors of one type or of two, at one address or another, of rows that a block can keep and of longer ones.
fn norms<B: Backend>(backend: &Arc<B>) -> Vec<f32> {
    let mut queue = backend.queue(None).unwrap();
    let mut results = Vec::new();
    let dense = Scheme::Dense;
    for norm in [Norm::Layer, Norm::Rms] {
        for (gain, bias, first) in [
            (DType::F32, Some(DType::F32), 1),
            (DType::F16, Some(DType::F32), 0),
            (DType::BF16, Some(DType::F16), 2),
            (DType::F16, None, 3),
            (DType::BF16, Some(DType::BF16), 4),
        ] {
            for width in [40, 300, 8250] {
                let gain = weight(dense(gain), (1, width), 11);
                let bias = bias.map(|bias| weight(dense(bias), (1, width), 12));
                let (_place, gain) = placed(backend, &mut queue, &gain, first);
                let bias = bias.map(|bias| placed(backend, &mut queue, &bias, first));
                let op = NormOp {
                    norm,
                    eps: 1e-5,
                    gain_offset: 0.5,
                    gain: &gain,
                    bias: bias.as_ref().map(|(_, bias)| bias),
                };
                let n = 2 * width;
                let values: Vec<f32> = (0..n).map(|i| (i * 37 % 101) as f32 / 50.0).collect();
                let (mut x, mut out) = (backend.alloc(n).unwrap(), backend.alloc(n).unwrap());
                queue.upload(&values, &mut x).unwrap();
                queue.norm(&op, &x, &mut out, 2).unwrap();
                let heads = Heads {
                    first: 0,
                    n_heads: 1,
                    head_dim: width,
                    row_width: width,
                };
                queue.norm_heads(&op, &heads, &mut x, 2).unwrap();
                for buffer in [&out, &x] {
                    let at = results.len();
                    results.resize(at + n, 0.0);
                    queue.download(buffer, &mut results[at..]).unwrap();
                }
            }
        }
    }
    results
}

#[test]
fn vectors_may_be_of_any_type_and_lie_anywhere() {
    let expected = norms(&Arc::new(Reference::new()));
    emulated(|cuda| {
        let found = norms(cuda);
        assert_eq!(found.len(), expected.len());
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            // Sums of 8250 at most, and results below 2^3.
            assert!(
                (found - expected).abs() <= 1e-4,
                "{i}: {found}, expected {expected}"
            );
        }
    });
}

/// More rows than a ring has positions: the last stay.
#[test]
fn a_ring_keeps_the_last_rows() {
    emulated(|cuda| {
        let shape = KvShape {
            n_kv_heads: 1,
            head_dim: 4,
            values: KvValues::Own,
            capacity: 64,
            n_sequences: 1,
            dtype: DType::F32,
        };
        let (n, first, start) = (150, 2, 7);
        let mut queue = cuda.queue(None).unwrap();
        let mut pools = [n, 64].map(|last| {
            let mut pool = cuda.kv_pool(&shape).unwrap();
            let rows: Vec<f32> = (0..n * 10).map(|i| i as f32).collect();
            let mut kv = cuda.alloc(rows.len()).unwrap();
            queue.upload(&rows, &mut kv).unwrap();
            let rows = Rows {
                first: n - last,
                n_tokens: last,
                start: start + n - last,
                n_positions: start + n,
            };
            let mut rows_index = cuda.alloc_index(Rows::N_WORDS).unwrap();
            queue.upload_index(&rows.words(), &mut rows_index).unwrap();
            let mut tables = cuda.alloc_index(2).unwrap();
            queue.upload_index(&[1, 0], &mut tables).unwrap();
            let batch = Batch {
                rows: &[rows],
                rows_index: &rows_index,
                tables: &tables,
                table_len: 2,
            };
            let columns = KvColumns {
                first,
                row_width: 10,
            };
            queue.append(&kv, &columns, &batch, &mut pool).unwrap();
            pool
        });
        let [all, last] = &mut pools;
        assert_eq!(
            attended(cuda, all, start + n),
            attended(cuda, last, start + n)
        );
    });
}

/// What a query at the last of `n` positions sees.
fn attended(cuda: &Arc<Cuda>, pool: &mut <Cuda as Backend>::KvPool, n: usize) -> Vec<f32> {
    use llm_backend::{Attention, Mask};
    use llm_tensor::WorkspaceShape;
    let shape = WorkspaceShape {
        n_tokens: 1,
        cols: 4,
        rows: 4,
        context: 64,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 4,
        n_selecting: 0,
    };
    let mut queue = cuda.queue(Some(&shape)).unwrap();
    let mut q = cuda.alloc(4).unwrap();
    queue.upload(&[1e-3; 4], &mut q).unwrap();
    let rows = Rows {
        first: 0,
        n_tokens: 1,
        start: n - 1,
        n_positions: n,
    };
    let mut rows_index = cuda.alloc_index(Rows::N_WORDS).unwrap();
    queue.upload_index(&rows.words(), &mut rows_index).unwrap();
    let mut tables = cuda.alloc_index(2).unwrap();
    queue.upload_index(&[1, 0], &mut tables).unwrap();
    let batch = Batch {
        rows: &[rows],
        rows_index: &rows_index,
        tables: &tables,
        table_len: 2,
    };
    let op = Attention {
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 4,
        row_width: 4,
        scale: 1.0,
        soft_cap: None,
        mask: Mask::Causal { window: Some(64) },
        bias: None,
        sinks: None,
        selected: None,
        beside: None,
    };
    let mut out = cuda.alloc(4).unwrap();
    queue.attention(&op, &q, &batch, pool, &mut out).unwrap();
    let mut results = vec![0.0; 4];
    queue.download(&out, &mut results).unwrap();
    results
}

/// Calls that would write or read where they may not never reach the driver.
#[test]
fn wrong_calls_are_refused() {
    Machine::new().inside(|| {
        let cuda = Arc::new(Cuda::new(0).unwrap());
        let load = |cols| {
            cuda.load(weight(Scheme::Dense(DType::F32), (3, cols), 5))
                .unwrap()
        };
        let (table, gain, long) = (load(8), load(4), load(16));
        let (small, mut out) = (cuda.alloc(15).unwrap(), cuda.alloc(15).unwrap());
        let ids = cuda.alloc_index(2).unwrap();
        let routing = Routing {
            weighting: Weighting::Normalised,
            ..Routing::softmax(4, 2)
        };
        let mut routes = cuda.routes(&routing, 1).unwrap();
        let shape = KvShape {
            n_kv_heads: 1,
            head_dim: 4,
            values: KvValues::Own,
            capacity: 32,
            n_sequences: 1,
            dtype: DType::F16,
        };
        let mut pool = cuda.kv_pool(&shape).unwrap();
        let mut queue = cuda.queue(None).unwrap();
        let norm = |gain, bias| NormOp::<Cuda> {
            norm: Norm::Rms,
            eps: 1e-5,
            gain_offset: 0.0,
            gain,
            bias,
        };
        let rotary = Rotary {
            n_heads: 1,
            head_dim: 4,
            first: 0,
            rotary_dim: 4,
            pairing: Pairing::Halves,
            row_width: 8,
        };
        let heads = Heads {
            first: 0,
            n_heads: 2,
            head_dim: 4,
            row_width: 7,
        };
        let rows = Rows {
            first: 1,
            n_tokens: 1,
            start: 0,
            n_positions: 1,
        };
        let rows_index = cuda.alloc_index(4).unwrap();
        let batch = Batch {
            rows: &[rows],
            rows_index: &rows_index,
            tables: &ids,
            table_len: 1,
        };
        let columns = |first, row_width| KvColumns { first, row_width };
        let mut refused = |what: &str, call: &mut dyn FnMut(&mut <Cuda as Backend>::Queue)| {
            let outcome = catch_unwind(AssertUnwindSafe(|| call(&mut queue)));
            assert!(outcome.is_err(), "{what} went through");
        };
        let works = "the driver works";
        refused("a weight of fewer bytes than it has", &mut |_| {
            let place = cuda.place(3 * 8 * 4).expect(works);
            let whole = weight(Scheme::Dense(DType::F32), (3, 8), 5);
            let short = whole.map(|_, bytes| 1..bytes.len());
            cuda.placed(&place, &short).expect(works);
        });
        refused("rows beyond the output", &mut |queue| {
            queue.embed(&table, &ids, 2, 1.0, &mut out).expect(works);
        });
        refused("ids that are not there", &mut |queue| {
            queue.add_positions(&gain, &ids, 3, &mut out).expect(works);
        });
        refused("rows beyond the input", &mut |queue| {
            queue
                .norm(&norm(&table, None), &small, &mut out, 2)
                .expect(works);
        });
        refused("a bias of another length", &mut |queue| {
            queue
                .norm(&norm(&gain, Some(&long)), &small, &mut out, 1)
                .expect(works);
        });
        refused("heads beyond a row", &mut |queue| {
            queue
                .norm_heads(&norm(&gain, None), &heads, &mut out, 1)
                .expect(works);
        });
        refused("an odd rotation", &mut |queue| {
            let odd = Rotary {
                rotary_dim: 3,
                ..rotary
            };
            queue.rotate(&odd, &small, &mut out, 1).expect(works);
        });
        refused("rotated rows beyond the buffer", &mut |queue| {
            queue.rotate(&rotary, &small, &mut out, 2).expect(works);
        });
        refused("a gate beyond its input", &mut |queue| {
            queue
                .gate(Activation::Silu, &small, &mut out, 4, 2)
                .expect(works);
        });
        refused("sums beyond the buffer", &mut |queue| {
            queue.add(&small, &mut out, 8, 2).expect(works);
        });
        refused("keys beyond a row", &mut |queue| {
            queue
                .append(&small, &columns(1, 8), &batch, &mut pool)
                .expect(works);
        });
        refused("a row beyond the buffer", &mut |queue| {
            queue
                .append(&small, &columns(0, 8), &batch, &mut pool)
                .expect(works);
        });
        refused("a block beyond the pool", &mut |queue| {
            queue.copy_blocks(&mut pool, &[(0, 1)]).expect(works);
        });
        refused("more rows than there is room for", &mut |queue| {
            queue
                .route(&routing, RouterVectors::NONE, &small, &mut routes, 2)
                .expect(works);
        });
        refused("another number of experts", &mut |queue| {
            let other = Routing {
                n_experts: 5,
                ..routing
            };
            queue
                .route(&other, RouterVectors::NONE, &small, &mut routes, 1)
                .expect(works);
        });
        queue
            .route(&routing, RouterVectors::NONE, &small, &mut routes, 1)
            .expect(works);
        let mut refused = |what: &str, call: &mut dyn FnMut(&mut <Cuda as Backend>::Queue)| {
            let outcome = catch_unwind(AssertUnwindSafe(|| call(&mut queue)));
            assert!(outcome.is_err(), "{what} went through");
        };
        refused("an expert that there is not", &mut |queue| {
            queue
                .gather_routed(&routes, 4, &small, 2, &mut out)
                .expect(works);
        });
        refused("routed rows beyond the buffer", &mut |queue| {
            queue
                .scatter_routed(&routes, 0, &small, 16, &mut out)
                .expect(works);
        });
        queue.finish().expect(works);
    });
}
