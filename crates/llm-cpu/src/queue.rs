//! Operations: sizes are checked and work is shared out here, the kernels do the rest.

use std::ops::Range;
use std::sync::Arc;

use llm_backend::{
    Attention, Batch, Compression, CutOff, DeltaRule, Expert, ExpertBuffers, Groups, HeadGates,
    HeadProducts, Heads, HostPages, KvColumns, LinearPart, NormOp, Ops, OutColumns, Output, Queue,
    Result, Rotary, RouterVectors, Routing, Run, Selection, ShortConv, StateBatch, StateSpace,
    StreamMix, StreamSum, StreamWeights, Streams, Xielu, first_of_largest,
};
use llm_tensor::{Activation, ClampedGate};

use crate::elementwise::{
    Activate, ActivateXielu, AddScaled, Gate, GateHeads, Rotate, Scale, ScaleColumns,
};
use crate::gates::Clamped;
use crate::hyper::Weigh;
use crate::math::XieluNumbers;
use crate::memory::Workspace;
use crate::norm::{NormHeads, NormRows, Normalise, UnitHeads};
use crate::residual::{CutRows, MatchStreams, MixStreams, SumStreams, Tanh};
use crate::routes::{of_largest, sigmoid};
use crate::share::{MIN_ELEMENTS, Matrix};
use crate::weight::{CopyRow, Weight};
use crate::{
    Buffer, Cpu, CpuPages, KvPool, Routes, attention, compress, conv, delta, heads, kv_pool,
    linear, select, state_space,
};

/// Work that is done as it is put into the queue: there is never anything to wait for.
#[derive(Debug)]
pub struct CpuQueue {
    pub(crate) cpu: Arc<Cpu>,
    pub(crate) workspace: Workspace,
}

impl Queue<Cpu> for CpuQueue {
    fn record(&mut self) -> Result<()> {
        Ok(())
    }

    fn wait(&mut self, (): &()) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    fn upload(&mut self, src: &[f32], dst: &mut Buffer) -> Result<()> {
        dst.as_mut_slice()[..src.len()].copy_from_slice(src);
        Ok(())
    }

    fn upload_index(&mut self, src: &[u32], dst: &mut Buffer<u32>) -> Result<()> {
        dst.as_mut_slice()[..src.len()].copy_from_slice(src);
        Ok(())
    }

    fn download(&mut self, src: &Buffer, dst: &mut [f32]) -> Result<()> {
        dst.copy_from_slice(&src.as_slice()[..dst.len()]);
        Ok(())
    }

    fn copy_from(
        &mut self,
        _: &mut CpuQueue,
        src: &Buffer,
        dst: &mut Buffer,
        n_elements: usize,
    ) -> Result<()> {
        self.download(src, &mut dst.as_mut_slice()[..n_elements])
    }

    fn bring(
        &mut self,
        pages: &CpuPages,
        range: Range<usize>,
        place: &mut CpuPages,
        at: usize,
    ) -> Result<()> {
        let from = pages.slice(range);
        place.fill(|to| to[at..at + from.len()].copy_from_slice(&from));
        Ok(())
    }
}

impl Ops<Cpu> for CpuQueue {
    fn embed(
        &mut self,
        table: &Weight,
        ids: &Buffer<u32>,
        n: usize,
        scale: f32,
        out: &mut Buffer,
    ) -> Result<()> {
        let ids = &ids.as_slice()[..n];
        self.cpu.copy_rows(table, ids, scale, Output::Write, out);
        Ok(())
    }

    fn add_positions(
        &mut self,
        table: &Weight,
        positions: &Buffer<u32>,
        n: usize,
        x: &mut Buffer,
    ) -> Result<()> {
        let positions = &positions.as_slice()[..n];
        self.cpu.copy_rows(table, positions, 1.0, Output::Add, x);
        Ok(())
    }

    fn gather_rows(
        &mut self,
        x: &Buffer,
        rows: &Buffer<u32>,
        n: usize,
        width: usize,
        out: &mut Buffer,
    ) -> Result<()> {
        gather(x, &rows.as_slice()[..n], width, out);
        Ok(())
    }

    fn norm(
        &mut self,
        op: &NormOp<'_, Cpu>,
        x: &Buffer,
        out: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        let width = op.gain.cols();
        let x = &x.as_slice()[..n_tokens * width];
        let out = &mut out.as_mut_slice()[..n_tokens * width];
        self.cpu.by_rows(out, width, |tokens, out| {
            self.cpu.level.run(NormRows {
                op: Normalise::from(op),
                x: &x[tokens.start * width..tokens.end * width],
                out,
            });
        });
        Ok(())
    }

    fn linear_to(
        &mut self,
        columns: Option<OutColumns>,
        parts: &[LinearPart<'_, Cpu>],
        x: &Buffer,
        output: Output,
        out: &mut Buffer,
        n: usize,
    ) -> Result<()> {
        let (x, out, to) = (x.as_slice(), out.as_mut_slice(), (output, columns));
        linear::linear(&self.cpu, parts, x, to, out, n, &mut self.workspace);
        Ok(())
    }

    fn head_products(
        &mut self,
        op: &HeadProducts<'_, Cpu>,
        x: &Buffer,
        out: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        let (x, out) = (x.as_slice(), out.as_mut_slice());
        heads::products(&self.cpu, op, x, out, n_tokens);
        Ok(())
    }

    fn rotate(
        &mut self,
        op: &Rotary,
        angles: &Buffer,
        x: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        op.check();
        if op.rotary_dim == 0 {
            return Ok(());
        }
        let angles = &angles.as_slice()[..n_tokens * op.rotary_dim];
        let x = &mut x.as_mut_slice()[..n_tokens * op.row_width];
        self.cpu.by_rows(x, op.row_width, |tokens, x| {
            self.cpu.level.run(Rotate {
                op: *op,
                angles: &angles[tokens.start * op.rotary_dim..tokens.end * op.rotary_dim],
                x,
            });
        });
        Ok(())
    }

    fn norm_heads(
        &mut self,
        op: &NormOp<'_, Cpu>,
        heads: &Heads,
        x: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        assert_eq!(op.gain.cols(), heads.head_dim, "a gain for every element");
        heads.check();
        let x = &mut x.as_mut_slice()[..n_tokens * heads.row_width];
        self.cpu.by_rows(x, heads.row_width, |_, x| {
            self.cpu.level.run(NormHeads {
                op: Normalise::from(op),
                heads: *heads,
                x,
            });
        });
        Ok(())
    }

    fn unit_heads(
        &mut self,
        eps: f32,
        heads: &Heads,
        x: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        heads.check();
        let x = &mut x.as_mut_slice()[..n_tokens * heads.row_width];
        self.cpu.by_rows(x, heads.row_width, |_, x| {
            let heads = *heads;
            self.cpu.level.run(UnitHeads { eps, heads, x });
        });
        Ok(())
    }

    fn ungroup(
        &mut self,
        groups: &Groups,
        grouped: &Buffer,
        out: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        groups.check();
        let (from, to) = (groups.row_width, groups.out_width);
        let grouped = &grouped.as_slice()[..n_tokens * from];
        let out = &mut out.as_mut_slice()[..n_tokens * to];
        self.cpu.by_rows(out, to, |tokens, out| {
            let grouped = grouped[tokens.start * from..tokens.end * from].chunks_exact(from);
            for (grouped, out) in grouped.zip(out.chunks_exact_mut(to)) {
                let mut rest = &grouped[groups.first..];
                for group in 0..groups.n_groups {
                    for part in groups.parts {
                        let (values, after) = rest.split_at(part.width);
                        out[part.to + group * part.width..][..part.width].copy_from_slice(values);
                        rest = after;
                    }
                }
            }
        });
        Ok(())
    }

    fn append(
        &mut self,
        kv: &Buffer,
        columns: &KvColumns,
        batch: &Batch<'_, Cpu>,
        pool: &mut KvPool,
    ) -> Result<()> {
        kv_pool::append(&self.cpu, kv.as_slice(), *columns, batch, pool);
        Ok(())
    }

    fn copy_blocks(&mut self, pool: &mut KvPool, blocks: &[(u32, u32)]) -> Result<()> {
        pool.copy_blocks(blocks);
        Ok(())
    }

    fn attention(
        &mut self,
        op: &Attention<'_, Cpu>,
        q: &Buffer,
        batch: &Batch<'_, Cpu>,
        pool: &KvPool,
        out: &mut Buffer,
    ) -> Result<()> {
        let (q, out) = (q.as_slice(), out.as_mut_slice());
        let workspace = &mut self.workspace;
        attention::attention(&self.cpu, op, q, batch, pool, out, workspace);
        Ok(())
    }

    fn select(
        &mut self,
        op: &Selection,
        (q, weights): (&Buffer, &Buffer),
        batch: &Batch<'_, Cpu>,
        pool: &KvPool,
        bits: &mut Buffer,
    ) -> Result<()> {
        let inputs = (q.as_slice(), weights.as_slice());
        let (bits, workspace) = (bits.as_mut_slice(), &mut self.workspace);
        select::select(&self.cpu, op, inputs, batch, pool, bits, workspace);
        Ok(())
    }

    fn compress(
        &mut self,
        op: &Compression<'_, Cpu>,
        batch: &Batch<'_, Cpu>,
        pool: &KvPool,
        (entries, _): (&[llm_backend::Rows], &Buffer<u32>),
        out: &mut Buffer,
    ) -> Result<()> {
        compress::compress(&self.cpu, op, batch, pool, entries, out.as_mut_slice());
        Ok(())
    }

    fn short_conv(
        &mut self,
        op: &ShortConv<'_, Cpu>,
        x: &Buffer,
        batch: &StateBatch<'_, Cpu>,
        state: &mut Buffer,
        out: &mut Buffer,
    ) -> Result<()> {
        let (x, state, out) = (x.as_slice(), state.as_mut_slice(), out.as_mut_slice());
        conv::short_conv(&self.cpu, op, x, batch, (state, out));
        Ok(())
    }

    fn copy_slot(
        &mut self,
        state: &mut Buffer,
        n_elements: usize,
        (from, to): (usize, usize),
    ) -> Result<()> {
        let from = from * n_elements..(from + 1) * n_elements;
        state.as_mut_slice().copy_within(from, to * n_elements);
        Ok(())
    }

    fn delta_rule(
        &mut self,
        op: &DeltaRule<'_, Cpu>,
        (x, gates): (&Buffer, &Buffer),
        batch: &StateBatch<'_, Cpu>,
        state: &mut Buffer,
        out: &mut Buffer,
    ) -> Result<()> {
        let inputs = (x.as_slice(), gates.as_slice());
        let outputs = (state.as_mut_slice(), out.as_mut_slice());
        let workspace = &mut self.workspace;
        delta::delta_rule(&self.cpu, op, inputs, batch, outputs, workspace);
        Ok(())
    }

    fn state_space(
        &mut self,
        op: &StateSpace<'_, Cpu>,
        (x, steps): (&Buffer, &Buffer),
        batch: &StateBatch<'_, Cpu>,
        state: &mut Buffer,
        out: &mut Buffer,
    ) -> Result<()> {
        let inputs = (x.as_slice(), steps.as_slice());
        let outputs = (state.as_mut_slice(), out.as_mut_slice());
        state_space::state_space(&self.cpu, op, inputs, batch, outputs);
        Ok(())
    }

    fn gate_heads(
        &mut self,
        op: &HeadGates<'_, Cpu>,
        gates: &Buffer,
        x: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        op.check();
        let (width, head_dim) = (op.width(), op.head_dim);
        let norm = op.norm.as_ref();
        let norm = norm.map(|norm| (Normalise::from(&norm.op), norm.order));
        let is_whole = |(norm, _): &(Normalise<'_>, _)| [head_dim, width].contains(&norm.gain.cols);
        assert!(norm.iter().all(is_whole), "a gain for every element");
        let gates = &gates.as_slice()[..n_tokens * op.row_width];
        let x = &mut x.as_mut_slice()[..n_tokens * width];
        self.cpu.by_rows(x, width, |tokens, x| {
            for (token, x) in tokens.zip(x.chunks_exact_mut(width)) {
                self.cpu.level.run(GateHeads {
                    norm,
                    function: op.function,
                    head_dim,
                    gates: &gates[token * op.row_width + op.first..][..width],
                    x,
                });
            }
        });
        Ok(())
    }

    fn add(&mut self, y: &Buffer, x: &mut Buffer, width: usize, n_tokens: usize) -> Result<()> {
        let y = &y.as_slice()[..n_tokens * width];
        let x = &mut x.as_mut_slice()[..n_tokens * width];
        self.cpu.by_rows(x, 1, |elements, x| {
            self.cpu.level.run(AddScaled {
                y: &y[elements],
                weight: 1.0,
                x,
            });
        });
        Ok(())
    }

    fn scale(&mut self, runs: &[Run], x: &mut Buffer, n_tokens: usize) -> Result<()> {
        let width = Run::width(runs);
        let x = &mut x.as_mut_slice()[..n_tokens * width];
        self.cpu.by_rows(x, width, |_, x| {
            for mut row in x.chunks_exact_mut(width) {
                for run in runs {
                    let columns;
                    (columns, row) = row.split_at_mut(run.n_columns);
                    match run.factor {
                        0.0 => columns.fill(0.0),
                        1.0 => {}
                        factor => columns.iter_mut().for_each(|x| *x *= factor),
                    }
                }
            }
        });
        Ok(())
    }

    fn scale_by(
        &mut self,
        by: &Weight,
        x: &mut Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let x = &mut x.as_mut_slice()[..n_tokens * width];
        let by = by.dense();
        if by.cols == width && width > 1 {
            self.cpu.by_rows(x, width, |_, x| {
                self.cpu.level.run(ScaleColumns { by, x });
            });
            return Ok(());
        }
        assert_eq!(by.cols, 1, "one number, or one for each column");
        let factor = by.element(0);
        self.cpu.by_rows(x, 1, |_, x| {
            self.cpu.level.run(Scale { factor, x });
        });
        Ok(())
    }

    fn mix_streams(
        &mut self,
        op: &StreamMix,
        coefficients: &Buffer,
        y: Option<&Buffer>,
        s: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        op.check();
        assert_eq!(y.is_some(), op.added.is_some(), "what is added is there");
        let (width, row_width) = (op.streams.width, op.row_width);
        let coefficients = &coefficients.as_slice()[..n_tokens * row_width];
        let y = y.map(|y| &y.as_slice()[..n_tokens * width]);
        let n = op.streams.row_width();
        let s = &mut s.as_mut_slice()[..n_tokens * n];
        self.cpu.by_rows(s, n, |tokens, s| {
            self.cpu.level.run(MixStreams {
                op: *op,
                coefficients: &coefficients[tokens.start * row_width..tokens.end * row_width],
                y: y.map(|y| &y[tokens.start * width..tokens.end * width]),
                s,
            });
        });
        Ok(())
    }

    fn sum_streams(
        &mut self,
        op: &StreamSum,
        coefficients: &Buffer,
        s: &Buffer,
        out: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        op.check();
        let (width, row_width) = (op.streams.width, op.row_width);
        let coefficients = &coefficients.as_slice()[..n_tokens * row_width];
        let n = op.streams.row_width();
        let s = &s.as_slice()[..n_tokens * n];
        let out = &mut out.as_mut_slice()[..n_tokens * width];
        self.cpu.by_rows(out, width, |tokens, out| {
            self.cpu.level.run(SumStreams {
                op: *op,
                coefficients: &coefficients[tokens.start * row_width..tokens.end * row_width],
                s: &s[tokens.start * n..tokens.end * n],
                out,
            });
        });
        Ok(())
    }

    fn match_streams(
        &mut self,
        streams: &Streams,
        floor: f32,
        s: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        let n = streams.row_width();
        let s = &mut s.as_mut_slice()[..n_tokens * n];
        self.cpu.by_rows(s, n, |_, s| {
            let streams = *streams;
            self.cpu.level.run(MatchStreams { streams, floor, s });
        });
        Ok(())
    }

    fn cut_off(&mut self, op: &CutOff, x: &mut Buffer, n_tokens: usize) -> Result<()> {
        op.check();
        let x = &mut x.as_mut_slice()[..n_tokens * op.row_width];
        self.cpu.by_rows(x, op.row_width, |_, x| {
            self.cpu.level.run(CutRows { op: *op, x });
        });
        Ok(())
    }

    fn tanh(&mut self, x: &mut Buffer, width: usize, n_tokens: usize) -> Result<()> {
        let x = &mut x.as_mut_slice()[..n_tokens * width];
        let level = self.cpu.level;
        (self.cpu).by_rows(x, 1, |_, x| level.run(Tanh { x }));
        Ok(())
    }

    fn argmax(&mut self, x: &Buffer, width: usize, columns: &mut [Option<u32>]) -> Result<()> {
        let rows = x.as_slice()[..columns.len() * width].chunks_exact(width);
        for (column, row) in columns.iter_mut().zip(rows) {
            *column = first_of_largest(row);
        }
        Ok(())
    }

    fn weigh_streams(
        &mut self,
        op: &StreamWeights<'_, Cpu>,
        s: &Buffer,
        weights: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        let (n_weights, row_width) = (op.n_weights(), op.streams.row_width());
        let (scale, base) = (op.scale.dense(), op.base.dense());
        assert!(
            base.n_elements() == n_weights
                && scale.n_elements() >= n_weights.div_ceil(op.streams.n).min(3),
            "a base of each weight, and a scale of each part"
        );
        let s = &s.as_slice()[..n_tokens * row_width];
        let weights = &mut weights.as_mut_slice()[..n_tokens * n_weights];
        self.cpu.by_rows(weights, n_weights, |tokens, weights| {
            self.cpu.level.run(Weigh {
                op: *op,
                scale,
                base,
                s: &s[tokens.start * row_width..tokens.end * row_width],
                weights,
            });
        });
        Ok(())
    }

    fn activate(
        &mut self,
        activation: Activation,
        x: &mut Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let x = &mut x.as_mut_slice()[..n_tokens * width];
        self.cpu
            .by_rows(x, 1, |_, x| self.cpu.level.run(Activate { activation, x }));
        Ok(())
    }

    fn activate_xielu(
        &mut self,
        op: &Xielu<'_, Cpu>,
        x: &mut Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let numbers = XieluNumbers::new(op.numbers().map(|number| number.dense().element(0)));
        let x = &mut x.as_mut_slice()[..n_tokens * width];
        let level = self.cpu.level;
        (self.cpu).by_rows(x, 1, |_, x| level.run(ActivateXielu { numbers, x }));
        Ok(())
    }

    fn gate(
        &mut self,
        activation: Activation,
        gate_up: &Buffer,
        out: &mut Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let gate_up = &gate_up.as_slice()[..2 * n_tokens * width];
        let out = &mut out.as_mut_slice()[..n_tokens * width];
        self.cpu.by_rows(out, width, |tokens, out| {
            for (token, out) in tokens.zip(out.chunks_exact_mut(width)) {
                let (gate, up) = gate_up[2 * token * width..][..2 * width].split_at(width);
                self.cpu.level.run(Gate {
                    activation,
                    gate,
                    up,
                    out,
                });
            }
        });
        Ok(())
    }

    fn gate_clamped(
        &mut self,
        gate: &ClampedGate,
        gate_up: &Buffer,
        out: &mut Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let gate_up = &gate_up.as_slice()[..2 * n_tokens * width];
        let out = &mut out.as_mut_slice()[..n_tokens * width];
        self.cpu.by_rows(out, width, |tokens, out| {
            for (token, out) in tokens.zip(out.chunks_exact_mut(width)) {
                self.cpu.level.run(Clamped {
                    gate: *gate,
                    row: &gate_up[2 * token * width..][..2 * width],
                    out,
                });
            }
        });
        Ok(())
    }

    fn add_gated(
        &mut self,
        gates: &Buffer,
        y: &Buffer,
        x: &mut Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let gates = &gates.as_slice()[..n_tokens];
        let y = &y.as_slice()[..n_tokens * width];
        let x = &mut x.as_mut_slice()[..n_tokens * width];
        self.cpu.by_rows(x, width, |tokens, x| {
            for (token, x) in tokens.zip(x.chunks_exact_mut(width)) {
                self.cpu.level.run(AddScaled {
                    y: &y[token * width..][..width],
                    weight: sigmoid(gates[token]),
                    x,
                });
            }
        });
        Ok(())
    }

    fn scale_by_largest(
        &mut self,
        (scores, n_scores): (&Buffer, usize),
        x: &mut Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let scores = &scores.as_slice()[..n_tokens * n_scores];
        let x = &mut x.as_mut_slice()[..n_tokens * width];
        self.cpu.by_rows(x, width, |tokens, x| {
            for (token, x) in tokens.zip(x.chunks_exact_mut(width)) {
                let scores = &scores[token * n_scores..][..n_scores];
                let factor = of_largest(scores);
                x.iter_mut().for_each(|x| *x *= factor);
            }
        });
        Ok(())
    }

    fn route(
        &mut self,
        op: &Routing,
        vectors: RouterVectors<'_, Cpu>,
        scores: &Buffer,
        routes: &mut Routes,
        n_tokens: usize,
    ) -> Result<()> {
        let given = vectors.chosen.map(Buffer::as_slice);
        let vectors = [vectors.correction, vectors.scales].map(|v| v.map(Weight::dense));
        routes.choose(op, (vectors, given), scores.as_slice(), n_tokens);
        Ok(())
    }

    fn chosen(&mut self, routes: &Routes, n_rows: &mut [usize]) -> Result<()> {
        for (expert, n_rows) in n_rows.iter_mut().enumerate() {
            *n_rows = routes.of(expert).0.len();
        }
        Ok(())
    }

    fn expert(
        &mut self,
        expert: &Expert<'_, Cpu>,
        x: &Buffer,
        routes: &Routes,
        scratch: ExpertBuffers<'_, Cpu>,
        out: &mut Buffer,
    ) -> Result<()> {
        let ExpertBuffers {
            gathered,
            up,
            gated,
            delta,
        } = scratch;
        let (i, n) = (expert.expert, routes.of(expert.expert).0.len());
        if n == 0 {
            return Ok(());
        }
        self.gather_routed(routes, i, x, expert.hidden, gathered)?;
        self.linear(expert.gate_up, gathered, Output::Write, up, n)?;
        let inner = self.gate_by(&expert.gate, up, gated, expert.width, n)?;
        self.linear(&[expert.down], inner, Output::Write, delta, n)?;
        self.scatter_routed(routes, i, delta, expert.hidden, out)
    }

    fn gather_routed(
        &mut self,
        routes: &Routes,
        expert: usize,
        x: &Buffer,
        width: usize,
        out: &mut Buffer,
    ) -> Result<()> {
        gather(x, routes.of(expert).0, width, out);
        Ok(())
    }

    fn scatter_routed(
        &mut self,
        routes: &Routes,
        expert: usize,
        y: &Buffer,
        width: usize,
        x: &mut Buffer,
    ) -> Result<()> {
        let (rows, weights) = routes.of(expert);
        let y = &y.as_slice()[..rows.len() * width];
        let x = Matrix::new(x.as_mut_slice(), width);
        // By columns, as the rows may be any.
        let min_columns = MIN_ELEMENTS.div_ceil(rows.len().max(1));
        let (level, pool) = (self.cpu.level, &self.cpu.pool);
        pool.split(width, min_columns, x, |columns, mut x| {
            for ((&row, &weight), y) in rows.iter().zip(weights).zip(y.chunks_exact(width)) {
                level.run(AddScaled {
                    y: &y[columns.clone()],
                    weight,
                    x: x.slice(row as usize, columns.clone()),
                });
            }
        });
        Ok(())
    }
}

/// Rows `rows` of `x` `[_, width]`, one after the other.
fn gather(x: &Buffer, rows: &[u32], width: usize, out: &mut Buffer) {
    let out = &mut out.as_mut_slice()[..rows.len() * width];
    for (&row, out) in rows.iter().zip(out.chunks_exact_mut(width)) {
        out.copy_from_slice(&x.as_slice()[row as usize * width..][..width]);
    }
}

impl Cpu {
    /// Writes or adds rows `rows` of a table, times `scale`.
    fn copy_rows(
        &self,
        table: &Weight,
        rows: &[u32],
        scale: f32,
        output: Output,
        out: &mut Buffer,
    ) {
        let out = out.as_mut_slice().chunks_exact_mut(table.cols());
        for (&row, out) in rows.iter().zip(out) {
            self.level.run(CopyRow {
                row: table.row(row as usize),
                scale,
                output,
                out,
            });
        }
    }
}
