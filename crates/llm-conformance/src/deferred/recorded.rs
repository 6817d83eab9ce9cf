//! What operations on states refer to, as it is recorded.

use std::sync::{Arc, Mutex};

use llm_backend::{
    Backend, ConvRows, Decays, DeltaGates, DeltaRule, Rows, ShortConv, StateBatch, StateSpace,
    Steps,
};

use super::Deferred;
use super::schedule::lock;

pub(super) struct RecordedStates<B: Backend> {
    rows: Vec<Rows>,
    rows_index: Arc<Mutex<B::Index>>,
    slots: Arc<Mutex<B::Index>>,
}

impl<B: Backend> RecordedStates<B> {
    pub(super) fn of(batch: &StateBatch<'_, Deferred<B>>) -> Self {
        RecordedStates {
            rows: batch.rows.to_vec(),
            rows_index: batch.rows_index.handle(),
            slots: batch.slots.handle(),
        }
    }

    pub(super) fn with<R>(&self, call: impl FnOnce(&StateBatch<'_, B>) -> R) -> R {
        call(&StateBatch {
            rows: &self.rows,
            rows_index: &lock(&self.rows_index),
            slots: &lock(&self.slots),
        })
    }
}

pub(super) struct RecordedConv<B: Backend> {
    taps: Arc<B::Weight>,
    bias: Option<Arc<B::Weight>>,
    n_channels: usize,
    kernel: usize,
    rows: ConvRows,
}

impl<B: Backend> RecordedConv<B> {
    pub(super) fn of(op: &ShortConv<'_, Deferred<B>>) -> Self {
        RecordedConv {
            taps: Arc::clone(op.taps),
            bias: op.bias.cloned(),
            n_channels: op.n_channels,
            kernel: op.kernel,
            rows: op.rows,
        }
    }

    pub(super) fn op(&self) -> ShortConv<'_, B> {
        ShortConv {
            taps: &self.taps,
            bias: self.bias.as_deref(),
            n_channels: self.n_channels,
            kernel: self.kernel,
            rows: self.rows,
        }
    }
}

pub(super) struct RecordedDelta<B: Backend> {
    n_heads: [usize; 2],
    dims: [usize; 2],
    norm_eps: f32,
    scale: f32,
    rate: Arc<B::Weight>,
    offset: Arc<B::Weight>,
    decays: Decays,
    gates: DeltaGates,
}

impl<B: Backend> RecordedDelta<B> {
    pub(super) fn of(op: &DeltaRule<'_, Deferred<B>>) -> Self {
        RecordedDelta {
            n_heads: [op.n_key_heads, op.n_value_heads],
            dims: [op.key_dim, op.value_dim],
            norm_eps: op.norm_eps,
            scale: op.scale,
            rate: Arc::clone(op.rate),
            offset: Arc::clone(op.offset),
            decays: op.decays,
            gates: op.gates,
        }
    }

    pub(super) fn op(&self) -> DeltaRule<'_, B> {
        DeltaRule {
            n_key_heads: self.n_heads[0],
            n_value_heads: self.n_heads[1],
            key_dim: self.dims[0],
            value_dim: self.dims[1],
            norm_eps: self.norm_eps,
            scale: self.scale,
            rate: &self.rate,
            offset: &self.offset,
            decays: self.decays,
            gates: self.gates,
        }
    }
}

pub(super) struct RecordedSpace<B: Backend> {
    n_heads: usize,
    head_dim: usize,
    state_dim: usize,
    n_groups: usize,
    vectors: [Arc<B::Weight>; 3],
    steps: Steps,
}

impl<B: Backend> RecordedSpace<B> {
    pub(super) fn of(op: &StateSpace<'_, Deferred<B>>) -> Self {
        RecordedSpace {
            n_heads: op.n_heads,
            head_dim: op.head_dim,
            state_dim: op.state_dim,
            n_groups: op.n_groups,
            vectors: [op.rate, op.offset, op.skip].map(Arc::clone),
            steps: op.steps,
        }
    }

    pub(super) fn op(&self) -> StateSpace<'_, B> {
        let [rate, offset, skip] = &self.vectors;
        StateSpace {
            n_heads: self.n_heads,
            head_dim: self.head_dim,
            state_dim: self.state_dim,
            n_groups: self.n_groups,
            rate,
            offset,
            skip,
            steps: self.steps,
        }
    }
}
