//! Rows of tables: `kernels/embed.cu`.

use llm_backend::{Output, Result};
use llm_quant::{Part, Scheme};

use super::general::element;
use super::packed;
use crate::module::{Kernel, kernel};
use crate::{Buffer, CudaQueue, CudaWeight, Index};

/// Rows `ids` of a table, times `scale`, in place of `out` `[n, width]` or added to it.
pub(super) fn embed(
    queue: &CudaQueue,
    table: &CudaWeight,
    (ids, n): (&Index, usize),
    scale: f32,
    (output, out): (Output, &mut Buffer),
) -> Result<()> {
    let (rows, width) = (table.rows(), table.cols());
    let part = |part| table.part(part);
    let (launch, columns) = match table.scheme() {
        Scheme::Dense(dtype) | Scheme::Int8PerUse(dtype, _) => {
            let launch = queue.launch(match output {
                Output::Write => kernel!("embed_dense"),
                Output::Add => kernel!("positions_dense"),
            });
            let launch = launch.pointer(part(Part::Weight));
            (launch.bits(element(dtype)), ONE)
        }
        Scheme::Int8(_) => {
            let launch = queue.launch(match output {
                Output::Write => kernel!("embed_int8"),
                Output::Add => kernel!("positions_int8"),
            });
            let launch = launch.pointer(part(Part::Weight));
            (launch.pointer(part(Part::Scb)), ONE)
        }
        Scheme::FourBit(format) => {
            let (kernel, columns) = four_bit(output, format.double_quant, width);
            let launch = queue.launch(kernel).pointer(part(Part::Weight));
            let launch = launch
                .pointer(part(Part::Absmax))
                .pointer(part(Part::QuantMap));
            let launch = if format.double_quant {
                let launch = launch.pointer(part(Part::NestedAbsmax));
                let launch = launch.pointer(part(Part::NestedQuantMap));
                launch.pointer(part(Part::NestedOffset))
            } else {
                launch
            };
            (launch.bits(format.block_size.get().ilog2()), columns)
        }
        Scheme::Ggml(_) | Scheme::Fp8(_) | Scheme::Grouped(_) => {
            let kernels = packed::kernels(table).expect("such weights alone are loaded");
            let launch = packed::told(queue.launch(kernels.embed), table);
            let launch = launch
                .pointer(ids.first(n))
                .int(rows)
                .int(width)
                .float(scale);
            let launch = launch.int(usize::from(output == Output::Add));
            let launch = launch.pointer(out.first(n * width));
            let grid = [n, width.div_ceil(4 * ONE), 1];
            return launch.grid(grid).threads(256).run();
        }
    };
    let launch = launch
        .pointer(ids.first(n))
        .int(rows)
        .int(width)
        .float(scale);
    let launch = launch.pointer(out.first(n * width));
    launch
        .grid([n, width.div_ceil(columns), 1])
        .threads(256)
        .run()
}

/// The kernel for rows of 4-bit codes, and the columns that a block of it takes.
fn four_bit(output: Output, double_quant: bool, width: usize) -> (Kernel, usize) {
    let is_even = width.is_multiple_of(2);
    let kernel = match (output, double_quant, is_even) {
        (Output::Write, false, true) => kernel!("embed_four_bit"),
        (Output::Write, false, false) => kernel!("embed_four_bit_odd"),
        (Output::Write, true, true) => kernel!("embed_four_bit_double"),
        (Output::Write, true, false) => kernel!("embed_four_bit_double_odd"),
        (Output::Add, false, true) => kernel!("positions_four_bit"),
        (Output::Add, false, false) => kernel!("positions_four_bit_odd"),
        (Output::Add, true, true) => kernel!("positions_four_bit_double"),
        (Output::Add, true, false) => kernel!("positions_four_bit_double_odd"),
    };
    (kernel, if is_even { 2 * ONE } else { ONE })
}

/// Rows `rows` of `x` `[_, width]`, one after the other.
pub(super) fn gather(
    queue: &CudaQueue,
    x: &Buffer,
    (rows, n): (&Index, usize),
    width: usize,
    out: &mut Buffer,
) -> Result<()> {
    let n_rows = (x.n() / width).min(i32::MAX as usize);
    let launch = queue
        .launch(kernel!("gather_rows"))
        .pointer(x.first(n_rows * width));
    let launch = launch.int(n_rows).pointer(rows.first(n)).int(width);
    let launch = launch.pointer(out.first(n * width));
    launch.grid([n, width.div_ceil(ONE), 1]).threads(256).run()
}

/// Columns of a block whose threads take one each.
const ONE: usize = 256;
