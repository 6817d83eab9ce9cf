//! Mixers of a block: how positions learn of each other.

mod attention;
mod conv;
mod cross;
mod delta;
mod index;
mod latent;
mod shared_key;
mod state_space;

use llm_arch::{AttentionSpec, HybridOf, LinearOf, MixerOf, Positions, RotarySpec};
use llm_backend::{Attention, Backend, Heads, Mask, NormOp, Ops, Output, RelativeBias, Rotary};

pub(crate) use self::cross::{encode, forward as cross};
use crate::Result;
use crate::activations::Activations;
use crate::projection::{apply_back, scale};
use crate::state::MixerState;
use crate::stream::Tensor;
use crate::sublayer::{Call, Input};

/// Computes a block's mixer.
pub(crate) fn forward<B: Backend>(
    mixer: &MixerOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    io: (Input, Output),
    a: &mut Activations<B>,
    state: &mut MixerState<B>,
) -> Result<()> {
    let MixerState {
        kv,
        index,
        entries,
        conv,
        rule,
    } = state;
    match mixer {
        MixerOf::Attention(weights) => attention::forward(weights, call, io, a, own(kv)),
        MixerOf::Latent(weights) => {
            latent::forward(weights, call, io, a, (own(kv), index.as_mut()))
        }
        MixerOf::SharedKey(weights) => {
            shared_key::forward(weights, call, io, a, (own(kv), entries))
        }
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
            let [first, second] = [attention.spec.input_scale, space.spec.input_scale];
            let (rows, size) = (&mut a.rows.normed, (a.hidden, call.n_tokens));
            scale::<B>(call.queue, first, rows, size)?;
            attention::forward(attention, call, io, a, own(kv))?;
            scale::<B>(call.queue, second / first, &mut a.rows.normed, size)?;
            state_space::forward(space, call, io, a, (&mut conv[0], own(rule)))
        }
    }
}

/// A part of a layer's state that its mixer has.
fn own<T>(state: &mut Option<T>) -> &mut T {
    state.as_mut().expect("a layer's state is its mixer's")
}

/// Projects what mixers left in `a.rows.attended` back by a matrix and a factor, to the residual or beside it.
fn project_back<B: Backend>(
    queue: &mut B::Queue,
    by: (&LinearOf<Tensor<B>>, f32),
    output: Output,
    a: &mut Activations<B>,
    n_tokens: usize,
) -> Result<()> {
    let rows = &mut a.rows;
    let to = (output, &mut rows.x, &mut rows.delta);
    apply_back::<B>(queue, by, &rows.attended, to, (a.hidden, n_tokens))
}

/// Turns heads of `x` as `op` says of the rotary positions of index `idx`, whose angles are among `angles`; where there is none
/// they stay as they are.
fn turn_shared<B: Backend>(
    call: &mut Call<'_, B>,
    idx: Option<usize>,
    op: impl FnOnce(&RotarySpec) -> Rotary,
    (angles, x): (&[B::Buffer], &mut B::Buffer),
) -> Result<()> {
    let Some(idx) = idx else {
        return Ok(());
    };
    let Positions::Rotary(kinds) = &call.stack.positions else {
        unreachable!("keys that heads share are turned")
    };
    let (op, n_tokens) = (op(&kinds[idx]), call.n_tokens);
    Ok(call.queue.rotate(&op, &angles[idx], x, n_tokens)?)
}

/// Normalises the first `width` elements of each row.
fn norm_first<B: Backend>(
    call: &mut Call<'_, B>,
    norm: &NormOp<'_, B>,
    (width, row_width): (usize, usize),
    rows: &mut B::Buffer,
) -> Result<()> {
    let first = Heads {
        first: 0,
        n_heads: 1,
        head_dim: width,
        row_width,
    };
    Ok(call.queue.norm_heads(norm, &first, rows, call.n_tokens)?)
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
        selected: None,
        beside: None,
    }
}
