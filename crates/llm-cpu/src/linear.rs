//! How a linear operation is shared among threads.

use std::ops::Range;

use llm_backend::{LinearPart, Output};

use crate::arrange::{Arrange, Order};
use crate::gemm::{self, Gemm};
use crate::matvec::{FewRows, MatVec};
use crate::share::{Columns, Matrix, Scratch};
use crate::weight::{DenseView, Floats, Weight};
use crate::workspace::{Workspace, gemm_len, matvec_len, padded_cols};
use crate::{Cpu, four_bit, int8};

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
    let cols = first.weight.cols();
    let width = parts.iter().map(|part| part.weight.rows()).sum();
    for part in parts {
        assert_eq!(part.weight.cols(), cols, "parts read the same rows");
        if let Some(bias) = part.bias.map(Weight::dense) {
            assert_eq!(
                bias.rows * bias.cols,
                part.weight.rows(),
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
    let floats = || parts.iter().filter_map(|part| part.weight.floats());
    if floats().any(|weight| n_tokens < weight.gemm_tokens()) {
        call.matvec(out, workspace);
    }
    if floats().any(|weight| n_tokens >= weight.gemm_tokens()) {
        call.gemm(out, workspace);
    }
    if floats().count() < parts.len() {
        int8::linear(&call, out, workspace);
    }
}

/// A linear operation whose sizes fit each other.
pub(crate) struct Call<'a> {
    pub(crate) cpu: &'a Cpu,
    pub(crate) parts: &'a [LinearPart<'a, Cpu>],
    pub(crate) cols: usize,
    /// Rows of all parts together, hence columns of the output.
    pub(crate) width: usize,
    /// `[n_tokens, cols]`.
    pub(crate) x: &'a [f32],
    pub(crate) output: Output,
    pub(crate) n_tokens: usize,
}

/// Rows of one part, for one thread.
pub(crate) struct PartRows<'a, 'o, W> {
    pub(crate) weight: W,
    pub(crate) bias: Option<DenseView<'a>>,
    pub(crate) rows: Range<usize>,
    /// The output column of the part's row 0.
    pub(crate) column: usize,
    /// Those of the rows.
    pub(crate) out: Columns<'o>,
}

impl<'a> Call<'a> {
    /// Each order of x in turn, and with it the weights that read it so.
    fn matvec(&self, out: &mut [f32], workspace: &mut Workspace) {
        let (level, n_tokens) = (self.cpu.level, self.n_tokens);
        let geometry = level.geometry();
        let arranged = workspace.take(matvec_len(n_tokens, self.cols, geometry));
        let padded_cols = padded_cols(self.cols, geometry);
        for order in Order::ALL {
            let choose = |weight: &'a Weight| {
                let is_few = |w: &Floats<'_>| n_tokens < w.gemm_tokens();
                weight
                    .floats()
                    .filter(is_few)
                    .filter(|w| w.order() == order)
            };
            if !self.parts.iter().any(|part| choose(part.weight).is_some()) {
                continue;
            }
            level.run(Arrange {
                order,
                x: self.x,
                cols: self.cols,
                arranged,
                padded_cols,
            });
            let x = &*arranged;
            let row_work = self.cols * n_tokens;
            let none = Scratch::new(&mut [], 0);
            self.split(choose, MATVEC_UNIT, row_work, out, none, |part, _| {
                let few = FewRows {
                    bias: part.bias,
                    rows: part.rows,
                    x,
                    padded_cols,
                    n_tokens,
                    out: &part.out,
                    out_column: part.column,
                    output: self.output,
                };
                match part.weight {
                    Floats::Dense(weight) => level.run(MatVec { weight, few }),
                    Floats::FourBit(weight) => level.run(four_bit::MatVec { weight, few }),
                }
            });
        }
    }

    fn gemm(&self, out: &mut [f32], workspace: &mut Workspace) {
        let level = self.cpu.level;
        let geometry = level.geometry();
        let n_threads = self.cpu.n_threads();
        let memory = workspace.take(gemm_len(self.n_tokens, geometry, n_threads));
        let scratch = Scratch::new(memory, gemm::scratch_len(self.n_tokens, geometry.panel));
        let (unit, row_work) = (2 * geometry.lanes, self.cols * self.n_tokens);
        let choose = |weight: &'a Weight| {
            let is_many = |w: &Floats<'_>| self.n_tokens >= w.gemm_tokens();
            weight.floats().filter(is_many)
        };
        self.split(choose, unit, row_work, out, scratch, |part, scratch| {
            level.run(Gemm {
                weight: part.weight,
                bias: part.bias,
                rows: part.rows,
                x: self.x,
                n_tokens: self.n_tokens,
                out: &part.out,
                out_column: part.column,
                output: self.output,
                scratch,
            });
        });
    }

    /// Splits the rows of the parts whose weights `choose` gives among the threads, a multiple of `unit` each, and with them
    /// the columns of `out`; `row_work` is what a row takes, in multiplications.
    ///
    /// `task` is called with what falls to a thread of one part, and the thread's scratch memory.
    pub(crate) fn split<'o, W>(
        &self,
        choose: impl Fn(&'a Weight) -> Option<W> + Sync,
        unit: usize,
        row_work: usize,
        out: &'o mut [f32],
        scratch: Scratch<'_>,
        task: impl Fn(PartRows<'a, 'o, W>, &mut [f32]) + Sync,
    ) {
        let chosen = |part: &&LinearPart<'a, Cpu>| choose(part.weight).is_some();
        let chosen = self.parts.iter().filter(chosen);
        let n_rows: usize = chosen.map(|part| part.weight.rows()).sum();
        let min_units = MIN_WORK.div_ceil(unit * row_work.max(1));
        let n_units = n_rows.div_ceil(unit);
        let out = Matrix::new(out, self.width);
        let pool = &self.cpu.pool;
        pool.split(n_units, min_units, scratch, |units, scratch| {
            let (start, end) = (units.start * unit, (units.end * unit).min(n_rows));
            let (mut first, mut column) = (0, 0);
            for part in self.parts {
                let n = part.weight.rows();
                if let Some(weight) = choose(part.weight) {
                    let rows = start.max(first)..end.min(first + n);
                    if !rows.is_empty() {
                        let rows = rows.start - first..rows.end - first;
                        let columns = column + rows.start..column + rows.end;
                        let part = PartRows {
                            weight,
                            bias: part.bias.map(Weight::dense),
                            rows,
                            column,
                            // SAFETY: parts have columns of their own, and these rows of the part are among the units of
                            // this thread alone.
                            out: unsafe { out.columns(columns) },
                        };
                        task(part, scratch);
                    }
                    first += n;
                }
                column += n;
            }
        });
    }
}

/// Rows that a matrix-vector kernel takes together, of any kind of weight.
const MATVEC_UNIT: usize = 12;
/// Multiplications below which a thread is not worth a fork: some microseconds of reading weights.
const MIN_WORK: usize = 1 << 15;
