//! Streams of a residual, and what belongs to models that have some: `kernels/streams.cu`.

use llm_backend::{CutOff, Result, StreamMix, StreamSum, StreamWeights, Streams};

use super::general::vector;
use crate::module::kernel;
use crate::{Buffer, Cuda, CudaQueue, CudaWeight};

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

/// The hyperbolic tangent of the first `n` elements of `x`.
pub(super) fn tanh(queue: &CudaQueue, x: &mut Buffer, n: usize) -> Result<()> {
    let launch = queue.launch(kernel!("tanh_of")).pointer(x.first(n));
    let launch = launch.int(n);
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

/// Weights of streams, of products that `weights` has.
pub(super) fn weigh(
    queue: &CudaQueue,
    op: &StreamWeights<'_, Cuda>,
    s: &Buffer,
    weights: &mut Buffer,
    n_tokens: usize,
) -> Result<()> {
    let (row_width, n_weights) = (op.streams.row_width(), op.n_weights());
    let n_scales = if op.only_read { 1 } else { 3 };
    for (vector, n) in [(op.scale, n_scales), (op.base, n_weights)] {
        assert_eq!(vector.rows() * vector.cols(), n, "{:?}", op.streams);
    }
    let words = Weighing {
        sizes: [op.streams.n, row_width, n_weights, op.n_rounds]
            .map(|n| i32::try_from(n).expect("elements of a row fit 31 bits")),
        norm_eps: op.norm_eps,
        eps: op.eps,
    };
    let launch = queue.launch(kernel!("weigh_streams")).structure(&words);
    let launch = vector(vector(launch, Some(op.scale)), Some(op.base));
    let launch = launch.pointer(s.first(n_tokens * row_width));
    let launch = launch.pointer(weights.first(n_tokens * n_weights));
    let n_threads = row_width.div_ceil(ELEMENTS).next_multiple_of(32).min(1024);
    launch.grid([n_tokens, 1, 1]).threads(n_threads).run()
}

/// `Weighing` of `streams.cu`.
#[derive(Debug, Clone, Copy, bytemuck::NoUninit)]
#[repr(C)]
struct Weighing {
    /// Streams, elements of a row of them, weights of a row, and rounds.
    sizes: [i32; 4],
    norm_eps: f32,
    eps: f32,
}

/// Elements that a thread squares, where threads are enough.
const ELEMENTS: usize = 4;

/// A column as kernels are told of it: negative where there is none.
fn column(column: Option<usize>) -> u32 {
    column.map_or(u32::MAX, |first| {
        u32::try_from(first).expect("columns of a row fit 31 bits")
    })
}
