//! Tensors of each unit, by what they are to it.
//!
//! `T` is what stands for a tensor: its role, or a weight on a device. [`TryMap`] makes one of the other.

use super::Role;
use crate::spec::{
    AttentionSpec, DeltaSpec, DenseMlp, EntriesSpec, EntryIndexSpec, ExpertsSpec, IndexHeads,
    LatentSpec, NormSpec, PerLayerPart, Residual, SharedKeySpec, ShortConvSpec, StateSpaceSpec,
    StreamsSpec,
};

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
    /// Four, as a delta rule has.
    Four([LinearOf<T>; 4]),
}

impl<T> ProjectionOf<T> {
    /// The matrices, in the order of their results.
    pub fn parts(&self) -> &[LinearOf<T>] {
        match self {
            ProjectionOf::One(parts) => parts,
            ProjectionOf::Two(parts) => parts,
            ProjectionOf::Three(parts) => parts,
            ProjectionOf::Four(parts) => parts,
        }
    }
}

/// A block, but for its experts, which are units of their own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockOf<T> {
    /// Mixer across positions, if it has one.
    pub mixer: Option<SublayerOf<MixerOf<T>, T>>,
    /// Attention to what an encoder made of the prompt.
    pub cross: Option<SublayerOf<CrossOf<T>, T>>,
    /// Feed-forward, if it has one.
    pub mlp: Option<SublayerOf<MlpOf<T>, T>>,
    /// What it takes in beside the residual, after the feed-forward.
    pub per_layer: Option<PerLayerOf<T>>,
    /// What it does with a residual of several streams.
    pub streams: Option<StreamsOf<T>>,
    /// Multiplies the residual in the end, `[1]`.
    pub scale: Option<T>,
}

/// What a block does with a residual of several streams.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum StreamsOf<T> {
    /// Alternating updates.
    AltUp(AltUpOf<T>),
    /// Hyper-connections.
    Hyper(HyperOf<T>),
}

/// Hyper-connections of a block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HyperOf<T> {
    /// Around the mixer.
    pub mixer: StreamWeightsOf<T>,
    /// Around the feed-forward.
    pub mlp: StreamWeightsOf<T>,
}

/// What weights of streams are made by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamWeightsOf<T> {
    /// Streams.
    pub spec: StreamsSpec,
    /// Added to their mean square.
    pub norm_eps: f32,
    /// Products with all streams of a row, `[weights, streams · hidden]`.
    pub products: LinearOf<T>,
    /// Added to them, `[weights]`.
    pub base: T,
    /// Multiplies them, one of each part.
    pub scale: T,
}

/// Alternating updates of a block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AltUpOf<T> {
    /// Streams.
    pub spec: StreamsSpec,
    /// Norm of what a router reads: a prediction's first stream, or what a block made of it.
    pub norm: NormOf<T>,
    /// One number for each stream, of which coefficients are made.
    pub router: LinearOf<T>,
    /// Coefficients of a prediction, `[streams · streams, streams]`.
    pub predict: LinearOf<T>,
    /// Coefficients of a correction, `[streams, streams]`.
    pub correct: LinearOf<T>,
    /// The learned residual beside the mixer.
    pub laurel: LaurelOf<T>,
    /// Multiplies the first stream where it gates the layer's inputs, `[hidden]`.
    pub scale: Option<T>,
}

/// A learned residual: what a mixer reads, and a normed projection of it by way of few features.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LaurelOf<T> {
    /// To the features.
    pub down: LinearOf<T>,
    /// From them.
    pub up: LinearOf<T>,
    /// Normalises that.
    pub norm: NormOf<T>,
}

/// From several streams to one row, and the norm of it: what follows the last block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamsEndOf<T> {
    /// What is made of streams.
    pub collapse: CollapseOf<T>,
    /// The final norm.
    pub norm: NormOf<T>,
}

/// From several streams to one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CollapseOf<T> {
    /// The mean of the first and of projections of the others, which have its magnitude.
    Mean(ProjectionOf<T>),
    /// A weighted sum.
    Weighed(StreamWeightsOf<T>),
}

/// A layer's part of the rows that layers take in beside the residual.
///
/// ```text
/// x ─┬─ gate ─ activation ─ · part ─ project ─ norm ─ + ─►
///    └────────────────────────────────────────────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PerLayerOf<T> {
    /// The part.
    pub spec: PerLayerPart,
    /// From the residual to what multiplies it.
    pub gate: LinearOf<T>,
    /// From the product to the residual.
    pub out: LinearOf<T>,
    /// Normalises that.
    pub norm: NormOf<T>,
}

/// A sublayer: a computation `C`, and what stands before and after it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SublayerOf<C, T> {
    /// Input.
    pub before: Before<T>,
    /// The computation.
    pub compute: C,
    /// Output.
    pub after: After<T>,
}

/// A block's mixer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MixerOf<T> {
    /// Self-attention.
    Attention(AttentionOf<T>),
    /// Attention to latents.
    Latent(LatentOf<T>),
    /// Attention to one key of all heads.
    SharedKey(SharedKeyOf<T>),
    /// A gated short convolution.
    Conv(ShortConvOf<T>),
    /// A gated delta rule.
    Delta(DeltaOf<T>),
    /// A state space.
    StateSpace(StateSpaceOf<T>),
    /// Attention and a state space side by side.
    Hybrid(HybridOf<T>),
}

/// Attention and a state space side by side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HybridOf<T> {
    /// The attention.
    pub attention: AttentionOf<T>,
    /// The state space.
    pub space: StateSpaceOf<T>,
}

/// A state space.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StateSpaceOf<T> {
    /// Heads, and what their states keep.
    pub spec: StateSpaceSpec,
    /// To `[gates | values | written by | read by | steps]`.
    pub project: LinearOf<T>,
    /// Taps of all that is convolved.
    pub taps: LinearOf<T>,
    /// How fast each head's state fades.
    pub rate: T,
    /// What is added to its steps.
    pub offset: T,
    /// What its values are multiplied by beside the state.
    pub skip: T,
    /// Norm of gated results.
    pub norm: Option<NormOf<T>>,
    /// From the heads to the residual.
    pub out: LinearOf<T>,
}

/// A gated delta rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeltaOf<T> {
    /// Heads and how they are stored.
    pub spec: DeltaSpec,
    /// To queries, keys, values, gates of results, strengths and decays.
    pub project: ProjectionOf<T>,
    /// By way of latents, gates of results and decays, where there are such.
    pub latents: Option<DeltaLatentsOf<T>>,
    /// Taps `[2 · keys + values, kernel]`, in one or apart.
    pub taps: ProjectionOf<T>,
    /// How fast each head decays.
    pub rate: T,
    /// What is added to its decays.
    pub offset: T,
    /// Norm of each head's result.
    pub norm: NormOf<T>,
    /// From the heads to the residual.
    pub out: LinearOf<T>,
}

/// Projections of a delta rule by way of latents.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeltaLatentsOf<T> {
    /// To the latent of gates of results,
    pub gate_down: LinearOf<T>,
    /// and from it to them.
    pub gate_up: LinearOf<T>,
    /// To the latent of decays,
    pub decay_down: LinearOf<T>,
    /// and from it to them.
    pub decay_up: LinearOf<T>,
}

/// A gated short convolution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShortConvOf<T> {
    /// Channels and taps.
    pub spec: ShortConvSpec,
    /// To `[B | C | x]`.
    pub project: LinearOf<T>,
    /// Taps `[n_channels, kernel]`, the last for the position itself, and a bias for each channel.
    pub taps: LinearOf<T>,
    /// From the channels to the residual.
    pub out: LinearOf<T>,
}

/// Self-attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionOf<T> {
    /// Heads.
    pub spec: AttentionSpec,
    /// Queries, keys and values; queries alone where keys and values are another layer's.
    pub qkv: ProjectionOf<T>,
    /// Normalises each head's queries.
    pub q_norm: Option<NormOf<T>>,
    /// Normalises each head's keys.
    pub k_norm: Option<NormOf<T>>,
    /// From heads' results to the residual.
    pub out: LinearOf<T>,
    /// A score of each head beside those of positions.
    pub sinks: Option<T>,
}

/// Attention to latents.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatentOf<T> {
    /// Heads and ranks.
    pub spec: LatentSpec,
    /// To the latent of queries, and its norm.
    pub q_latent: Option<LatentInputOf<T>>,
    /// Queries, of their latent or of the input.
    pub q: LinearOf<T>,
    /// To the latent of keys and values, with the shared key behind it; and the latent's norm.
    pub kv_latent: LatentInputOf<T>,
    /// Each head's keys, then its values, of a latent: `[n_heads · (nope_dim + value_dim), kv_rank]`. Where these lie apart, each
    /// head's latents of keys: `[n_heads · kv_rank, nope_dim]`.
    pub kv: LinearOf<T>,
    /// Then each head's values of a latent: `[n_heads · value_dim, kv_rank]`.
    pub values: Option<LinearOf<T>>,
    /// From heads' results to the residual.
    pub out: LinearOf<T>,
    /// Heads that select positions, where a layer has its own.
    pub index: Option<IndexOf<T>>,
}

/// Heads that select the positions that latent attention sees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IndexOf<T> {
    /// Heads.
    pub spec: IndexHeads,
    /// Queries, of the latent of attention's.
    pub q: LinearOf<T>,
    /// Keys, of the input,
    pub k: LinearOf<T>,
    /// and their norm.
    pub k_norm: NormOf<T>,
    /// Weights of heads, of the input.
    pub weigh: LinearOf<T>,
}

/// Attention to one key of all heads, which is their value too.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SharedKeyOf<T> {
    /// Heads.
    pub spec: SharedKeySpec,
    /// To the latent of queries, and its norm.
    pub q_latent: LatentInputOf<T>,
    /// Queries, of their latent.
    pub q: LinearOf<T>,
    /// The key, and its norm.
    pub k: LatentInputOf<T>,
    /// What runs of positions are compressed to, where that is seen.
    pub entries: Option<EntriesOf<T>>,
    /// From the results of each group of heads, by rows of its own: `[n_groups · group_rank, elements of a group]`.
    pub groups: LinearOf<T>,
    /// From all groups to the residual.
    pub out: LinearOf<T>,
    /// A score of each head beside those of positions.
    pub sinks: T,
}

/// What runs of positions are compressed to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EntriesOf<T> {
    /// Runs.
    pub spec: EntriesSpec,
    /// Entries as keys.
    pub keys: CompressedOf<T>,
    /// Their selection.
    pub index: Option<EntryIndexOf<T>>,
}

/// Selection of entries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EntryIndexOf<T> {
    /// Heads.
    pub spec: EntryIndexSpec,
    /// Keys that stand for entries.
    pub keys: CompressedOf<T>,
    /// Queries, of the latent of attention's.
    pub q: LinearOf<T>,
    /// Weights of heads, of the input.
    pub weigh: LinearOf<T>,
}

/// Projections of what runs of positions are compressed of, and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CompressedOf<T> {
    /// Features and their gates.
    pub project: ProjectionOf<T>,
    /// Added to gates by the place in a run, `[rate, features]`.
    pub places: T,
    /// Norm of entries.
    pub norm: NormOf<T>,
}

/// From the input to a latent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatentInputOf<T> {
    /// The projection.
    pub project: LinearOf<T>,
    /// Normalises the latent.
    pub norm: NormOf<T>,
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
    /// From heads' results to the residual.
    pub out: LinearOf<T>,
}

/// Feed-forward.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "a model has one for each layer, and they are copied as plain data"
)]
pub enum MlpOf<T> {
    /// One for all tokens.
    Dense(DenseOf<T>),
    /// Experts, of which the block has the router.
    Experts(ExpertsOf<T>),
}

/// Feed-forward of all tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DenseOf<T> {
    /// Width, gating and non-linearity.
    pub spec: DenseMlp,
    /// Up, after the gate where there is one.
    pub up: ProjectionOf<T>,
    /// Back to the residual.
    pub down: LinearOf<T>,
    /// Numbers of a non-linearity that has some.
    pub xielu: Option<XieluOf<T>>,
}

/// Numbers of xIELU, each a tensor of one element.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct XieluOf<T> {
    /// Growth above zero, as softplus makes it.
    pub alpha_p: T,
    /// Growth below zero, as softplus makes it and `beta` is added.
    pub alpha_n: T,
    /// Slope at zero.
    pub beta: T,
    /// Largest argument of the exponential.
    pub eps: T,
}

/// Experts' router.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertsOf<T> {
    /// Number of experts, and their choice.
    pub spec: ExpertsSpec,
    /// Scores them.
    pub router: LinearOf<T>,
    /// Corrects their ranks, `[n_experts]`.
    pub correction: Option<T>,
    /// Experts of each token, `[vocab, n_active]`.
    pub by_token: Option<T>,
    /// Around experts whose rows are narrower than the residual's.
    pub latent: Option<LatentExpertsOf<T>>,
    /// An expert that all tokens go to.
    pub shared: Option<SharedOf<T>>,
    /// Norms that keep it apart from the others.
    pub apart: Option<ApartOf<T>>,
}

/// Norms between experts and the one that all tokens go to.
///
/// ```text
/// x ─┬─ norm ─ shared ─ norm ──── + ─►
///    └─ norm ─ experts ─ norm ────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ApartOf<T> {
    /// What the router reads: the residual's norm, over the root of its width.
    pub router: NormOf<T>,
    /// Multiplies the weights of chosen experts' results.
    pub scales: T,
    /// What experts read.
    pub before: NormOf<T>,
    /// What they make, all together.
    pub after: NormOf<T>,
    /// What the one for all tokens makes.
    pub after_shared: NormOf<T>,
}

/// Projections around experts whose rows are narrower than the residual's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatentExpertsOf<T> {
    /// From the residual to their rows.
    pub enter: LinearOf<T>,
    /// From the sum of their results to the residual.
    pub leave: LinearOf<T>,
}

/// A feed-forward beside the chosen experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SharedOf<T> {
    /// The feed-forward.
    pub mlp: DenseOf<T>,
    /// Scores tokens, `[1, hidden]`; the score's sigmoid multiplies the result.
    pub score: Option<LinearOf<T>>,
}

/// An expert.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertOf<T> {
    /// Gate and up.
    pub up: ProjectionOf<T>,
    /// Back to the residual.
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
    /// Projection and norm, if any.
    pub input: InputOf<T>,
}

/// From token vectors to the residual stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InputOf<T> {
    /// Normalises the residual, last.
    pub norm: Option<NormOf<T>>,
    /// From the embedding's width to the residual's, first.
    pub project: Option<LinearOf<T>>,
    /// From the residual to the rows that layers take in, and the norm of each layer's part.
    pub per_layer: Option<LatentInputOf<T>>,
    /// From the residual to its further streams, where they are made of it.
    pub streams: Option<ProjectionOf<T>>,
}

/// A head, as far as it is not the embedding's table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadOf<T> {
    /// From the residual's width to the embedding's.
    pub project: Option<LinearOf<T>>,
    /// A matrix of its own.
    pub matrix: Option<T>,
    /// Is added to the logits.
    pub bias: Option<T>,
}

/// Input of a sublayer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Before<T> {
    /// The residual stream.
    Residual,
    /// A normalised copy of it.
    Norm(NormOf<T>),
    /// A normalised copy of it as it was where the block began.
    NormOfStart(NormOf<T>),
    /// The residual, which is normalised itself.
    NormResidual(NormOf<T>),
    /// Input of the sublayer before it.
    Same,
}

/// Output of a sublayer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum After<T> {
    /// It is added to the residual.
    Add,
    /// It is normalised, then added.
    NormThenAdd(NormOf<T>),
    /// It is added, then the residual is normalised.
    AddThenNorm(NormOf<T>),
}

impl NormSpec {
    /// A norm of this kind, by the roles of its vectors.
    pub(super) fn of(self, gain: Role) -> NormOf<Role> {
        NormOf {
            spec: self,
            gain,
            bias: gain.bias().filter(|_| self.bias),
        }
    }
}

impl Residual {
    /// Inputs and outputs of the mixer and of the feed-forward, with norms of one kind.
    pub(super) fn sublayers(self, norm: &NormSpec) -> [(Before<Role>, After<Role>); 2] {
        use After::{Add, AddThenNorm, NormThenAdd};
        use Before::{Norm, NormOfStart, NormResidual, Same};
        let attn = norm.of(Role::AttnNorm);
        let mlp = norm.of(Role::MlpNorm);
        let post_attn = norm.of(Role::PostAttnNorm);
        let post_mlp = norm.of(Role::PostMlpNorm);
        match self {
            Residual::Sequential => [(Norm(attn), Add), (Norm(mlp), Add)],
            Residual::Sandwich => [
                (Norm(attn), NormThenAdd(post_attn)),
                (Norm(mlp), NormThenAdd(post_mlp)),
            ],
            Residual::PostNorm => [
                (Before::Residual, AddThenNorm(attn)),
                (Before::Residual, AddThenNorm(mlp)),
            ],
            Residual::Results => [
                (Before::Residual, NormThenAdd(post_attn)),
                (Before::Residual, NormThenAdd(post_mlp)),
            ],
            Residual::Normed => [(NormResidual(attn), Add), (NormResidual(mlp), Add)],
            Residual::ParallelOneNorm => [(Norm(attn), Add), (Same, Add)],
            Residual::ParallelTwoNorms => [(Norm(attn), Add), (NormOfStart(mlp), Add)],
        }
    }
}

impl<T, P: TryMap<T>> TryMap<T> for Option<P> {
    type Of<U> = Option<P::Of<U>>;

    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<Self::Of<U>, E> {
        self.as_ref().map(|part| part.try_map(f)).transpose()
    }
}

impl<T> TryMap<T> for ProjectionOf<T> {
    type Of<U> = ProjectionOf<U>;

    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<Self::Of<U>, E> {
        let mut map = |part: &LinearOf<T>| part.try_map(f);
        Ok(match self {
            ProjectionOf::One([a]) => ProjectionOf::One([map(a)?]),
            ProjectionOf::Two([a, b]) => ProjectionOf::Two([map(a)?, map(b)?]),
            ProjectionOf::Three([a, b, c]) => ProjectionOf::Three([map(a)?, map(b)?, map(c)?]),
            ProjectionOf::Four([a, b, c, d]) => {
                ProjectionOf::Four([map(a)?, map(b)?, map(c)?, map(d)?])
            }
        })
    }
}

impl<T, C: TryMap<T>> TryMap<T> for SublayerOf<C, T> {
    type Of<U> = SublayerOf<C::Of<U>, U>;

    fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<Self::Of<U>, E> {
        Ok(SublayerOf {
            before: self.before.try_map(f)?,
            compute: self.compute.try_map(f)?,
            after: self.after.try_map(f)?,
        })
    }
}

/// Structs of specs, which are kept; of parts; of tensors; and of tensors that may be absent.
macro_rules! map_fields {
    ($of:ident { $($spec:ident)* ; $($part:ident)* ; $($tensor:ident)* ; $($maybe:ident)* }) => {
        impl<T> TryMap<T> for $of<T> {
            type Of<U> = $of<U>;

            fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<$of<U>, E> {
                Ok($of {
                    $($spec: self.$spec,)*
                    $($part: self.$part.try_map(f)?,)*
                    $($tensor: f(&self.$tensor)?,)*
                    $($maybe: self.$maybe.as_ref().map(&mut *f).transpose()?,)*
                })
            }
        }
    };
}

map_fields!(NormOf { spec; ; gain; bias });
map_fields!(LinearOf { ; ; weight; bias });
map_fields!(BlockOf { ; mixer cross mlp per_layer streams; ; scale });
map_fields!(AltUpOf { spec; norm router predict correct laurel; ; scale });
map_fields!(HyperOf { ; mixer mlp; ; });
map_fields!(StreamWeightsOf { spec norm_eps; products; base scale; });
map_fields!(LaurelOf { ; down up norm; ; });
map_fields!(StreamsEndOf { ; collapse norm; ; });
map_fields!(PerLayerOf { spec; gate out norm; ; });
map_fields!(AttentionOf { spec; qkv q_norm k_norm out; ; sinks });
map_fields!(LatentOf { spec; q_latent q kv_latent kv values out index; ; });
map_fields!(IndexOf { spec; q k k_norm weigh; ; });
map_fields!(SharedKeyOf { spec; q_latent q k entries groups out; sinks; });
map_fields!(EntriesOf { spec; keys index; ; });
map_fields!(EntryIndexOf { spec; keys q weigh; ; });
map_fields!(CompressedOf { ; project norm; places; });
map_fields!(LatentInputOf { ; project norm; ; });
map_fields!(DeltaOf { spec; project latents taps norm out; rate offset; });
map_fields!(DeltaLatentsOf { ; gate_down gate_up decay_down decay_up; ; });
map_fields!(HybridOf { ; attention space; ; });
map_fields!(StateSpaceOf { spec; project taps norm out; rate offset skip; });
map_fields!(ShortConvOf { spec; project taps out; ; });
map_fields!(CrossOf { spec; q kv out; ; });
map_fields!(DenseOf { spec; up down xielu; ; });
map_fields!(XieluOf { ; ; alpha_p alpha_n beta eps; });
map_fields!(ExpertsOf { spec; router latent shared apart; ; correction by_token });
map_fields!(ApartOf { ; router before after after_shared; scales; });
map_fields!(LatentExpertsOf { ; enter leave; ; });
map_fields!(SharedOf { ; mlp score; ; });
map_fields!(ExpertOf { ; up down; ; });
map_fields!(InputOf { ; norm project per_layer streams; ; });
map_fields!(HeadOf { ; project; ; matrix bias });

/// Enums of variants that are empty, and of variants of one part.
macro_rules! map_variants {
    ($of:ident { $($empty:ident)* ; $($variant:ident)+ }) => {
        impl<T> TryMap<T> for $of<T> {
            type Of<U> = $of<U>;

            fn try_map<U, E>(&self, f: &mut impl FnMut(&T) -> Result<U, E>) -> Result<$of<U>, E> {
                Ok(match self {
                    $($of::$empty => $of::$empty,)*
                    $($of::$variant(part) => $of::$variant(part.try_map(f)?),)+
                })
            }
        }
    };
}

map_variants!(MixerOf { ; Attention Latent SharedKey Conv Delta StateSpace Hybrid });
map_variants!(StreamsOf { ; AltUp Hyper });
map_variants!(CollapseOf { ; Mean Weighed });
map_variants!(MlpOf { ; Dense Experts });
map_variants!(Before { Residual Same; Norm NormOfStart NormResidual });
map_variants!(After { Add; NormThenAdd AddThenNorm });
