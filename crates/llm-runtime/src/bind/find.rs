//! Search for the tensor of a slot.

use llm_arch::{Place, Skeleton, Slot, StackPlace, Stacked};
use llm_checkpoint::{Checkpoint, TensorInfo};
use llm_quant::Fp8;

use super::Misfit;
use crate::{Result, scaled};

/// Tensor of a checkpoint for a slot.
#[derive(Debug)]
pub(super) enum Source {
    /// The tensor of this name.
    Whole(String),
    /// Some rows of a stack.
    Part(Box<StackPart>),
}

/// Rows of a stack of matrices that are one matrix.
#[derive(Debug)]
pub(super) struct StackPart {
    tensor: TensorInfo,
    /// Place in the stack, of what was found without its scales.
    place: Option<StackPlace>,
    /// Scales of the matrix, where it has some.
    scales: Option<TensorInfo>,
}

impl Source {
    /// A part of a stack whose other parts are known otherwise.
    pub(super) fn part(tensor: TensorInfo) -> Self {
        Source::Part(Box::new(StackPart {
            tensor,
            place: None,
            scales: None,
        }))
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Source::Whole(name) => name,
            Source::Part(part) => &part.tensor.name,
        }
    }

    /// The tensor, or the part of one.
    pub(super) fn tensor<'a>(&'a self, checkpoint: &'a Checkpoint) -> &'a TensorInfo {
        match self {
            Source::Whole(name) => {
                let tensor = checkpoint.get(name);
                tensor.expect("a bound name is in the checkpoint")
            }
            Source::Part(part) => &part.tensor,
        }
    }

    /// The part of a tensor that the scales of a part of a stack are.
    pub(super) fn scales(&self) -> Option<&TensorInfo> {
        match self {
            Source::Whole(_) => None,
            Source::Part(part) => part.scales.as_ref(),
        }
    }

    /// Scaling of a part of a stack, whose scales are kept; `None` where there are none, and for whole tensors.
    ///
    /// # Errors
    /// [`RuntimeError::QuantizedPart`](crate::RuntimeError::QuantizedPart) when the scales do not fit the stack.
    pub(super) fn scaled(
        &mut self,
        checkpoint: &Checkpoint,
        slot: &Slot,
        block_size: Option<[u64; 2]>,
    ) -> Result<Option<Fp8>> {
        let Source::Part(part) = self else {
            return Ok(None);
        };
        let Some(place) = part.place.take() else {
            return Ok(None);
        };
        let found = scaled::recognise_stacked(checkpoint, &part.tensor, slot, &place, block_size)?;
        Ok(found.map(|(format, scales)| {
            part.scales = Some(scales);
            format
        }))
    }
}

impl StackPart {
    /// The names of the tensors beside the stack that go with it.
    pub(super) fn companions(&self, checkpoint: &Checkpoint) -> Vec<String> {
        match self.scales {
            Some(_) => scaled::companions(checkpoint, &self.tensor.name),
            None => Vec::new(),
        }
    }
}

/// Source of what `slot` needs; without it `misfit` knows why.
pub(super) fn find(
    checkpoint: &Checkpoint,
    skeleton: &Skeleton,
    slot: &Slot,
    misfit: &mut Misfit,
) -> Option<Source> {
    // Nearly all are there.
    if let Some(tensor) = checkpoint.get(&slot.name) {
        return Some(Source::Whole(tensor.name.clone()));
    }
    for place in skeleton.places(slot) {
        let Some(tensor) = checkpoint.get(place.name()) else {
            continue;
        };
        let stack = match place {
            Place::Whole(name) => return Some(Source::Whole(name)),
            Place::Stack(stack) => stack,
        };
        let shape = stack.stored_shape();
        let expected: Vec<_> = shape.iter().map(|&extent| extent as u64).collect();
        let (expert, [_, _, cols]) = (stack.expert as u64, stack.shape);
        let part = match (*tensor.shape == *expected, stack.of) {
            (true, Stacked::Matrices) => {
                tensor.of_stack(expert, stack.rows.start as u64..stack.rows.end as u64)
            }
            (true, Stacked::Transposes) => tensor.of_stack(expert, 0..cols as u64),
            (true, Stacked::Vectors) => tensor.vector_of(expert),
            (false, _) => None,
        };
        match part {
            Some(part) => {
                return Some(Source::Part(Box::new(StackPart {
                    tensor: part,
                    place: (stack.of == Stacked::Matrices).then_some(stack),
                    scales: None,
                })));
            }
            None => {
                misfit.misshapen(&tensor.name, &tensor.shape, &shape);
                return None;
            }
        }
    }
    misfit.missing(slot);
    None
}
