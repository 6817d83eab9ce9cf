//! The tensors of a module, and what is wrong with them.

use llm_arch::Slot;
use llm_checkpoint::{Checkpoint, Encoding, Layout, TensorInfo};
use llm_tensor::{DType, Shape};

use crate::{Result, RuntimeError};

/// A module of a checkpoint that holds the matrix of a slot, `[rows, cols]`.
#[derive(Clone, Copy)]
pub(super) struct Module<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) slot: &'a Slot,
    /// Its name with what stands between it and its tensors' own: `model.layers.0.mlp.up_proj.`.
    pub(super) prefix: &'a str,
    pub(super) rows: u64,
    pub(super) cols: u64,
}

impl<'a> Module<'a> {
    pub(super) fn name(&self, tensor: &str) -> String {
        format!("{}{tensor}", self.prefix)
    }

    pub(super) fn get(&self, tensor: &str) -> Option<&'a TensorInfo> {
        self.checkpoint.get(&self.name(tensor))
    }

    /// A tensor that has to be there.
    pub(super) fn need(&self, tensor: &str) -> Result<&'a TensorInfo> {
        self.get(tensor)
            .ok_or_else(|| self.misfit(&self.name(tensor), "a tensor of that name", "none"))
    }

    /// The element type of a tensor whose elements lie one after the other, of one of `dtypes` and in one of `shapes`.
    pub(super) fn check(
        &self,
        tensor: &TensorInfo,
        dtypes: &[DType],
        shapes: &[&[u64]],
    ) -> Result<DType> {
        let found = match tensor.encoding {
            Encoding::Plain(dtype) if dtypes.contains(&dtype) => dtype,
            other => {
                let names: Vec<_> = dtypes.iter().map(|dtype| dtype.name()).collect();
                let expected = format!("elements of {}", names.join(", "));
                return Err(self.misfit(&tensor.name, expected, other));
            }
        };
        if !shapes.iter().any(|shape| *tensor.shape == **shape) {
            let shapes: Vec<_> = shapes.iter().map(|shape| format!("{shape:?}")).collect();
            let expected = format!("shape {}", shapes.join(" or "));
            return Err(self.misfit(&tensor.name, expected, &tensor.shape));
        }
        if tensor.layout != Layout::RowMajor {
            let expected = "elements one after the other";
            return Err(self.misfit(&tensor.name, expected, "gaps between them"));
        }
        Ok(found)
    }

    pub(super) fn misfit(
        &self,
        tensor: &str,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> RuntimeError {
        RuntimeError::QuantizedPart {
            path: self.checkpoint.path().to_owned(),
            tensor: tensor.to_owned(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}

/// A tensor seen in another shape of as many elements.
pub(crate) fn reshaped(tensor: &TensorInfo, shape: &[u64]) -> Option<TensorInfo> {
    let shape = Shape::new(shape).ok()?;
    let is_same = shape.n_elements() == tensor.shape.n_elements();
    let mut seen = tensor.clone();
    seen.shape = shape;
    (is_same && tensor.layout == Layout::RowMajor).then_some(seen)
}
