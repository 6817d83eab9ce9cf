//! Entries that runs of positions are compressed to, their selection, and attention to them beside positions.

use std::sync::Arc;

use llm_backend::{
    Attention, Backend, Batch, Beside, Compression, KvColumns, Mask, Ops, Rows, Selected, Selection,
};
use llm_tensor::{DType, KvShape, KvValues, WorkspaceShape};

use crate::case::{Case, EPS, sum_error};
use crate::data::{DTYPES, Device, Random, SMALL, WORKS};

/// Sequences whose positions are compressed, pass by pass.
#[derive(Debug)]
pub(crate) struct CompressCase {
    rate: usize,
    width: usize,
    overlaps: bool,
    dtype: DType,
    /// Rows of each sequence in each pass.
    passes: &'static [&'static [usize]],
}

/// Sequences whose rows attend to their last positions and to entries, of which some may be selected.
#[derive(Debug)]
pub(crate) struct BesideCase {
    rate: usize,
    n_heads: usize,
    head_dim: usize,
    window: usize,
    /// Entries that a row sees, where they are selected.
    n_selected: Option<usize>,
    sinks: bool,
    dtype: DType,
    /// Positions of each sequence before its first row.
    n_before: usize,
    passes: &'static [&'static [usize]],
}

const PASSES: [&[&[usize]]; 4] = [
    &[&[19], &[1], &[1], &[1], &[1]],
    &[&[5, 3], &[1, 1], &[0, 4], &[7, 1], &[2, 0]],
    &[&[131], &[1], &[130], &[1]],
    &[&[40, 1, 9], &[1, 1, 1], &[1, 30, 1]],
];

pub(crate) fn compressions() -> Vec<CompressCase> {
    let mut cases = Vec::new();
    for passes in PASSES {
        for (rate, width, overlaps) in [(4, 24, true), (1, 5, true), (9, 33, false), (3, 1, false)]
        {
            cases.push(CompressCase {
                rate,
                width,
                overlaps,
                dtype: DTYPES[cases.len() % 3],
                passes,
            });
        }
    }
    cases
}

pub(crate) fn attentions() -> Vec<BesideCase> {
    let mut cases = Vec::new();
    for passes in PASSES {
        for (rate, n_heads, head_dim) in [(4, 3, 20), (2, 50, 8), (9, 1, 70)] {
            let n = cases.len();
            cases.push(BesideCase {
                rate,
                n_heads,
                head_dim,
                window: [7, 1, 40][n % 3],
                n_selected: [Some(3), None, Some(1), None][n % 4],
                sinks: n.is_multiple_of(2),
                dtype: DTYPES[n / 2 % 3],
                n_before: 0,
                passes,
            });
        }
    }
    // More than devices take at once.
    for (n_selected, dtype) in [(Some(300), DType::F32), (None, DType::BF16)] {
        cases.push(BesideCase {
            rate: 2,
            n_heads: 4,
            head_dim: 14,
            window: 600,
            n_selected,
            sinks: true,
            dtype,
            n_before: 1300,
            passes: &[&[1, 1], &[3, 0], &[1, 2]],
        });
    }
    cases
}

/// Positions that each sequence comes to.
fn contexts(n_before: usize, passes: &[&[usize]]) -> Vec<usize> {
    let n_sequences = passes.iter().map(|pass| pass.len()).max().unwrap_or(0);
    let of = |sequence: usize| {
        let rows = passes.iter().filter_map(|pass| pass.get(sequence));
        n_before + rows.sum::<usize>()
    };
    (0..n_sequences).map(of).collect()
}

/// Rows of a pass, one sequence after the other, and of the entries that end in it.
fn rows(taken: &mut [usize], pass: &[usize], rate: usize) -> [Vec<Rows>; 2] {
    let (mut rows, mut entries): (Vec<Rows>, Vec<Rows>) = (Vec::new(), Vec::new());
    let end = |of: &[Rows]| of.last().map_or(0, |rows| rows.first + rows.n_tokens);
    for (taken, &n_tokens) in taken.iter_mut().zip(pass) {
        let (start, n_positions) = (*taken, *taken + n_tokens);
        *taken = n_positions;
        rows.push(Rows {
            first: end(&rows),
            n_tokens,
            start,
            n_positions,
        });
        entries.push(Rows {
            first: end(&entries),
            n_tokens: n_positions / rate - start / rate,
            start: start / rate,
            n_positions: n_positions / rate,
        });
    }
    [rows, entries]
}

fn n_rows(rows: &[Rows]) -> usize {
    rows.iter().map(|rows| rows.n_tokens).sum()
}

/// A pool, and the block tables of sequences in it.
struct Pool<B: Backend> {
    pool: B::KvPool,
    tables: B::Index,
    table_len: usize,
    /// Elements of a row that is appended.
    row_width: usize,
}

impl<B: Backend> Pool<B> {
    fn new(backend: &Arc<B>, device: &mut Device<B>, shape: &KvShape, row_width: usize) -> Self {
        let table_len = shape.table_len(backend.kv_block_len(shape));
        let mut blocks: Vec<u32> = (0..(shape.n_sequences * table_len) as u32).collect();
        Random::new(31 + shape.head_dim as u64).shuffle(&mut blocks);
        Pool {
            pool: backend.kv_pool(shape).expect(WORKS),
            tables: device.index(&blocks),
            table_len,
            row_width,
        }
    }

    fn batch<'a>(&'a self, rows: &'a [Rows], rows_index: &'a B::Index) -> Batch<'a, B> {
        Batch {
            rows,
            rows_index,
            tables: &self.tables,
            table_len: self.table_len,
        }
    }

    /// Takes rows to their positions.
    fn append(&mut self, device: &mut Device<B>, values: &[f32], rows: &[Rows], index: &B::Index) {
        let values = device.buffer(values);
        let columns = KvColumns {
            first: 0,
            row_width: self.row_width,
        };
        let batch = Batch {
            rows,
            rows_index: index,
            tables: &self.tables,
            table_len: self.table_len,
        };
        let appended = (device.queue).append(&values, &columns, &batch, &mut self.pool);
        appended.expect(WORKS);
    }
}

/// Of a key of all heads, which is its value too.
fn shape(head_dim: usize, capacity: usize, n_sequences: usize, dtype: DType) -> KvShape {
    KvShape {
        n_kv_heads: 1,
        head_dim,
        values: KvValues::OfKeys(head_dim),
        capacity,
        n_sequences,
        dtype,
    }
}

impl Case for CompressCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let contexts = contexts(0, self.passes);
        let most = self.passes.iter().flat_map(|pass| pass.iter()).max();
        let features = self.width * if self.overlaps { 2 } else { 1 };
        let mut device = Device::new(backend);
        let mut random = Random::new(37);
        let bias = device.load(random.weight(self.dtype, self.rate, features));
        // No more than what is read: the rest is written over in a ring.
        let held = most.unwrap_or(&0) + 2 * self.rate - 1;
        let shape = KvShape {
            values: KvValues::Own,
            ..shape(features, held, contexts.len(), self.dtype)
        };
        let mut pool = Pool::new(backend, &mut device, &shape, 2 * features);
        let mut taken = vec![0; contexts.len()];
        let mut results = Vec::new();
        for pass in self.passes {
            let [rows, entries] = rows(&mut taken, pass, self.rate);
            let words = |rows: &[Rows]| rows.iter().flat_map(Rows::words).collect::<Vec<_>>();
            let rows_index = device.index(&words(&rows));
            let entries_index = device.index(&words(&entries));
            let values = random.values(n_rows(&rows) * 2 * features, 2.0);
            pool.append(&mut device, &values, &rows, &rows_index);
            let op = Compression {
                rate: self.rate,
                width: self.width,
                overlaps: self.overlaps,
                bias: &bias,
            };
            let n = n_rows(&entries) * self.width;
            let mut out = device.zeros(n);
            let batch = pool.batch(&rows, &rows_index);
            let entries = (&entries[..], &entries_index);
            let compressed = (device.queue).compress(&op, &batch, &pool.pool, entries, &mut out);
            compressed.expect(WORKS);
            results.extend(device.read(&out, n));
        }
        results
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        // Features are below two. A weight's exponent is below six, and so rounded a few times.
        let relative = sum_error(2 * self.rate) + 16.0 * EPS;
        vec![2.0 * relative; expected.len()]
    }
}

impl Case for BesideCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let contexts = contexts(self.n_before, self.passes);
        let (n_sequences, context) = (contexts.len(), *contexts.iter().max().expect("sequences"));
        let (head_dim, n_entries) = (self.head_dim, (context / self.rate).max(1));
        let most = self.passes.iter().flat_map(|pass| pass.iter()).max();
        let most = (*most.unwrap_or(&0)).max(self.n_before);
        let workspace = WorkspaceShape {
            n_tokens: n_sequences * most,
            context,
            n_heads: self.n_heads,
            head_dim,
            n_selecting: SELECTING,
            ..SMALL
        };
        let mut device = Device::with_workspace(backend, &workspace);
        let held = self.window + most - 1;
        let of_own = shape(head_dim, held, n_sequences, self.dtype);
        let of_entries = shape(head_dim, n_entries, n_sequences, self.dtype);
        let of_index = shape(INDEX_DIM, n_entries, n_sequences, self.dtype);
        let mut own = Pool::new(backend, &mut device, &of_own, head_dim);
        let mut kept = Pool::new(backend, &mut device, &of_entries, head_dim);
        let mut index = Pool::new(backend, &mut device, &of_index, INDEX_DIM);
        let mut random = Random::new(41);
        let sinks = self
            .sinks
            .then(|| device.load(random.weight(DType::F32, 1, self.n_heads)));
        let mut taken = vec![0; n_sequences];
        let mut results = Vec::new();
        let before = (self.n_before > 0).then(|| vec![self.n_before; n_sequences]);
        let before = before.iter().map(|pass| (&pass[..], false));
        for (pass, attends) in before.chain(self.passes.iter().map(|&pass| (pass, true))) {
            let [rows, entries] = rows(&mut taken, pass, self.rate);
            let words = |rows: &[Rows]| rows.iter().flat_map(Rows::words).collect::<Vec<_>>();
            let rows_index = device.index(&words(&rows));
            let entries_index = device.index(&words(&entries));
            let values = random.values(n_rows(&rows) * head_dim, 1.0);
            own.append(&mut device, &values, &rows, &rows_index);
            let values = random.values(n_rows(&entries) * head_dim, 1.0);
            kept.append(&mut device, &values, &entries, &entries_index);
            // Small whole numbers: scores are exact, and many are equal.
            let mut whole =
                |n: usize| -> Vec<f32> { (0..n).map(|_| random.below(5) as f32 - 2.0).collect() };
            let keys = whole(n_rows(&entries) * INDEX_DIM);
            let n = n_rows(&rows);
            let (queries, weights) = (whole(n * SELECTING * INDEX_DIM), whole(n * SELECTING));
            index.append(&mut device, &keys, &entries, &entries_index);
            if !attends {
                continue;
            }
            let row_words = Selection::words(n_entries);
            // Of what is replaced nothing is left.
            let mut bits = device.buffer(&vec![f32::from_bits(u32::MAX); n * row_words]);
            if let Some(n_selected) = self.n_selected {
                let op = Selection {
                    n_heads: SELECTING,
                    head_dim: INDEX_DIM,
                    scale: 0.25,
                    weight_scale: 0.5,
                    rate: self.rate,
                    n_selected,
                    row_words,
                };
                let (queries, weights) = (device.buffer(&queries), device.buffer(&weights));
                let batch = index.batch(&rows, &rows_index);
                let inputs = (&queries, &weights);
                let selected = (device.queue).select(&op, inputs, &batch, &index.pool, &mut bits);
                selected.expect(WORKS);
            }
            let q = random.values(n * self.n_heads * head_dim, 1.0);
            let (q, mut out) = (device.buffer(&q), device.zeros(q.len()));
            let op = Attention {
                n_heads: self.n_heads,
                n_kv_heads: 1,
                head_dim,
                row_width: self.n_heads * head_dim,
                scale: SCALE,
                soft_cap: None,
                mask: Mask::Causal {
                    window: Some(self.window),
                },
                bias: None,
                sinks: sinks.as_ref(),
                selected: None,
                beside: Some(Beside {
                    pool: &kept.pool,
                    tables: &kept.tables,
                    table_len: kept.table_len,
                    rate: self.rate,
                    selected: self.n_selected.map(|_| Selected {
                        bits: &bits,
                        row_words,
                    }),
                }),
            };
            let batch = own.batch(&rows, &rows_index);
            let attended = (device.queue).attention(&op, &q, &batch, &own.pool, &mut out);
            attended.expect(WORKS);
            results.extend(device.read(&out, n * self.n_heads * head_dim));
        }
        results
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        // Numbers are below one. A score is wrong by a product's error, and so twice is a weight; a result by the sum's beside.
        let product = sum_error(self.head_dim) * self.head_dim as f64 * f64::from(SCALE);
        let most = contexts(self.n_before, self.passes).into_iter().max();
        let bound = 2.0 * product + sum_error(most.unwrap_or(0)) + 16.0 * EPS;
        vec![bound; expected.len()]
    }
}

/// Heads that select entries,
const SELECTING: usize = 3;
/// and elements of their keys.
const INDEX_DIM: usize = 6;
/// Multiplies products of queries and keys.
const SCALE: f32 = 0.5;
