//! Sequences of a pass whose states lie in slots.

use llm_backend::{Rows, StateBatch};

use crate::Cpu;

/// Rows of each sequence, and its slot.
///
/// # Panics
/// Where sequences share rows or slots, which threads write.
pub(crate) fn sequences<'a>(batch: &StateBatch<'a, Cpu>) -> (&'a [Rows], &'a [u32]) {
    let slots = &batch.slots.as_slice()[..batch.rows.len()];
    let in_order = |pair: &[Rows]| pair[0].first + pair[0].n_tokens <= pair[1].first;
    assert!(
        batch.rows.windows(2).all(in_order),
        "sequences have rows of their own, one after the other"
    );
    let is_another = |(i, slot)| !slots[..i].contains(slot);
    assert!(
        slots.iter().enumerate().all(is_another),
        "sequences have slots of their own: {slots:?}"
    );
    (batch.rows, slots)
}
