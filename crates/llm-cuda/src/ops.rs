//! The operations, each with its family.

mod attention;
mod attention_wide;
mod compress;
mod conv;
mod delta;
mod elementwise;
mod embed;
mod experts;
mod gates;
mod gemm;
mod general;
mod heads;
mod kv;
mod linear;
mod norm;
mod packed;
mod quantize;
mod rotary;
mod routing;
mod select;
mod state_space;
mod streams;
mod xielu;

use llm_backend::{
    Attention, Batch, Compression, CutOff, DeltaRule, Expert, ExpertBuffers, Groups, HeadGates,
    HeadProducts, Heads, KvColumns, LinearPart, NormOp, Ops, OutColumns, Output, Result, Rotary,
    RouterVectors, Routing, Rows, Run, Selection, ShortConv, StateBatch, StateSpace, StreamMix,
    StreamSum, StreamWeights, Streams, Xielu,
};
use llm_tensor::{Activation, ClampedGate, WorkspaceShape};

use crate::routes::Routes;
use crate::{Buffer, Cuda, CudaQueue, CudaWeight, Index, KvPool};

/// Bytes of scratch memory that suffice for every operation within `shape`, one after the other.
pub(crate) fn scratch_bytes(shape: &WorkspaceShape) -> usize {
    let families = [
        attention::scratch_bytes(shape),
        elementwise::scratch_bytes(),
        gemm::scratch_bytes(shape),
        general::scratch_bytes(shape),
        linear::scratch_bytes(shape),
        select::scratch_bytes(shape),
    ];
    families.into_iter().max().unwrap_or(0)
}

impl Ops<Cuda> for CudaQueue {
    fn embed(
        &mut self,
        table: &CudaWeight,
        ids: &Index,
        n: usize,
        scale: f32,
        out: &mut Buffer,
    ) -> Result<()> {
        embed::embed(self, table, (ids, n), scale, (Output::Write, out))
    }

    fn add_positions(
        &mut self,
        table: &CudaWeight,
        positions: &Index,
        n: usize,
        x: &mut Buffer,
    ) -> Result<()> {
        embed::embed(self, table, (positions, n), 1.0, (Output::Add, x))
    }

    fn gather_rows(
        &mut self,
        x: &Buffer,
        rows: &Index,
        n: usize,
        width: usize,
        out: &mut Buffer,
    ) -> Result<()> {
        embed::gather(self, x, (rows, n), width, out)
    }

    fn norm(
        &mut self,
        op: &NormOp<'_, Cuda>,
        x: &Buffer,
        out: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        norm::norm(self, op, x, out, n_tokens)
    }

    fn linear_to(
        &mut self,
        columns: Option<OutColumns>,
        parts: &[LinearPart<'_, Cuda>],
        x: &Buffer,
        output: Output,
        out: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        linear::linear(self, parts, x, (output, columns, out), (n_tokens, None))
    }

    fn head_products(
        &mut self,
        op: &HeadProducts<'_, Cuda>,
        x: &Buffer,
        out: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        heads::products(self, op, x, out, n_tokens)
    }

    fn rotate(
        &mut self,
        op: &Rotary,
        angles: &Buffer,
        x: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        rotary::rotate(self, op, angles, x, n_tokens)
    }

    fn norm_heads(
        &mut self,
        op: &NormOp<'_, Cuda>,
        heads: &Heads,
        x: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        norm::norm_heads(self, op, heads, x, n_tokens)
    }

    fn unit_heads(
        &mut self,
        eps: f32,
        heads: &Heads,
        x: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        norm::unit_heads(self, eps, heads, x, n_tokens)
    }

    fn ungroup(
        &mut self,
        groups: &Groups,
        grouped: &Buffer,
        out: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        norm::ungroup(self, groups, grouped, out, n_tokens)
    }

    fn append(
        &mut self,
        kv: &Buffer,
        columns: &KvColumns,
        batch: &Batch<'_, Cuda>,
        pool: &mut KvPool,
    ) -> Result<()> {
        kv::append(self, kv, columns, batch, pool)
    }

    fn copy_blocks(&mut self, pool: &mut KvPool, blocks: &[(u32, u32)]) -> Result<()> {
        kv::copy_blocks(self, pool, blocks)
    }

    fn attention(
        &mut self,
        op: &Attention<'_, Cuda>,
        q: &Buffer,
        batch: &Batch<'_, Cuda>,
        pool: &KvPool,
        out: &mut Buffer,
    ) -> Result<()> {
        attention::attention(self, op, q, batch, (pool, out))
    }

    fn select(
        &mut self,
        op: &Selection,
        inputs: (&Buffer, &Buffer),
        batch: &Batch<'_, Cuda>,
        pool: &KvPool,
        bits: &mut Buffer,
    ) -> Result<()> {
        select::select(self, op, inputs, batch, pool, bits)
    }

    fn compress(
        &mut self,
        op: &Compression<'_, Cuda>,
        batch: &Batch<'_, Cuda>,
        pool: &KvPool,
        entries: (&[Rows], &Index),
        out: &mut Buffer,
    ) -> Result<()> {
        compress::compress(self, op, batch, pool, entries, out)
    }

    fn short_conv(
        &mut self,
        op: &ShortConv<'_, Cuda>,
        x: &Buffer,
        batch: &StateBatch<'_, Cuda>,
        state: &mut Buffer,
        out: &mut Buffer,
    ) -> Result<()> {
        conv::short_conv(self, op, x, batch, (state, out))
    }

    fn copy_slot(
        &mut self,
        state: &mut Buffer,
        n_elements: usize,
        slots: (usize, usize),
    ) -> Result<()> {
        conv::copy_slot(self, state, n_elements, slots)
    }

    fn delta_rule(
        &mut self,
        op: &DeltaRule<'_, Cuda>,
        inputs: (&Buffer, &Buffer),
        batch: &StateBatch<'_, Cuda>,
        state: &mut Buffer,
        out: &mut Buffer,
    ) -> Result<()> {
        delta::delta_rule(self, op, inputs, batch, (state, out))
    }

    fn state_space(
        &mut self,
        op: &StateSpace<'_, Cuda>,
        inputs: (&Buffer, &Buffer),
        batch: &StateBatch<'_, Cuda>,
        state: &mut Buffer,
        out: &mut Buffer,
    ) -> Result<()> {
        state_space::state_space(self, op, inputs, batch, (state, out))
    }

    fn gate_heads(
        &mut self,
        op: &HeadGates<'_, Cuda>,
        gates: &Buffer,
        x: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        delta::gate_heads(self, op, gates, x, n_tokens)
    }

    fn add(&mut self, y: &Buffer, x: &mut Buffer, width: usize, n_tokens: usize) -> Result<()> {
        elementwise::add(self, y, x, width * n_tokens)
    }

    fn scale(&mut self, runs: &[Run], x: &mut Buffer, n_tokens: usize) -> Result<()> {
        elementwise::scale(self, runs, x, n_tokens)
    }

    fn scale_by(
        &mut self,
        by: &CudaWeight,
        x: &mut Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        match by.cols() {
            1 => elementwise::scale_by(self, by, x, width * n_tokens),
            cols => {
                assert_eq!(cols, width, "one number, or one for each column");
                streams::scale_columns(self, by, x, (width, n_tokens))
            }
        }
    }

    fn mix_streams(
        &mut self,
        op: &StreamMix,
        coefficients: &Buffer,
        y: Option<&Buffer>,
        s: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        streams::mix(self, op, (coefficients, y), s, n_tokens)
    }

    fn sum_streams(
        &mut self,
        op: &StreamSum,
        coefficients: &Buffer,
        s: &Buffer,
        out: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        streams::sum(self, op, coefficients, (s, out), n_tokens)
    }

    fn match_streams(
        &mut self,
        of: &Streams,
        floor: f32,
        s: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        streams::match_first(self, of, floor, s, n_tokens)
    }

    fn cut_off(&mut self, op: &CutOff, x: &mut Buffer, n_tokens: usize) -> Result<()> {
        streams::cut_off(self, op, x, n_tokens)
    }

    fn tanh(&mut self, x: &mut Buffer, width: usize, n_tokens: usize) -> Result<()> {
        streams::tanh(self, x, width * n_tokens)
    }

    fn weigh_streams(
        &mut self,
        op: &StreamWeights<'_, Cuda>,
        s: &Buffer,
        weights: &mut Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        streams::weigh(self, op, s, weights, n_tokens)
    }

    fn activate(
        &mut self,
        activation: Activation,
        x: &mut Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        elementwise::activate(self, activation, x, width * n_tokens)
    }

    fn activate_xielu(
        &mut self,
        op: &Xielu<'_, Cuda>,
        x: &mut Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        xielu::activate(self, op, x, width * n_tokens)
    }

    fn gate(
        &mut self,
        activation: Activation,
        gate_up: &Buffer,
        out: &mut Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        elementwise::gate(self, activation, gate_up, out, (width, n_tokens, None))
    }

    fn gate_clamped(
        &mut self,
        gate: &ClampedGate,
        gate_up: &Buffer,
        out: &mut Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        gates::clamped(self, gate, gate_up, out, (width, n_tokens, None))
    }

    fn argmax(&mut self, x: &Buffer, width: usize, columns: &mut [Option<u32>]) -> Result<()> {
        elementwise::argmax(self, x, width, columns)
    }

    fn add_gated(
        &mut self,
        gates: &Buffer,
        y: &Buffer,
        x: &mut Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        elementwise::add_gated(self, gates, y, x, (width, n_tokens))
    }

    fn scale_by_largest(
        &mut self,
        scores: (&Buffer, usize),
        x: &mut Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()> {
        routing::scale_by_largest(self, scores, x, (width, n_tokens))
    }

    fn route(
        &mut self,
        op: &Routing,
        vectors: RouterVectors<'_, Cuda>,
        scores: &Buffer,
        routes: &mut Routes,
        n_tokens: usize,
    ) -> Result<()> {
        routing::route(self, (op, vectors), scores, routes, n_tokens)
    }

    fn chosen(&mut self, routes: &Routes, n_rows: &mut [usize]) -> Result<()> {
        routing::chosen(self, routes, n_rows)
    }

    fn expert(
        &mut self,
        expert: &Expert<'_, Cuda>,
        x: &Buffer,
        routes: &Routes,
        scratch: ExpertBuffers<'_, Cuda>,
        out: &mut Buffer,
    ) -> Result<()> {
        routing::expert(self, expert, x, routes, (scratch, out))
    }

    fn experts(
        &mut self,
        experts: &[Expert<'_, Cuda>],
        x: &Buffer,
        routes: &Routes,
        scratch: ExpertBuffers<'_, Cuda>,
        out: &mut Buffer,
    ) -> Result<()> {
        experts::experts(self, experts, x, routes, (scratch, out))
    }

    fn gather_routed(
        &mut self,
        routes: &Routes,
        expert: usize,
        x: &Buffer,
        width: usize,
        out: &mut Buffer,
    ) -> Result<()> {
        routing::gather_routed(self, (routes, expert), x, width, out)
    }

    fn scatter_routed(
        &mut self,
        routes: &Routes,
        expert: usize,
        y: &Buffer,
        width: usize,
        x: &mut Buffer,
    ) -> Result<()> {
        routing::scatter_routed(self, (routes, expert), y, width, x)
    }
}
