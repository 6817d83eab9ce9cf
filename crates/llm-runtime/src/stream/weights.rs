//! Weights of a stage: resident or offloaded.

use std::ops::Deref;
use std::sync::Arc;

use llm_arch::{Role, TryMap};
use llm_backend::Backend;

use super::lease::Lease;
use super::tensor::{Slices, Tensor};
use super::{Key, Stream};
use crate::Result;
use crate::source::WeightSource;

/// A unit's weights. `R` is the unit with the roles of its tensors.
pub(crate) enum Weights<B: Backend, R: TryMap<Role>> {
    /// In memory for good.
    Resident(R::Of<Tensor<B>>),
    /// On disk or in RAM: brought whenever they are needed. True if some are brought at once.
    Offloaded(Key, R, bool),
}

/// Weights to compute with.
pub(crate) enum UsableWeights<'a, B: Backend, T> {
    Resident(&'a T),
    /// The weights go before the place in which they lie, if any are brought at once.
    Staged(T, Option<Lease<'a, B>>),
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
        match stream.and_then(|stream| stream.register(key, &roles)) {
            Some(has_rest) => Ok(Weights::Offloaded(key, roles, has_rest)),
            None => {
                let mut load = |&role: &Role| {
                    let weight = source.weight(key.unit(), role)?;
                    let n_rows = weight.rows;
                    Ok(Tensor::Here(backend.load(weight)?, n_rows))
                };
                roles.try_map(&mut load).map(Weights::Resident)
            }
        }
    }

    /// The weights, wherever they rest, for what is put into `queue` from now on until [`UsableWeights::end`].
    pub(crate) fn get<'a>(
        &'a self,
        queue: &mut B::Queue,
        stream: Option<&'a Stream<B>>,
    ) -> Result<UsableWeights<'a, B, R::Of<Tensor<B>>>> {
        match (self, stream) {
            (Weights::Resident(weights), _) => Ok(UsableWeights::Resident(weights)),
            (Weights::Offloaded(key, roles, has_rest), Some(stream)) => {
                let (shared, unit) = (stream.shared(), key.unit());
                let lease = match has_rest {
                    true => Some(shared.bring(queue, *key)?),
                    false => None,
                };
                let weights =
                    roles.try_map(&mut |&role| match (shared.cut.get(&(unit, role)), &lease) {
                        (Some(&cut), _) => Ok(Tensor::InSlices(Slices {
                            shared: Arc::clone(shared),
                            unit,
                            role,
                            cut,
                        })),
                        (None, Some(lease)) => {
                            lease.weight(unit, role).map(|(w, n)| Tensor::Here(w, n))
                        }
                        (None, None) => {
                            unreachable!("{role:?} of the {unit} is brought by nothing")
                        }
                    })?;
                Ok(UsableWeights::Staged(weights, lease))
            }
            (Weights::Offloaded(key, ..), None) => unreachable!("{key:?} is streamed by nothing"),
        }
    }

    /// The weights, if they are in memory for good.
    pub(crate) fn resident(&self) -> Option<&R::Of<Tensor<B>>> {
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
                lease.map_or(Ok(()), |lease| lease.end(queue))
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
