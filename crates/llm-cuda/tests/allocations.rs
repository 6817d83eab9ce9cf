//! Passes that have run before allocate nothing on the host, whatever they are made of.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

use std::sync::Arc;

use cuda_emulator::allocations::{Counting, during};
use cuda_emulator::harness::Machine;
use llm_backend::{
    Attention, Backend, Batch, Expert, ExpertBuffers, Heads, KvColumns, LinearPart, Mask, NormOp,
    Ops, Output, Queue, Rotary, RouterVectors, Routing, Rows,
};
use llm_cuda::{Buffer, Cuda, CudaQueue, CudaWeight, Index, KvPool, Routes};
use llm_quant::{BlockSize, Code, FourBit, Int8, Scheme, StoredWeight};
use llm_tensor::{
    Activation, DType, Gate, HostBytes, KvShape, KvValues, Norm, Pairing, Weighting, WorkspaceShape,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HIDDEN: usize = 64;
const N_EXPERTS: usize = 4;
const MOST: usize = 40;

/// A layer's weights in one scheme, and buffers.
struct Model {
    queue: CudaQueue,
    table: CudaWeight,
    gain: CudaWeight,
    /// `[HIDDEN, HIDDEN]` each.
    square: Vec<CudaWeight>,
    ids: Index,
    rows_index: Index,
    tables: Index,
    x: Buffer,
    y: Buffer,
    wide: Buffer,
    gated: Buffer,
    scores: Buffer,
    experts: [Buffer; 4],
    routes: Routes,
    angles: Buffer,
    pool: KvPool,
}

const SHAPE: KvShape = KvShape {
    n_kv_heads: 2,
    head_dim: 16,
    values: KvValues::Own,
    capacity: 64,
    n_sequences: 1,
    dtype: DType::F16,
};

const ROUTING: Routing = Routing {
    weighting: Weighting::Normalised,
    ..Routing::softmax(N_EXPERTS, 2)
};

fn zeros(scheme: Scheme, rows: usize, cols: usize) -> StoredWeight {
    let parts = scheme.parts(rows as u64, cols as u64);
    StoredWeight {
        scheme,
        rows,
        cols,
        parts: parts.map(|_, info| HostBytes::new(vec![0; info.bytes as usize])),
    }
}

impl Model {
    fn new(cuda: &Arc<Cuda>, scheme: Scheme) -> Self {
        let shape = WorkspaceShape {
            n_tokens: MOST,
            cols: HIDDEN,
            rows: 3 * HIDDEN,
            context: 64,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 16,
            n_selecting: 0,
        };
        let buffer = |n: usize| cuda.alloc(MOST * n).unwrap();
        let load = |scheme, rows, cols| cuda.load(zeros(scheme, rows, cols)).unwrap();
        let dense = Scheme::Dense(DType::F32);
        Model {
            queue: cuda.queue(Some(&shape)).unwrap(),
            table: load(scheme, 100, HIDDEN),
            gain: load(dense, 1, HIDDEN),
            square: (0..3).map(|_| load(scheme, HIDDEN, HIDDEN)).collect(),
            ids: cuda.alloc_index(MOST).unwrap(),
            rows_index: cuda.alloc_index(Rows::N_WORDS).unwrap(),
            tables: cuda.alloc_index(2).unwrap(),
            x: buffer(HIDDEN),
            y: buffer(HIDDEN),
            wide: buffer(3 * HIDDEN),
            gated: buffer(HIDDEN),
            scores: buffer(N_EXPERTS),
            experts: [HIDDEN, 2 * HIDDEN, HIDDEN, HIDDEN].map(|n| buffer(2 * n)),
            routes: cuda.routes(&ROUTING, MOST).unwrap(),
            angles: buffer(16),
            pool: cuda.kv_pool(&SHAPE).unwrap(),
        }
    }

    /// A pass of `n` tokens, with the id of the likeliest read back.
    fn pass(&mut self, n: usize) {
        let Model { queue, gain, .. } = self;
        let ids = [1; MOST];
        queue.upload_index(&ids[..n], &mut self.ids).unwrap();
        queue.upload_index(&[0, 1], &mut self.tables).unwrap();
        let rows = [Rows {
            first: 0,
            n_tokens: n,
            start: 0,
            n_positions: n,
        }];
        let index = &mut self.rows_index;
        queue.upload_index(&rows[0].words(), index).unwrap();
        let batch = Batch {
            rows: &rows,
            rows_index: &self.rows_index,
            tables: &self.tables,
            table_len: 2,
        };
        let [a, b, c] = [0, 1, 2].map(|i| LinearPart {
            weight: &self.square[i],
            bias: None,
        });
        let op = NormOp {
            norm: Norm::Rms,
            eps: 1e-5,
            gain_offset: 0.0,
            gain,
            bias: None,
        };
        let (x, y, wide) = (&mut self.x, &mut self.y, &mut self.wide);
        queue.embed(&self.table, &self.ids, n, 1.0, x).unwrap();
        queue.norm(&op, x, y, n).unwrap();
        queue.linear(&[a, b, c], y, Output::Write, wide, n).unwrap();
        let heads = Heads {
            first: 0,
            n_heads: 1,
            head_dim: HIDDEN,
            row_width: 3 * HIDDEN,
        };
        queue.norm_heads(&op, &heads, wide, n).unwrap();
        let rotary = Rotary {
            n_heads: 6,
            head_dim: 16,
            first: 0,
            rotary_dim: 16,
            pairing: Pairing::Halves,
            row_width: 3 * HIDDEN,
        };
        queue.rotate(&rotary, &self.angles, wide, n).unwrap();
        let columns = KvColumns {
            first: HIDDEN,
            row_width: 3 * HIDDEN,
        };
        let pool = &mut self.pool;
        queue.append(wide, &columns, &batch, pool).unwrap();
        let attention = Attention {
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 16,
            row_width: 3 * HIDDEN,
            scale: 0.25,
            soft_cap: None,
            mask: Mask::Causal { window: None },
            bias: None,
            sinks: None,
            selected: None,
            beside: None,
        };
        queue.attention(&attention, wide, &batch, pool, y).unwrap();
        queue.linear(&[a], y, Output::Add, x, n).unwrap();
        queue.linear(&[a, b], x, Output::Write, wide, n).unwrap();
        let (silu, gated) = (Activation::Silu, &mut self.gated);
        queue.gate(silu, wide, gated, HIDDEN, n).unwrap();
        let (scores, routes) = (&mut self.scores, &mut self.routes);
        queue
            .route(&ROUTING, RouterVectors::NONE, scores, routes, n)
            .unwrap();
        let gate_up = [a, b];
        let experts = [0, 1, 2, 3].map(|expert| Expert {
            expert,
            gate_up: &gate_up,
            down: c,
            gate: Gate::Of(silu),
            width: HIDDEN,
            hidden: HIDDEN,
        });
        let [gathered, up, gated, delta] = &mut self.experts;
        let scratch = ExpertBuffers {
            gathered,
            up,
            gated,
            delta,
        };
        queue.experts(&experts, x, routes, scratch, y).unwrap();
        queue.add(y, x, HIDDEN, n).unwrap();
        queue.linear(&[c], x, Output::Write, y, n).unwrap();
        queue.argmax(y, HIDDEN, &mut [None]).unwrap();
        queue.chosen(routes, &mut [0; N_EXPERTS]).unwrap();
    }
}

fn schemes() -> Vec<Scheme> {
    let four_bit = |double_quant| {
        Scheme::FourBit(FourBit {
            code: Code::Nf4,
            block_size: BlockSize::new(64).unwrap(),
            double_quant,
        })
    };
    let mut schemes = vec![Scheme::Int8(Int8 { threshold: 6.0 })];
    schemes.extend([false, true].map(four_bit));
    schemes.extend([DType::F32, DType::F16, DType::BF16].map(Scheme::Dense));
    schemes
}

#[test]
fn a_pass_that_comes_again_allocates_nothing() {
    Machine::new().inside(|| {
        let cuda = Arc::new(Cuda::new(0).unwrap());
        for scheme in schemes() {
            let mut model = Model::new(&cuda, scheme);
            for n in [1, 5, MOST] {
                // Remembered, made a graph, and launched as one.
                (0..3).for_each(|_| model.pass(n));
                let n_allocations = during(|| model.pass(n));
                assert_eq!(n_allocations, 0, "{n} tokens in {scheme}");
            }
        }
    });
}

/// Kernels that are started one by one: what is remembered of them has the memory of what is forgotten.
#[test]
fn passes_that_do_not_come_again_allocate_nothing_in_the_end() {
    Machine::new().inside(|| {
        let cuda = Arc::new(Cuda::new(0).unwrap());
        let mut model = Model::new(&cuda, Scheme::Dense(DType::F16));
        // More than are remembered, so that none comes twice; and more than once, so that all lists have been long enough.
        let lengths = 20..MOST;
        (0..3).for_each(|_| lengths.clone().for_each(|n| model.pass(n)));
        let n_allocations = during(|| lengths.for_each(|n| model.pass(n)));
        assert_eq!(n_allocations, 0);
    });
}
