//! Packed weights times activations as whole numbers: products of codes, multiplied with blocks' scales.
//!
//! A call turns its activations into codes first: of one digit of 8 bits where that is asked for, else of three, which are as exact
//! as f32. A format is a [`format::Format`], which gives registers of codes and the scales of groups of 32 columns; products are
//! written once for all formats.

mod activations;
mod format;
mod gemm;
mod matvec;
mod scratch;
#[cfg(test)]
mod tests;

pub(crate) use scratch::workspace_len;

use std::ops::Range;

use llm_backend::Output;

use crate::dense::DenseView;
use crate::digits::Digits;
use crate::linear::call::Call;
use crate::matvec::GEMM_TOKENS;
use crate::memory::Workspace;
use crate::share::{Columns, Scratch};
use crate::simd::dot::panel::{PANEL_ROWS, PanelLevel};
use crate::weight::{Blocks, Weight};

use activations::Activations;
use gemm::Gemm;
use matvec::{MatVec, ROWS};
use scratch::Layout;

/// Multiplies the parts of `call` whose weights take activations in so many digits, into their columns of `out`.
pub(crate) fn linear<'a>(
    call: &Call<'a>,
    digits: Digits,
    out: &mut [f32],
    workspace: &mut Workspace,
) {
    let layout = Layout::new(digits, call.n_tokens, call.cols, call.cpu.n_threads());
    let memory = layout.split(workspace.take(layout.len()));
    // Of one digit: products of three are for fewer tokens.
    let panels = PanelLevel::of(call.cpu.dot_level).filter(|_| call.n_tokens >= GEMM_TOKENS);
    let bias = panels.map_or(0, PanelLevel::bias);
    let activations = Activations::round(call.cpu, call.x, call.cols, bias, memory.rounded);
    let unit = panels.map_or(ROWS, |_| PANEL_ROWS);
    let choose = |weight: &'a Weight| {
        let (of_weight, blocks) = weight.whole(call.n_tokens)?;
        (of_weight == digits).then_some(blocks)
    };
    let row_work = call.cols * call.n_tokens;
    let scratch = Scratch::new(memory.threads, layout.thread_len());
    call.split(choose, unit, row_work, out, scratch, |part, scratch| {
        let Blocks { ty, weight } = part.weight;
        let rows = BlockRows {
            bytes: weight.elements(),
            row_bytes: weight.row_bytes(),
            cols: weight.cols,
            range: &part.rows,
        };
        let target = Target {
            out: &part.out,
            column: part.column,
            output: call.output,
            bias: part.bias,
        };
        match panels {
            Some(level) => format::visit(
                ty,
                Gemm {
                    level,
                    rows,
                    activations,
                    target,
                    scratch,
                },
            ),
            None => format::visit(
                ty,
                MatVec {
                    level: call.cpu.dot_level,
                    rows,
                    activations,
                    target,
                },
            ),
        }
    });
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
    /// Adds a piece of the products of a token and rows of the part, of which there are no more than in a panel; the first
    /// piece goes where the output says.
    ///
    /// # Panics
    /// When it leaves the output.
    #[inline(always)]
    fn put_rows(&self, token: usize, row: usize, sums: &[f32], is_first: bool) {
        let column = self.column + row;
        let Some(bias) = self.bias.filter(|_| is_first) else {
            let output = if is_first { self.output } else { Output::Add };
            return self.out.put(token, column, sums, output);
        };
        let mut values = [0.0; PANEL_ROWS];
        for (i, (value, sum)) in values.iter_mut().zip(sums).enumerate() {
            *value = sum + bias.element(row + i);
        }
        let values = &values[..sums.len()];
        self.out.put(token, column, values, self.output);
    }

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
