//! Work on a device, in order.

use std::ops::Range;

use llm_tensor::{Activation, ClampedGate, Gate};

use crate::{
    Allocation, Attention, Backend, Batch, Compression, CutOff, DeltaRule, Expert, ExpertBuffers,
    Groups, HeadGates, HeadProducts, Heads, KvColumns, LinearPart, NormOp, OutColumns, Output,
    Result, Rotary, RouterVectors, Routing, Rows, Run, Selection, ShortConv, StateBatch,
    StateSpace, StreamMix, StreamSum, StreamWeights, Streams, Xielu, first_of_largest,
};

/// Host memory that a device copies by itself: weights rest in it, or arrive in it from disk.
pub trait HostPages: Allocation + Send + Sync {
    /// Shows the bytes.
    fn read<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R;

    /// Has `write` fill the bytes, whole pages; they begin on the border of one. The caller has seen to it
    /// ([`Event::finish`]) that the last [`Queue::bring`] from them is done, or the last use of weights that lie in them
    /// ([`Backend::in_pages`]), and has dropped those.
    fn fill<R>(&mut self, write: impl FnOnce(&mut [u8]) -> R) -> R;

    /// True if they can be moved, so that copies take the processor's help and are slower.
    fn is_pageable(&self) -> bool {
        false
    }
}

/// A point in a queue, reached when all work before it is done. It may be asked about from any thread.
pub trait Event: Clone + Send + Sync {
    /// Waits on the host until it is reached.
    ///
    /// # Errors
    /// When the work before it failed.
    fn finish(&self) -> Result<()>;
}

/// Nothing to wait for: work is done when it is put into the queue.
impl Event for () {
    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

/// Work on a device, done in the order in which it was put there; different queues' work in any order that their waits
/// allow.
///
/// Only [`Queue::finish`], [`Queue::download`], [`Ops::argmax`] and [`Ops::chosen`] wait for the device. Memory that enqueued work reads or
/// writes must not be given to another queue, or filled, before an event after that work says so.
pub trait Queue<B: Backend>: Send {
    /// The point that is reached when all that was put here so far is done.
    fn record(&mut self) -> Result<B::Event>;

    /// Has what is put here from now on begin after `event`.
    fn wait(&mut self, event: &B::Event) -> Result<()>;

    /// Waits on the host until all is done.
    fn finish(&mut self) -> Result<()>;

    /// Copies `src` to the start of `dst`; `src` may be changed when this returns.
    fn upload(&mut self, src: &[f32], dst: &mut B::Buffer) -> Result<()>;

    /// Copies `src` to the start of `dst`; `src` may be changed when this returns.
    fn upload_index(&mut self, src: &[u32], dst: &mut B::Index) -> Result<()>;

    /// Copies the start of `src` to `dst`, and waits for it.
    fn download(&mut self, src: &B::Buffer, dst: &mut [f32]) -> Result<()>;

    /// Copies the first `n_elements` of `src`, which `from` works with, to the start of `dst`: after all that both queues were
    /// given before, and before what they are given from now on. `from` may be a queue of another device of this backend.
    fn copy_from(
        &mut self,
        from: &mut B::Queue,
        src: &B::Buffer,
        dst: &mut B::Buffer,
        n_elements: usize,
    ) -> Result<()>;

    /// Brings bytes `range` of `pages` to byte `at` of `place`.
    fn bring(
        &mut self,
        pages: &B::HostPages,
        range: Range<usize>,
        place: &mut B::Place,
        at: usize,
    ) -> Result<()>;
}

/// The operations that models are made of.
///
/// Each is put into the queue and returns. Every operation writes into outputs that the caller owns, and none allocates device
/// memory. `n_tokens` rows are read and written even if a buffer holds more.
///
/// # Panics
/// The operations panic when a buffer, weight or pool is too small or misshapen for the call: sizes follow from the model's
/// descriptor, so that is the caller's mistake and never the data's.
pub trait Ops<B: Backend>: Queue<B> {
    /// The first `n` rows `ids` of `table` `[vocab, width]`, times `scale`, into `out` `[n, width]`.
    fn embed(
        &mut self,
        table: &B::Weight,
        ids: &B::Index,
        n: usize,
        scale: f32,
        out: &mut B::Buffer,
    ) -> Result<()>;

    /// Adds the first `n` rows `positions` of `table` `[max, width]` to `x` `[n, width]`.
    fn add_positions(
        &mut self,
        table: &B::Weight,
        positions: &B::Index,
        n: usize,
        x: &mut B::Buffer,
    ) -> Result<()>;

    /// The first `n` rows `rows` of `x` `[_, width]` into `out` `[n, width]`.
    fn gather_rows(
        &mut self,
        x: &B::Buffer,
        rows: &B::Index,
        n: usize,
        width: usize,
        out: &mut B::Buffer,
    ) -> Result<()>;

    /// Normalises each row of `x` `[n_tokens, width]` into `out`, `width` being the gain's.
    fn norm(
        &mut self,
        op: &NormOp<'_, B>,
        x: &B::Buffer,
        out: &mut B::Buffer,
        n_tokens: usize,
    ) -> Result<()>;

    /// `x` `[n_tokens, cols]` times every part's weight `[rows, cols]` transposed, plus its bias; the parts' results
    /// side by side in `out` `[n_tokens, Σ rows]`.
    fn linear(
        &mut self,
        parts: &[LinearPart<'_, B>],
        x: &B::Buffer,
        output: Output,
        out: &mut B::Buffer,
        n_tokens: usize,
    ) -> Result<()> {
        self.linear_to(None, parts, x, output, out, n_tokens)
    }

    /// The same in these columns of `out`, whose others stay as they are: for a matrix of which only some rows are there.
    fn linear_to(
        &mut self,
        columns: Option<OutColumns>,
        parts: &[LinearPart<'_, B>],
        x: &B::Buffer,
        output: Output,
        out: &mut B::Buffer,
        n_tokens: usize,
    ) -> Result<()>;

    /// Multiplies each head of each row of `x` `[n_tokens, n_heads · (from + carried)]` with rows of a matrix that are its own,
    /// into `out` `[n_tokens, n_heads · (to + carried)]`.
    fn head_products(
        &mut self,
        op: &HeadProducts<'_, B>,
        x: &B::Buffer,
        out: &mut B::Buffer,
        n_tokens: usize,
    ) -> Result<()>;

    /// Turns the leading heads of each row of `x` `[n_tokens, row_width]` by `angles`
    /// `[n_tokens, cos of rotary_dim / 2 | sin of rotary_dim / 2]`.
    fn rotate(
        &mut self,
        op: &Rotary,
        angles: &B::Buffer,
        x: &mut B::Buffer,
        n_tokens: usize,
    ) -> Result<()>;

    /// Normalises some heads of each row of `x` `[n_tokens, row_width]` in place, each on its own, the gain being
    /// `[head_dim]`.
    fn norm_heads(
        &mut self,
        op: &NormOp<'_, B>,
        heads: &Heads,
        x: &mut B::Buffer,
        n_tokens: usize,
    ) -> Result<()>;

    /// Divides some heads of each row of `x` `[n_tokens, row_width]` by the root of their mean square plus `eps`, in place: an
    /// RMSNorm without a gain.
    fn unit_heads(
        &mut self,
        eps: f32,
        heads: &Heads,
        x: &mut B::Buffer,
        n_tokens: usize,
    ) -> Result<()>;

    /// Brings the groups in rows of `grouped` `[n_tokens, row_width]` into the order of their parts in `out`
    /// `[n_tokens, out_width]`, of which other columns stay as they are.
    fn ungroup(
        &mut self,
        groups: &Groups,
        grouped: &B::Buffer,
        out: &mut B::Buffer,
        n_tokens: usize,
    ) -> Result<()>;

    /// Takes the keys and values of all sequences' rows of `kv` to their positions in `pool`, rounded to its element type.
    /// No two sequences of the batch share a block that is written to.
    fn append(
        &mut self,
        kv: &B::Buffer,
        columns: &KvColumns,
        batch: &Batch<'_, B>,
        pool: &mut B::KvPool,
    ) -> Result<()>;

    /// Copies blocks of `pool`, `(from, to)` each.
    fn copy_blocks(&mut self, pool: &mut B::KvPool, blocks: &[(u32, u32)]) -> Result<()>;

    /// Each row's queries, the leading heads of rows `[_, row_width]` of `q`, attend to the positions of its sequence that
    /// the mask shows; the result goes to the same row of `out` `[_, n_heads · value_dim]`. All sequences of a pass at once.
    fn attention(
        &mut self,
        op: &Attention<'_, B>,
        q: &B::Buffer,
        batch: &Batch<'_, B>,
        pool: &B::KvPool,
        out: &mut B::Buffer,
    ) -> Result<()>;

    /// Sets, in each row's words of `bits` `[_, row_words]`, those of the positions that the row is to attend to: of its own and
    /// all before it the `n_selected` that score highest, the first among equals. Queries `[_, n_heads · head_dim]` and weights
    /// `[_, n_heads]` are in the same row; keys are in `pool`, the rows' own among them. Words behind that of the row's own
    /// position stay as they are. A word is in the place of a number, of which it is the bits. All sequences of a pass at once.
    fn select(
        &mut self,
        op: &Selection,
        inputs: (&B::Buffer, &B::Buffer),
        batch: &Batch<'_, B>,
        pool: &B::KvPool,
        bits: &mut B::Buffer,
    ) -> Result<()>;

    /// Compresses runs of positions of `pool`, whose keys are features and whose values are gates, to the entries that the rows of
    /// `entries` name, into the same rows of `out` `[_, width]`. A row's position is its entry's number. Sequences and their tables
    /// are those of `batch`, and `entries` tells of as many.
    fn compress(
        &mut self,
        op: &Compression<'_, B>,
        batch: &Batch<'_, B>,
        pool: &B::KvPool,
        entries: (&[Rows], &B::Index),
        out: &mut B::Buffer,
    ) -> Result<()>;

    /// Convolves each sequence's rows of `x`, after those that its slot of `state` has inputs of, into rows `[_, n_channels]` of
    /// `out`; the slot then has the last inputs. All sequences of a pass at once.
    fn short_conv(
        &mut self,
        op: &ShortConv<'_, B>,
        x: &B::Buffer,
        batch: &StateBatch<'_, B>,
        state: &mut B::Buffer,
        out: &mut B::Buffer,
    ) -> Result<()>;

    /// Copies slot `from` of `state` `[_, n_elements]` to slot `to`.
    fn copy_slot(
        &mut self,
        state: &mut B::Buffer,
        n_elements: usize,
        slots: (usize, usize),
    ) -> Result<()>;

    /// Applies the delta rule to each sequence's rows `[queries | keys | values]` of the first input, whose gates are in the
    /// same rows of the second, from its slot of `state` on, into rows `[_, n_value_heads · value_dim]` of `out`; the slot
    /// then has the state after them. All sequences of a pass at once.
    fn delta_rule(
        &mut self,
        op: &DeltaRule<'_, B>,
        inputs: (&B::Buffer, &B::Buffer),
        batch: &StateBatch<'_, B>,
        state: &mut B::Buffer,
        out: &mut B::Buffer,
    ) -> Result<()>;

    /// Takes each sequence's rows `[x | b | c]` of the first input, whose steps are in the same rows of the second, through a
    /// state space, from its slot of `state` on, into rows `[_, n_heads · head_dim]` of `out`; the slot then has the state after
    /// them. All sequences of a pass at once.
    fn state_space(
        &mut self,
        op: &StateSpace<'_, B>,
        inputs: (&B::Buffer, &B::Buffer),
        batch: &StateBatch<'_, B>,
        state: &mut B::Buffer,
        out: &mut B::Buffer,
    ) -> Result<()>;

    /// Multiplies the heads of each row of `x` `[n_tokens, n_heads · head_dim]` by gates that lie in the same row of `gates`,
    /// and normalises them before or after where there is a norm.
    fn gate_heads(
        &mut self,
        op: &HeadGates<'_, B>,
        gates: &B::Buffer,
        x: &mut B::Buffer,
        n_tokens: usize,
    ) -> Result<()>;

    /// Adds `y` to `x`, both `[n_tokens, width]`.
    fn add(
        &mut self,
        y: &B::Buffer,
        x: &mut B::Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()>;

    /// Multiplies the columns of each row of `x` `[n_tokens, columns of all runs]` by the factors of their runs, in place. Where
    /// a factor is zero, zeros are written, whatever was there.
    fn scale(&mut self, runs: &[Run], x: &mut B::Buffer, n_tokens: usize) -> Result<()>;

    /// Multiplies `x` `[n_tokens, width]` by the one element of `by`, or each column by its own of `width` elements.
    fn scale_by(
        &mut self,
        by: &B::Weight,
        x: &mut B::Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()>;

    /// Makes weights of streams of rows of their products, `weights` `[n_tokens, n_weights]`, in place; `s` `[n_tokens, n · width]` has
    /// the streams.
    fn weigh_streams(
        &mut self,
        op: &StreamWeights<'_, B>,
        s: &B::Buffer,
        weights: &mut B::Buffer,
        n_tokens: usize,
    ) -> Result<()>;

    /// Makes the streams of each row of `s` `[n_tokens, n · width]` of all of them and of the row of `y` `[n_tokens, width]`, where
    /// something is added, by `coefficients` `[n_tokens, row_width]`, in place.
    fn mix_streams(
        &mut self,
        op: &StreamMix,
        coefficients: &B::Buffer,
        y: Option<&B::Buffer>,
        s: &mut B::Buffer,
        n_tokens: usize,
    ) -> Result<()>;

    /// Adds up the streams of each row of `s` `[n_tokens, n · width]`, each times its coefficient, into `out` `[n_tokens, width]`.
    fn sum_streams(
        &mut self,
        op: &StreamSum,
        coefficients: &B::Buffer,
        s: &B::Buffer,
        out: &mut B::Buffer,
        n_tokens: usize,
    ) -> Result<()>;

    /// Gives all streams of each row of `s` `[n_tokens, n · width]` the root mean square of the first, in place. A mean square
    /// below `floor` is taken for it.
    fn match_streams(
        &mut self,
        streams: &Streams,
        floor: f32,
        s: &mut B::Buffer,
        n_tokens: usize,
    ) -> Result<()>;

    /// Cuts off the leading columns of each row of `x` `[n_tokens, row_width]`, in place.
    fn cut_off(&mut self, op: &CutOff, x: &mut B::Buffer, n_tokens: usize) -> Result<()>;

    /// The hyperbolic tangent of `x` `[n_tokens, width]`, in place.
    fn tanh(&mut self, x: &mut B::Buffer, width: usize, n_tokens: usize) -> Result<()>;

    /// Applies `activation` to `x` `[n_tokens, width]` in place.
    fn activate(
        &mut self,
        activation: Activation,
        x: &mut B::Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()>;

    /// Applies xIELU to `x` `[n_tokens, width]` in place.
    fn activate_xielu(
        &mut self,
        op: &Xielu<'_, B>,
        x: &mut B::Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()>;

    /// `activation(gate) · up` of rows `[gate | up]` of `gate_up` `[n_tokens, 2 · width]` into `out`
    /// `[n_tokens, width]`.
    fn gate(
        &mut self,
        activation: Activation,
        gate_up: &B::Buffer,
        out: &mut B::Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()>;

    /// The clamped gate of rows of `gate_up` `[n_tokens, 2 · width]`, features in the gate's order, into `out`
    /// `[n_tokens, width]`.
    fn gate_clamped(
        &mut self,
        gate: &ClampedGate,
        gate_up: &B::Buffer,
        out: &mut B::Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()>;

    /// Whichever of the gates `gate` is, and the buffer of both that has its results: they lie where the features were if
    /// nothing gates them.
    fn gate_by<'a>(
        &mut self,
        gate: &Gate,
        up: &'a mut B::Buffer,
        gated: &'a mut B::Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<&'a B::Buffer> {
        match gate {
            Gate::Of(activation) => self.gate(*activation, up, gated, width, n_tokens)?,
            Gate::Clamped(gate) => self.gate_clamped(gate, up, gated, width, n_tokens)?,
            Gate::Absent(activation) => {
                self.activate(*activation, up, width, n_tokens)?;
                return Ok(up);
            }
        }
        Ok(gated)
    }

    /// Columns of the largest of each row of `x` `[columns.len(), width]`, as [`first_of_largest`] has them, and waits for them:
    /// tokens for who does not need the logits.
    fn argmax(&mut self, x: &B::Buffer, width: usize, columns: &mut [Option<u32>]) -> Result<()> {
        let mut values = vec![0.0; columns.len() * width];
        self.download(x, &mut values)?;
        for (column, row) in columns.iter_mut().zip(values.chunks_exact(width)) {
            *column = first_of_largest(row);
        }
        Ok(())
    }

    /// Adds `y`, each row times the sigmoid of its gate, to `x`: `gates` `[n_tokens]`, `y` and `x` `[n_tokens, width]`.
    fn add_gated(
        &mut self,
        gates: &B::Buffer,
        y: &B::Buffer,
        x: &mut B::Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()>;

    /// Multiplies each row of `x` `[n_tokens, width]` by the sigmoid of the largest of its `scores`, a buffer `[n_tokens, n_scores]` and `n_scores`: the
    /// input of the one expert that a row goes to, weighed before the expert and not after it (Llama 4). A row of which some score is
    /// not a number is none either.
    fn scale_by_largest(
        &mut self,
        scores: (&B::Buffer, usize),
        x: &mut B::Buffer,
        width: usize,
        n_tokens: usize,
    ) -> Result<()>;

    /// Chooses the experts of each row by the router's `scores` `[n_tokens, n_experts]`: the `n_active` that rank first,
    /// the first among equals, unless they are given. A row of which some expert's rank is not a
    /// number goes to the first `n_active`, with weights that are not numbers.
    fn route(
        &mut self,
        op: &Routing,
        vectors: RouterVectors<'_, B>,
        scores: &B::Buffer,
        routes: &mut B::Routes,
        n_tokens: usize,
    ) -> Result<()>;

    /// Rows of each expert, `[n_experts]`, and waits for them: asked only where the host has to know.
    fn chosen(&mut self, routes: &B::Routes, n_rows: &mut [usize]) -> Result<()>;

    /// Sends an expert its rows of `x` `[n_tokens, hidden]`, and adds its results, times their weights, to those rows of
    /// `out`. An expert without rows costs nothing.
    fn expert(
        &mut self,
        expert: &Expert<'_, B>,
        x: &B::Buffer,
        routes: &B::Routes,
        scratch: ExpertBuffers<'_, B>,
        out: &mut B::Buffer,
    ) -> Result<()>;

    /// Sends all experts of a layer their rows, in order. A device may compute them together where `gated` and `delta` have
    /// room for `n_active` rows of each token.
    fn experts(
        &mut self,
        experts: &[Expert<'_, B>],
        x: &B::Buffer,
        routes: &B::Routes,
        scratch: ExpertBuffers<'_, B>,
        out: &mut B::Buffer,
    ) -> Result<()> {
        let ExpertBuffers {
            gathered,
            up,
            gated,
            delta,
        } = scratch;
        for expert in experts {
            let scratch = ExpertBuffers {
                gathered: &mut *gathered,
                up: &mut *up,
                gated: &mut *gated,
                delta: &mut *delta,
            };
            self.expert(expert, x, routes, scratch, out)?;
        }
        Ok(())
    }

    /// An expert's rows of `x` `[n_tokens, width]` into `out`, one after the other: for one that computes elsewhere.
    fn gather_routed(
        &mut self,
        routes: &B::Routes,
        expert: usize,
        x: &B::Buffer,
        width: usize,
        out: &mut B::Buffer,
    ) -> Result<()>;

    /// Adds an expert's results `y`, times their weights, to its rows of `x` `[n_tokens, width]`.
    fn scatter_routed(
        &mut self,
        routes: &B::Routes,
        expert: usize,
        y: &B::Buffer,
        width: usize,
        x: &mut B::Buffer,
    ) -> Result<()>;
}
