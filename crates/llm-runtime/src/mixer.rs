//! Mixers of a block: how positions learn of each other.

mod attention;
mod conv;
mod cross;
mod delta;
mod latent;
mod state_space;

use std::slice::from_ref;

use llm_arch::{AttentionSpec, HybridOf, LinearOf, MixerOf};
use llm_backend::{Attention, Backend, Mask, Ops, Output, RelativeBias, Run};

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
    let MixerState { kv, conv, rule } = state;
    match mixer {
        MixerOf::Attention(weights) => attention::forward(weights, call, io, a, own(kv)),
        MixerOf::Latent(weights) => latent::forward(weights, call, io, a, own(kv)),
        MixerOf::Conv(weights) => conv::forward(weights, call, io, a, &mut conv[0]),
        MixerOf::Delta(weights) => delta::forward(weights, call, io, a, (conv, own(rule))),
        MixerOf::StateSpace(weights) => {
            state_space::forward(weights, call, io, a, (&mut conv[0], own(rule)))
        }
        MixerOf::Hybrid(HybridOf { attention, space }) => {
            assert!(
                io == (Input::Normed, Output::Add),
                "mixers side by side read a normed copy of the residual and add to it"
            );
            attention::forward(attention, call, io, a, own(kv))?;
            state_space::forward(space, call, io, a, (&mut conv[0], own(rule)))
        }
    }
}

/// A part of a layer's state that its mixer has.
fn own<T>(state: &mut Option<T>) -> &mut T {
    state.as_mut().expect("a layer's state is its mixer's")
}

/// Multiplies what mixers left in `a.rows.attended`, `n_columns` of a row.
fn scale_results<B: Backend>(
    queue: &mut B::Queue,
    (n_columns, factor): (usize, f32),
    a: &mut Activations<B>,
    n_tokens: usize,
) -> Result<()> {
    if factor == 1.0 {
        return Ok(());
    }
    let runs = [Run { n_columns, factor }];
    Ok(queue.scale(&runs, &mut a.rows.attended, n_tokens)?)
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
