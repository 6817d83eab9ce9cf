//! Packed weights times activations that are rounded to 8 bits: whole numbers, multiplied with blocks' scales.
//!
//! A call rounds its activations first. A format is a [`format::Format`], which gives registers of codes and the scales of
//! groups of 32 columns; products are written once for all formats.

mod activations;
mod format;
mod matvec;
mod scratch;
#[cfg(test)]
mod tests;

pub(crate) use scratch::workspace_len;

use std::ops::Range;

use llm_backend::Output;
use llm_quant::GgmlType;

use crate::dense::DenseView;
use crate::linear::call::Call;
use crate::memory::Workspace;
use crate::packed::PackedView;
use crate::share::{Columns, Scratch};
use crate::weight::{Operand, Weight};

use activations::Activations;
use matvec::MatVec;
use scratch::Layout;

/// Multiplies the parts of `call` whose weights take rounded activations, into their columns of `out`.
pub(crate) fn linear(call: &Call<'_>, out: &mut [f32], workspace: &mut Workspace) {
    let layout = Layout::new(call.n_tokens, call.cols);
    let memory = layout.split(workspace.take(layout.len()));
    let activations = Activations::round(call.cpu, call.x, call.cols, memory);
    let choose = |weight| Blocks::of(weight);
    let row_work = call.cols * call.n_tokens;
    let none = Scratch::new(&mut [], 0);
    call.split(choose, UNIT, row_work, out, none, |part, _| {
        let Blocks { ty, weight } = part.weight;
        format::visit(
            ty,
            MatVec {
                level: call.cpu.dot_level,
                rows: BlockRows {
                    bytes: weight.elements(),
                    row_bytes: weight.row_bytes(),
                    cols: weight.cols,
                    range: &part.rows,
                },
                activations,
                target: Target {
                    out: &part.out,
                    column: part.column,
                    output: call.output,
                    bias: part.bias,
                },
            },
        );
    });
}

/// A weight in blocks, for which activations are rounded.
#[derive(Clone, Copy)]
struct Blocks<'a> {
    ty: GgmlType,
    weight: PackedView<'a>,
}

impl<'a> Blocks<'a> {
    /// `None` of any other.
    fn of(weight: &'a Weight) -> Option<Self> {
        match &weight.0 {
            Operand::Q8(ty, weight) => Some(Blocks {
                ty: *ty,
                weight: weight.view(),
            }),
            Operand::Dense(_)
            | Operand::FourBit(_)
            | Operand::Int8(_)
            | Operand::Int8PerUse(..)
            | Operand::Packed(_) => None,
        }
    }
}

/// Rows of a weight that a product reads.
#[derive(Clone, Copy)]
struct BlockRows<'a> {
    /// Of the whole weight.
    bytes: &'a [u8],
    row_bytes: usize,
    cols: usize,
    /// Rows to compute.
    range: &'a Range<usize>,
}

impl<'a> BlockRows<'a> {
    #[inline(always)]
    fn row(&self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.row_bytes..][..self.row_bytes]
    }
}

/// The columns of the output that belong to a part.
#[derive(Clone, Copy)]
struct Target<'a> {
    /// Of `[n_tokens, width]`: those of the rows that are computed.
    out: &'a Columns<'a>,
    /// The column of the part's row 0.
    column: usize,
    output: Output,
    /// The part's, `[rows]`.
    bias: Option<DenseView<'a>>,
}

impl Target<'_> {
    /// Writes or adds the product of a token and a row of the part.
    ///
    /// # Panics
    /// When it leaves the output.
    #[inline(always)]
    fn put(&self, token: usize, row: usize, mut sum: f32) {
        if let Some(bias) = self.bias {
            sum += bias.element(row);
        }
        self.out.put(token, self.column + row, &[sum], self.output);
    }
}

/// Rows that a thread gets a multiple of.
const UNIT: usize = 4;
