//! Tensors of each unit, by what they are to it.
//!
//! `T` is what stands for a tensor: its role, or a weight on a device. [`TryMap`] makes one of the other.

use llm_tensor::Norm;

use super::Role;
use crate::spec::{AttentionSpec, DenseMlp, ExpertsSpec, NormSpec, Residual};

/// A unit's tensors, of which each can be made into something else.
pub trait TryMap<T> {
    /// The same unit of other things.
    type Of<U>;

    /// Makes something else of each tensor, in the order in which they compute.
    ///
    /// # Errors
    /// The first of `f`.
    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<Self::Of<U>, E>;
}

/// A normalisation's learned vectors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormOf<T> {
    /// The statistic.
    pub spec: NormSpec,
    /// Multiplies.
    pub gain: T,
    /// Is added.
    pub bias: Option<T>,
}

/// A matrix, and the bias of its output features.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinearOf<T> {
    /// `[out, in]`.
    pub weight: T,
    /// `[out]`.
    pub bias: Option<T>,
}

/// Matrices that are applied to the same rows, with results side by side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ProjectionOf<T> {
    /// One.
    One([LinearOf<T>; 1]),
    /// Two, as gate and up.
    Two([LinearOf<T>; 2]),
    /// Three, as queries, keys and values.
    Three([LinearOf<T>; 3]),
}

impl<T> ProjectionOf<T> {
    /// The matrices, in the order of their results.
    pub fn parts(&self) -> &[LinearOf<T>] {
        match self {
            ProjectionOf::One(parts) => parts,
            ProjectionOf::Two(parts) => parts,
            ProjectionOf::Three(parts) => parts,
        }
    }
}

/// A block, but for its experts, which are units of their own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockOf<T> {
    /// How positions learn of each other.
    pub mixer: SublayerOf<MixerOf<T>, NormOf<T>>,
    /// Attention to what an encoder made of the prompt.
    pub cross: Option<SublayerOf<CrossOf<T>, NormOf<T>>>,
    /// Feed-forward.
    pub mlp: SublayerOf<MlpOf<T>, NormOf<T>>,
}

/// A sublayer: what it computes with, and what surrounds it. `N` is a norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SublayerOf<C, N> {
    /// Input.
    pub before: Before<N>,
    /// The computation.
    pub compute: C,
    /// Output.
    pub after: After<N>,
}

/// A block's mixer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MixerOf<T> {
    /// Self-attention.
    Attention(AttentionOf<T>),
}

/// Self-attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionOf<T> {
    /// Heads.
    pub spec: AttentionSpec,
    /// Queries, keys and values.
    pub qkv: ProjectionOf<T>,
    /// Norms of each head's queries, and of its keys.
    pub qk_norm: Option<[NormOf<T>; 2]>,
    /// From heads' results to the stream.
    pub out: LinearOf<T>,
}

/// Cross-attention, with heads like those of the mixer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CrossOf<T> {
    /// Heads.
    pub spec: AttentionSpec,
    /// Queries.
    pub q: LinearOf<T>,
    /// Keys and values of an encoder's result.
    pub kv: ProjectionOf<T>,
    /// From heads' results to the stream.
    pub out: LinearOf<T>,
}

/// Feed-forward.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MlpOf<T> {
    /// One for all tokens.
    Dense {
        /// Widths, gating and non-linearity.
        spec: DenseMlp,
        /// Up, and the gate where there is one.
        up: ProjectionOf<T>,
        /// Back to the stream.
        down: LinearOf<T>,
    },
    /// Experts, of which the block has the router.
    Experts {
        /// How many, and how they are chosen.
        spec: ExpertsSpec,
        /// Scores them.
        router: LinearOf<T>,
    },
}

/// An expert.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertOf<T> {
    /// Gate and up.
    pub up: ProjectionOf<T>,
    /// Back to the stream.
    pub down: LinearOf<T>,
}

/// An embedding's tables, and what follows them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmbeddingOf<T> {
    /// Vectors of tokens.
    pub tokens: T,
    /// Vectors of positions.
    pub positions: Option<T>,
    /// Stretches of the rotary wavelengths.
    pub rope_factors: Option<T>,
    /// What the vectors go through.
    pub input: InputOf<T>,
}

/// From token vectors to the residual stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InputOf<T> {
    /// Normalises the stream, last.
    pub norm: Option<NormOf<T>>,
    /// From the embedding's width to the stream's, first.
    pub project: Option<LinearOf<T>>,
}

/// A head, as far as it is not the embedding's table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadOf<T> {
    /// From the stream's width to the embedding's.
    pub project: Option<LinearOf<T>>,
    /// A matrix of its own.
    pub matrix: Option<T>,
    /// Is added to the logits.
    pub bias: Option<T>,
}

/// Input of a sublayer. `N` is a norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Before<N> {
    /// The residual stream.
    Stream,
    /// A normalised copy of it.
    Norm(N),
    /// A normalised copy of it as it was where the block began.
    NormOfStart(N),
    /// The stream, which is normalised itself.
    NormStream(N),
    /// What the sublayer before it read.
    Same,
}

/// Output of a sublayer. `N` is a norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum After<N> {
    /// It is added to the stream.
    Add,
    /// It is normalised, then added.
    NormThenAdd(N),
    /// It is added, then the stream is normalised.
    AddThenNorm(N),
}

impl NormSpec {
    /// A norm of this kind, by the roles of its vectors.
    pub(super) fn of(self, gain: Role, bias: Role) -> NormOf<Role> {
        NormOf {
            spec: self,
            gain,
            bias: match self.norm {
                Norm::Layer => Some(bias),
                Norm::Rms => None,
            },
        }
    }

    /// One that has no bias in any model.
    pub(super) fn gain(self, gain: Role) -> NormOf<Role> {
        let (spec, bias) = (self, None);
        NormOf { spec, gain, bias }
    }
}

impl Residual {
    /// What stands before and after the mixer, and what before and after the feed-forward, with norms of one kind.
    pub(super) fn sublayers(
        self,
        norm: &NormSpec,
    ) -> [(Before<NormOf<Role>>, After<NormOf<Role>>); 2] {
        use After::{Add, AddThenNorm, NormThenAdd};
        use Before::{Norm, NormOfStart, NormStream, Same, Stream};
        let attn = norm.of(Role::AttnNorm, Role::AttnNormBias);
        let mlp = norm.of(Role::MlpNorm, Role::MlpNormBias);
        let post_attn = norm.gain(Role::PostAttnNorm);
        let post_mlp = norm.gain(Role::PostMlpNorm);
        match self {
            Residual::Sequential => [(Norm(attn), Add), (Norm(mlp), Add)],
            Residual::Sandwich => [
                (Norm(attn), NormThenAdd(post_attn)),
                (Norm(mlp), NormThenAdd(post_mlp)),
            ],
            Residual::PostNorm => [(Stream, AddThenNorm(attn)), (Stream, AddThenNorm(mlp))],
            Residual::Normed => [(NormStream(attn), Add), (NormStream(mlp), Add)],
            Residual::ParallelOneNorm => [(Norm(attn), Add), (Same, Add)],
            Residual::ParallelTwoNorms => [(Norm(attn), Add), (NormOfStart(mlp), Add)],
        }
    }
}

impl<T> TryMap<T> for NormOf<T> {
    type Of<U> = NormOf<U>;

    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<NormOf<U>, E> {
        Ok(NormOf {
            spec: self.spec,
            gain: f(&self.gain)?,
            bias: self.bias.as_ref().map(f).transpose()?,
        })
    }
}

impl<T> TryMap<T> for LinearOf<T> {
    type Of<U> = LinearOf<U>;

    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<LinearOf<U>, E> {
        Ok(LinearOf {
            weight: f(&self.weight)?,
            bias: self.bias.as_ref().map(f).transpose()?,
        })
    }
}

impl<T> TryMap<T> for ProjectionOf<T> {
    type Of<U> = ProjectionOf<U>;

    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<Self::Of<U>, E> {
        Ok(match self {
            ProjectionOf::One([a]) => ProjectionOf::One([a.try_map(f)?]),
            ProjectionOf::Two([a, b]) => ProjectionOf::Two([a.try_map(f)?, b.try_map(f)?]),
            ProjectionOf::Three([a, b, c]) => {
                ProjectionOf::Three([a.try_map(f)?, b.try_map(f)?, c.try_map(f)?])
            }
        })
    }
}

impl<T> TryMap<T> for MixerOf<T> {
    type Of<U> = MixerOf<U>;

    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<MixerOf<U>, E> {
        match self {
            MixerOf::Attention(attention) => attention.try_map(f).map(MixerOf::Attention),
        }
    }
}

impl<T> TryMap<T> for MlpOf<T> {
    type Of<U> = MlpOf<U>;

    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<MlpOf<U>, E> {
        Ok(match self {
            MlpOf::Dense { spec, up, down } => MlpOf::Dense {
                spec: *spec,
                up: up.try_map(f)?,
                down: down.try_map(f)?,
            },
            MlpOf::Experts { spec, router } => MlpOf::Experts {
                spec: *spec,
                router: router.try_map(f)?,
            },
        })
    }
}

impl<T, N: TryMap<T>> TryMap<T> for Before<N> {
    type Of<U> = Before<N::Of<U>>;

    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<Self::Of<U>, E> {
        Ok(match self {
            Before::Stream => Before::Stream,
            Before::Norm(norm) => Before::Norm(norm.try_map(f)?),
            Before::NormOfStart(norm) => Before::NormOfStart(norm.try_map(f)?),
            Before::NormStream(norm) => Before::NormStream(norm.try_map(f)?),
            Before::Same => Before::Same,
        })
    }
}

impl<T, N: TryMap<T>> TryMap<T> for After<N> {
    type Of<U> = After<N::Of<U>>;

    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<Self::Of<U>, E> {
        Ok(match self {
            After::Add => After::Add,
            After::NormThenAdd(norm) => After::NormThenAdd(norm.try_map(f)?),
            After::AddThenNorm(norm) => After::AddThenNorm(norm.try_map(f)?),
        })
    }
}

impl<T, C: TryMap<T>, N: TryMap<T>> TryMap<T> for SublayerOf<C, N> {
    type Of<U> = SublayerOf<C::Of<U>, N::Of<U>>;

    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<Self::Of<U>, E> {
        Ok(SublayerOf {
            before: self.before.try_map(f)?,
            compute: self.compute.try_map(f)?,
            after: self.after.try_map(f)?,
        })
    }
}

impl<T> TryMap<T> for HeadOf<T> {
    type Of<U> = HeadOf<U>;

    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<HeadOf<U>, E> {
        Ok(HeadOf {
            project: self.project.try_map(f)?,
            matrix: self.matrix.as_ref().map(&mut *f).transpose()?,
            bias: self.bias.as_ref().map(f).transpose()?,
        })
    }
}

impl<T, P: TryMap<T>> TryMap<T> for Option<P> {
    type Of<U> = Option<P::Of<U>>;

    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<Self::Of<U>, E> {
        self.as_ref().map(|part| part.try_map(f)).transpose()
    }
}

impl<T, P: TryMap<T>> TryMap<T> for [P; 2] {
    type Of<U> = [P::Of<U>; 2];

    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<Self::Of<U>, E> {
        Ok([self[0].try_map(f)?, self[1].try_map(f)?])
    }
}

/// Of structs whose fields are specs, which are kept, and parts, of which each is mapped.
macro_rules! try_map {
    ($of:ident { $($spec:ident)? ; $($part:ident)+ }) => {
        impl<T> TryMap<T> for $of<T> {
            type Of<U> = $of<U>;

            fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<$of<U>, E> {
                Ok($of { $($spec: self.$spec,)? $($part: self.$part.try_map(f)?,)+ })
            }
        }
    };
}

try_map!(BlockOf { ; mixer cross mlp });
try_map!(AttentionOf { spec; qkv qk_norm out });
try_map!(CrossOf { spec; q kv out });
try_map!(ExpertOf { ; up down });
try_map!(InputOf { ; norm project });
