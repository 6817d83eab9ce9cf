//! The list of tensors that a model needs.

mod naming;
mod slot;
mod text_half;
mod walk;

use self::naming::matches;
pub(crate) use self::naming::{Matrices, Names, Naming};
pub use self::slot::{Module, Role, Side, Slot, Stored, TensorKind, Unit};
use self::walk::Slots;
use crate::ArchError;
use crate::spec::{HeadMatrix, MlpSpec, ModelSpec};

/// A model without weights: what it is, and every tensor it needs.
#[derive(Debug, Clone)]
pub struct Skeleton {
    /// What the model is.
    pub spec: ModelSpec,
    /// Its tensors, in the order in which they compute.
    pub slots: Vec<Slot>,
    /// What a user should know of how the configuration was understood.
    pub notices: Vec<String>,
    harmless: &'static [&'static str],
    /// Whether it is a part of a larger model, which the checkpoint may hold too.
    is_text_half: bool,
}

impl Skeleton {
    /// Joins a spec with the names that a checkpoint of its family uses.
    ///
    /// # Errors
    /// [`ArchError::TooManyTensors`] and [`ArchError::TooLarge`] when the extents together make no real model; sums of
    /// sizes then fit 64 bits.
    pub(crate) fn new(spec: ModelSpec, naming: &Naming) -> Result<Self, ArchError> {
        let n_slots: u64 = spec
            .decoder
            .layers
            .iter()
            .map(|layer| SLOTS_OF_A_BLOCK + n_expert_slots(&layer.mlp))
            .sum();
        if n_slots > MAX_SLOTS {
            return Err(ArchError::TooManyTensors { n_tensors: n_slots });
        }
        let mut slots = Slots {
            naming,
            hidden: spec.hidden,
            out: Vec::new(),
        };
        slots.model(&spec);
        let n_elements = |slot: &Slot| slot.shape.iter().map(|&d| d as u128).product::<u128>();
        let n_parameters: u128 = slots.out.iter().map(n_elements).sum();
        if n_parameters > MAX_PARAMETERS {
            return Err(ArchError::TooLarge { n_parameters });
        }
        Ok(Skeleton {
            slots: slots.out,
            spec,
            notices: Vec::new(),
            harmless: naming.harmless,
            is_text_half: false,
        })
    }

    /// Makes it the part of a larger model that writes text, by the names that such checkpoints use.
    pub(crate) fn make_text_half(&mut self) {
        self.is_text_half = true;
        text_half::rename(&mut self.slots, text_half::NEWEST);
    }

    /// Takes the names by which a checkpoint holds the model, where models of its kind have been stored by several.
    pub fn settle_names(&mut self, has_tensor: impl Fn(&str) -> bool) {
        if self.is_text_half {
            text_half::settle(&mut self.slots, has_tensor);
        }
    }

    /// Whether the head is the table of tokens in transformers, so that it cannot be quantized there: where it is tied, and
    /// in T5, the one family with an encoder, which is tied whatever is stored.
    pub fn shares_head_in_transformers(&self) -> bool {
        self.spec.head.matrix == HeadMatrix::Tied || self.spec.encoder.is_some()
    }

    /// Parameters; a tied table counts once.
    pub fn n_parameters(&self) -> u64 {
        self.slots.iter().map(Slot::n_elements).sum()
    }

    /// Whether a checkpoint's tensor that no slot asks for is known to carry nothing: masks and precomputed tables
    /// that older versions saved, and a second copy of a tied table.
    pub fn is_harmless(&self, name: &str) -> bool {
        if self.is_text_half && text_half::is_of_other_part(name) {
            return true;
        }
        let name = match self.is_text_half {
            true => name.strip_prefix("language_model.").unwrap_or(name),
            false => name,
        };
        self.harmless.iter().any(|pattern| matches(pattern, name))
            || (self.spec.head.matrix == HeadMatrix::Tied && HEAD_NAMES.contains(&name))
    }
}

/// What the head's matrix is called where it could have been stored beside the table it is tied to.
const HEAD_NAMES: [&str; 3] = ["lm_head.weight", "embed_out.weight", "output.weight"];

/// Twenty times as many as the largest mixtures of experts have. Each slot takes memory, and a configuration is only
/// somebody's word.
const MAX_SLOTS: u64 = 1_000_000;

/// At most, without experts.
const SLOTS_OF_A_BLOCK: u64 = 24;

fn n_expert_slots(mlp: &MlpSpec) -> u64 {
    match mlp {
        MlpSpec::Dense(_) => 0,
        MlpSpec::Experts(experts) => 3 * experts.n_experts as u64,
    }
}

/// A quadrillion: three orders of magnitude above the largest models.
const MAX_PARAMETERS: u128 = 1_000_000_000_000_000;
