//! From the layout of a checkpoint to the one in which weights compute: `[out, in]`, rotary pairs as the model turns
//! them. The one place that knows of other layouts.

use llm_arch::{Slot, Stored};
use llm_backend::HostWeight;
use llm_checkpoint::{Checkpoint, Encoding, TensorInfo};
use llm_tensor::{AlignedBuf, DType, HostBytes, convert_elements};
use rayon::prelude::*;

use crate::Result;

/// The weight for `slot`, its elements as `dtype`. Where the file's bytes are already right they are used in place.
pub(crate) fn arrange(
    checkpoint: &Checkpoint,
    tensor: &TensorInfo,
    slot: &Slot,
    dtype: DType,
) -> Result<HostWeight> {
    let (rows, cols) = match *slot.shape.as_slice() {
        [width] => (1, width),
        [rows, cols] => (rows, cols),
        ref shape => unreachable!("a slot is a vector or a matrix, not {shape:?}"),
    };
    let bytes = match slot.stored {
        Stored::AsIs => as_is(checkpoint, tensor, dtype)?,
        Stored::Transposed => transposed(checkpoint, tensor, dtype, rows, cols)?,
        Stored::Grouped {
            n_kv_heads,
            n_queries,
        } => {
            // A fused bias is a vector of the matrix's rows.
            let (rows, cols) = if slot.shape.len() == 1 {
                (cols, 1)
            } else {
                (rows, cols)
            };
            let head_dim = rows / (n_kv_heads * (n_queries + 2));
            ungrouped(
                checkpoint,
                tensor,
                dtype,
                [n_kv_heads, n_queries, head_dim * cols],
            )?
        }
        Stored::AdjacentPairs { n_heads } => {
            halves_of_pairs(checkpoint, tensor, dtype, rows / n_heads, cols)?
        }
    };
    Ok(HostWeight {
        dtype,
        rows,
        cols,
        bytes,
    })
}

fn as_is(checkpoint: &Checkpoint, tensor: &TensorInfo, dtype: DType) -> Result<HostBytes> {
    if tensor.encoding == Encoding::Plain(dtype)
        && let Some(view) = checkpoint.view(&tensor.name)?
    {
        return Ok(view);
    }
    let n_elements = tensor.shape.n_elements();
    let mut bytes = AlignedBuf::zeroed(n_elements as usize * dtype.size());
    checkpoint.read_into(&tensor.name, 0..n_elements, dtype, &mut bytes)?;
    Ok(HostBytes::new(bytes))
}

/// The transpose of a stored `[cols, rows]`.
fn transposed(
    checkpoint: &Checkpoint,
    tensor: &TensorInfo,
    dtype: DType,
    rows: usize,
    cols: usize,
) -> Result<HostBytes> {
    let stored = match tensor.encoding {
        Encoding::Plain(stored) => stored,
        Encoding::Block(_) => dtype,
    };
    let source = as_is(checkpoint, tensor, stored)?;
    let (wide, band_bytes) = (stored.size(), BAND * cols * dtype.size());
    let mut bytes = AlignedBuf::zeroed(rows * cols * dtype.size());
    bytes
        .par_chunks_mut(band_bytes)
        .enumerate()
        .for_each_init(Vec::new, |band, (i, out)| {
            let (first, n_rows) = (i * BAND, out.len() / (cols * dtype.size()));
            band.resize(n_rows * cols * wide, 0);
            for col in 0..cols {
                let line = &source[(col * rows + first) * wide..][..n_rows * wide];
                for (row, element) in line.chunks_exact(wide).enumerate() {
                    band[(row * cols + col) * wide..][..wide].copy_from_slice(element);
                }
            }
            convert_elements(stored, band, dtype, out)
                .expect("a bound tensor's elements are floating-point")
        });
    Ok(HostBytes::new(bytes))
}

/// All groups' queries, then their keys, then their values, from groups of `n_queries` heads of queries, one of keys and
/// one of values, each of `head` elements.
fn ungrouped(
    checkpoint: &Checkpoint,
    tensor: &TensorInfo,
    dtype: DType,
    [n_groups, n_queries, head]: [usize; 3],
) -> Result<HostBytes> {
    let head_bytes = head * dtype.size();
    let mut bytes = AlignedBuf::zeroed(n_groups * (n_queries + 2) * head_bytes);
    let (queries, keys_values) = bytes.split_at_mut(n_groups * n_queries * head_bytes);
    let (keys, values) = keys_values.split_at_mut(n_groups * head_bytes);
    let groups = queries
        .par_chunks_mut(n_queries * head_bytes)
        .zip(keys.par_chunks_mut(head_bytes))
        .zip(values.par_chunks_mut(head_bytes));
    groups
        .enumerate()
        .try_for_each(|(group, ((queries, keys), values))| {
            let first = (group * (n_queries + 2) * head) as u64;
            let (k, v) = (
                first + (n_queries * head) as u64,
                first + ((n_queries + 1) * head) as u64,
            );
            checkpoint.read_into(&tensor.name, first..k, dtype, queries)?;
            checkpoint.read_into(&tensor.name, k..v, dtype, keys)?;
            checkpoint.read_into(&tensor.name, v..v + head as u64, dtype, values)
        })?;
    Ok(HostBytes::new(bytes))
}

/// Rows `i` and `i + half` of each head from stored rows `2i` and `2i + 1`.
fn halves_of_pairs(
    checkpoint: &Checkpoint,
    tensor: &TensorInfo,
    dtype: DType,
    head_dim: usize,
    cols: usize,
) -> Result<HostBytes> {
    let (row_bytes, head_elements) = (cols * dtype.size(), (head_dim * cols) as u64);
    let mut bytes = AlignedBuf::zeroed(tensor.shape.n_elements() as usize * dtype.size());
    bytes
        .par_chunks_mut(head_dim * row_bytes)
        .enumerate()
        .try_for_each_init(
            || vec![0; head_dim * row_bytes],
            |pairs, (head, out)| {
                let first = head as u64 * head_elements;
                checkpoint.read_into(&tensor.name, first..first + head_elements, dtype, pairs)?;
                let (low, high) = out.split_at_mut(head_dim / 2 * row_bytes);
                let rows = low
                    .chunks_exact_mut(row_bytes)
                    .zip(high.chunks_exact_mut(row_bytes));
                for ((low, high), pair) in rows.zip(pairs.chunks_exact(2 * row_bytes)) {
                    low.copy_from_slice(&pair[..row_bytes]);
                    high.copy_from_slice(&pair[row_bytes..]);
                }
                Result::Ok(())
            },
        )?;
    Ok(HostBytes::new(bytes))
}

/// Output rows that are transposed together: a stored line then gives up a whole cache line or two at a time.
const BAND: usize = 64;
