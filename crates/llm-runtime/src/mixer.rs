//! Mixers of a block: how positions learn of each other.

mod attention;
mod cross;

use llm_arch::{AttentionSpec, MixerOf};
use llm_backend::{Attention, Backend, Output, RelativeBias, Seen};

pub(crate) use self::cross::{encode, forward as cross};
use crate::Result;
use crate::activations::Activations;
use crate::block::{Call, Input};
use crate::state::LayerState;

/// Computes a block's mixer.
pub(crate) fn forward<B: Backend>(
    mixer: &MixerOf<B::Weight>,
    call: &Call<'_, B>,
    (input, output): (Input, Output),
    a: &mut Activations<B>,
    states: &mut [LayerState<B>],
) -> Result<()> {
    match mixer {
        MixerOf::Attention(weights) => {
            attention::forward(weights, call, (input, output), a, states)
        }
    }
}

/// Attention of rows that lie `row_width` apart.
fn attention_op<'a, B: Backend>(
    spec: &AttentionSpec,
    row_width: usize,
    seen: Seen,
    bias: Option<RelativeBias<'a, B>>,
) -> Attention<'a, B> {
    Attention {
        n_heads: spec.n_heads,
        n_kv_heads: spec.n_kv_heads,
        head_dim: spec.head_dim,
        row_width,
        scale: spec.scale,
        soft_cap: spec.soft_cap,
        seen,
        bias,
    }
}
