//! Weights on their way to a device.

use std::ops::Range;

use llm_arch::{Role, Unit};
use llm_quant::StoredWeight;

use crate::Result;

/// Source of the weights of stages.
pub trait WeightSource {
    /// The weight of a slot, ready to compute with.
    ///
    /// # Errors
    /// When it cannot be read.
    fn weight(&mut self, unit: Unit, role: Role) -> Result<StoredWeight>;

    /// The same, its parts written to ranges of `out`.
    ///
    /// # Errors
    /// When it cannot be read.
    ///
    /// # Panics
    /// When `to` is no place for it.
    fn weight_into(
        &mut self,
        unit: Unit,
        role: Role,
        to: &StoredWeight<Range<usize>>,
        out: &mut [u8],
    ) -> Result<()>;

    /// The elements of a slot that is no weight itself: a table that a device computes with is made of them.
    ///
    /// # Errors
    /// When they cannot be read.
    fn values(&mut self, unit: Unit, role: Role) -> Result<Vec<f32>>;

    /// The stretches of the rotary wavelengths, where the checkpoint holds them.
    ///
    /// # Errors
    /// When they cannot be read.
    fn rope_factors(&mut self) -> Result<Option<Vec<f32>>>;
}
