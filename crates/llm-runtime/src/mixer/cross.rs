//! Cross-attention: to what an encoder made of the prompt.

use std::slice::from_ref;

use llm_arch::CrossOf;
use llm_backend::{Backend, KvColumns, Mask, Ops, Output};

use super::{attention_op, project_back};
use crate::Result;
use crate::activations::Activations;
use crate::projection::apply;
use crate::state::{Encoded, KvState};
use crate::stream::Tensor;
use crate::sublayer::{Call, Input};

/// Each row sees all of its sequence's prompt.
pub(crate) fn forward<B: Backend>(
    weights: &CrossOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    (input, output): (Input, Output),
    a: &mut Activations<B>,
    kv: &KvState<B>,
) -> Result<()> {
    let (queue, n_tokens) = (&mut *call.queue, call.n_tokens);
    let x = match input {
        Input::Residual => &a.rows.x,
        Input::Normed => &a.rows.normed,
    };
    let (q, out) = (from_ref(&weights.q), (Output::Write, &mut a.rows.qkv));
    apply::<B>(queue, q, x, out, n_tokens)?;
    let encoded = call.sequences.encoded.as_ref();
    let encoded = encoded.expect("what an encoder made, for a block that attends to it");
    let batch = encoded.blocks.batch(kv.group);
    // Distances to the encoder's positions mean nothing.
    let op = attention_op(
        &weights.spec,
        weights.spec.q_width(),
        Mask::Full,
        None,
        None,
    );
    queue.attention(&op, &a.rows.qkv, &batch, &kv.pool, &mut a.rows.attended)?;
    project_back(queue, (&weights.out, 1.0), output, a, n_tokens)
}

/// Takes an encoder's result in `a.rows.encoded` `[n_positions, hidden]` to the sequence that was begun.
pub(crate) fn encode<B: Backend>(
    weights: &CrossOf<Tensor<B>>,
    queue: &mut B::Queue,
    (encoded, n_positions): (&Encoded<B>, usize),
    a: &mut Activations<B>,
    kv: &mut KvState<B>,
) -> Result<()> {
    let out = (Output::Write, &mut a.rows.qkv);
    apply::<B>(queue, weights.kv.parts(), &a.rows.encoded, out, n_positions)?;
    let columns = KvColumns {
        first: 0,
        row_width: 2 * weights.spec.kv_width(),
    };
    let batch = encoded.blocks.batch(kv.group);
    Ok(queue.append(&a.rows.qkv, &columns, &batch, &mut kv.pool)?)
}
