//! Division of a linear operation among threads.

pub(crate) mod call;

use llm_backend::{LinearPart, OutColumns, Output};

use crate::arrange::Arrange;
use crate::digits::Digits;
use crate::gemm::{self, Gemm, gemm_len};
use crate::matvec::{FewRows, MatVec, matvec_len, padded_cols};
use crate::memory::Workspace;
use crate::packed::PackedMatVec;
use crate::share::Scratch;
use crate::simd::Order;
use crate::weight::{Floats, Weight};
use crate::whole;
use crate::{Cpu, four_bit, int8};
use call::Call;

/// `x` `[n_tokens, cols]` times the parts' weights, side by side in `columns` of `out`.
pub(crate) fn linear(
    cpu: &Cpu,
    parts: &[LinearPart<'_, Cpu>],
    x: &[f32],
    (output, columns): (Output, Option<OutColumns>),
    out: &mut [f32],
    n_tokens: usize,
    workspace: &mut Workspace,
) {
    let Some(first) = parts.first() else { return };
    let cols = first.weight.cols();
    let n_columns = parts.iter().map(|part| part.weight.rows()).sum();
    let columns = OutColumns::of(columns, n_columns);
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
        columns,
        x: &x[..n_tokens * cols],
        output,
        n_tokens,
    };
    let out = &mut out[..n_tokens * columns.width];
    let floats = || parts.iter().filter_map(|part| part.weight.floats(n_tokens));
    if floats().any(|weight| n_tokens < weight.gemm_tokens()) {
        call.matvec(out, workspace);
    }
    if floats().any(|weight| n_tokens >= weight.gemm_tokens()) {
        call.gemm(out, workspace);
    }
    if parts.iter().any(|part| part.weight.is_int8()) {
        int8::linear(&call, out, workspace);
    }
    for digits in Digits::ALL {
        let whole = || parts.iter().filter_map(|part| part.weight.whole(n_tokens));
        if whole().any(|(of_weight, _)| of_weight == digits) {
            whole::linear(&call, digits, out, workspace);
        }
    }
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
                    .floats(n_tokens)
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
                    Floats::FourBit(weight) => level.run(four_bit::FourBitMatVec { weight, few }),
                    Floats::Packed(weight) => level.run(PackedMatVec { weight, few }),
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
            weight.floats(self.n_tokens).filter(is_many)
        };
        self.split(choose, unit, row_work, out, scratch, |part, scratch| {
            let gemm = Gemm {
                weight: part.weight,
                bias: part.bias,
                rows: part.rows,
                x: self.x,
                n_tokens: self.n_tokens,
                out: &part.out,
                out_column: part.column,
                output: self.output,
                scratch,
            };
            match self.cpu.pair_level {
                Some(pairs) => pairs.run(gemm),
                None => level.run(gemm),
            }
        });
    }
}

/// Rows that a matrix-vector kernel takes together, of any kind of weight.
const MATVEC_UNIT: usize = 12;
