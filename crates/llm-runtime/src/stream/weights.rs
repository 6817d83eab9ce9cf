//! Weights as a stage has them: in memory, or to be brought.

use std::ops::Deref;

use super::{Key, Lease, Stream};
use crate::Result;
use crate::source::WeightSource;

/// A unit's weights.
pub(crate) enum Weights<T> {
    /// In memory for good.
    Here(T),
    /// On disk: brought whenever they are needed.
    Streamed(Key),
}

/// Weights to compute with.
pub(crate) enum Found<'a, T> {
    Here(&'a T),
    /// The weights go before the place in which they lie.
    Brought(
        T,
        #[expect(dead_code, reason = "held for as long as the weights are used")] Lease<'a>,
    ),
}

impl<T> Weights<T> {
    /// Loads what rests in memory.
    pub(crate) fn load(
        stream: Option<&Stream>,
        key: Key,
        source: &mut dyn WeightSource,
        load: impl FnOnce(&mut dyn WeightSource) -> Result<T>,
    ) -> Result<Self> {
        match stream {
            Some(stream) if stream.has(key) => Ok(Weights::Streamed(key)),
            _ => load(source).map(Weights::Here),
        }
    }

    /// The weights; `load` makes them of what was brought, as it would of what is read for good.
    pub(crate) fn get<'a>(
        &'a self,
        stream: Option<&'a Stream>,
        load: impl FnOnce(&mut dyn WeightSource) -> Result<T>,
    ) -> Result<Found<'a, T>> {
        match (self, stream) {
            (Weights::Here(weights), _) => Ok(Found::Here(weights)),
            (Weights::Streamed(key), Some(stream)) => {
                let lease = stream.bring(*key)?;
                let weights = load(&mut &lease)?;
                Ok(Found::Brought(weights, lease))
            }
            (Weights::Streamed(key), None) => unreachable!("{key:?} is streamed by nothing"),
        }
    }

    pub(crate) fn is_streamed(&self) -> bool {
        matches!(self, Weights::Streamed(_))
    }
}

impl<T> Deref for Found<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Found::Here(weights) => weights,
            Found::Brought(weights, _) => weights,
        }
    }
}
