//! Ties of heads to the table of tokens: the checkpoint's tensors decide.

use std::ops::Range;

use llm_arch::{HeadMatrix, Place, Role, Skeleton, Slot, Unit};
use llm_checkpoint::{Checkpoint, Encoding, TensorInfo};
use llm_quant::Part;
use llm_tensor::DType;

use crate::{Notice, Result, RuntimeError};

/// The skeleton with a head of its own if the checkpoint has one that differs from the table that it should be, and
/// without one where the table is to stand in for it.
///
/// Only if both are stored, in different places, are their bytes read: until they differ.
///
/// # Errors
/// [`RuntimeError::SecondTable`], and when the tables cannot be read.
pub(super) fn settle(
    checkpoint: &Checkpoint,
    skeleton: Skeleton,
    notices: &mut Vec<Notice>,
) -> Result<Skeleton> {
    let mut slots = skeleton.slots.iter();
    let slot = slots.find(|slot| (slot.unit, slot.role) == (Unit::Embedding, Role::TokenTable));
    let slot = slot.expect("every model has a table of tokens");
    let head = skeleton.head_names().find_map(|name| checkpoint.get(&name));
    let table = table(checkpoint, &skeleton, slot)?;
    let name = |tensor: Option<&TensorInfo>, otherwise: &str| {
        tensor.map_or(otherwise, |tensor| &tensor.name).to_owned()
    };
    let head_name = name(head, &skeleton.head_names().next().unwrap_or_default());
    let table_name = name(table, &slot.name);
    let matrix = match (skeleton.spec.head.matrix, head, table) {
        (HeadMatrix::Tied, Some(head), Some(table)) if !are_equal(checkpoint, head, table)? => {
            notices.push(Notice::OwnHead {
                head: head_name,
                table: table_name,
            });
            HeadMatrix::Separate
        }
        (HeadMatrix::Tied, Some(_), None) => {
            notices.push(Notice::TableAsHead {
                head: head_name,
                table: table_name,
            });
            return Ok(skeleton);
        }
        (HeadMatrix::Separate, None, Some(_)) if skeleton.ties_without_head() => {
            notices.push(Notice::TableForHead {
                head: head_name,
                table: table_name,
            });
            HeadMatrix::Tied
        }
        (HeadMatrix::Tied | HeadMatrix::Separate, ..) => return Ok(skeleton),
    };
    let settled = skeleton.with_head(matrix);
    settled.map_err(|flaw| RuntimeError::Config {
        path: checkpoint.path().to_owned(),
        flaw: Box::new(flaw),
    })
}

/// The table of tokens under one of its own names; there may be copies of it.
fn table<'c>(
    checkpoint: &'c Checkpoint,
    skeleton: &Skeleton,
    slot: &Slot,
) -> Result<Option<&'c TensorInfo>> {
    let mut found: Option<&TensorInfo> = None;
    for place in skeleton.places(slot) {
        let Place::Whole(name) = place else { continue };
        let is_head = skeleton.head_names().any(|head| head == name);
        let Some(tensor) = checkpoint.get(&name).filter(|_| !is_head) else {
            continue;
        };
        match found {
            None => found = Some(tensor),
            Some(table) if are_equal(checkpoint, table, tensor)? => {}
            Some(table) => {
                return Err(RuntimeError::SecondTable {
                    path: checkpoint.path().to_owned(),
                    table: table.name.clone(),
                    second: tensor.name.clone(),
                });
            }
        }
    }
    Ok(found)
}

/// Equality of two tensors' elements. What is taken for different needlessly, since it is stored otherwise, only
/// takes memory twice. Of a checkpoint that lies elsewhere, the look here and there decides.
fn are_equal(checkpoint: &Checkpoint, a: &TensorInfo, b: &TensorInfo) -> Result<bool> {
    if a.shape != b.shape {
        return Ok(false);
    }
    let place = |t: &TensorInfo| (t.encoding, t.layout.clone(), t.file_idx, t.bytes.clone());
    // As PyTorch's files have tied tensors.
    if place(a) == place(b) {
        return Ok(true);
    }
    // Codes mean what stands beside them.
    for part in Part::IN_FILES
        .into_iter()
        .filter(|&part| part != Part::Weight)
    {
        let beside = |t: &TensorInfo| match Part::of_name(&t.name) {
            Some((weight, Part::Weight)) => checkpoint.get(&part.name(&weight)),
            Some(_) | None => None,
        };
        match (beside(a), beside(b)) {
            (None, None) => {}
            (Some(a), Some(b)) if are_equal(checkpoint, a, b)? => {}
            (Some(_), _) | (_, Some(_)) => return Ok(false),
        }
    }
    let dtype = match (a.encoding, b.encoding) {
        (Encoding::Plain(a), Encoding::Plain(b)) if a == b => a,
        (Encoding::Plain(a), Encoding::Plain(b)) if !(a.is_float() && b.is_float()) => {
            return Ok(false);
        }
        (Encoding::Plain(_) | Encoding::Block(_), Encoding::Plain(_) | Encoding::Block(_)) => {
            DType::F32
        }
        (Encoding::Opaque(_), _) | (_, Encoding::Opaque(_)) => return Ok(false),
    };
    let n = a.shape.n_elements();
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    let mut same = |range: Range<u64>| -> Result<bool> {
        let n_bytes = (range.end - range.start) as usize * dtype.size();
        of_a.resize(n_bytes, 0);
        of_b.resize(n_bytes, 0);
        checkpoint.read_tensor(a, range.clone(), dtype, &mut of_a)?;
        checkpoint.read_tensor(b, range, dtype, &mut of_b)?;
        Ok(of_a == of_b)
    };
    // A head that was trained differs nearly everywhere: a look here and there spares the rest.
    for i in 0..LOOKS {
        let start = n / LOOKS * i;
        if !same(start..n.min(start + LOOK))? {
            return Ok(false);
        }
    }
    // Who plans does not download two tables for it.
    if checkpoint.is_elsewhere() {
        return Ok(true);
    }
    let mut start = 0;
    while start < n {
        let end = n.min(start + PIECE);
        if !same(start..end)? {
            return Ok(false);
        }
        start = end;
    }
    Ok(true)
}

/// Places that are looked at first, and elements of each.
const LOOKS: u64 = 8;
const LOOK: u64 = 1 << 10;
/// Elements that are compared at a time.
const PIECE: u64 = 1 << 20;
