//! Streams of a residual, and what belongs to models that have some: `kernels/streams.cu`.

use llm_backend::{CutOff, Result, StreamMix, StreamSum, Streams};

use super::general::vector;
use crate::module::kernel;
use crate::{Buffer, CudaQueue, CudaWeight};

/// Streams of the first `n_tokens` rows of `s` of all of them, and of `y`.
pub(super) fn mix(
    queue: &CudaQueue,
    op: &StreamMix,
    (coefficients, y): (&Buffer, Option<&Buffer>),
    s: &mut Buffer,
    n_tokens: usize,
) -> Result<()> {
    op.check();
    assert_eq!(y.is_some(), op.added.is_some(), "what is added is there");
    let (n, width, all) = (op.streams.n, op.streams.width, op.streams.row_width());
    let launch = queue.launch(kernel!("mix_streams"));
    let launch = launch.pointer(coefficients.first(n_tokens * op.row_width));
    let launch = launch.int(op.row_width);
    let launch = launch.pointer_or_null(y.map(|y| y.first(n_tokens * width)));
    let launch = launch.pointer(s.first(n_tokens * all)).int(n).int(width);
    let launch = launch.float(op.own).bits(column(op.mixed));
    let launch = launch.int(op.added.map_or(0, |added| added.first));
    let launch = launch.float(op.added.map_or(0.0, |added| added.offset));
    let launch = launch.bits(column(op.added.and_then(|added| added.column)));
    let grid = [n_tokens, width.div_ceil(256), 1];
    launch.grid(grid).threads(256).run()
}

/// One row of all streams of each of `s`.
pub(super) fn sum(
    queue: &CudaQueue,
    op: &StreamSum,
    coefficients: &Buffer,
    (s, out): (&Buffer, &mut Buffer),
    n_tokens: usize,
) -> Result<()> {
    op.check();
    let (n, width, all) = (op.streams.n, op.streams.width, op.streams.row_width());
    let launch = queue.launch(kernel!("sum_streams"));
    let launch = launch.pointer(coefficients.first(n_tokens * op.row_width));
    let launch = launch.int(op.row_width).pointer(s.first(n_tokens * all));
    let launch = launch.pointer(out.first(n_tokens * width));
    let launch = launch.int(n).int(width).float(op.factor);
    let launch = launch.bits(column(op.column));
    let grid = [n_tokens, width.div_ceil(256), 1];
    launch.grid(grid).threads(256).run()
}

/// All streams of each row with the magnitude of the first.
pub(super) fn match_first(
    queue: &CudaQueue,
    streams: &Streams,
    floor: f32,
    s: &mut Buffer,
    n_tokens: usize,
) -> Result<()> {
    let launch = queue.launch(kernel!("match_streams"));
    let launch = launch.pointer(s.first(n_tokens * streams.row_width()));
    let launch = launch.int(streams.n).int(streams.width).float(floor);
    launch.grid([n_tokens, 1, 1]).threads(256).run()
}

/// Leading columns of rows, cut off.
pub(super) fn cut_off(
    queue: &CudaQueue,
    op: &CutOff,
    x: &mut Buffer,
    n_tokens: usize,
) -> Result<()> {
    op.check();
    let launch = queue.launch(kernel!("cut_off"));
    let launch = launch.pointer(x.first(n_tokens * op.row_width));
    let launch = launch.int(op.width).int(op.row_width).float(op.deviations);
    launch.grid([n_tokens, 1, 1]).threads(256).run()
}

/// The hyperbolic tangent of `factor` times the first `n` elements of `x`.
pub(super) fn tanh(queue: &CudaQueue, factor: f32, x: &mut Buffer, n: usize) -> Result<()> {
    let launch = queue.launch(kernel!("tanh_of")).pointer(x.first(n));
    let launch = launch.int(n).float(factor);
    launch.grid([n.div_ceil(256), 1, 1]).threads(256).run()
}

/// Columns of rows, each times its own element of a weight.
pub(super) fn scale_columns(
    queue: &CudaQueue,
    by: &CudaWeight,
    x: &mut Buffer,
    (width, n_tokens): (usize, usize),
) -> Result<()> {
    let launch = vector(queue.launch(kernel!("scale_columns")), Some(by));
    let launch = launch.pointer(x.first(width * n_tokens)).int(width);
    let grid = [n_tokens, width.div_ceil(256), 1];
    launch.grid(grid).threads(256).run()
}

/// A column as kernels are told of it: negative where there is none.
fn column(column: Option<usize>) -> u32 {
    column.map_or(u32::MAX, |first| {
        u32::try_from(first).expect("columns of a row fit 31 bits")
    })
}
