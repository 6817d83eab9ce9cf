//! Elements that are no finite numbers.

use llm_tensor::{Bytes, DType};
use rayon::prelude::*;
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::error::CheckpointError;
use crate::tensor::{Encoding, TensorInfo};

/// A tensor that holds elements which are no finite numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NotFinite {
    /// Its name.
    pub tensor: String,
    /// Elements that are no number.
    pub n_nan: u64,
    /// Elements that are infinite.
    pub n_infinite: u64,
    /// Index of the first of both, row-major.
    pub first: u64,
}

/// ``tensor `a` holds 3 NaN and 1 infinite of 100 elements, …``, but for the total, which is not known here.
impl std::fmt::Display for NotFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let NotFinite {
            tensor,
            n_nan,
            n_infinite,
            first,
        } = self;
        write!(
            f,
            "tensor `{tensor}` holds {n_nan} NaN and {n_infinite} infinite elements, the first at {first}"
        )
    }
}

impl Checkpoint {
    /// Reads all elements of floating point, blocks decoded, and says which tensors hold any that are no finite numbers;
    /// sorted by name.
    ///
    /// `progress` is told the stored length of each tensor; its error ends the reading.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], and what `progress` answers.
    pub fn not_finite<E: From<CheckpointError> + Send>(
        &self,
        progress: impl Fn(Bytes) -> Result<(), E> + Sync,
    ) -> Result<Vec<NotFinite>, E> {
        let mut found = Vec::new();
        for tensor in self.tensors() {
            if let Some(as_dtype) = readable(tensor.encoding)
                && let Some(not_finite) = of_tensor(self, tensor, as_dtype)?
            {
                found.push(not_finite);
            }
            progress(tensor.stored_bytes())?;
        }
        Ok(found)
    }
}

/// The type in which elements are read, if they are of floating point. One of f64 may be beyond what f32 has.
fn readable(encoding: Encoding) -> Option<DType> {
    match encoding {
        Encoding::Plain(DType::F64) => Some(DType::F64),
        Encoding::Plain(DType::F8E8M0) | Encoding::Block(_) => Some(DType::F32),
        Encoding::Plain(dtype) => dtype.is_float().then_some(DType::F32),
        Encoding::Opaque(_) => None,
    }
}

fn of_tensor(
    checkpoint: &Checkpoint,
    tensor: &TensorInfo,
    dtype: DType,
) -> Result<Option<NotFinite>, CheckpointError> {
    let n_elements = tensor.shape.n_elements();
    let n_pieces = n_elements.div_ceil(PIECE);
    let pieces = (0..n_pieces).into_par_iter().map(|piece_idx| {
        let start = piece_idx * PIECE;
        let end = n_elements.min(start + PIECE);
        let mut bytes = vec![0; (end - start) as usize * dtype.size()];
        checkpoint.read_into(&tensor.name, start..end, dtype, &mut bytes)?;
        Ok(match dtype {
            DType::F64 => count(bytes.as_chunks().0, start, |x| f64::from_le_bytes(*x)),
            _ => count(bytes.as_chunks().0, start, |x| {
                f32::from_le_bytes(*x).into()
            }),
        })
    });
    let pieces: Vec<Counts> = pieces.collect::<Result<_, CheckpointError>>()?;
    let first = pieces.iter().find_map(|counts| counts.first);
    Ok(first.map(|first| NotFinite {
        tensor: tensor.name.clone(),
        n_nan: pieces.iter().map(|counts| counts.n_nan).sum(),
        n_infinite: pieces.iter().map(|counts| counts.n_infinite).sum(),
        first,
    }))
}

/// Counts in one piece of a tensor.
#[derive(Default)]
struct Counts {
    n_nan: u64,
    n_infinite: u64,
    first: Option<u64>,
}

/// Counts what is not finite among elements of which the first is number `start` of its tensor.
fn count<const N: usize>(
    elements: &[[u8; N]],
    start: u64,
    value: impl Fn(&[u8; N]) -> f64,
) -> Counts {
    let mut counts = Counts::default();
    for (idx, element) in elements.iter().enumerate() {
        let x = value(element);
        if !x.is_finite() {
            counts.n_nan += u64::from(x.is_nan());
            counts.n_infinite += u64::from(x.is_infinite());
            counts.first.get_or_insert(start + idx as u64);
        }
    }
    counts
}

/// Elements that a thread looks at together.
const PIECE: u64 = 1 << 18;
