//! What operations refer to, as it is recorded.

use std::sync::{Arc, Mutex, MutexGuard};

use llm_backend::{
    Backend, Batch, Beside, ConvRows, Decays, DeltaGates, DeltaRule, LinearPart, NormOp, Rows,
    Selected, ShortConv, StateBatch, StateSpace, Steps,
};
use llm_tensor::Norm;

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
    n_together: usize,
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
            n_together: op.n_together,
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
            n_together: self.n_together,
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

pub(super) struct RecordedBeside<B: Backend> {
    pool: Arc<Mutex<B::KvPool>>,
    tables: Arc<Mutex<B::Index>>,
    table_len: usize,
    rate: usize,
    selected: Option<(Arc<Mutex<B::Buffer>>, usize)>,
}

/// The same while it is used.
pub(super) struct LockedBeside<'a, B: Backend> {
    pool: MutexGuard<'a, B::KvPool>,
    tables: MutexGuard<'a, B::Index>,
    table_len: usize,
    rate: usize,
    selected: Option<(MutexGuard<'a, B::Buffer>, usize)>,
}

impl<B: Backend> RecordedBeside<B> {
    pub(super) fn of(beside: &Beside<'_, Deferred<B>>) -> Self {
        RecordedBeside {
            pool: beside.pool.handle(),
            tables: beside.tables.handle(),
            table_len: beside.table_len,
            rate: beside.rate,
            selected: beside.selected.map(|of| (of.bits.handle(), of.row_words)),
        }
    }

    pub(super) fn lock(&self) -> LockedBeside<'_, B> {
        LockedBeside {
            pool: lock(&self.pool),
            tables: lock(&self.tables),
            table_len: self.table_len,
            rate: self.rate,
            selected: (self.selected.as_ref()).map(|(bits, row_words)| (lock(bits), *row_words)),
        }
    }
}

impl<B: Backend> LockedBeside<'_, B> {
    pub(super) fn op(&self) -> Beside<'_, B> {
        let selected = self.selected.as_ref();
        Beside {
            pool: &self.pool,
            tables: &self.tables,
            table_len: self.table_len,
            rate: self.rate,
            selected: selected.map(|(bits, row_words)| Selected {
                bits: &**bits,
                row_words: *row_words,
            }),
        }
    }
}

pub(super) struct RecordedPart<B: Backend> {
    weight: Arc<B::Weight>,
    bias: Option<Arc<B::Weight>>,
}

impl<B: Backend> RecordedPart<B> {
    pub(super) fn of(part: &LinearPart<'_, Deferred<B>>) -> Self {
        RecordedPart {
            weight: Arc::clone(part.weight),
            bias: part.bias.cloned(),
        }
    }

    pub(super) fn part(&self) -> LinearPart<'_, B> {
        LinearPart {
            weight: &self.weight,
            bias: self.bias.as_deref(),
        }
    }
}

pub(super) struct RecordedNorm<B: Backend> {
    norm: Norm,
    eps: f32,
    gain_offset: f32,
    gain: Arc<B::Weight>,
    bias: Option<Arc<B::Weight>>,
}

impl<B: Backend> RecordedNorm<B> {
    pub(super) fn of(op: &NormOp<'_, Deferred<B>>) -> Self {
        RecordedNorm {
            norm: op.norm,
            eps: op.eps,
            gain_offset: op.gain_offset,
            gain: Arc::clone(op.gain),
            bias: op.bias.cloned(),
        }
    }

    pub(super) fn op(&self) -> NormOp<'_, B> {
        NormOp {
            norm: self.norm,
            eps: self.eps,
            gain_offset: self.gain_offset,
            gain: &self.gain,
            bias: self.bias.as_deref(),
        }
    }
}

pub(super) struct RecordedBatch<B: Backend> {
    rows: Vec<Rows>,
    rows_index: Arc<Mutex<B::Index>>,
    tables: Arc<Mutex<B::Index>>,
    table_len: usize,
}

impl<B: Backend> RecordedBatch<B> {
    pub(super) fn of(batch: &Batch<'_, Deferred<B>>) -> Self {
        RecordedBatch {
            rows: batch.rows.to_vec(),
            rows_index: batch.rows_index.handle(),
            tables: batch.tables.handle(),
            table_len: batch.table_len,
        }
    }

    pub(super) fn with<R>(&self, call: impl FnOnce(&Batch<'_, B>) -> R) -> R {
        call(&Batch {
            rows: &self.rows,
            rows_index: &lock(&self.rows_index),
            tables: &lock(&self.tables),
            table_len: self.table_len,
        })
    }
}
