//! Cross-attention: to what an encoder made of the prompt.

use std::slice::from_ref;

use llm_arch::CrossOf;
use llm_backend::{Backend, KvColumns, Output, Rows, Seen};

use super::attention_op;
use crate::Result;
use crate::activations::Activations;
use crate::block::{Call, Input};
use crate::projection::apply;
use crate::state::{EncodedState, LayerState};

/// Each row sees all of its sequence's prompt.
pub(crate) fn forward<B: Backend>(
    weights: &CrossOf<B::Weight>,
    call: &Call<'_, B>,
    (input, output): (Input, Output),
    a: &mut Activations<B>,
    states: &mut [LayerState<B>],
) -> Result<()> {
    let Call {
        backend, n_tokens, ..
    } = *call;
    let x = match input {
        Input::Stream => &a.x,
        Input::Normed => &a.normed,
    };
    let (q, out) = (from_ref(&weights.q), (Output::Write, &mut a.qkv));
    apply(backend, q, x, out, n_tokens, &mut a.workspace)?;
    for &(sequence, rows) in call.sequences {
        let encoded = states[sequence].encoded();
        let encoded = encoded.expect("a block with cross-attention has a state for it");
        let seen = Seen::All {
            n_positions: encoded.n_positions,
        };
        // Distances to the encoder's positions mean nothing.
        let op = attention_op(&weights.spec, weights.spec.q_width(), seen, None);
        let (attended, workspace) = (&mut a.attended, &mut a.workspace);
        backend.attention(&op, &a.qkv, rows, &encoded.cache, attended, workspace)?;
    }
    let out = match output {
        Output::Write => &mut a.delta,
        Output::Add => &mut a.x,
    };
    apply(
        backend,
        from_ref(&weights.out),
        &a.attended,
        (output, out),
        n_tokens,
        &mut a.workspace,
    )
}

/// Takes an encoder's result, `[n_positions, hidden]` in `a.memory` and the `encoding`-th, to a sequence's state.
pub(crate) fn encode<B: Backend>(
    weights: &CrossOf<B::Weight>,
    backend: &B,
    (n_positions, encoding): (usize, u64),
    a: &mut Activations<B>,
    state: &mut EncodedState<B>,
) -> Result<()> {
    let parts = weights.kv.parts();
    let out = (Output::Write, &mut a.qkv);
    apply(
        backend,
        parts,
        &a.memory,
        out,
        n_positions,
        &mut a.workspace,
    )?;
    let columns = KvColumns {
        first: 0,
        row_width: 2 * weights.spec.kv_width(),
    };
    let rows = Rows {
        first: 0,
        n_tokens: n_positions,
        start: 0,
    };
    backend.append(&a.qkv, &columns, rows, &mut state.cache)?;
    (state.n_positions, state.encoding) = (n_positions, encoding);
    Ok(())
}
