//! LLM.int8(): rows of codes of weights times rows of codes of activations, in exact integer sums.
//!
//! A call quantizes its activations first. Few rows of them are multiplied with the codes of weights as these stream
//! from memory; for many, panels of weights stay in the first-level cache while the activations pass. Either way a
//! result is the same integer times the same scales. Outlier columns, whose activations are too large to share a scale
//! with the rest, are multiplied beside, in floats.

mod activations;
mod encode;
mod gemm;
mod matvec;
mod outliers;
mod rows;
mod scratch;
#[cfg(test)]
mod tests;

pub(crate) use encode::encode_int8;
pub(crate) use scratch::workspace_len;

use llm_quant::Int8Weight;

use crate::Cpu;
use crate::dense::DenseView;
use crate::linear::call::Call;
use crate::matvec::GEMM_TOKENS;
use crate::memory::Workspace;
use crate::share;
use crate::weight::{Operand, Weight};

use activations::Activations;
use encode::encode_rows;
use gemm::{Int8Gemm, PANEL_ROWS};
use matvec::{BLOCK_ROWS, Int8MatVec};
use outliers::OutlierProduct;
use rows::{CodeRows, Target};
use scratch::{Int8Scratch, Layout, ROWS_PER_USE, ThreadScratch};

/// Multiplies the parts of `call` that are in LLM.int8(), into their columns of `out`.
pub(crate) fn linear(call: &Call<'_>, out: &mut [f32], workspace: &mut Workspace) {
    let geometry = call.cpu.level.geometry();
    let layout = Layout::new(call.n_tokens, call.cols, geometry, call.cpu.n_threads());
    let memory = workspace.take(layout.len());
    let weights = || call.parts.iter().filter_map(|part| Source::of(part.weight));
    for (i, (threshold, _)) in weights().enumerate() {
        // Parts that share a threshold share the codes of the activations.
        let same = |(earlier, _): (f32, _)| earlier.to_bits() == threshold.to_bits();
        if !weights().take(i).any(same) {
            multiply(call, threshold, &layout, memory, out);
        }
    }
}

/// Multiplies the parts of one threshold.
fn multiply(call: &Call<'_>, threshold: f32, layout: &Layout, memory: &mut [f32], out: &mut [f32]) {
    let Int8Scratch { quantized, threads } = layout.split(memory);
    let activations = Activations::quantize(call.cpu, call.x, call.cols, threshold, quantized);
    let choose = |weight| {
        let (its_threshold, source) = Source::of(weight)?;
        (its_threshold.to_bits() == threshold.to_bits()).then_some(source)
    };
    let unit = if call.n_tokens < GEMM_TOKENS {
        BLOCK_ROWS
    } else {
        PANEL_ROWS
    };
    let threads = share::Scratch::new(threads, layout.thread_len());
    let row_work = call.cols * call.n_tokens;
    call.split(choose, unit, row_work, out, threads, |part, scratch| {
        let ThreadScratch {
            product,
            codes,
            absmax,
        } = layout.split_thread(scratch);
        let mut task = Task {
            cpu: call.cpu,
            activations: &activations,
            target: Target {
                out: &part.out,
                column: part.column,
                output: call.output,
                bias: part.bias,
            },
            scratch: product,
        };
        match part.weight {
            Source::Stored(weight) => task.run(CodeRows::of(weight, part.rows)),
            Source::PerUse(weight) => {
                for row in part.rows.clone().step_by(ROWS_PER_USE) {
                    let rows = row..(row + ROWS_PER_USE).min(part.rows.end);
                    task.run(encode_rows(call.cpu.level, weight, rows, codes, absmax));
                }
            }
        }
    });
}

/// Source of a weight's codes.
#[derive(Clone, Copy)]
enum Source<'a> {
    Stored(&'a Int8Weight),
    PerUse(DenseView<'a>),
}

impl<'a> Source<'a> {
    /// The threshold beside it; `None` unless the weight is in LLM.int8().
    fn of(weight: &'a Weight) -> Option<(f32, Self)> {
        match &weight.0 {
            Operand::Int8(weight) => Some((weight.format().threshold, Source::Stored(weight))),
            Operand::Int8PerUse(weight, format) => {
                Some((format.threshold, Source::PerUse(weight.view())))
            }
            Operand::Dense(_) | Operand::FourBit(_) | Operand::Packed(_) | Operand::Whole(..) => {
                None
            }
        }
    }
}

/// Task of a thread with rows of codes.
struct Task<'a> {
    cpu: &'a Cpu,
    activations: &'a Activations<'a>,
    target: Target<'a>,
    scratch: &'a mut [f32],
}

impl Task<'_> {
    fn run(&mut self, rows: CodeRows<'_>) {
        let Task {
            cpu,
            activations,
            target,
            ref mut scratch,
        } = *self;
        if activations.n_tokens() < GEMM_TOKENS {
            cpu.int_level.run(Int8MatVec {
                rows,
                activations,
                target,
            });
            return;
        }
        cpu.int_level.run(Int8Gemm {
            rows,
            activations,
            target,
            scratch,
        });
        if !activations.outlier_cols.is_empty() {
            cpu.level.run(OutlierProduct {
                rows,
                activations,
                target,
                scratch,
            });
        }
    }
}
