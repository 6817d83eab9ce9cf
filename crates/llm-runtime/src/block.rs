//! One block, generic over the backend.

use std::f32::consts::FRAC_1_SQRT_2;
use std::mem::swap;
use std::slice::from_ref;

use llm_arch::{
    After, Before, BlockOf, MlpOf, NormOf, PerLayerOf, PerLayerPart, StreamsOf, SublayerOf,
};
use llm_backend::{Backend, GateFunction, HeadGates, Ops, Output};

use crate::activations::Activations;
use crate::projection::{apply, norm_op, scale};
use crate::state::LayerState;
use crate::stream::Tensor;
use crate::sublayer::{Call, Input};
use crate::{Result, mixer, mlp, streams};

/// Runs a block over the rows of `a.rows.x`, or of streams, as [`llm_arch::Residual`] draws it, but for experts, which follow: then
/// it ends with the choice of them, and [`end`] is what is left of it.
pub(crate) fn forward<B: Backend>(
    block: &BlockOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    a: &mut Activations<B>,
    state: &mut LayerState<B>,
) -> Result<()> {
    let BlockOf {
        mixer,
        cross,
        mlp,
        per_layer: _,
        streams: joined,
        scale: _,
    } = block;
    if let Some(StreamsOf::AltUp(of)) = joined {
        streams::predict(call.queue, of, a, call.n_tokens)?;
    }
    let starts = mlp.as_ref().map(|mlp| &mlp.before);
    if let Some(Before::NormOfStart(norm)) = starts {
        // Until the mixer has read its own.
        let (op, n_tokens) = (norm_op(norm), call.n_tokens);
        call.queue
            .norm(&op, &a.rows.x, &mut a.rows.delta, n_tokens)?;
    }

    let mut input = Input::Residual;
    if let Some(mixer) = mixer {
        if let Some(StreamsOf::Hyper(of)) = joined {
            streams::read(call.queue, (&of.mixer, false), a, call.n_tokens)?;
        }
        input = enter(&mixer.before, input, call, a)?;
        alone(joined, call, a)?;
        if let Some(StreamsOf::AltUp(of)) = joined {
            streams::laurel(call.queue, &of.laurel, a, call.n_tokens)?;
        }
        let io = (input, output(&mixer.after));
        mixer::forward(&mixer.compute, call, io, a, &mut state.mixer)?;
        leave(&mixer.after, call, a)?;
        if let Some(StreamsOf::AltUp(_)) = joined {
            let (x, size) = (&mut a.rows.x, (a.hidden, call.n_tokens));
            scale::<B>(call.queue, FRAC_1_SQRT_2, x, size)?;
        }
        if let Some(StreamsOf::Hyper(_)) = joined {
            streams::write(call.queue, a, call.n_tokens)?;
        }
    }

    if let (Some(cross), Some(kv)) = (cross, &state.cross) {
        let io = (enter(&cross.before, input, call, a)?, output(&cross.after));
        mixer::cross(&cross.compute, call, io, a, kv)?;
        leave(&cross.after, call, a)?;
    }

    if let Some(mlp) = mlp {
        if let Some(StreamsOf::Hyper(of)) = joined {
            streams::read(call.queue, (&of.mlp, false), a, call.n_tokens)?;
        }
        let io = (enter(&mlp.before, input, call, a)?, output(&mlp.after));
        alone(joined, call, a)?;
        mlp::forward(&mlp.compute, call, io, a)?;
        if let MlpOf::Experts(_) = mlp.compute {
            return Ok(());
        }
        leave(&mlp.after, call, a)?;
    }
    end(block, call, a)
}

/// Leaves nothing of what a sublayer read where it adds what it makes, if streams take that alone.
fn alone<B: Backend>(
    joined: &Option<StreamsOf<Tensor<B>>>,
    call: &mut Call<'_, B>,
    a: &mut Activations<B>,
) -> Result<()> {
    match joined {
        Some(StreamsOf::Hyper(_)) => {
            let (x, size) = (&mut a.rows.x, (a.hidden, call.n_tokens));
            scale::<B>(call.queue, 0.0, x, size)
        }
        Some(StreamsOf::AltUp(_)) | None => Ok(()),
    }
}

/// True if something of a block follows its experts, with weights of its own.
pub(crate) fn follows_experts<T>(block: &BlockOf<T>) -> bool {
    let have_own_rows = |mlp: &SublayerOf<MlpOf<T>, T>| match &mlp.compute {
        MlpOf::Experts(experts) => experts.spec.have_own_rows(),
        MlpOf::Dense(_) => false,
    };
    block.per_layer.is_some()
        || block.streams.is_some()
        || block.scale.is_some()
        || block.mlp.as_ref().is_some_and(have_own_rows)
}

/// Ends a block, once its experts have computed: makes what they added up in rows of their own part of the residual, takes in
/// what the layer takes beside it, and multiplies it, where a layer does.
pub(crate) fn end<B: Backend>(
    block: &BlockOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    a: &mut Activations<B>,
) -> Result<()> {
    if let Some(mlp) = &block.mlp
        && let MlpOf::Experts(experts) = &mlp.compute
    {
        mlp::join(experts, call, a)?;
        leave(&mlp.after, call, a)?;
    }
    match &block.streams {
        None => {}
        Some(StreamsOf::AltUp(of)) => streams::correct(call.queue, of, a, call.n_tokens)?,
        Some(StreamsOf::Hyper(_)) => streams::write(call.queue, a, call.n_tokens)?,
    }
    if let Some(part) = &block.per_layer {
        per_layer(part, call, a)?;
        match &block.streams {
            None | Some(StreamsOf::Hyper(_)) => add_normed(&part.norm, call, a)?,
            Some(StreamsOf::AltUp(_)) => {
                norm_delta(&part.norm, call, a)?;
                streams::add_to_others(call.queue, a, call.n_tokens)?;
            }
        }
    }
    if let Some(scale) = &block.scale {
        let x = &mut a.rows.x;
        call.queue.scale_by(scale, x, a.hidden, call.n_tokens)?;
    }
    Ok(())
}

/// A layer's part of `a.rows.inputs`, gated by `a.rows.x` and projected, in `a.rows.delta`.
fn per_layer<B: Backend>(
    of: &PerLayerOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    a: &mut Activations<B>,
) -> Result<()> {
    let (queue, n_tokens) = (&mut *call.queue, call.n_tokens);
    let PerLayerPart {
        width,
        first,
        row_width,
        activation,
    } = of.spec;
    let rows = &mut a.rows;
    let gates = (Output::Write, &mut rows.attended);
    apply::<B>(queue, from_ref(&of.gate), &rows.x, gates, n_tokens)?;
    queue.activate(activation, &mut rows.attended, width, n_tokens)?;
    let op = HeadGates {
        norm: None,
        function: GateFunction::Identity,
        n_heads: 1,
        head_dim: width,
        first,
        row_width,
    };
    queue.gate_heads(&op, &rows.inputs, &mut rows.attended, n_tokens)?;
    let out = (Output::Write, &mut rows.delta);
    apply::<B>(queue, from_ref(&of.out), &rows.attended, out, n_tokens)
}

/// Normalises what a sublayer reads; `last` is what the one before it read.
fn enter<B: Backend>(
    before: &Before<Tensor<B>>,
    last: Input,
    call: &mut Call<'_, B>,
    a: &mut Activations<B>,
) -> Result<Input> {
    match before {
        Before::Residual => Ok(Input::Residual),
        Before::Same => Ok(last),
        Before::NormOfStart(_) => {
            swap(&mut a.rows.normed, &mut a.rows.delta);
            Ok(Input::Normed)
        }
        Before::Norm(norm) => {
            norm_residual(norm, call, a)?;
            Ok(Input::Normed)
        }
        Before::NormResidual(norm) => {
            norm_residual(norm, call, a)?;
            swap(&mut a.rows.x, &mut a.rows.normed);
            Ok(Input::Residual)
        }
    }
}

/// Destination of a result: written to `a.rows.delta` or added to `a.rows.x`.
fn output<N>(after: &After<N>) -> Output {
    match after {
        After::NormThenAdd(_) => Output::Write,
        After::Add | After::AddThenNorm(_) => Output::Add,
    }
}

/// Normalises what a sublayer made.
fn leave<B: Backend>(
    after: &After<Tensor<B>>,
    call: &mut Call<'_, B>,
    a: &mut Activations<B>,
) -> Result<()> {
    match after {
        After::Add => {}
        After::NormThenAdd(norm) => add_normed(norm, call, a)?,
        After::AddThenNorm(norm) => {
            norm_residual(norm, call, a)?;
            swap(&mut a.rows.x, &mut a.rows.normed);
        }
    }
    Ok(())
}

/// Adds a normalised copy of `a.rows.delta` to the residual.
fn add_normed<B: Backend>(
    norm: &NormOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    a: &mut Activations<B>,
) -> Result<()> {
    norm_delta(norm, call, a)?;
    let rows = &mut a.rows;
    Ok(call
        .queue
        .add(&rows.normed, &mut rows.x, a.hidden, call.n_tokens)?)
}

/// A normalised copy of `a.rows.delta` into `a.rows.normed`.
fn norm_delta<B: Backend>(
    norm: &NormOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    a: &mut Activations<B>,
) -> Result<()> {
    let (op, rows) = (norm_op(norm), &mut a.rows);
    Ok(call
        .queue
        .norm(&op, &rows.delta, &mut rows.normed, call.n_tokens)?)
}

/// A normalised copy of the residual into `a.rows.normed`.
fn norm_residual<B: Backend>(
    norm: &NormOf<Tensor<B>>,
    call: &mut Call<'_, B>,
    a: &mut Activations<B>,
) -> Result<()> {
    let (op, n_tokens) = (norm_op(norm), call.n_tokens);
    Ok(call
        .queue
        .norm(&op, &a.rows.x, &mut a.rows.normed, n_tokens)?)
}
