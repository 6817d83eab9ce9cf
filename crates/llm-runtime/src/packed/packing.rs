//! Sources of the parts of a matrix of codes in groups.

use llm_checkpoint::{Layout, TensorInfo};
use llm_quant::{Part, Parts};

use super::ints::PackedInts;

/// Sources of the parts of a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packing {
    pub(super) parts: Parts<PartSource>,
    /// The group of each column, which has to be that of its place: libraries that are told so differ where it is not.
    pub(super) in_order: Option<TensorInfo>,
    /// The names of all tensors that belong to it, those included that are of no use.
    pub(crate) names: Vec<String>,
}

/// Source of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PartSource {
    /// A tensor, or rows of one, whose bytes are those of the part.
    AsIs(TensorInfo),
    /// Integers in words.
    Packed(PackedInts),
    /// Signed zeros of 4-bit codes that count from 8.
    Signed(TensorInfo),
    /// Scales `[groups, rows]`.
    Transposed(TensorInfo),
    /// The group of each column.
    Groups(TensorInfo),
}

impl Packing {
    /// True if all parts lie in the file as they are computed with.
    pub(crate) fn is_final(&self) -> bool {
        let mut sources = self.parts.iter().map(|(_, source)| source);
        sources.all(|source| match source {
            PartSource::AsIs(tensor) => tensor.layout == Layout::RowMajor,
            PartSource::Packed(_)
            | PartSource::Signed(_)
            | PartSource::Transposed(_)
            | PartSource::Groups(_) => false,
        })
    }

    /// The tensor, or the rows of one, whose bytes are a part's.
    pub(crate) fn tensor(&self, part: Part) -> Option<&TensorInfo> {
        match self.parts.get(part)? {
            PartSource::AsIs(tensor) => Some(tensor),
            PartSource::Packed(_)
            | PartSource::Signed(_)
            | PartSource::Transposed(_)
            | PartSource::Groups(_) => None,
        }
    }
}
