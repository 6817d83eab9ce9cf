//! Residuals of several streams: from one row to them and back, and what blocks do with them.

use std::slice::from_ref;

use llm_arch::{
    AltUpOf, CollapseOf, LaurelOf, LinearOf, ProjectionOf, StreamWeightsOf, StreamsJoin,
};
use llm_backend::{
    Added, Backend, Groups, Heads, Ops, Output, StreamMix, StreamSum, StreamWeights, Streams,
};

use crate::Result;
use crate::activations::Activations;
use crate::projection::{apply, norm_op, scale};
use crate::stream::Tensor;

/// Makes streams of the row in `a.rows.x`, the first: the others of projections of it, with its magnitude.
pub(crate) fn expand<B: Backend>(
    queue: &mut B::Queue,
    others: &ProjectionOf<Tensor<B>>,
    a: &mut Activations<B>,
    n_tokens: usize,
) -> Result<()> {
    let streams = a.streams();
    let rows = &mut a.rows;
    let first = copy(streams, Way::To(0));
    queue.ungroup(&first, &rows.x, &mut rows.streams, n_tokens)?;
    for (i, project) in others.parts().iter().enumerate() {
        let out = (Output::Write, &mut rows.delta);
        apply::<B>(queue, from_ref(project), &rows.x, out, n_tokens)?;
        let to = copy(streams, Way::To(i + 1));
        queue.ungroup(&to, &rows.delta, &mut rows.streams, n_tokens)?;
    }
    Ok(queue.match_streams(&streams, FLOOR, &mut rows.streams, n_tokens)?)
}

/// Makes one row of streams, which these do not survive, in `a.rows.x`.
pub(crate) fn collapse<B: Backend>(
    queue: &mut B::Queue,
    collapse: &CollapseOf<Tensor<B>>,
    a: &mut Activations<B>,
    n_tokens: usize,
) -> Result<()> {
    let streams = a.streams();
    let others = match collapse {
        CollapseOf::Mean(others) => others,
        CollapseOf::Weighed(of) => return read(queue, (of, true), a, n_tokens),
    };
    let rows = &mut a.rows;
    for (i, project) in others.parts().iter().enumerate() {
        let [from, to] = [Way::From, Way::To].map(|way| copy(streams, way(i + 1)));
        queue.ungroup(&from, &rows.streams, &mut rows.normed, n_tokens)?;
        let out = (Output::Write, &mut rows.delta);
        apply::<B>(queue, from_ref(project), &rows.normed, out, n_tokens)?;
        queue.ungroup(&to, &rows.delta, &mut rows.streams, n_tokens)?;
    }
    queue.match_streams(&streams, FLOOR, &mut rows.streams, n_tokens)?;
    let mean = StreamSum {
        streams,
        row_width: 0,
        column: None,
        factor: (streams.n as f32).recip(),
    };
    Ok(queue.sum_streams(&mean, &rows.mixing, &rows.streams, &mut rows.x, n_tokens)?)
}

/// Makes all streams the row in `a.rows.x`.
pub(crate) fn repeat<B: Backend>(
    queue: &mut B::Queue,
    a: &mut Activations<B>,
    n_tokens: usize,
) -> Result<()> {
    let streams = a.streams();
    let rows = &mut a.rows;
    // Of what was there nothing is read: it need not be numbers.
    for i in 0..streams.n {
        let to = copy(streams, Way::To(i));
        queue.ungroup(&to, &rows.x, &mut rows.streams, n_tokens)?;
    }
    Ok(())
}

/// Weighs streams, in `a.rows.mixing`, and makes the sum that a sublayer reads of them, in `a.rows.x`; they may be but read.
pub(crate) fn read<B: Backend>(
    queue: &mut B::Queue,
    (of, only_read): (&StreamWeightsOf<Tensor<B>>, bool),
    a: &mut Activations<B>,
    n_tokens: usize,
) -> Result<()> {
    let StreamsJoin::Hyper(hyper) = of.spec.join else {
        unreachable!("streams that are weighed are those of hyper-connections")
    };
    let (streams, rows) = (a.streams(), &mut a.rows);
    let out = (Output::Write, &mut rows.mixing);
    apply::<B>(queue, from_ref(&of.products), &rows.streams, out, n_tokens)?;
    let op = StreamWeights {
        streams,
        norm_eps: of.norm_eps,
        scale: &*of.scale,
        base: &*of.base,
        eps: hyper.eps,
        n_rounds: hyper.n_rounds,
        only_read,
    };
    queue.weigh_streams(&op, &rows.streams, &mut rows.mixing, n_tokens)?;
    let sum = StreamSum {
        streams,
        row_width: op.n_weights(),
        column: Some(0),
        factor: 1.0,
    };
    Ok(queue.sum_streams(&sum, &rows.mixing, &rows.streams, &mut rows.x, n_tokens)?)
}

/// Makes streams of each other and of what a sublayer made, in `a.rows.x`, by the weights that [`read`] made.
pub(crate) fn write<B: Backend>(
    queue: &mut B::Queue,
    a: &mut Activations<B>,
    n_tokens: usize,
) -> Result<()> {
    let streams = a.streams();
    let n = streams.n;
    let mix = StreamMix {
        streams,
        row_width: n * (2 + n),
        own: 0.0,
        mixed: Some(2 * n),
        added: Some(Added {
            first: 0,
            offset: 0.0,
            column: Some(n),
        }),
    };
    let rows = &mut a.rows;
    let (by, x) = (&rows.mixing, Some(&rows.x));
    Ok(queue.mix_streams(&mix, by, x, &mut rows.streams, n_tokens)?)
}

/// Predicts the streams of each other, and takes the first to `a.rows.x`.
pub(crate) fn predict<B: Backend>(
    queue: &mut B::Queue,
    of: &AltUpOf<Tensor<B>>,
    a: &mut Activations<B>,
    n_tokens: usize,
) -> Result<()> {
    let streams = a.streams();
    first(queue, a, n_tokens)?;
    coefficients(queue, of, &of.predict, a, n_tokens)?;
    let mix = StreamMix {
        streams,
        row_width: streams.n * streams.n,
        own: 1.0,
        mixed: Some(0),
        added: None,
    };
    let rows = &mut a.rows;
    queue.mix_streams(&mix, &rows.mixing, None, &mut rows.streams, n_tokens)?;
    first(queue, a, n_tokens)
}

/// Adds the learned residual to `a.rows.x`: what is in `a.rows.normed`, and a normed projection of it.
pub(crate) fn laurel<B: Backend>(
    queue: &mut B::Queue,
    of: &LaurelOf<Tensor<B>>,
    a: &mut Activations<B>,
    n_tokens: usize,
) -> Result<()> {
    let (hidden, rows) = (a.hidden, &mut a.rows);
    let few = (Output::Write, &mut rows.attended);
    apply::<B>(queue, from_ref(&of.down), &rows.normed, few, n_tokens)?;
    let out = (Output::Write, &mut rows.delta);
    apply::<B>(queue, from_ref(&of.up), &rows.attended, out, n_tokens)?;
    let whole = Heads {
        first: 0,
        n_heads: 1,
        head_dim: hidden,
        row_width: hidden,
    };
    // In place, as the mixer has yet to read what is normalised.
    queue.norm_heads(&norm_op(&of.norm), &whole, &mut rows.delta, n_tokens)?;
    queue.add(&rows.delta, &mut rows.x, hidden, n_tokens)?;
    Ok(queue.add(&rows.normed, &mut rows.x, hidden, n_tokens)?)
}

/// Corrects the streams by what a block made of the first, in `a.rows.x`. What a layer's inputs are gated by is there then.
pub(crate) fn correct<B: Backend>(
    queue: &mut B::Queue,
    of: &AltUpOf<Tensor<B>>,
    a: &mut Activations<B>,
    n_tokens: usize,
) -> Result<()> {
    let (hidden, streams) = (a.hidden, a.streams());
    coefficients(queue, of, &of.correct, a, n_tokens)?;
    let rows = &mut a.rows;
    let from_first = copy(streams, Way::From(0));
    queue.ungroup(&from_first, &rows.streams, &mut rows.delta, n_tokens)?;
    scale::<B>(queue, -1.0, &mut rows.delta, (hidden, n_tokens))?;
    queue.add(&rows.delta, &mut rows.x, hidden, n_tokens)?;
    let mix = StreamMix {
        streams,
        row_width: streams.n,
        own: 1.0,
        mixed: None,
        added: Some(Added {
            first: 0,
            offset: 1.0,
            column: Some(0),
        }),
    };
    let (by, x) = (&rows.mixing, Some(&rows.x));
    queue.mix_streams(&mix, by, x, &mut rows.streams, n_tokens)?;
    first(queue, a, n_tokens)?;
    match &of.scale {
        Some(by) => Ok(queue.scale_by(by, &mut a.rows.x, hidden, n_tokens)?),
        None => Ok(()),
    }
}

/// Adds `a.rows.normed` to all streams but the first.
pub(crate) fn add_to_others<B: Backend>(
    queue: &mut B::Queue,
    a: &mut Activations<B>,
    n_tokens: usize,
) -> Result<()> {
    let mix = StreamMix {
        streams: a.streams(),
        row_width: 0,
        own: 1.0,
        mixed: None,
        added: Some(Added {
            first: 1,
            offset: 1.0,
            column: None,
        }),
    };
    let rows = &mut a.rows;
    let (by, y) = (&rows.mixing, Some(&rows.normed));
    Ok(queue.mix_streams(&mix, by, y, &mut rows.streams, n_tokens)?)
}

/// Coefficients of streams, in `a.rows.mixing`: `linear` of what the router makes of `a.rows.x`.
fn coefficients<B: Backend>(
    queue: &mut B::Queue,
    of: &AltUpOf<Tensor<B>>,
    linear: &LinearOf<Tensor<B>>,
    a: &mut Activations<B>,
    n_tokens: usize,
) -> Result<()> {
    let (by_width, rows) = ((a.hidden as f32).recip(), &mut a.rows);
    queue.norm(&norm_op(&of.norm), &rows.x, &mut rows.normed, n_tokens)?;
    // Before the product, not its few results: LLM.int8 rounds what it reads, and tells outliers by their size.
    scale::<B>(queue, by_width, &mut rows.normed, (a.hidden, n_tokens))?;
    let routed = (Output::Write, &mut rows.attended);
    apply::<B>(queue, from_ref(&of.router), &rows.normed, routed, n_tokens)?;
    queue.tanh(&mut rows.attended, of.spec.n, n_tokens)?;
    let out = (Output::Write, &mut rows.mixing);
    apply::<B>(queue, from_ref(linear), &rows.attended, out, n_tokens)
}

/// Takes the first stream to `a.rows.x`.
fn first<B: Backend>(queue: &mut B::Queue, a: &mut Activations<B>, n_tokens: usize) -> Result<()> {
    let from_first = copy(a.streams(), Way::From(0));
    let rows = &mut a.rows;
    Ok(queue.ungroup(&from_first, &rows.streams, &mut rows.x, n_tokens)?)
}

/// Between a stream and rows of their own.
enum Way {
    From(usize),
    To(usize),
}

fn copy(streams: Streams, way: Way) -> Groups {
    let (width, all) = (streams.width, streams.row_width());
    let (first, to, row_width, out_width) = match way {
        Way::From(i) => (i * width, 0, all, width),
        Way::To(i) => (0, i * width, width, all),
    };
    Groups {
        n_groups: 1,
        parts: Groups::parts(&[width], 1, to),
        first,
        row_width,
        out_width,
    }
}

/// Smallest mean square of a stream that is brought to a magnitude.
const FLOOR: f32 = 1e-5;
