//! Biases that heads add to their scores for the distance between a key and a query.

use llm_arch::{Positions, Role, Side, StackSpec, Unit};
use llm_backend::{Allocation, Backend, Queue, RelativeBias};
use llm_plan::bias_elements;
use llm_tensor::Bytes;

use crate::Result;
use crate::source::WeightSource;

/// A stack's biases by distance, on its device.
pub(crate) struct BiasTable<B: Backend> {
    table: B::Buffer,
    row: usize,
    zero: usize,
}

impl<B: Backend> BiasTable<B> {
    /// Nothing where the stack's positions enter otherwise. `context` is the most positions that it has to serve.
    pub(crate) fn load(
        backend: &B,
        queue: &mut B::Queue,
        source: &mut dyn WeightSource,
        (side, stack): (Side, &StackSpec),
        context: usize,
    ) -> Result<Option<Self>> {
        let n_heads = stack.n_heads();
        let n_elements = bias_elements(stack, context);
        // A stack without such heads has no biases.
        let row = n_elements / n_heads.max(1);
        let (values, zero) = match stack.positions {
            Positions::Learned { .. } | Positions::Rotary(_) => return Ok(None),
            // Keys lie at or before their query.
            Positions::Alibi { scale } => (alibi(n_heads, row, scale), row - 1),
            Positions::Buckets {
                n_buckets,
                max_distance,
            } => {
                let learned = source.values(Unit::Layer(side, 0), Role::RelativeBias)?;
                let bucket = |element: usize| {
                    bucket(
                        side,
                        element as i64 - max_distance as i64,
                        n_buckets,
                        max_distance,
                    )
                };
                let values = (0..n_elements)
                    .map(|i| learned[bucket(i % row) * n_heads + i / row])
                    .collect();
                (values, max_distance)
            }
        };
        let mut table = backend.alloc(n_elements)?;
        queue.upload(&values, &mut table)?;
        Ok(Some(BiasTable { table, row, zero }))
    }

    pub(crate) fn bytes(&self) -> Bytes {
        self.table.bytes()
    }

    pub(crate) fn op(&self) -> RelativeBias<'_, B> {
        RelativeBias {
            table: &self.table,
            row: self.row,
            zero: self.zero,
        }
    }
}

/// `-slope · distance`, distances falling along each row (Press et al. 2022): slopes are a geometric series from
/// 2^(-8/n), for n heads the next lower power of two, and for the heads beyond it every other one of twice that many.
fn alibi(n_heads: usize, context: usize, scale: f32) -> Vec<f32> {
    let n = 1 << n_heads.ilog2();
    let slope = |head: usize| match head < n {
        true => 2f64.powf(-8.0 * (head + 1) as f64 / n as f64),
        false => 2f64.powf(-4.0 * (2 * (head - n) + 1) as f64 / n as f64),
    };
    let of_head = |head| {
        let slope = slope(head) * f64::from(scale);
        (0..context).map(move |i| (-slope * (context - 1 - i) as f64) as f32)
    };
    (0..n_heads).flat_map(of_head).collect()
}

/// The bucket of a distance (Raffel et al. 2020): near ones alone, farther ones by logarithm, the two directions of an
/// encoder apart.
fn bucket(side: Side, distance: i64, n_buckets: usize, max_distance: usize) -> usize {
    let (first, n_buckets, steps) = match side {
        Side::Encoder => (
            if distance > 0 { n_buckets / 2 } else { 0 },
            n_buckets / 2,
            distance.unsigned_abs() as usize,
        ),
        Side::Decoder => (0, n_buckets, (-distance).max(0) as usize),
    };
    let n_exact = n_buckets / 2;
    if steps < n_exact {
        return first + steps;
    }
    // In f32 and in this order, as the reference has it: the borders depend on the rounding.
    let grown =
        (steps as f32 / n_exact as f32).ln() / (max_distance as f64 / n_exact as f64).ln() as f32;
    let beyond = (grown * (n_buckets - n_exact) as f32) as usize;
    first + (n_exact + beyond).min(n_buckets - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_the_references() {
        // transformers' `_relative_position_bucket` of key − query, 32 buckets up to 128.
        let decoder = [
            (5, 0),
            (0, 0),
            (-1, 1),
            (-15, 15),
            (-16, 16),
            (-20, 17),
            (-31, 21),
            (-64, 26),
            (-127, 31),
            (-9999, 31),
        ];
        for (distance, expected) in decoder {
            assert_eq!(
                bucket(Side::Decoder, distance, 32, 128),
                expected,
                "{distance}"
            );
        }
        let encoder = [
            (0, 0),
            (-1, 1),
            (-7, 7),
            (-8, 8),
            (-16, 10),
            (-128, 15),
            (1, 17),
            (8, 24),
            (16, 26),
            (200, 31),
        ];
        for (distance, expected) in encoder {
            assert_eq!(
                bucket(Side::Encoder, distance, 32, 128),
                expected,
                "{distance}"
            );
        }
    }

    #[test]
    fn slopes_of_a_power_of_two_and_of_other_numbers_of_heads() {
        let slopes = |n_heads: usize| -> Vec<f64> {
            alibi(n_heads, 2, 1.0)
                .chunks(2)
                .map(|row| -f64::from(row[0]))
                .collect()
        };
        assert_eq!(slopes(4), [0.25, 0.0625, 0.015625, 0.00390625]);
        assert_eq!(slopes(6)[4..], [0.5, 0.125]);
        assert_eq!(alibi(1, 3, 2.0), [-2.0 * 2.0 / 256.0, -2.0 / 256.0, 0.0]);
    }
}
