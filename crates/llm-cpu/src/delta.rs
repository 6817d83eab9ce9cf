//! Division of the gated delta rule among threads.
//!
//! Columns of a state are independent: each is decayed, corrected and read by itself. So a unit of work is a few columns of
//! one head of one sequence, small enough for the first-level cache, through which all positions of a pass go. That is less
//! arithmetic than products of whole chunks would be, and gives the same bits however a prompt is cut.

mod columns;

use llm_backend::{DeltaRule, StateBatch};

use crate::Cpu;
use crate::isa::Geometry;
use crate::memory::Workspace;
use crate::share::{Scratch, Shared};
use crate::states::sequences;
use columns::{Columns, scratch_len};

/// The delta rule over all sequences' rows.
pub(crate) fn delta_rule(
    cpu: &Cpu,
    op: &DeltaRule<'_, Cpu>,
    (x, gates): (&[f32], &[f32]),
    batch: &StateBatch<'_, Cpu>,
    (state, out): (&mut [f32], &mut [f32]),
    workspace: &mut Workspace,
) {
    op.check();
    assert!(
        op.rate.cols() == op.n_value_heads && op.offset.cols() == op.n_decays(),
        "a decay for each head"
    );
    let sequences = sequences(batch);
    let width = columns::width(cpu.level.geometry());
    let n_units = batch.rows.len() * op.n_value_heads * op.value_dim.div_ceil(width);
    let most = batch.rows.iter().map(|rows| rows.n_tokens).max();
    let n_tokens = most.unwrap_or(0).max(1);
    let len = scratch_len(n_tokens, op.key_dim, width);
    let n_threads = cpu.n_threads();
    let scratch = Scratch::new(workspace.take(n_threads * len), len);
    let (state, out) = (Shared::new(state), Shared::new(out));
    let min_units = MIN_WORK.div_ceil(n_tokens * op.key_dim * width);
    cpu.pool
        .split(n_units, min_units, scratch, |units, scratch| {
            cpu.level.run(Columns {
                op,
                rate: op.rate.dense(),
                offset: op.offset.dense(),
                x,
                gates,
                sequences,
                units,
                scratch,
                state,
                out,
            });
        });
}

/// Scratch elements of the delta rule.
pub(crate) fn delta_len(
    n_tokens: usize,
    key_dim: usize,
    geometry: Geometry,
    n_threads: usize,
) -> usize {
    n_threads * scratch_len(n_tokens, key_dim, columns::width(geometry))
}

/// Elements of states times positions below which a thread is not worth a fork.
const MIN_WORK: usize = if cfg!(miri) { 1 } else { 1 << 13 };
