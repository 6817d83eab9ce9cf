//! Rows that layers take in beside the residual.

use std::slice::from_ref;

use llm_arch::{LatentInputOf, ModelSpec, PerLayerSpec};
use llm_backend::{Backend, Heads, Ops, Output};

use super::table::Table;
use crate::Result;
use crate::activations::Activations;
use crate::projection::{apply, norm_op, scale};
use crate::stream::Tensor;

/// The part of them that is made of the residual in `a.rows.x`, to which [`add_rows`] adds the rest.
pub(super) fn project<B: Backend>(
    queue: &mut B::Queue,
    weights: &LatentInputOf<Tensor<B>>,
    spec: &ModelSpec,
    a: &mut Activations<B>,
    n_tokens: usize,
) -> Result<()> {
    let (per_layer, row_width) = extents(spec);
    let heads = Heads {
        first: 0,
        n_heads: spec.decoder.n_layers(),
        head_dim: per_layer.width,
        row_width,
    };
    let (rows, size) = (&mut a.rows, (row_width, n_tokens));
    let out = (Output::Write, &mut rows.inputs);
    apply::<B>(queue, from_ref(&weights.project), &rows.x, out, n_tokens)?;
    let root = (spec.hidden as f32).sqrt().recip();
    scale::<B>(queue, root, &mut rows.inputs, size)?;
    let norm = norm_op(&weights.norm);
    queue.norm_heads(&norm, &heads, &mut rows.inputs, n_tokens)?;
    // Rows are added as the table has them, and then all is multiplied.
    scale::<B>(
        queue,
        table_scale(&per_layer).recip(),
        &mut rows.inputs,
        size,
    )
}

/// Adds the rows of some tokens in a table.
pub(super) fn add_rows<B: Backend>(
    table: &mut Table<B>,
    (queue, backend): (&mut B::Queue, &B),
    spec: &ModelSpec,
    ids: &[u32],
    a: &mut Activations<B>,
) -> Result<()> {
    let (per_layer, row_width) = extents(spec);
    let to = (&mut a.ids, &mut a.rows.inputs);
    let is_known = |&id: &u32| (id as usize) < per_layer.vocab;
    match ids.iter().all(is_known) {
        true => table.add(queue, backend, ids, to)?,
        false => {
            let known = ids.iter().map(|id| if is_known(id) { *id } else { 0 });
            table.add(queue, backend, &known.collect::<Vec<_>>(), to)?;
        }
    }
    let factor = table_scale(&per_layer) * std::f32::consts::FRAC_1_SQRT_2;
    scale::<B>(queue, factor, &mut a.rows.inputs, (row_width, ids.len()))
}

/// Spec of the rows, and elements of one.
fn extents(spec: &ModelSpec) -> (PerLayerSpec, usize) {
    let per_layer = (spec.embedding.per_layer).expect("a model whose layers take rows in");
    (per_layer, spec.decoder.n_layers() * per_layer.width)
}

/// Multiplies the table's rows.
fn table_scale(spec: &PerLayerSpec) -> f32 {
    (spec.width as f32).sqrt()
}
