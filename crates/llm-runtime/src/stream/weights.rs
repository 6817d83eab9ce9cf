//! Weights as a stage has them: in memory, or to be brought.

use std::ops::Deref;

use llm_arch::{Role, TryMap};
use llm_backend::Backend;

use super::{Key, Lease, Stream};
use crate::Result;
use crate::source::WeightSource;

/// A unit's weights. `R` is the unit with the roles of its tensors.
pub(crate) enum Weights<B: Backend, R: TryMap<Role>> {
    /// In memory for good.
    Here(R::Of<B::Weight>),
    /// On disk: brought whenever they are needed.
    Streamed(Key, R),
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

impl<B: Backend, R: TryMap<Role>> Weights<B, R> {
    /// Loads what rests in memory.
    pub(crate) fn load(
        backend: &B,
        stream: Option<&Stream>,
        key: Key,
        roles: R,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        match stream {
            Some(stream) if stream.has(key) => Ok(Weights::Streamed(key, roles)),
            _ => load(backend, key, &roles, source).map(Weights::Here),
        }
    }

    /// The weights, wherever they rest.
    pub(crate) fn get<'a>(
        &'a self,
        backend: &B,
        stream: Option<&'a Stream>,
    ) -> Result<Found<'a, R::Of<B::Weight>>> {
        match (self, stream) {
            (Weights::Here(weights), _) => Ok(Found::Here(weights)),
            (Weights::Streamed(key, roles), Some(stream)) => {
                let lease = stream.bring(*key)?;
                let weights = load(backend, *key, roles, &mut &lease)?;
                Ok(Found::Brought(weights, lease))
            }
            (Weights::Streamed(key, _), None) => unreachable!("{key:?} is streamed by nothing"),
        }
    }

    pub(crate) fn is_streamed(&self) -> bool {
        matches!(self, Weights::Streamed(..))
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

fn load<B: Backend, R: TryMap<Role>>(
    backend: &B,
    key: Key,
    roles: &R,
    source: &mut dyn WeightSource,
) -> Result<R::Of<B::Weight>> {
    roles.try_map(&mut |&role| Ok(backend.load(source.weight(key.unit(), role)?)?))
}
