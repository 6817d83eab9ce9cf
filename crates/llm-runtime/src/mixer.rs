//! Mixers of a block: how positions learn of each other.

mod attention;
mod conv;
mod cross;
mod delta;
mod latent;
mod state_space;

use std::slice::from_ref;

use llm_arch::{AttentionSpec, LinearOf, MixerOf};
use llm_backend::{Attention, Backend, Mask, Output, RelativeBias};

pub(crate) use self::cross::{encode, forward as cross};
use crate::Result;
use crate::activations::Activations;
use crate::projection::apply;
use crate::state::MixerState;
use crate::sublayer::{Call, Input};

/// Computes a block's mixer.
pub(crate) fn forward<B: Backend>(
    mixer: &MixerOf<B::Weight>,
    call: &mut Call<'_, B>,
    io: (Input, Output),
    a: &mut Activations<B>,
    state: &mut MixerState<B>,
) -> Result<()> {
    match (mixer, state) {
        (MixerOf::Attention(weights), MixerState::Attention(kv)) => {
            attention::forward(weights, call, io, a, kv)
        }
        (MixerOf::Latent(weights), MixerState::Attention(kv)) => {
            latent::forward(weights, call, io, a, kv)
        }
        (MixerOf::Conv(weights), MixerState::Conv(state)) => {
            conv::forward(weights, call, io, a, state)
        }
        (MixerOf::Delta(weights), MixerState::Convolved { conv, rule }) => {
            delta::forward(weights, call, io, a, (conv, rule))
        }
        (MixerOf::StateSpace(weights), MixerState::Convolved { conv, rule }) => {
            state_space::forward(weights, call, io, a, (conv, rule))
        }
        (
            MixerOf::Attention(_) | MixerOf::Latent(_),
            MixerState::Conv(_) | MixerState::Convolved { .. } | MixerState::Absent,
        )
        | (
            MixerOf::Conv(_),
            MixerState::Attention(_) | MixerState::Convolved { .. } | MixerState::Absent,
        )
        | (
            MixerOf::Delta(_) | MixerOf::StateSpace(_),
            MixerState::Attention(_) | MixerState::Conv(_) | MixerState::Absent,
        ) => {
            unreachable!("a layer's state is its mixer's")
        }
    }
}

/// Projects what mixers left in `a.rows.attended` back, to the residual or beside it.
fn project_back<B: Backend>(
    queue: &mut B::Queue,
    out: &LinearOf<B::Weight>,
    output: Output,
    a: &mut Activations<B>,
    n_tokens: usize,
) -> Result<()> {
    let to = match output {
        Output::Write => &mut a.rows.delta,
        Output::Add => &mut a.rows.x,
    };
    apply::<B>(
        queue,
        from_ref(out),
        &a.rows.attended,
        (output, to),
        n_tokens,
    )
}

/// Attention of rows that lie `row_width` apart.
fn attention_op<'a, B: Backend>(
    spec: &AttentionSpec,
    row_width: usize,
    mask: Mask,
    bias: Option<RelativeBias<'a, B>>,
    sinks: Option<&'a B::Weight>,
) -> Attention<'a, B> {
    Attention {
        n_heads: spec.n_heads,
        n_kv_heads: spec.n_kv_heads,
        head_dim: spec.head_dim,
        row_width,
        scale: spec.scale,
        soft_cap: spec.soft_cap,
        mask,
        bias,
        sinks,
    }
}
