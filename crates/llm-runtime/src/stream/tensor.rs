//! A tensor as a block computes with it: a weight, or a matrix of which some rows are there at a time.

use std::ops::Deref;
use std::sync::Arc;

use llm_arch::{Role, Unit};
use llm_backend::{Backend, LinearPart, Ops, OutColumns, Output};

use super::shared::Shared;
use super::{Cut, Key};
use crate::Result;

/// A weight that is there, or a matrix that is brought in slices.
pub(crate) enum Tensor<B: Backend> {
    /// The weight, and its rows.
    Here(B::Weight, usize),
    /// Brought while it is computed with.
    InSlices(Slices<B>),
}

/// Slices of a matrix, and who brings them.
pub(crate) struct Slices<B: Backend> {
    pub(super) shared: Arc<Shared<B>>,
    pub(super) unit: Unit,
    pub(super) role: Role,
    pub(super) cut: Cut,
}

impl<B: Backend> Tensor<B> {
    /// True if it is there.
    pub(crate) fn is_here(&self) -> bool {
        matches!(self, Tensor::Here(..))
    }

    /// Rows of all of it.
    pub(crate) fn n_rows(&self) -> usize {
        match self {
            Tensor::Here(_, n_rows) => *n_rows,
            Tensor::InSlices(slices) => slices.cut.n_rows,
        }
    }
}

/// The weight, of what only products with rows of activations may cut: [`Role::is_multiplied`].
impl<B: Backend> Deref for Tensor<B> {
    type Target = B::Weight;

    fn deref(&self) -> &B::Weight {
        match self {
            Tensor::Here(weight, _) => weight,
            Tensor::InSlices(Slices { unit, role, .. }) => {
                panic!("{role:?} of the {unit} is not there at once")
            }
        }
    }
}

/// `x` `[n_tokens, in]` times a matrix, and its bias, to `columns` of rows of `out`.
pub(crate) fn product<B: Backend>(
    queue: &mut B::Queue,
    (matrix, bias): (&Tensor<B>, Option<&Tensor<B>>),
    x: &B::Buffer,
    (output, columns): (Output, OutColumns),
    out: &mut B::Buffer,
    n_tokens: usize,
) -> Result<()> {
    let Slices {
        shared,
        unit,
        role,
        cut,
    } = match matrix {
        Tensor::Here(weight, _) => {
            let part = LinearPart {
                weight,
                bias: bias.map(Deref::deref),
            };
            return Ok(queue.linear_to(Some(columns), &[part], x, output, out, n_tokens)?);
        }
        Tensor::InSlices(slices) => slices,
    };
    for (i, rows) in cut.slices().enumerate() {
        let slice = shared.bring(queue, Key::Slice(*unit, *role, i as u32))?;
        let (weight, _) = slice.weight(*unit, *role)?;
        let columns = OutColumns {
            first: columns.first + rows.start,
            ..columns
        };
        let bias = bias.map(|bias| shared.backend.elements(bias, rows));
        let part = LinearPart {
            weight: &weight,
            bias: bias.as_ref(),
        };
        queue.linear_to(Some(columns), &[part], x, output, out, n_tokens)?;
        drop(weight);
        slice.end(queue)?;
    }
    Ok(())
}
