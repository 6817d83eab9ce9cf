//! The list of tensors that a model needs.

mod block;
mod naming;
mod places;
mod slot;
mod text_half;
mod walk;

use std::borrow::Cow;

pub use self::block::{
    After, AltUpOf, ApartOf, AttentionOf, Before, BlockOf, CollapseOf, CompressedOf, CrossOf,
    DeltaLatentsOf, DeltaOf, DenseOf, EmbeddingOf, EntriesOf, EntryIndexOf, ExpertOf, ExpertsOf,
    HeadOf, HybridOf, HyperOf, IndexOf, InputOf, LatentExpertsOf, LatentInputOf, LatentOf,
    LaurelOf, LinearOf, MixerOf, MlpOf, NormOf, PerLayerOf, ProjectionOf, SharedKeyOf, SharedOf,
    ShortConvOf, StateSpaceOf, StreamWeightsOf, StreamsEndOf, StreamsOf, SublayerOf, TryMap,
};
pub(crate) use self::naming::{Elsewhere, Matrices, Names, Naming, SpaceStored, StackRows};
use self::naming::{Pattern, matches};
pub use self::places::{Place, StackPlace, Stacked};
pub use self::slot::{Extents, Module, Role, Slot, Stored, TensorKind, Unit};
pub use self::walk::Walk;
use self::walk::units;
use crate::ArchError;
use crate::spec::{HeadMatrix, ModelSpec, Side};

/// A model without weights: what it is, and every tensor it needs.
///
/// ```
/// use llm_arch::{Unit, from_config};
///
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models/llama/config.json");
/// let config = serde_json::from_slice(&std::fs::read(path)?)?;
/// let skeleton = from_config(&config)?;
/// assert_eq!(skeleton.spec.family, "llama");
///
/// let table = &skeleton.slots[0];
/// assert_eq!((table.unit, table.name.as_str()), (Unit::Embedding, "model.embed_tokens.weight"));
/// assert_eq!(table.matrix(), (skeleton.spec.vocab, skeleton.spec.hidden));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Skeleton {
    /// Spec of the model.
    pub spec: ModelSpec,
    /// Its tensors, in the order in which they compute.
    pub slots: Vec<Slot>,
    /// Notices for the user of how the configuration was understood.
    pub notices: Vec<String>,
    naming: &'static Naming,
    /// Layout in a checkpoint of a larger model, if it is but a part of one.
    text_half: Option<text_half::Layout>,
}

impl Skeleton {
    /// Joins a spec with the names that a checkpoint of its family uses.
    ///
    /// # Errors
    /// [`ArchError::TooManyTensors`] and [`ArchError::TooLarge`] when the extents together make no real model; sums of
    /// sizes then fit 64 bits.
    pub(crate) fn new(spec: ModelSpec, naming: &'static Naming) -> Result<Self, ArchError> {
        let n_slots: u64 = spec
            .decoder
            .layers
            .iter()
            .map(|layer| SLOTS_OF_A_BLOCK + 3 * layer.mlp.n_experts() as u64)
            .sum();
        if n_slots > MAX_SLOTS {
            return Err(ArchError::TooManyTensors { n_tensors: n_slots });
        }
        let (mut slots, mut n_parameters) = (Vec::new(), 0u128);
        let mut tensors = Vec::new();
        for unit in units(&spec) {
            // The experts of a layer are alike.
            if !matches!(unit, Unit::Expert { expert: 1.., .. }) {
                tensors.clear();
                let add = |role, shape: &[usize]| tensors.push(naming.pattern(unit, role, shape));
                Walk::new(&spec, add).unit(unit);
            }
            let slot = |tensor: &Pattern| Slot {
                stored: naming
                    .groups_of(&spec, unit, tensor)
                    .unwrap_or(tensor.stored()),
                ..tensor.slot(unit)
            };
            slots.extend(tensors.iter().map(slot));
            n_parameters += tensors.iter().map(Pattern::n_elements).sum::<u128>();
        }
        if n_parameters > MAX_PARAMETERS {
            return Err(ArchError::TooLarge { n_parameters });
        }
        Ok(Skeleton {
            slots,
            spec,
            notices: Vec::new(),
            naming,
            text_half: None,
        })
    }

    /// The same model with another answer to whether its head is tied: what a checkpoint holds may not be what its
    /// configuration says.
    ///
    /// # Errors
    /// [`ArchError::TooManyTensors`] and [`ArchError::TooLarge`].
    pub fn with_head(self, matrix: HeadMatrix) -> Result<Self, ArchError> {
        let mut spec = self.spec;
        spec.head.matrix = matrix;
        let mut skeleton = Skeleton::new(spec, self.naming)?;
        skeleton.notices = self.notices;
        // The head's own slot, which comes last, is all that comes or goes.
        for (slot, before) in skeleton.slots.iter_mut().zip(&self.slots) {
            slot.stored = before.stored;
        }
        if let Some(layout) = self.text_half {
            text_half::rename(&mut skeleton.slots, layout);
            skeleton.text_half = Some(layout);
        }
        Ok(skeleton)
    }

    /// Makes it the part of a larger model that writes text, by the names that such checkpoints use.
    pub(crate) fn make_text_half(&mut self) {
        self.text_half = Some(text_half::NEWEST);
        text_half::rename(&mut self.slots, text_half::NEWEST);
    }

    /// Takes the names by which a checkpoint holds the model, where models of its kind have been stored by several.
    pub fn settle_names(&mut self, has_tensor: impl Fn(&str) -> bool) {
        if self.text_half.is_some() {
            self.text_half = Some(text_half::settle(&mut self.slots, &has_tensor));
        }
        self.settle_transposes(has_tensor);
    }

    /// Checkpoint's name of a tensor; `name` is that of the model by itself.
    fn outer_name(&self, name: &str) -> String {
        match self.text_half {
            Some(layout) => layout.outer_name(name),
            None => name.to_owned(),
        }
    }

    /// The inverse.
    fn inner_name<'n>(&self, name: &'n str) -> Cow<'n, str> {
        match self.text_half {
            Some(layout) => layout.inner_name(name),
            None => Cow::Borrowed(name),
        }
    }

    /// True if the head is the table of tokens in transformers, so that it cannot be quantized there: where it is tied,
    /// and in T5, the one family with an encoder, which is tied whatever is stored.
    pub fn shares_head_in_transformers(&self) -> bool {
        self.spec.is_tied() || self.spec.encoder.is_some()
    }

    /// Parameters; a tied table counts once.
    pub fn n_parameters(&self) -> u64 {
        self.slots.iter().map(Slot::n_elements).sum()
    }

    /// True if a checkpoint's tensor that no slot asks for is known to carry nothing: masks and precomputed tables
    /// that older versions saved, and a second copy of a tied table.
    pub fn is_harmless(&self, name: &str) -> bool {
        if self.text_half.is_some() && text_half::is_of_other_part(name) {
            return true;
        }
        let name = self.inner_name(name);
        if self.spec.is_tied() && self.head_names().any(|head| self.inner_name(&head) == name) {
            return true;
        }
        if self.is_of_drafting_layer(&name) {
            return true;
        }
        let mut patterns = HARMLESS.iter().chain(self.naming.harmless);
        patterns.any(|pattern| matches(pattern, &name))
    }

    /// True if a tensor is one of a layer that guesses further tokens, which is left out.
    pub fn is_of_drafting_layer(&self, name: &str) -> bool {
        let n_layers = self.spec.decoder.n_layers();
        let drafting = n_layers..n_layers + self.spec.n_drafting;
        matches!(self.layer_of(name), Some((Side::Decoder, i)) if drafting.contains(&i))
    }

    /// The layer that a tensor belongs to by its name, where names say such a thing: `model.layers.7.…`, `blk.7.…`.
    pub fn layer_of(&self, name: &str) -> Option<(Side, usize)> {
        let name = &*self.inner_name(name);
        let layer = |pattern: &str| {
            let (before, _) = pattern.split_once("{i}")?;
            let short = before.strip_prefix(self.naming.base_prefix);
            let mut prefixes = [Some(before), short].into_iter().flatten();
            let rest = prefixes.find_map(|prefix| match prefix {
                "" => None,
                prefix => name.strip_prefix(prefix),
            })?;
            rest.split('.').next()?.parse().ok()
        };
        let sides = [
            (Side::Decoder, self.naming.layer),
            (Side::Encoder, self.naming.encoder_layer),
        ];
        (sides.into_iter()).find_map(|(side, pattern)| Some((side, layer(pattern)?)))
    }

    /// True if checkpoints of this kind call some tensor so, whatever this model needs of them.
    pub fn is_a_name(&self, name: &str) -> bool {
        let Some((module, suffix)) = name.rsplit_once('.') else {
            return false;
        };
        let named = self.naming.names.iter().chain(self.naming.encoder_names);
        named.copied().flatten().any(|(role, pattern)| {
            if self.naming.bare.contains(role) {
                return matches(pattern, name);
            }
            let has_suffix = suffix == "weight" || suffix == "bias" && role.bias().is_some();
            has_suffix && matches(pattern, module)
        })
    }
}

/// Names of tensors that are made anew of the configuration, whatever the family.
const HARMLESS: &[&str] = &[
    "rotary_emb.inv_freq",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
    "position_ids",
];

/// Twenty times as many as the largest mixtures of experts have. Each slot takes memory, and a configuration is only
/// somebody's word.
const MAX_SLOTS: u64 = 1_000_000;

/// At most, without experts.
const SLOTS_OF_A_BLOCK: u64 = 27;

/// A quadrillion: three orders of magnitude above the largest models.
const MAX_PARAMETERS: u128 = 1_000_000_000_000_000;
