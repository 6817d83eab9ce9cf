//! Rotary positions: `kernels/rotary.cu`.

use llm_backend::{Result, Rotary};
use llm_tensor::Pairing;

use crate::module::{Kernel, kernel};
use crate::{Buffer, CudaQueue};

/// Turns the leading heads of rows of `x` `[n_tokens, row_width]`.
pub(super) fn rotate(
    queue: &CudaQueue,
    op: &Rotary,
    angles: &Buffer,
    x: &mut Buffer,
    n_tokens: usize,
) -> Result<()> {
    let Rotary {
        n_heads,
        head_dim,
        first,
        rotary_dim,
        row_width,
        ..
    } = *op;
    op.check();
    let half = rotary_dim / 2;
    let launch = queue
        .launch(kernel_for(op))
        .pointer(x.first(n_tokens * row_width));
    let launch = launch
        .int(row_width)
        .pointer(angles.first(n_tokens * rotary_dim));
    let launch = launch.int(n_heads).int(head_dim).int(first).int(half);
    let grid = [n_tokens, (n_heads * half).div_ceil(256), 1];
    launch.grid(grid).threads(256).run()
}

fn kernel_for(op: &Rotary) -> Kernel {
    let is_even = (op.head_dim | op.first | op.row_width).is_multiple_of(2);
    match op.pairing {
        Pairing::Halves => kernel!("rotary_halves"),
        // Pairs are read at once where each begins on a border of eight bytes.
        Pairing::Adjacent if is_even => kernel!("rotary_adjacent"),
        Pairing::Adjacent => kernel!("rotary_adjacent_odd"),
    }
}
