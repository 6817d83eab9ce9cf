use std::fmt;
use std::ops::Range;

use llm_tensor::{Bytes, DType, Shape, TensorError};

use crate::error::{CheckpointError, TensorFlaw};
use crate::gguf::blocks::GgmlType;
use crate::metadata::Metadata;
use crate::source::SourceFile;

/// What a header says about one tensor, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// The name, unique in the checkpoint.
    pub name: String,
    /// The extents, outermost first, whatever the file's own order.
    pub shape: Shape,
    /// How the elements are stored.
    pub encoding: Encoding,
    /// Which of [`Checkpoint::files`](crate::Checkpoint::files) holds it.
    pub file_idx: usize,
    /// Where its bytes lie, counted from the begin of that file.
    pub bytes: Range<u64>,
}

impl TensorInfo {
    /// Bytes that it takes in the file.
    pub fn stored_bytes(&self) -> Bytes {
        Bytes::new(self.bytes.end - self.bytes.start)
    }
}

/// How the elements of a tensor are stored, little-endian and row-major.
///
/// Exhaustive on purpose: a new encoding must be considered wherever one is matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// One element after the other.
    Plain(DType),
    /// Quantized in blocks along the innermost dimension, as GGML does.
    Block(GgmlType),
}

impl Encoding {
    /// Elements of the smallest piece that can be decoded by itself.
    pub const fn block_len(self) -> u64 {
        match self {
            Encoding::Plain(_) => 1,
            Encoding::Block(ty) => ty.block_len() as u64,
        }
    }

    /// Bytes of that piece.
    pub const fn block_bytes(self) -> u64 {
        match self {
            Encoding::Plain(dtype) => dtype.size() as u64,
            Encoding::Block(ty) => ty.block_bytes() as u64,
        }
    }

    /// Bytes that a tensor of `shape` takes in this encoding.
    ///
    /// # Errors
    /// [`TensorFlaw::PartialBlock`] when its rows are not whole blocks, [`TensorFlaw::Value`] when 64 bits cannot
    /// count the bytes.
    pub fn stored_bytes(self, shape: &Shape) -> Result<Bytes, TensorFlaw> {
        match self {
            Encoding::Plain(dtype) => Ok(shape.bytes(dtype)?),
            Encoding::Block(_) => {
                let row = shape.last().copied().unwrap_or(1);
                if !row.is_multiple_of(self.block_len()) {
                    return Err(TensorFlaw::PartialBlock {
                        row,
                        block: self.block_len(),
                        encoding: self,
                    });
                }
                (shape.n_elements() / self.block_len())
                    .checked_mul(self.block_bytes())
                    .map(Bytes::new)
                    .ok_or_else(|| {
                        TensorFlaw::Value(TensorError::TooManyElements {
                            shape: shape.to_string(),
                        })
                    })
            }
        }
    }
}

/// `bf16`, `Q4_K`.
impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Encoding::Plain(dtype) => dtype.fmt(f),
            Encoding::Block(ty) => ty.fmt(f),
        }
    }
}

/// What one file holds, by its header.
#[derive(Debug)]
pub(crate) struct Contents {
    /// Sorted by name, no name twice.
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) metadata: Metadata,
}

/// Sorts by name.
///
/// # Errors
/// [`TensorFlaw::Duplicate`].
pub(crate) fn sort_by_name(
    file: &SourceFile,
    tensors: &mut [TensorInfo],
) -> Result<(), CheckpointError> {
    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    match tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(file.tensor_error(&pair[0].name, TensorFlaw::Duplicate)),
        None => Ok(()),
    }
}

/// The tensors in the order of their bytes.
///
/// # Errors
/// [`TensorFlaw::Overlap`].
pub(crate) fn in_file_order<'t>(
    file: &SourceFile,
    tensors: &'t [TensorInfo],
) -> Result<Vec<&'t TensorInfo>, CheckpointError> {
    let mut ordered: Vec<_> = tensors.iter().collect();
    ordered.sort_unstable_by_key(|t| (t.bytes.start, t.bytes.end));
    match ordered
        .windows(2)
        .find(|pair| pair[1].bytes.start < pair[0].bytes.end)
    {
        Some(pair) => Err(file.tensor_error(
            &pair[1].name,
            TensorFlaw::Overlap {
                other: pair[0].name.clone(),
            },
        )),
        None => Ok(ordered),
    }
}
