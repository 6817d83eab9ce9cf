//! State spaces: `kernels/state_space.cu`.

use llm_backend::{Result, Rows, StateBatch, StateSpace};

use super::general::vector;
use crate::module::kernel;
use crate::{Buffer, Cuda, CudaQueue};

/// Takes all sequences' rows through a state space.
///
/// # Panics
/// Of states of more numbers than [`MAX_STATE_DIM`].
pub(super) fn state_space(
    queue: &CudaQueue,
    op: &StateSpace<'_, Cuda>,
    (x, steps): (&Buffer, &Buffer),
    batch: &StateBatch<'_, Cuda>,
    (state, out): (&mut Buffer, &mut Buffer),
) -> Result<()> {
    op.check();
    let vectors = [op.rate, op.offset, op.skip];
    assert!(
        vectors.iter().all(|vector| vector.cols() == op.n_heads),
        "a rate, an offset and a skip for each head"
    );
    let n = batch.rows.len();
    let n_slots = state.n() / op.state_elements().max(1);
    let ends = batch.rows.iter().map(|rows| rows.first + rows.n_tokens);
    let n_rows = ends.max().unwrap_or(0);
    let (kernel, rows) = match op.state_dim {
        0..=64 => (kernel!("state_space_64"), 32),
        65..=128 => (kernel!("state_space_128"), 32),
        129..=MAX_STATE_DIM => (kernel!("state_space_256"), 16),
        n => panic!("states of {n} numbers, of {MAX_STATE_DIM} that there are kernels for"),
    };
    let launch = queue
        .launch(kernel)
        .pointer(x.first(n_rows * op.row_width()));
    let launch = launch.pointer(steps.first(n_rows * op.steps.row_width));
    let launch = launch.pointer(batch.rows_index.first(n * Rows::N_WORDS));
    let launch = launch.pointer(batch.slots.first(n));
    let launch = vectors
        .into_iter()
        .fold(launch, |launch, of| vector(launch, Some(of)));
    let launch = launch.pointer(state.first(n_slots * op.state_elements()));
    let launch = launch.pointer(out.first(n_rows * op.out_width()));
    let [least, most] = op.steps.limits;
    let words: [u32; 10] = [
        op.n_heads as u32,
        op.head_dim as u32,
        op.state_dim as u32,
        op.n_groups as u32,
        op.steps.first as u32,
        op.steps.row_width as u32,
        n_slots as u32,
        u32::from(op.state_dim.is_multiple_of(4)),
        least.to_bits(),
        most.to_bits(),
    ];
    let grid = [op.head_dim.div_ceil(rows), op.n_heads, n];
    launch.structure(&words).grid(grid).threads(128).run()
}

/// The most numbers of a state's row that there is a kernel for.
const MAX_STATE_DIM: usize = 256;
