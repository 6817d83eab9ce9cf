//! Clamped gates: `kernels/gates.cu`.

use llm_backend::Result;
use llm_tensor::{ClampedGate, Gate, GateOrder};

use super::elementwise;
use crate::memory::Span;
use crate::module::kernel;
use crate::{Buffer, CudaQueue};

/// The gate of rows of `up`: of the first `n`, or of as many of them as `bounds`, two numbers on the GPU, lie apart. What
/// nothing gates stays where it is.
pub(super) fn gate<'a>(
    queue: &CudaQueue,
    gate: &Gate,
    (up, gated): (&'a mut Buffer, &'a mut Buffer),
    (width, n, bounds): (usize, usize, Option<Span<'_>>),
) -> Result<&'a Buffer> {
    match gate {
        Gate::Of(activation) => {
            elementwise::gate(queue, *activation, up, gated, (width, n, bounds))?;
        }
        Gate::Clamped(gate) => clamped(queue, gate, up, gated, (width, n, bounds))?,
        Gate::Absent(activation) => {
            // Of all rows, those behind the expert's too, which nobody reads.
            elementwise::activate(queue, *activation, up, width * n)?;
            return Ok(up);
        }
    }
    Ok(gated)
}

/// The same of a clamped one.
pub(super) fn clamped(
    queue: &CudaQueue,
    gate: &ClampedGate,
    gate_up: &Buffer,
    out: &mut Buffer,
    (width, n, bounds): (usize, usize, Option<Span<'_>>),
) -> Result<()> {
    let launch = queue.launch(kernel!("gate_clamped"));
    let launch = launch.pointer(gate_up.first(2 * width * n));
    let launch = launch.pointer_or_null(bounds.map(|bounds| bounds.holding(8)));
    let launch = launch.pointer(out.first(width * n)).int(width);
    let launch = launch.structure(&words(gate)).int(match gate.order {
        GateOrder::Halves => 0,
        GateOrder::Pairs => 1,
    });
    launch.grid([n, width.div_ceil(256), 1]).threads(256).run()
}

/// `ClampedGate` of `gates.cuh`.
pub(super) fn words(gate: &ClampedGate) -> [f32; 3] {
    [gate.alpha, gate.limit, gate.added]
}
