//! A tensor of a checkpoint, bound to a slot.

use llm_arch::Slot;
use llm_checkpoint::{Layout, TensorInfo};
use llm_plan::{Order, StoredTensor, is_final};
use llm_quant::{Part, Scheme};

use crate::packed::packing::Packing;

/// A slot with the checkpoint's tensor for it.
#[derive(Debug, Clone, Copy)]
pub struct BoundTensor<'a> {
    /// Slot of the model.
    pub slot: &'a Slot,
    /// Tensor of the checkpoint: of a quantized matrix its codes, of a stack of matrices the slot's part.
    pub tensor: &'a TensorInfo,
    /// The encoding in which the checkpoint has it.
    pub scheme: Scheme,
    /// Sources of its parts, of codes in groups.
    pub(crate) packing: Option<&'a Packing>,
    /// Scales of one matrix of a stack: its part of a tensor.
    pub(crate) scales: Option<&'a TensorInfo>,
}

impl<'a> BoundTensor<'a> {
    /// The tensor, or the part of one, that a part of the matrix is where its name alone does not tell.
    pub(crate) fn part_of_stack(&self, part: Part) -> Option<&'a TensorInfo> {
        match part {
            Part::Weight => Some(self.tensor),
            Part::Scales => self.scales,
            Part::Absmax
            | Part::Scb
            | Part::QuantMap
            | Part::NestedAbsmax
            | Part::NestedQuantMap
            | Part::NestedOffset
            | Part::Zeros
            | Part::GlobalScale
            | Part::Order
            | Part::State(_)
            | Part::WeightFormat => None,
        }
    }

    /// True if the checkpoint holds it as it is kept in `scheme`, one element after the other: then it can be read in
    /// place, over and over.
    pub(crate) fn is_final(&self, scheme: Scheme) -> bool {
        is_final(self.slot, self.stored(), scheme)
    }

    /// The names of all tensors of a matrix of codes in groups; none of what is kept otherwise.
    pub fn companions(&self) -> &[String] {
        self.packing.map_or(&[], |packing| &packing.names)
    }

    /// The form in which the checkpoint holds it.
    pub fn stored(&self) -> StoredTensor {
        StoredTensor {
            scheme: self.scheme,
            order: match (&self.tensor.layout, self.packing) {
                (Layout::RowMajor, None) => Order::Rows,
                (Layout::RowMajor, Some(packing)) if packing.is_final() => Order::Rows,
                (Layout::RowMajor | Layout::Strided(_), _) => Order::Strided,
            },
        }
    }
}
