//! From a model's configuration to its skeleton: the weights it needs and the blocks they form.
//!
//! A `config.json`, or a GGUF's metadata, becomes a [`ModelSpec`]: plain data, a product of small enums. One function
//! turns it into the list of [`Slot`]s, every tensor the model needs with its place, shape and name. What binds a
//! checkpoint, sums its bytes or builds its blocks reads that list; a size, a name or a shape exists once.

mod config;
mod error;
mod family;
mod hub;
mod rope_config;
mod rotary;
mod skeleton;
mod spec;

pub use error::{ArchError, UnknownKey};
pub use family::{UnknownKeys, families, from_config, from_config_with, from_gguf};
pub use hub::HubForm;
pub use rotary::{RopeScaling, RotarySpec};
pub use skeleton::{
    After, AltUpOf, ApartOf, AttentionOf, Before, BlockOf, CollapseOf, CompressedOf, CrossOf,
    DeltaLatentsOf, DeltaOf, DenseOf, EmbeddingOf, EntriesOf, EntryIndexOf, ExpertOf, ExpertsOf,
    Extents, HeadOf, HybridOf, HyperOf, IndexOf, InputOf, LatentExpertsOf, LatentInputOf, LatentOf,
    LaurelOf, LinearOf, MixerOf, MlpOf, Module, NormOf, PerLayerOf, Place, ProjectionOf, Role,
    SharedKeyOf, SharedOf, ShortConvOf, Skeleton, Slot, StackPlace, Stacked, StateSpaceOf, Stored,
    StreamWeightsOf, StreamsEndOf, StreamsOf, SublayerOf, TensorKind, TryMap, Unit, Walk,
};
pub use spec::{
    AltUpSpec, AttentionSpec, DeltaPacking, DeltaSpec, DenseMlp, EmbeddingSpec, EncoderSpec,
    EntriesSpec, EntryIndexSpec, EntryKind, ExpertsSpec, FinalNorm, Gating, GroupNorm, HeadMatrix,
    HeadSpec, HybridSpec, HyperSpec, IndexHeads, IndexSpec, Join, LatentSpec, LayerSpec, MixerSpec,
    MlpSpec, ModelSpec, NonLinearity, NormOrder, NormOver, NormSpec, Packing, PerLayerPart,
    PerLayerSpec, Positions, QkNorm, Residual, SharedKeySpec, SharedSpec, ShortConvSpec, Side,
    StackSpec, StateSpaceSpec, StreamsJoin, StreamsSpec, ValueOrder,
};

pub use llm_tensor::{ExpertGroups, GroupRank, Routing, Scoring, Weighting};
