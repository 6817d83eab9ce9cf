//! Sums, activations and gates: `kernels/elementwise.cu`.

use llm_backend::{Result, Run};
use llm_tensor::Activation;

use super::general::vector;
use crate::launch::Launch;
use crate::memory::Span;
use crate::module::kernel;
use crate::{Buffer, CudaQueue, CudaWeight, workspace};

/// Adds the first `n` elements of `y` to those of `x`.
pub(super) fn add(queue: &CudaQueue, y: &Buffer, x: &mut Buffer, n: usize) -> Result<()> {
    let launch = queue.launch(kernel!("add")).pointer(y.first(n).aligned(16));
    each(launch.pointer(x.first(n).aligned(16)), n)
}

/// Multiplies the first `n` elements of `x` by the one element of a weight.
pub(super) fn scale_by(queue: &CudaQueue, by: &CudaWeight, x: &mut Buffer, n: usize) -> Result<()> {
    let launch =
        vector(queue.launch(kernel!("scale_by")), Some(by)).pointer(x.first(n).aligned(16));
    each(launch, n)
}

/// Applies `activation` to the first `n` elements of `x`.
pub(super) fn activate(
    queue: &CudaQueue,
    activation: Activation,
    x: &mut Buffer,
    n: usize,
) -> Result<()> {
    let launch = queue.launch(match activation {
        Activation::Relu => kernel!("activate_relu"),
        Activation::ReluSquared => kernel!("activate_relu2"),
        Activation::Gelu => kernel!("activate_gelu"),
        Activation::GeluTanh => kernel!("activate_gelu_tanh"),
        Activation::Silu => kernel!("activate_silu"),
    });
    each(launch.pointer(x.first(n).aligned(16)), n)
}

/// Adds `y`, each row times the sigmoid of its gate, to `x`.
pub(super) fn add_gated(
    queue: &CudaQueue,
    gates: &Buffer,
    y: &Buffer,
    x: &mut Buffer,
    (width, n): (usize, usize),
) -> Result<()> {
    let launch = queue.launch(kernel!("add_gated")).pointer(gates.first(n));
    let launch = launch.pointer(y.first(width * n));
    let launch = launch.pointer(x.first(width * n)).int(width);
    let grid = [n, width.div_ceil(256), 1];
    launch.grid(grid).threads(256).run()
}

/// Multiplies runs of columns of the first `n` rows of `x`.
pub(super) fn scale(queue: &CudaQueue, runs: &[Run], x: &mut Buffer, n: usize) -> Result<()> {
    let width = Run::width(runs);
    // Runs that are not there end where the last does.
    let mut words = [width as u32; 2 * Run::MOST];
    let mut end = 0;
    for (i, run) in runs.iter().enumerate() {
        end += run.n_columns;
        (words[i], words[Run::MOST + i]) = (end as u32, run.factor.to_bits());
    }
    let launch = queue.launch(kernel!("scale"));
    let launch = launch.pointer(x.first(width * n)).int(width);
    let grid = [n, width.div_ceil(256), 1];
    launch.structure(&words).grid(grid).threads(256).run()
}

/// A kernel whose threads take four elements each, again and again.
fn each(launch: Launch<'_>, n: usize) -> Result<()> {
    let n_blocks = n.div_ceil(1024).min(MAX_BLOCKS);
    launch.int(n).grid([n_blocks, 1, 1]).threads(256).run()
}

/// Blocks beyond which threads take several turns: more than any card runs at once.
const MAX_BLOCKS: usize = 1 << 16;

/// `activation(gate) · up` of rows `[gate | up]`: of the first `n`, or of as many of them as `bounds`, two numbers on the
/// GPU, lie apart.
pub(super) fn gate(
    queue: &CudaQueue,
    activation: Activation,
    gate_up: &Buffer,
    out: &mut Buffer,
    (width, n, bounds): (usize, usize, Option<Span<'_>>),
) -> Result<()> {
    let is_whole = width.is_multiple_of(4);
    let [whole, odd] = match activation {
        Activation::Relu => kernel!["gate_relu", "gate_relu_odd"],
        Activation::ReluSquared => kernel!["gate_relu2", "gate_relu2_odd"],
        Activation::Gelu => kernel!["gate_gelu", "gate_gelu_odd"],
        Activation::GeluTanh => kernel!["gate_gelu_tanh", "gate_gelu_tanh_odd"],
        Activation::Silu => kernel!["gate_silu", "gate_silu_odd"],
    };
    let (kernel, columns) = if is_whole { (whole, 1024) } else { (odd, 256) };
    let launch = queue
        .launch(kernel)
        .pointer(gate_up.first(2 * width * n).aligned(16));
    let launch = launch.pointer_or_null(bounds.map(|bounds| bounds.holding(8)));
    let launch = launch.pointer(out.first(width * n).aligned(16)).int(width);
    launch
        .grid([n, width.div_ceil(columns), 1])
        .threads(256)
        .run()
}

/// Columns of the largest of each row of `x`, read back.
pub(super) fn argmax(
    queue: &mut CudaQueue,
    x: &Buffer,
    width: usize,
    columns: &mut [Option<u32>],
) -> Result<()> {
    let x = x.first(columns.len() * width);
    let n_parts = width.div_ceil(PART).clamp(1, MAX_PARTS);
    for (i, columns) in columns.chunks_mut(MAX_ROWS).enumerate() {
        let n = columns.len();
        let from = 4 * i * MAX_ROWS * width;
        let rows = x.part(from..from + 4 * n * width);
        let [found, best] = queue.workspace.areas(AREAS);
        let launch = queue
            .launch(kernel!("argmax_parts"))
            .pointer(rows)
            .int(width);
        let launch = launch.pointer(best.aligned(8));
        launch.grid([n_parts, n, 1]).threads(256).run()?;
        let launch = queue
            .launch(kernel!("argmax_of_parts"))
            .pointer(best.aligned(8));
        let launch = launch.int(n_parts).pointer(found);
        launch.grid([n, 1, 1]).threads(32).run()?;
        let mut found = [0u32; MAX_ROWS];
        queue.read_scratch(bytemuck::cast_slice_mut(&mut found[..n]))?;
        for (column, found) in columns.iter_mut().zip(found) {
            *column = (found != u32::MAX).then_some(found);
        }
    }
    Ok(())
}

/// Columns of a row, about, that a block looks through; blocks of a row at most, and rows of a launch.
const PART: usize = 4096;
const MAX_PARTS: usize = 64;
const MAX_ROWS: usize = 16;

/// Columns found, and the best of each part.
const AREAS: [usize; 2] = [4 * MAX_ROWS, 8 * MAX_ROWS * MAX_PARTS];

pub(super) fn scratch_bytes() -> usize {
    workspace::bytes(AREAS)
}
