use std::ops::Range;

use llm_tensor::{DType, convert_elements, f32_to_le_bytes};
use rayon::prelude::*;

use crate::error::{CheckpointError, TensorFlaw};
use crate::opaque::Opaque;
use crate::source::SourceFile;
use crate::strided::StridedView;
use crate::tensor::{Encoding, Layout, TensorInfo};

/// Elements that one thread reads and converts at a time: its scratch stays within the second-level cache, and the
/// system calls do not count.
const PIECE: usize = 1 << 15;

/// Reads elements `range` of `tensor` into `out` as little-endian `dtype`. The caller has checked that the range
/// lies in the tensor and fills `out`.
pub(crate) fn read_elements(
    file: &SourceFile,
    tensor: &TensorInfo,
    range: Range<u64>,
    dtype: DType,
    out: &mut [u8],
) -> Result<(), CheckpointError> {
    if let (Layout::Strided(strides), Encoding::Plain(stored)) = (&tensor.layout, tensor.encoding) {
        let view = StridedView {
            file,
            tensor,
            strides,
            stored,
        };
        return view.read_elements(range, dtype, out);
    }
    if tensor.encoding == Encoding::Plain(dtype) {
        return file.read_at(tensor.bytes.start + range.start * dtype.size() as u64, out);
    }
    out.par_chunks_mut(PIECE * dtype.size())
        .enumerate()
        .try_for_each_init(Scratch::default, |scratch, (piece_idx, out)| {
            let start = range.start + (piece_idx * PIECE) as u64;
            scratch.read_piece(file, tensor, start, dtype, out)
        })
}

/// Buffers of one thread to convert a piece.
#[derive(Default)]
struct Scratch {
    stored: Vec<u8>,
    decoded: Vec<f32>,
}

impl Scratch {
    /// Fills `out` with the elements from `start` on.
    fn read_piece(
        &mut self,
        file: &SourceFile,
        tensor: &TensorInfo,
        start: u64,
        dtype: DType,
        out: &mut [u8],
    ) -> Result<(), CheckpointError> {
        let n = out.len() / dtype.size();
        let (block_len, block_bytes) = match tensor.encoding {
            Encoding::Plain(dtype) => (1, dtype.size() as u64),
            Encoding::Block(ty) => (ty.block_len() as u64, ty.block_bytes() as u64),
            Encoding::Opaque(opaque) => return Err(not_computable(file, tensor, opaque)),
        };
        // The whole blocks that contain the piece; it may begin and end inside one.
        let blocks = start / block_len..(start + n as u64).div_ceil(block_len);
        let n_blocks = (blocks.end - blocks.start) as usize;
        self.stored.resize(n_blocks * block_bytes as usize, 0);
        file.read_at(
            tensor.bytes.start + blocks.start * block_bytes,
            &mut self.stored,
        )?;
        let converted = match tensor.encoding {
            Encoding::Plain(stored) => convert_elements(stored, &self.stored, dtype, out),
            Encoding::Block(ty) => {
                self.decoded.resize(n_blocks * ty.block_len(), 0.0);
                ty.decode(&self.stored, &mut self.decoded);
                let skip = (start % block_len) as usize;
                f32_to_le_bytes(&self.decoded[skip..skip + n], dtype, out)
            }
            Encoding::Opaque(opaque) => return Err(not_computable(file, tensor, opaque)),
        };
        converted.map_err(|error| file.tensor_error(&tensor.name, error))
    }
}

fn not_computable(file: &SourceFile, tensor: &TensorInfo, opaque: Opaque) -> CheckpointError {
    let name = opaque.name().to_owned();
    file.tensor_error(&tensor.name, TensorFlaw::NotComputable { name })
}
