//! xIELU: `kernels/xielu.cu`.

use llm_backend::{Result, Xielu};

use super::general::vector;
use crate::module::kernel;
use crate::{Buffer, Cuda, CudaQueue};

/// Applies xIELU to the first `n` elements of `x`.
pub(super) fn activate(
    queue: &CudaQueue,
    op: &Xielu<'_, Cuda>,
    x: &mut Buffer,
    n: usize,
) -> Result<()> {
    let numbers = op.numbers();
    let is_one = numbers.iter().all(|n| n.rows() * n.cols() == 1);
    assert!(is_one, "xIELU has one number of each kind");
    let launch = queue.launch(kernel!("activate_xielu"));
    let launch = numbers
        .into_iter()
        .fold(launch, |launch, number| vector(launch, Some(number)));
    let n_blocks = n.div_ceil(256).min(MAX_BLOCKS);
    let launch = launch.pointer(x.first(n)).int(n);
    launch.grid([n_blocks, 1, 1]).threads(256).run()
}

/// Blocks beyond which threads take several turns: more than any card runs at once.
const MAX_BLOCKS: usize = 1 << 16;
