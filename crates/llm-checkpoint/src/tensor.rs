use std::fmt;
use std::ops::Range;

use llm_quant::{GgmlType, Scheme};
use llm_tensor::{Bytes, DType, Shape, TensorError};

use crate::error::{CheckpointError, TensorFlaw};
use crate::metadata::Metadata;
use crate::opaque::Opaque;
use crate::source::SourceFile;

/// Header entry of one tensor, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// The name, unique in the checkpoint.
    pub name: String,
    /// The extents, outermost first, whatever the file's own order.
    pub shape: Shape,
    /// Encoding of the elements.
    pub encoding: Encoding,
    /// Order of the elements.
    pub layout: Layout,
    /// Index of its file in [`Checkpoint::files`](crate::Checkpoint::files).
    pub file_idx: usize,
    /// Range of its bytes in that file: from its first element to behind its last one.
    pub bytes: Range<u64>,
}

impl TensorInfo {
    /// Bytes that it takes in the file.
    pub fn stored_bytes(&self) -> Bytes {
        Bytes::new(self.bytes.end - self.bytes.start)
    }

    /// Bytes of its elements or blocks, one after the other and without gaps.
    pub fn contiguous_bytes(&self) -> u64 {
        match (&self.layout, self.encoding) {
            (Layout::Strided(_), Encoding::Plain(dtype)) => {
                self.shape.n_elements() * dtype.size() as u64
            }
            _ => self.bytes.end - self.bytes.start,
        }
    }

    /// Of a stack of vectors `[n, width]` one, as a tensor of the same name; `None` where this is no such stack, or has no
    /// such vector.
    pub fn vector_of(&self, idx: u64) -> Option<TensorInfo> {
        let &[n, width] = &*self.shape else {
            return None;
        };
        let mut matrices = self.clone();
        matrices.shape = Shape::new(&[n, 1, width]).ok()?;
        if let Layout::Strided(strides) = &self.layout {
            let &[of_vector, of_element] = &**strides else {
                return None;
            };
            matrices.layout = Layout::Strided([of_vector, 0, of_element].into());
        }
        let mut vector = matrices.of_stack(idx, 0..1)?;
        vector.shape = Shape::new(&[width]).ok()?;
        if let Layout::Strided(strides) = &vector.layout {
            let &[_, of_element] = &**strides else {
                return None;
            };
            vector.layout = Layout::Strided([of_element].into());
        }
        Some(vector)
    }

    /// Of a stack of matrices `[n, rows, cols]` the rows `rows` of the matrix `idx`, as a tensor of the same name; `None`
    /// where this is no such stack, or has no such rows.
    pub fn of_stack(&self, idx: u64, rows: Range<u64>) -> Option<TensorInfo> {
        let &[n, n_rows, cols] = &*self.shape else {
            return None;
        };
        let is_there = idx < n && rows.start < rows.end && rows.end <= n_rows && cols > 0;
        if !is_there {
            return None;
        }
        let shape = Shape::new(&[rows.end - rows.start, cols]).ok()?;
        // All lie within the tensor, whose bytes can be counted.
        let (start, len, layout) = match &self.layout {
            Layout::RowMajor => {
                let (block, block_bytes) = self.encoding.block()?;
                if !cols.is_multiple_of(block) {
                    return None;
                }
                let row_bytes = cols / block * block_bytes;
                let first = idx * n_rows + rows.start;
                let len = (rows.end - rows.start) * row_bytes;
                (first * row_bytes, len, Layout::RowMajor)
            }
            Layout::Strided(strides) => {
                let &[of_matrix, of_row, of_col] = &**strides else {
                    return None;
                };
                let (_, size) = self.encoding.block()?;
                let first = idx * of_matrix + rows.start * of_row;
                let last = (rows.end - rows.start - 1) * of_row + (cols - 1) * of_col;
                let layout = Layout::Strided([of_row, of_col].into());
                (first * size, (last + 1) * size, layout)
            }
        };
        let start = self.bytes.start + start;
        Some(TensorInfo {
            name: self.name.clone(),
            shape,
            encoding: self.encoding,
            layout,
            file_idx: self.file_idx,
            bytes: start..start + len,
        })
    }
}

/// In which order the elements of a tensor lie.
///
/// Exhaustive on purpose, as [`Encoding`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// One after the other, innermost dimension fastest.
    RowMajor,
    /// A view of something larger, as PyTorch saves transposed tensors and slices: one stride for each dimension,
    /// in elements. There may be gaps, or elements of other tensors, between those of this one.
    Strided(Box<[u64]>),
}

/// Storage format of a tensor's elements by its header, little-endian. What they mean, also together with other
/// tensors, a [`Scheme`] says.
///
/// Exhaustive on purpose: a new encoding must be considered wherever one is matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// One element after the other.
    Plain(DType),
    /// Quantized in blocks along the innermost dimension, as GGML does.
    Block(GgmlType),
    /// In a way that is copied, not understood.
    Opaque(Opaque),
}

impl Encoding {
    /// The scheme of a matrix that is kept so by itself, without other tensors beside it; `None` of what is not
    /// understood.
    pub fn scheme(self) -> Option<Scheme> {
        match self {
            Encoding::Plain(dtype) => Some(Scheme::Dense(dtype)),
            Encoding::Block(ty) => Some(Scheme::Ggml(ty)),
            Encoding::Opaque(_) => None,
        }
    }

    /// Elements, and bytes, of the smallest piece that can be decoded by itself; of what is not understood there is none.
    fn block(self) -> Option<(u64, u64)> {
        match self {
            Encoding::Plain(dtype) => Some((1, dtype.size() as u64)),
            Encoding::Block(ty) => Some((ty.block_len() as u64, ty.block_bytes() as u64)),
            Encoding::Opaque(_) => None,
        }
    }

    /// Bytes that a tensor of `shape` takes in this encoding, where it is known what an element takes.
    ///
    /// # Errors
    /// [`TensorFlaw::PartialBlock`] when its rows are not whole blocks, [`TensorFlaw::PartialByte`] when it does not end
    /// where a byte does, [`TensorFlaw::Value`] when 64 bits cannot
    /// count the bytes.
    pub fn stored_bytes(self, shape: &Shape) -> Result<Option<Bytes>, TensorFlaw> {
        match self {
            Encoding::Plain(dtype) => Ok(Some(shape.bytes(dtype)?)),
            Encoding::Opaque(opaque) => opaque.stored_bytes(shape),
            Encoding::Block(ty) => {
                let (row, block) = (shape.last().copied().unwrap_or(1), ty.block_len() as u64);
                if !row.is_multiple_of(block) {
                    return Err(TensorFlaw::PartialBlock {
                        row,
                        block,
                        encoding: self.to_string(),
                    });
                }
                let too_many = || {
                    TensorFlaw::Value(TensorError::TooManyElements {
                        shape: shape.to_string(),
                    })
                };
                let n_bytes = (shape.n_elements() / block).checked_mul(ty.block_bytes() as u64);
                Ok(Some(Bytes::new(n_bytes.ok_or_else(too_many)?)))
            }
        }
    }
}

/// `bf16`, `Q4_K`, `F4`.
impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Encoding::Plain(dtype) => dtype.fmt(f),
            Encoding::Block(ty) => ty.fmt(f),
            Encoding::Opaque(opaque) => opaque.fmt(f),
        }
    }
}

/// Contents of one file, by its header.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_stack_lie_where_its_layout_has_them() {
        let stack = |layout: Layout, encoding: Encoding| TensorInfo {
            name: "experts".to_owned(),
            shape: Shape::new(&[3, 4, 32]).unwrap(),
            encoding,
            layout,
            file_idx: 0,
            bytes: 100..100 + 3 * 4 * 32 * 4,
        };
        let f32s = Encoding::Plain(DType::F32);
        let in_order = stack(Layout::RowMajor, f32s);
        let found = in_order.of_stack(1, 2..4).unwrap();
        assert_eq!(*found.shape, [2, 32]);
        assert_eq!(found.bytes, 100 + 6 * 128..100 + 8 * 128);
        assert_eq!(found.layout, Layout::RowMajor);

        // A matrix is a column of the storage: `[n, rows, cols]` seen of `[rows, cols, n]`.
        let view = stack(Layout::Strided([1, 96, 3].into()), f32s);
        let found = view.of_stack(2, 1..3).unwrap();
        assert_eq!(found.bytes.start, 100 + (2 + 96) * 4);
        assert_eq!(found.bytes.end, found.bytes.start + (96 + 31 * 3 + 1) * 4);
        assert_eq!(found.layout, Layout::Strided([96, 3].into()));

        let blocks = stack(Layout::RowMajor, Encoding::Block(GgmlType::Q8_0));
        assert_eq!(
            blocks.of_stack(2, 0..1).unwrap().bytes,
            100 + 8 * 34..100 + 9 * 34
        );
        for (idx, rows) in [(3, 0..4), (0, 3..5), (0, 2..2)] {
            assert!(
                in_order.of_stack(idx, rows.clone()).is_none(),
                "{idx} {rows:?}"
            );
        }
        let mut matrix = in_order.clone();
        matrix.shape = Shape::new(&[12, 32]).unwrap();
        assert!(matrix.of_stack(0, 0..1).is_none());
    }
}
