//! Weights as they are applied: a norm's vectors, and matrices that share their input.

use llm_arch::{NormSpec, Role, Unit};
use llm_backend::{Backend, LinearPart, NormOp, Output};
use llm_tensor::Norm;

use crate::Result;
use crate::source::WeightSource;

/// A normalisation's learned vectors.
pub(crate) struct NormWeights<B: Backend> {
    spec: NormSpec,
    gain: B::Weight,
    bias: Option<B::Weight>,
}

impl<B: Backend> NormWeights<B> {
    pub(crate) fn load(
        backend: &B,
        source: &mut dyn WeightSource,
        unit: Unit,
        spec: &NormSpec,
        (gain, bias): (Role, Role),
    ) -> Result<Self> {
        Ok(NormWeights {
            spec: *spec,
            gain: backend.load(source.weight(unit, gain)?)?,
            bias: match spec.norm {
                Norm::Layer => Some(backend.load(source.weight(unit, bias)?)?),
                Norm::Rms => None,
            },
        })
    }

    /// One that has no bias in any model.
    pub(crate) fn load_gain(
        backend: &B,
        source: &mut dyn WeightSource,
        unit: Unit,
        spec: &NormSpec,
        gain: Role,
    ) -> Result<Self> {
        Ok(NormWeights {
            spec: *spec,
            gain: backend.load(source.weight(unit, gain)?)?,
            bias: None,
        })
    }

    pub(crate) fn op(&self) -> NormOp<'_, B> {
        let NormSpec {
            norm,
            eps,
            gain_offset,
        } = self.spec;
        NormOp {
            norm,
            eps,
            gain_offset,
            gain: &self.gain,
            bias: self.bias.as_ref(),
        }
    }
}

/// Matrices that are applied to the same rows, with their biases.
pub(crate) struct Projection<B: Backend> {
    parts: Vec<Part<B>>,
}

struct Part<B: Backend> {
    weight: B::Weight,
    bias: Option<B::Weight>,
}

impl<B: Backend> Projection<B> {
    /// The matrices of some roles; a role of a bias beside each that has one.
    pub(crate) fn load(
        backend: &B,
        source: &mut dyn WeightSource,
        unit: Unit,
        roles: &[(Role, Option<Role>)],
    ) -> Result<Self> {
        let part = |&(weight, bias): &(Role, Option<Role>)| {
            let weight = backend.load(source.weight(unit, weight)?)?;
            let bias = match bias {
                Some(bias) => Some(backend.load(source.weight(unit, bias)?)?),
                None => None,
            };
            Ok(Part { weight, bias })
        };
        Ok(Projection {
            parts: roles.iter().map(part).collect::<Result<_>>()?,
        })
    }

    /// `x` `[n_tokens, in]` times all of them, side by side in `out`.
    pub(crate) fn apply(
        &self,
        backend: &B,
        x: &B::Buffer,
        (output, out): (Output, &mut B::Buffer),
        n_tokens: usize,
        workspace: &mut B::Workspace,
    ) -> Result<()> {
        let n_parts = self.parts.len();
        // On the stack, the last part repeated to fill up: the hot path allocates nothing.
        let parts: [_; MAX_PARTS] = std::array::from_fn(|i| {
            let Part { weight, bias } = &self.parts[i.min(n_parts - 1)];
            LinearPart {
                weight,
                bias: bias.as_ref(),
            }
        });
        Ok(backend.linear(&parts[..n_parts], x, output, out, n_tokens, workspace)?)
    }
}

/// Queries, keys and values.
const MAX_PARTS: usize = 3;
