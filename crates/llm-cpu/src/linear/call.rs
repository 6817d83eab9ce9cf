//! Parts of a linear operation, split among threads.

use std::ops::Range;

use llm_backend::{LinearPart, OutColumns, Output};

use crate::Cpu;
use crate::dense::DenseView;
use crate::share::{Columns, Matrix, Scratch};
use crate::weight::Weight;

/// A linear operation whose sizes fit each other.
pub(crate) struct Call<'a> {
    pub(crate) cpu: &'a Cpu,
    pub(crate) parts: &'a [LinearPart<'a, Cpu>],
    pub(crate) cols: usize,
    /// Where the parts' results are in rows of the output.
    pub(crate) columns: OutColumns,
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
        let out = Matrix::new(out, self.columns.width);
        let pool = &self.cpu.pool;
        pool.split(n_units, min_units, scratch, |units, scratch| {
            let (start, end) = (units.start * unit, (units.end * unit).min(n_rows));
            let (mut first, mut column) = (0, self.columns.first);
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

/// Multiplications below which a thread is not worth a fork: some microseconds of reading weights.
const MIN_WORK: usize = if cfg!(miri) { 1 } else { 1 << 15 };
