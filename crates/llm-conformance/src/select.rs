//! Selection of positions, and attention to those that are selected.

use std::sync::Arc;

use llm_backend::{Attention, Backend, Batch, KvColumns, Mask, Ops, Rows, Selected, Selection};
use llm_tensor::{DType, KvShape, KvValues, WorkspaceShape};

use crate::case::{Case, EPS, sum_error};
use crate::data::{DTYPES, Device, Random, SMALL, WORKS};

/// Sequences whose rows select positions and attend to them, pass by pass.
///
/// The value of a position is one in an element of its own and zero in all others, so that results are the weights of positions.
/// Numbers that scores are made of are small and whole: scores are exact, and many are equal.
#[derive(Debug)]
pub(crate) struct SelectCase {
    n_heads: usize,
    head_dim: usize,
    n_selected: usize,
    dtype: DType,
    /// Positions of each sequence before its first row.
    n_before: usize,
    /// Rows of each sequence in each pass.
    passes: Vec<Vec<usize>>,
    /// Most that a number is, by its magnitude.
    most: usize,
    /// Rows of others before each sequence's.
    others: usize,
    /// Heads that attend.
    n_attending: usize,
}

pub(crate) fn cases() -> Vec<SelectCase> {
    let mut cases = Vec::new();
    let passes: [&[&[usize]]; 6] = [
        &[&[19], &[1], &[1]],
        &[&[1usize] as &[usize]; 23],
        &[&[5, 3], &[1, 1], &[0, 4], &[7, 1]],
        &[&[70], &[1], &[33]],
        &[&[131], &[1], &[130], &[1]],
        &[&[40, 1, 9], &[1, 1, 1], &[1, 30, 1]],
    ];
    for passes in passes {
        for (n_heads, head_dim) in [(1, 1), (8, 14), (3, 33), (64, 128)] {
            let n = cases.len();
            cases.push(SelectCase {
                n_heads,
                head_dim,
                n_selected: [5, 1, 17, 64][n % 4],
                dtype: DTYPES[n % 3],
                n_before: 0,
                passes: passes.iter().map(|rows| rows.to_vec()).collect(),
                most: [2, 1, 3][n % 3],
                others: n / 2 % 3,
                n_attending: [1, 4, 3][n / 3 % 3],
            });
        }
    }
    // More than devices take at once.
    for (n_selected, dtype) in [(3, DType::F32), (600, DType::BF16)] {
        cases.push(SelectCase {
            n_heads: 8,
            head_dim: 14,
            n_selected,
            dtype,
            n_before: 700,
            passes: vec![vec![1, 1], vec![3, 0], vec![1, 2]],
            most: 1,
            others: 1,
            n_attending: 3,
        });
    }
    cases
}

impl SelectCase {
    fn n_sequences(&self) -> usize {
        self.passes.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Positions of the longest sequence.
    fn context(&self) -> usize {
        let of = |sequence| {
            let rows = self
                .passes
                .iter()
                .filter_map(move |pass| pass.get(sequence));
            rows.sum::<usize>()
        };
        self.n_before + (0..self.n_sequences()).map(of).max().unwrap_or(0)
    }

    fn selection(&self) -> Selection {
        Selection {
            n_heads: self.n_heads,
            head_dim: self.head_dim,
            scale: 0.25,
            weight_scale: 0.5,
            rate: 1,
            n_selected: self.n_selected,
            row_words: Selection::words(self.context()),
        }
    }

    fn whole(&self, random: &mut Random, n: usize) -> Vec<f32> {
        let number = |_| random.below(2 * self.most + 1) as f32 - self.most as f32;
        (0..n).map(number).collect()
    }
}

/// A pool, and the block tables of sequences in it.
struct Pool<B: Backend> {
    pool: B::KvPool,
    tables: Vec<Vec<u32>>,
}

impl<B: Backend> Pool<B> {
    fn new(backend: &Arc<B>, case: &SelectCase, width: usize) -> Self {
        let shape = KvShape {
            n_kv_heads: 1,
            head_dim: width,
            values: KvValues::OfKeys(width),
            capacity: case.context(),
            n_sequences: case.n_sequences(),
            dtype: case.dtype,
        };
        let table_len = shape.table_len(backend.kv_block_len(&shape));
        let mut blocks: Vec<u32> = (0..(shape.n_sequences * table_len) as u32).collect();
        Random::new(23 + width as u64).shuffle(&mut blocks);
        Pool {
            pool: backend.kv_pool(&shape).expect(WORKS),
            tables: blocks.chunks(table_len).map(<[u32]>::to_vec).collect(),
        }
    }

    /// Tables of those sequences that have rows.
    fn told(&self, device: &mut Device<B>, sequences: &[usize]) -> B::Index {
        let tables = sequences.iter().flat_map(|&i| &self.tables[i]);
        device.index(&tables.copied().collect::<Vec<_>>())
    }
}

impl Case for SelectCase {
    fn run<B: Backend>(&self, backend: &Arc<B>) -> Vec<f32> {
        let (op, context) = (self.selection(), self.context());
        let workspace = WorkspaceShape {
            n_tokens: self.n_sequences() * (context + self.others),
            context,
            n_heads: self.n_attending,
            head_dim: context,
            n_selecting: self.n_heads,
            ..SMALL
        };
        let mut device = Device::with_workspace(backend, &workspace);
        let mut index = Pool::new(backend, self, self.head_dim);
        let mut kept = Pool::new(backend, self, context);
        let mut taken = vec![0; self.n_sequences()];
        let (mut random, mut results) = (Random::new(29), Vec::new());
        let before = (self.n_before > 0).then(|| vec![self.n_before; self.n_sequences()]);
        let passes = before.iter().map(|pass| (pass, false));
        for (pass, attends) in passes.chain(self.passes.iter().map(|pass| (pass, true))) {
            let mut rows: Vec<Rows> = Vec::new();
            let mut sequences = Vec::new();
            let mut first = 0;
            for (sequence, &n_tokens) in pass.iter().enumerate().filter(|(_, n)| **n > 0) {
                let start = taken[sequence];
                taken[sequence] += n_tokens;
                first += self.others;
                rows.push(Rows {
                    first,
                    n_tokens,
                    start,
                    n_positions: taken[sequence],
                });
                sequences.push(sequence);
                first += n_tokens;
            }
            let n_rows = first;
            let own = || {
                rows.iter()
                    .flat_map(|rows| (0..rows.n_tokens).map(|i| (*rows, i)))
            };
            let of_rows = |width: usize, mut fill: Box<dyn FnMut(usize) -> Vec<f32> + '_>| {
                // Rows of others are not numbers, so that reading them would show.
                let mut values = vec![f32::NAN; n_rows * width];
                for (rows, i) in own() {
                    let row = (rows.first + i) * width;
                    values[row..][..width].copy_from_slice(&fill(rows.start + i));
                }
                values
            };
            let keys = of_rows(
                self.head_dim,
                Box::new(|_| self.whole(&mut random, self.head_dim)),
            );
            let queries = of_rows(
                op.q_width(),
                Box::new(|_| self.whole(&mut random, op.q_width())),
            );
            let weights = of_rows(
                self.n_heads,
                Box::new(|_| self.whole(&mut random, self.n_heads)),
            );
            let one = |position| {
                let mut row = vec![0.0; context];
                row[position] = 1.0;
                row
            };
            let values = of_rows(context, Box::new(one));
            let width = self.n_attending * context;
            let attending = of_rows(width, Box::new(|_| random.values(width, 1.0)));

            let words: Vec<u32> = rows.iter().flat_map(Rows::words).collect();
            let rows_index = device.index(&words);
            let [index_tables, kept_tables] =
                [&index, &kept].map(|pool| pool.told(&mut device, &sequences));
            let batch = |tables, pool: &Pool<B>| Batch {
                rows: &rows,
                rows_index: &rows_index,
                tables,
                table_len: pool.tables[0].len(),
            };
            let of_index = batch(&index_tables, &index);
            let of_kept = batch(&kept_tables, &kept);
            let [keys, queries, weights, values, attending] =
                [keys, queries, weights, values, attending].map(|values| device.buffer(&values));
            // Of what is replaced nothing is left.
            let mut bits = device.buffer(&vec![f32::from_bits(u32::MAX); n_rows * op.row_words]);
            let mut out = device.zeros(n_rows * width);
            let columns = |row_width| KvColumns {
                first: 0,
                row_width,
            };
            let queue = &mut device.queue;
            let appended = queue.append(&keys, &columns(self.head_dim), &of_index, &mut index.pool);
            appended.expect(WORKS);
            let appended = queue.append(&values, &columns(context), &of_kept, &mut kept.pool);
            appended.expect(WORKS);
            if !attends {
                continue;
            }
            let inputs = (&queries, &weights);
            let selected = queue.select(&op, inputs, &of_index, &index.pool, &mut bits);
            selected.expect(WORKS);
            let attention = Attention {
                n_heads: self.n_attending,
                n_kv_heads: 1,
                head_dim: context,
                row_width: width,
                scale: 0.5,
                soft_cap: None,
                mask: Mask::Causal { window: None },
                bias: None,
                sinks: None,
                selected: Some(Selected {
                    bits: &bits,
                    row_words: op.row_words,
                }),
                beside: None,
            };
            let attended = queue.attention(&attention, &attending, &of_kept, &kept.pool, &mut out);
            attended.expect(WORKS);
            let all = device.read(&out, n_rows * width);
            for (rows, i) in own() {
                results.extend_from_slice(&all[(rows.first + i) * width..][..width]);
            }
        }
        results
    }

    fn bounds(&self, expected: &[f32]) -> Vec<f64> {
        // A score is the product of one number below one and of a scale below it, rounded a few times; a weight is one of as many as
        // are selected, and wrong by an error of its score and of the total.
        let relative = sum_error(self.n_selected) + 16.0 * EPS;
        let bound = |&weight: &f32| relative * f64::from(weight);
        expected.iter().map(bound).collect()
    }
}

#[cfg(test)]
mod tests {
    use llm_backend::Reference;

    use super::*;

    #[test]
    fn as_many_are_selected_as_there_are_or_are_asked_for() {
        for case in cases() {
            let results = case.run(&Arc::new(Reference::new()));
            let mut taken = vec![case.n_before; case.n_sequences()];
            let mut results = results.chunks_exact(case.context());
            for pass in &case.passes {
                for (taken, &n_rows) in taken.iter_mut().zip(pass) {
                    for _ in 0..n_rows {
                        *taken += 1;
                        for _ in 0..case.n_attending {
                            let weights = results.next().unwrap();
                            let n = weights.iter().filter(|&&weight| weight > 0.0).count();
                            assert_eq!(n, case.n_selected.min(*taken), "{case:?}");
                        }
                    }
                }
            }
        }
    }
}
