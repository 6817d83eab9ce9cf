//! How a linear operation is shared among threads.

use std::ops::Range;

use llm_backend::{LinearPart, Output};

use crate::Cpu;
use crate::gemm::{self, Gemm};
use crate::matvec::{Arrange, MatVec};
use crate::memory::Shared;
use crate::simd::ElementType;
use crate::weight::Weight;
use crate::workspace::{GEMM_TOKENS, Workspace, gemm_len, matvec_len};

/// `x` `[n_tokens, cols]` times the parts' weights, side by side in `out` `[n_tokens, width]`.
pub(crate) fn linear(
    cpu: &Cpu,
    parts: &[LinearPart<'_, Cpu>],
    x: &[f32],
    output: Output,
    out: &mut [f32],
    n_tokens: usize,
    workspace: &mut Workspace,
) {
    let Some(first) = parts.first() else { return };
    let cols = first.weight.cols;
    let width = parts.iter().map(|part| part.weight.rows).sum();
    for part in parts {
        assert_eq!(part.weight.cols, cols, "parts read the same rows");
        if let Some(bias) = part.bias {
            assert_eq!(
                bias.rows * bias.cols,
                part.weight.rows,
                "a bias for every row"
            );
        }
    }
    let call = Call {
        cpu,
        parts,
        cols,
        width,
        x: &x[..n_tokens * cols],
        output,
        n_tokens,
    };
    let out = &mut out[..n_tokens * width];
    if n_tokens < GEMM_TOKENS {
        call.matvec(out, workspace);
    } else {
        call.gemm(out, workspace);
    }
}

struct Call<'a> {
    cpu: &'a Cpu,
    parts: &'a [LinearPart<'a, Cpu>],
    cols: usize,
    /// Rows of all parts together.
    width: usize,
    x: &'a [f32],
    output: Output,
    n_tokens: usize,
}

/// Rows of one part, and the output column of the part's row 0.
struct PartRows<'a> {
    part: LinearPart<'a, Cpu>,
    rows: Range<usize>,
    column: usize,
}

impl Call<'_> {
    fn matvec(&self, out: &mut [f32], workspace: &mut Workspace) {
        let geometry = self.cpu.level.geometry();
        let arranged = workspace.take(matvec_len(self.n_tokens, self.cols, geometry));
        let padded_cols = self.cols.next_multiple_of(2 * geometry.lanes);
        let out = Shared::new(out);
        for element in [ElementType::F32, ElementType::F16, ElementType::Bf16] {
            let of_element = |weight: &Weight| weight.element == element;
            if !self.parts.iter().any(|part| of_element(part.weight)) {
                continue;
            }
            self.cpu.level.run(Arrange {
                element,
                x: self.x,
                cols: self.cols,
                arranged,
                padded_cols,
            });
            let x = &*arranged;
            let row_work = self.cols * self.n_tokens;
            self.split(MATVEC_UNIT, row_work, |_, range| {
                for PartRows { part, rows, column } in self.parts_in(range) {
                    if of_element(part.weight) {
                        self.cpu.level.run(MatVec {
                            weight: part.weight.view(),
                            bias: part.bias.map(Weight::view),
                            rows,
                            x,
                            padded_cols,
                            n_tokens: self.n_tokens,
                            out,
                            out_width: self.width,
                            out_column: column,
                            output: self.output,
                        });
                    }
                }
            });
        }
    }

    fn gemm(&self, out: &mut [f32], workspace: &mut Workspace) {
        let geometry = self.cpu.level.geometry();
        let n_threads = self.cpu.n_threads();
        let scratch = Shared::new(workspace.take(gemm_len(self.n_tokens, geometry, n_threads)));
        let len = gemm::scratch_len(self.n_tokens, geometry.panel);
        let (out_len, out) = (out.len(), Shared::new(out));
        let row_work = self.cols * self.n_tokens;
        self.split(2 * geometry.lanes, row_work, |thread, range| {
            // SAFETY: each thread takes its own piece.
            let scratch = unsafe { scratch.range(thread * len..(thread + 1) * len) };
            for PartRows { part, rows, column } in self.parts_in(range) {
                self.cpu.level.run(Gemm {
                    weight: part.weight.view(),
                    bias: part.bias.map(Weight::view),
                    rows,
                    x: self.x,
                    n_tokens: self.n_tokens,
                    out,
                    out_len,
                    out_width: self.width,
                    out_column: column,
                    output: self.output,
                    scratch,
                });
            }
        });
    }

    /// Splits the rows of all parts among the threads, a multiple of `unit` each.
    fn split(&self, unit: usize, row_work: usize, task: impl Fn(usize, Range<usize>) + Sync) {
        let min_units = MIN_WORK.div_ceil(unit * row_work.max(1));
        let n_units = self.width.div_ceil(unit);
        self.cpu.pool.split(n_units, min_units, |thread, units| {
            task(
                thread,
                units.start * unit..(units.end * unit).min(self.width),
            );
        });
    }

    /// The parts that `range` of the output's columns belongs to.
    fn parts_in(&self, range: Range<usize>) -> impl Iterator<Item = PartRows<'_>> {
        let mut end = 0;
        self.parts.iter().filter_map(move |&part| {
            let column = end;
            end += part.weight.rows;
            let (first, last) = (range.start.max(column), range.end.min(end));
            (first < last).then(|| PartRows {
                part,
                rows: first - column..last - column,
                column,
            })
        })
    }
}

/// Rows that a matrix-vector kernel takes together.
const MATVEC_UNIT: usize = 4;
/// Multiplications below which a thread is not worth a fork: some microseconds of reading weights.
const MIN_WORK: usize = 1 << 15;
