//! State spaces: a state is read and written once, however many positions go through it.

use llm_backend::{Ops, StateSpace, Steps};
use llm_quant::Scheme;
use llm_tensor::DType;

use crate::bench::{Needs, on_each_target};

pub(crate) const KERNELS: &[&str] = &["state_space_"];

#[test]
fn states_of_spaces_are_read_and_written_once() {
    on_each_target(KERNELS, |bench| {
        for state_dim in [64, 128, 256] {
            for n_tokens in [1, 8] {
                let (n_heads, head_dim, n_groups) = (4, 64, 2);
                let vectors = [DType::F32, DType::BF16, DType::F16];
                let [rate, offset, skip] =
                    vectors.map(|dtype| bench.weight(Scheme::Dense(dtype), (1, n_heads)).0);
                let op = StateSpace {
                    n_heads,
                    head_dim,
                    state_dim,
                    n_groups,
                    rate: &rate,
                    offset: &offset,
                    skip: &skip,
                    steps: Steps {
                        first: 0,
                        row_width: n_heads,
                        limits: [0.0, f32::INFINITY],
                    },
                };
                let x = bench.buffer(2 * n_tokens * op.row_width());
                let steps = bench.buffer(2 * n_tokens * op.steps.row_width);
                let mut state = bench.buffer(3 * op.state_elements());
                let mut out = bench.buffer(2 * n_tokens * op.out_width());
                let sequences = bench.two_sequences(n_tokens);
                let batch = sequences.batch();
                let what = format!("{n_tokens} positions of states of {state_dim}");
                // What states are written and read by is read again by each block of a group.
                let n_blocks = n_heads * head_dim / if state_dim > 128 { 16 } else { 32 };
                let by = n_blocks * 2 * state_dim * 4 * n_tokens;
                let others = 4 * n_tokens * 2 * op.out_width();
                let n_bytes = 2 * (8 * op.state_elements() + by + others);
                let needs = Needs::bytes(&what, n_bytes);
                bench.check(&needs, |queue| {
                    queue.state_space(&op, (&x, &steps), &batch, &mut state, &mut out)
                });
            }
        }
    });
}
