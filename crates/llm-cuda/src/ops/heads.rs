//! Products of heads with rows of a matrix that are their own: `kernels/heads.cu`.

use llm_backend::{HeadProducts, MatrixSide, Result};

use super::general::vector;
use crate::module::kernel;
use crate::{Buffer, Cuda, CudaQueue};

/// Heads of rows of `x` into those of `out`.
pub(super) fn products(
    queue: &CudaQueue,
    op: &HeadProducts<'_, Cuda>,
    x: &Buffer,
    out: &mut Buffer,
    n_tokens: usize,
) -> Result<()> {
    op.check((op.weight.rows(), op.weight.cols()));
    let ((_, to), (x_width, out_width)) = (op.dims(), op.widths());
    let launch = queue.launch(match op.side {
        MatrixSide::Rows => kernel!("head_products_rows"),
        MatrixSide::Columns => kernel!("head_products_columns"),
    });
    let launch = vector(launch, Some(op.weight)).int(op.cols);
    let launch = launch.int(op.stride).int(op.first).int(op.n_rows);
    let launch = launch.pointer(x.first(n_tokens * x_width));
    let launch = launch.pointer(out.first(n_tokens * out_width));
    let launch = launch.int(op.n_heads).int(op.carried).int(n_tokens);
    let grid = [to.div_ceil(RESULTS), n_tokens.div_ceil(TOKENS), op.n_heads];
    launch.grid(grid).threads(256).run()
}

/// Results of a head, and tokens, that a block has.
const RESULTS: usize = 64;
const TOKENS: usize = 16;
