//! Sequences that are cut into passes, for operations on states in slots.

use llm_backend::{Backend, Queue, Rows, StateBatch};

use crate::data::{Device, Random, WORKS};

/// Positions of each sequence in each pass.
pub(crate) type Passes = Vec<Vec<usize>>;

/// A prompt at once, in pieces and position by position, of one sequence and of several beside each other, of which some come
/// later and some pause.
pub(crate) fn passes() -> Vec<Passes> {
    vec![
        vec![vec![37]],
        vec![vec![5], vec![1], vec![31]],
        vec![vec![1]; 9],
        vec![vec![3, 0, 34], vec![1, 70, 1], vec![2, 1, 0], vec![1, 1, 1]],
    ]
}

/// One prompt at once, in pieces and position by position.
pub(crate) fn cuts() -> [Passes; 3] {
    [
        vec![vec![70]],
        vec![vec![3], vec![1], vec![2], vec![64]],
        vec![vec![1]; 70],
    ]
}

/// Positions of the longest sequence.
pub(crate) fn n_positions(passes: &Passes) -> usize {
    let of = |i| passes.iter().map(|pass| pass[i]).sum();
    (0..passes[0].len()).map(of).max().unwrap_or(0)
}

/// Rows of the largest pass.
pub(crate) fn n_rows(passes: &Passes) -> usize {
    let rows = passes.iter().map(|pass| pass.iter().sum());
    rows.max().unwrap_or(1)
}

/// Buffers of one call: two inputs, the states and the results.
pub(crate) type Call<'a, B> = (
    [&'a <B as Backend>::Buffer; 2],
    &'a StateBatch<'a, B>,
    &'a mut <B as Backend>::Buffer,
    &'a mut <B as Backend>::Buffer,
);

/// Results of each sequence's positions, one after the other, and then all states, of which each has `n_elements`. Of each
/// input there are rows for each position of each sequence, so many elements wide. Slots are one more than sequences, in
/// another order, and have something else in them before.
pub(crate) fn over_passes<B: Backend>(
    device: &mut Device<B>,
    passes: &Passes,
    inputs: [(&[Vec<f32>], usize); 2],
    (n_elements, out_width): (usize, usize),
    mut call: impl FnMut(&mut B::Queue, Call<'_, B>),
) -> Vec<f32> {
    let n = passes[0].len();
    let slots: Vec<u32> = (0..n as u32).map(|i| n as u32 - i).collect();
    let before = Random::new(22).values((n + 1) * n_elements, 9.0);
    let mut state = device.buffer(&before);
    let mut results = vec![Vec::new(); n];
    let mut starts = vec![0; n];
    for pass in passes {
        let (mut rows, mut used) = (Vec::new(), Vec::new());
        let mut of_pass = [Vec::new(), Vec::new()];
        let mut first = 0;
        for (i, &n_tokens) in pass.iter().enumerate().filter(|(_, n)| **n > 0) {
            let start = starts[i];
            rows.push(Rows {
                first,
                n_tokens,
                start,
                n_positions: start + n_tokens,
            });
            used.push(slots[i]);
            for (of_pass, (values, width)) in of_pass.iter_mut().zip(inputs) {
                of_pass.extend(&values[i][start * width..(start + n_tokens) * width]);
            }
            starts[i] += n_tokens;
            first += n_tokens;
        }
        let words: Vec<u32> = rows.iter().flat_map(Rows::words).collect();
        let (index, used) = (device.index(&words), device.index(&used));
        let batch = StateBatch {
            rows: &rows,
            rows_index: &index,
            slots: &used,
        };
        let [x, gates] = of_pass.map(|values| device.buffer(&values));
        let mut out = device.zeros(first * out_width);
        call(
            &mut device.queue,
            ([&x, &gates], &batch, &mut state, &mut out),
        );
        let out = device.read(&out, first * out_width);
        let sequences = pass.iter().enumerate().filter(|(_, n)| **n > 0);
        for ((i, _), rows) in sequences.zip(&rows) {
            results[i].extend(&out[rows.first * out_width..][..rows.n_tokens * out_width]);
        }
    }
    device.queue.finish().expect(WORKS);
    let states = device.read(&state, before.len());
    results.into_iter().flatten().chain(states).collect()
}
