//! Weights of a stage: resident or offloaded.

use std::ops::Deref;

use llm_arch::{Role, TryMap};
use llm_backend::Backend;

use super::{Key, Lease, Stream};
use crate::Result;
use crate::source::WeightSource;

/// A unit's weights. `R` is the unit with the roles of its tensors.
pub(crate) enum Weights<B: Backend, R: TryMap<Role>> {
    /// In memory for good.
    Resident(R::Of<B::Weight>),
    /// On disk or in RAM: brought whenever they are needed.
    Offloaded(Key, R),
}

/// Weights to compute with.
pub(crate) enum UsableWeights<'a, B: Backend, T> {
    Resident(&'a T),
    /// The weights go before the place in which they lie.
    Staged(T, Lease<'a, B>),
}

impl<B: Backend, R: TryMap<Role>> Weights<B, R> {
    /// Loads resident weights.
    pub(crate) fn load(
        backend: &B,
        stream: Option<&Stream<B>>,
        key: Key,
        roles: R,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        match stream {
            Some(stream) if stream.has(key) => Ok(Weights::Offloaded(key, roles)),
            _ => {
                let mut load = |&role: &Role| Ok(backend.load(source.weight(key.unit(), role)?)?);
                roles.try_map(&mut load).map(Weights::Resident)
            }
        }
    }

    /// The weights, wherever they rest, for what is put into `queue` from now on until [`UsableWeights::end`].
    pub(crate) fn get<'a>(
        &'a self,
        queue: &mut B::Queue,
        (backend, stream): (&B, Option<&'a Stream<B>>),
    ) -> Result<UsableWeights<'a, B, R::Of<B::Weight>>> {
        match (self, stream) {
            (Weights::Resident(weights), _) => Ok(UsableWeights::Resident(weights)),
            (Weights::Offloaded(key, roles), Some(stream)) => {
                let (lease, unit) = (stream.bring(queue, *key)?, key.unit());
                let weights = roles.try_map(&mut |&role| lease.weight(backend, unit, role))?;
                Ok(UsableWeights::Staged(weights, lease))
            }
            (Weights::Offloaded(key, _), None) => unreachable!("{key:?} is streamed by nothing"),
        }
    }

    /// The weights, if they are in memory for good.
    pub(crate) fn resident(&self) -> Option<&R::Of<B::Weight>> {
        match self {
            Weights::Resident(weights) => Some(weights),
            Weights::Offloaded(..) => None,
        }
    }

    pub(crate) fn is_streamed(&self) -> bool {
        matches!(self, Weights::Offloaded(..))
    }
}

impl<B: Backend, T> UsableWeights<'_, B, T> {
    /// Gives back the place of what was brought: nothing that is put into `queue` from now on uses it.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn end(self, queue: &mut B::Queue) -> Result<()> {
        match self {
            UsableWeights::Resident(_) => Ok(()),
            UsableWeights::Staged(weights, lease) => {
                drop(weights);
                lease.end(queue)
            }
        }
    }
}

impl<B: Backend, T> Deref for UsableWeights<'_, B, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            UsableWeights::Resident(weights) => weights,
            UsableWeights::Staged(weights, _) => weights,
        }
    }
}
