//! The operations, one loop each.

use std::iter::repeat_n;

use llm_tensor::{Activation, ClampedGate, Pairing};

use super::norm::{Normalisation, to_unit};
use super::pool::ReferencePool;
use super::queue::ReferenceQueue;
use super::routes::ReferenceRoutes;
use super::scalar::{activated, clamped, sigmoid, xielu};
use super::weight::ReferenceWeight;
use super::{Reference, conv, delta, heads, hyper, state_space, streams};
use crate::{
    Attention, Batch, Compression, CutOff, DeltaRule, Expert, ExpertBuffers, Groups, HeadGates,
    HeadProducts, Heads, KvColumns, LinearPart, NormOp, Ops, OutColumns, Output, Result, Rotary,
    RouterVectors, Routing, Rows, Run, Selection, ShortConv, StateBatch, StateSpace, StreamMix,
    StreamSum, StreamWeights, Streams, Xielu,
};

impl Ops<Reference> for ReferenceQueue {
    fn embed(
        &mut self,
        table: &ReferenceWeight,
        ids: &Vec<u32>,
        n: usize,
        scale: f32,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let table = table.decoded();
        for (&id, out) in ids[..n].iter().zip(out.chunks_exact_mut(table.cols)) {
            for (out, value) in out.iter_mut().zip(table.row(id as usize)) {
                *out = value * scale;
            }
        }
        Ok(())
    }

    fn add_positions(
        &mut self,
        table: &ReferenceWeight,
        positions: &Vec<u32>,
        n: usize,
        x: &mut Vec<f32>,
    ) -> Result<()> {
        let table = table.decoded();
        for (&position, x) in positions[..n].iter().zip(x.chunks_exact_mut(table.cols)) {
            for (x, p) in x.iter_mut().zip(table.row(position as usize)) {
                *x += p;
            }
        }
        Ok(())
    }

    fn gather_rows(
        &mut self,
        x: &Vec<f32>,
        rows: &Vec<u32>,
        n: usize,
        width: usize,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        for (&row, out) in rows[..n].iter().zip(out.chunks_exact_mut(width)) {
            out.copy_from_slice(&x[row as usize * width..][..width]);
        }
        Ok(())
    }

    fn norm(
        &mut self,
        op: &NormOp<'_, Reference>,
        x: &Vec<f32>,
        out: &mut Vec<f32>,
        n_tokens: usize,
    ) -> Result<()> {
        let norm = Normalisation::of(op);
        let rows = x.chunks_exact(norm.width());
        let rows = rows.zip(out.chunks_exact_mut(norm.width()));
        for (x, out) in rows.take(n_tokens) {
            out.copy_from_slice(x);
            norm.apply(out);
        }
        Ok(())
    }

    fn linear_to(
        &mut self,
        columns: Option<OutColumns>,
        parts: &[LinearPart<'_, Reference>],
        x: &Vec<f32>,
        output: Output,
        out: &mut Vec<f32>,
        n_tokens: usize,
    ) -> Result<()> {
        let decoded = parts.iter().map(|&LinearPart { weight, bias }| {
            (weight.decoded(), bias.map(ReferenceWeight::decoded))
        });
        let parts: Vec<_> = decoded.collect();
        let n_columns = parts.iter().map(|(weight, _)| weight.rows).sum();
        let OutColumns { mut first, width } = OutColumns::of(columns, n_columns);
        for (weight, bias) in &parts {
            let x = &x[..n_tokens * weight.cols];
            weight.multiply(bias.as_deref(), x, output, (out, width, first));
            first += weight.rows;
        }
        Ok(())
    }

    fn head_products(
        &mut self,
        op: &HeadProducts<'_, Reference>,
        x: &Vec<f32>,
        out: &mut Vec<f32>,
        n_tokens: usize,
    ) -> Result<()> {
        heads::products(op, x, out, n_tokens);
        Ok(())
    }

    fn rotate(
        &mut self,
        op: &Rotary,
        angles: &Vec<f32>,
        x: &mut Vec<f32>,
        n_tokens: usize,
    ) -> Result<()> {
        op.check();
        let half = op.rotary_dim / 2;
        for token in 0..n_tokens {
            let (cos, sin) = angles[token * op.rotary_dim..][..op.rotary_dim].split_at(half);
            for head in x[token * op.row_width..]
                .chunks_exact_mut(op.head_dim)
                .take(op.n_heads)
            {
                let head = &mut head[op.first..];
                for i in 0..half {
                    let (a, b) = match op.pairing {
                        Pairing::Adjacent => (2 * i, 2 * i + 1),
                        Pairing::Halves => (i, i + half),
                    };
                    let (x, y) = (f64::from(head[a]), f64::from(head[b]));
                    let (c, s) = (f64::from(cos[i]), f64::from(sin[i]));
                    (head[a], head[b]) = ((x * c - y * s) as f32, (y * c + x * s) as f32);
                }
            }
        }
        Ok(())
    }

    fn norm_heads(
        &mut self,
        op: &NormOp<'_, Reference>,
        heads: &Heads,
        x: &mut Vec<f32>,
        n_tokens: usize,
    ) -> Result<()> {
        let norm = Normalisation::of(op);
        let x = &mut x[..n_tokens * heads.row_width];
        heads.of_rows(x).for_each(|head| norm.apply(head));
        Ok(())
    }

    fn unit_heads(
        &mut self,
        eps: f32,
        heads: &Heads,
        x: &mut Vec<f32>,
        n_tokens: usize,
    ) -> Result<()> {
        let x = &mut x[..n_tokens * heads.row_width];
        heads.of_rows(x).for_each(|head| to_unit(eps, head));
        Ok(())
    }

    fn ungroup(
        &mut self,
        groups: &Groups,
        grouped: &Vec<f32>,
        out: &mut Vec<f32>,
        n_tokens: usize,
    ) -> Result<()> {
        groups.check();
        let rows = grouped.chunks_exact(groups.row_width);
        let rows = rows.zip(out.chunks_exact_mut(groups.out_width));
        for (grouped, out) in rows.take(n_tokens) {
            let mut from = groups.first;
            for group in 0..groups.n_groups {
                for part in groups.parts {
                    let to = part.to + group * part.width;
                    out[to..][..part.width].copy_from_slice(&grouped[from..][..part.width]);
                    from += part.width;
                }
            }
        }
        Ok(())
    }

    fn append(
        &mut self,
        kv: &Vec<f32>,
        columns: &KvColumns,
        batch: &Batch<'_, Reference>,
        pool: &mut ReferencePool,
    ) -> Result<()> {
        pool.append(kv, columns, batch);
        Ok(())
    }

    fn copy_blocks(&mut self, pool: &mut ReferencePool, blocks: &[(u32, u32)]) -> Result<()> {
        pool.copy_blocks(blocks);
        Ok(())
    }

    fn attention(
        &mut self,
        op: &Attention<'_, Reference>,
        q: &Vec<f32>,
        batch: &Batch<'_, Reference>,
        pool: &ReferencePool,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        pool.attend(op, q, batch, out);
        Ok(())
    }

    fn select(
        &mut self,
        op: &Selection,
        (q, weights): (&Vec<f32>, &Vec<f32>),
        batch: &Batch<'_, Reference>,
        pool: &ReferencePool,
        bits: &mut Vec<f32>,
    ) -> Result<()> {
        pool.select(op, (q, weights), batch, bits);
        Ok(())
    }

    fn compress(
        &mut self,
        op: &Compression<'_, Reference>,
        batch: &Batch<'_, Reference>,
        pool: &ReferencePool,
        (entries, entries_index): (&[Rows], &Vec<u32>),
        out: &mut Vec<f32>,
    ) -> Result<()> {
        pool.compress(op, batch, (entries, entries_index), out);
        Ok(())
    }

    fn short_conv(
        &mut self,
        op: &ShortConv<'_, Reference>,
        x: &Vec<f32>,
        batch: &StateBatch<'_, Reference>,
        state: &mut Vec<f32>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        conv::short_conv(op, x, batch, state, out);
        Ok(())
    }

    fn copy_slot(
        &mut self,
        state: &mut Vec<f32>,
        n_elements: usize,
        (from, to): (usize, usize),
    ) -> Result<()> {
        let from = from * n_elements..(from + 1) * n_elements;
        state.copy_within(from, to * n_elements);
        Ok(())
    }

    fn delta_rule(
        &mut self,
        op: &DeltaRule<'_, Reference>,
        (x, gates): (&Vec<f32>, &Vec<f32>),
        batch: &StateBatch<'_, Reference>,
        state: &mut Vec<f32>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        delta::delta_rule(op, (x, gates), batch, state, out);
        Ok(())
    }

    fn state_space(
        &mut self,
        op: &StateSpace<'_, Reference>,
        (x, steps): (&Vec<f32>, &Vec<f32>),
        batch: &StateBatch<'_, Reference>,
        state: &mut Vec<f32>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        state_space::state_space(op, (x, steps), batch, state, out);
        Ok(())
    }

    fn gate_heads(
        &mut self,
        op: &HeadGates<'_, Reference>,
        gates: &Vec<f32>,
        x: &mut Vec<f32>,
        n_tokens: usize,
    ) -> Result<()> {
        delta::gate_heads(op, gates, x, n_tokens);
        Ok(())
    }

    fn add(&mut self, y: &Vec<f32>, x: &mut Vec<f32>, width: usize, n_tokens: usize) -> Result<()> {
        for (x, y) in x.iter_mut().zip(y).take(width * n_tokens) {
            *x += y;
        }
        Ok(())
    }

    fn scale(&mut self, runs: &[Run], x: &mut Vec<f32>, n_tokens: usize) -> Result<()> {
        for row in x.chunks_exact_mut(Run::width(runs)).take(n_tokens) {
            let factors = runs
                .iter()
                .flat_map(|run| repeat_n(run.factor, run.n_columns));
            for (x, factor) in row.iter_mut().zip(factors) {
                *x = if factor == 0.0 { 0.0 } else { *x * factor };
            }
        }
        Ok(())
    }

    fn scale_by(
        &mut self,
        by: &ReferenceWeight,
        x: &mut Vec<f32>,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let by = by.decoded();
        let by = by.values.iter().cycle();
        for (x, &by) in x[..width * n_tokens].iter_mut().zip(by) {
            *x = (f64::from(*x) * f64::from(by)) as f32;
        }
        Ok(())
    }

    fn mix_streams(
        &mut self,
        op: &StreamMix,
        coefficients: &Vec<f32>,
        y: Option<&Vec<f32>>,
        s: &mut Vec<f32>,
        n_tokens: usize,
    ) -> Result<()> {
        streams::mix(op, coefficients, y, s, n_tokens);
        Ok(())
    }

    fn sum_streams(
        &mut self,
        op: &StreamSum,
        coefficients: &Vec<f32>,
        s: &Vec<f32>,
        out: &mut Vec<f32>,
        n_tokens: usize,
    ) -> Result<()> {
        streams::sum(op, coefficients, s, out, n_tokens);
        Ok(())
    }

    fn match_streams(
        &mut self,
        streams: &Streams,
        floor: f32,
        s: &mut Vec<f32>,
        n_tokens: usize,
    ) -> Result<()> {
        streams::match_first(streams, floor, s, n_tokens);
        Ok(())
    }

    fn cut_off(&mut self, op: &CutOff, x: &mut Vec<f32>, n_tokens: usize) -> Result<()> {
        op.check();
        for row in x.chunks_exact_mut(op.row_width).take(n_tokens) {
            let row = &mut row[..op.width];
            let n = op.width as f64;
            let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let squares = row.iter().map(|&x| (f64::from(x) - mean).powi(2));
            let deviation = (squares.sum::<f64>() / n).sqrt();
            let bound = mean + f64::from(op.deviations) * deviation;
            for x in row {
                *x = (f64::from(*x) - bound).max(0.0) as f32;
            }
        }
        Ok(())
    }

    fn tanh(&mut self, x: &mut Vec<f32>, width: usize, n_tokens: usize) -> Result<()> {
        for x in &mut x[..width * n_tokens] {
            *x = f64::from(*x).tanh() as f32;
        }
        Ok(())
    }

    fn weigh_streams(
        &mut self,
        op: &StreamWeights<'_, Reference>,
        s: &Vec<f32>,
        weights: &mut Vec<f32>,
        n_tokens: usize,
    ) -> Result<()> {
        hyper::weigh_streams(op, s, weights, n_tokens);
        Ok(())
    }

    fn activate(
        &mut self,
        activation: Activation,
        x: &mut Vec<f32>,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        for x in &mut x[..n_tokens * width] {
            *x = activated(activation, f64::from(*x)) as f32;
        }
        Ok(())
    }

    fn activate_xielu(
        &mut self,
        op: &Xielu<'_, Reference>,
        x: &mut Vec<f32>,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let numbers = op.numbers().map(|number| number.element(0));
        for x in &mut x[..n_tokens * width] {
            *x = xielu(numbers, f64::from(*x)) as f32;
        }
        Ok(())
    }

    fn gate(
        &mut self,
        activation: Activation,
        gate_up: &Vec<f32>,
        out: &mut Vec<f32>,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        for (gate_up, out) in gate_up
            .chunks_exact(2 * width)
            .zip(out.chunks_exact_mut(width))
            .take(n_tokens)
        {
            let (gate, up) = gate_up.split_at(width);
            for (i, out) in out.iter_mut().enumerate() {
                *out = (activated(activation, f64::from(gate[i])) * f64::from(up[i])) as f32;
            }
        }
        Ok(())
    }

    fn gate_clamped(
        &mut self,
        gate: &ClampedGate,
        gate_up: &Vec<f32>,
        out: &mut Vec<f32>,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        for (row, out) in gate_up
            .chunks_exact(2 * width)
            .zip(out.chunks_exact_mut(width))
            .take(n_tokens)
        {
            for (i, out) in out.iter_mut().enumerate() {
                let [g, u] = gate.features(width, i).map(|at| f64::from(row[at]));
                *out = clamped(gate, g, u) as f32;
            }
        }
        Ok(())
    }

    fn add_gated(
        &mut self,
        gates: &Vec<f32>,
        y: &Vec<f32>,
        x: &mut Vec<f32>,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let rows = x.chunks_exact_mut(width).zip(y.chunks_exact(width));
        for ((x, y), &gate) in rows.zip(&gates[..n_tokens]) {
            let weight = sigmoid(f64::from(gate));
            for (x, &y) in x.iter_mut().zip(y) {
                *x = (f64::from(*x) + weight * f64::from(y)) as f32;
            }
        }
        Ok(())
    }

    fn scale_by_largest(
        &mut self,
        (scores, n_scores): (&Vec<f32>, usize),
        x: &mut Vec<f32>,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        let scores = scores.chunks_exact(n_scores).take(n_tokens);
        for (x, scores) in x.chunks_exact_mut(width).zip(scores) {
            let largest = match scores.iter().any(|score| score.is_nan()) {
                true => f32::NAN,
                false => scores.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            };
            let factor = sigmoid(f64::from(largest));
            for x in x {
                *x = (f64::from(*x) * factor) as f32;
            }
        }
        Ok(())
    }

    fn route(
        &mut self,
        op: &Routing,
        vectors: RouterVectors<'_, Reference>,
        scores: &Vec<f32>,
        routes: &mut ReferenceRoutes,
        n_tokens: usize,
    ) -> Result<()> {
        let given = vectors.chosen.map(|chosen| &chosen[..]);
        let vectors = [vectors.correction, vectors.scales].map(|v| v.map(ReferenceWeight::decoded));
        let [correction, scales] = vectors.each_ref();
        let [correction, scales] =
            [correction, scales].map(|vector| vector.as_ref().map(|vector| &vector.values[..]));
        routes.choose(op, [correction, scales, given], scores, n_tokens);
        Ok(())
    }

    fn chosen(&mut self, routes: &ReferenceRoutes, n_rows: &mut [usize]) -> Result<()> {
        for (expert, n_rows) in n_rows.iter_mut().enumerate() {
            *n_rows = routes.of(expert).count();
        }
        Ok(())
    }

    fn expert(
        &mut self,
        expert: &Expert<'_, Reference>,
        x: &Vec<f32>,
        routes: &ReferenceRoutes,
        scratch: ExpertBuffers<'_, Reference>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let ExpertBuffers {
            gathered,
            up,
            gated,
            delta,
        } = scratch;
        let n = routes.of(expert.expert).count();
        self.gather_routed(routes, expert.expert, x, expert.hidden, gathered)?;
        self.linear(expert.gate_up, gathered, Output::Write, up, n)?;
        let inner = self.gate_by(&expert.gate, up, gated, expert.width, n)?;
        self.linear(&[expert.down], inner, Output::Write, delta, n)?;
        self.scatter_routed(routes, expert.expert, delta, expert.hidden, out)
    }

    fn gather_routed(
        &mut self,
        routes: &ReferenceRoutes,
        expert: usize,
        x: &Vec<f32>,
        width: usize,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        for ((row, _), out) in routes.of(expert).zip(out.chunks_exact_mut(width)) {
            out.copy_from_slice(&x[row * width..][..width]);
        }
        Ok(())
    }

    fn scatter_routed(
        &mut self,
        routes: &ReferenceRoutes,
        expert: usize,
        y: &Vec<f32>,
        width: usize,
        x: &mut Vec<f32>,
    ) -> Result<()> {
        for ((row, weight), y) in routes.of(expert).zip(y.chunks_exact(width)) {
            for (x, y) in x[row * width..][..width].iter_mut().zip(y) {
                *x += weight * y;
            }
        }
        Ok(())
    }
}
