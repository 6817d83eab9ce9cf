//! The list of tensors that a model needs.

use std::fmt;

use llm_tensor::Norm;

use crate::spec::{
    AttentionSpec, BlockSpec, DenseMlp, FinalNorm, Gating, HeadMatrix, LayerSpec, MlpSpec,
    ModelSpec, NormSpec, Packing, Positions, Residual, StackSpec,
};
use crate::{ArchError, RopeScaling};

/// A model without weights: what it is, and every tensor it needs.
#[derive(Debug, Clone)]
pub struct Skeleton {
    /// What the model is.
    pub spec: ModelSpec,
    /// Its tensors, in the order in which they compute.
    pub slots: Vec<Slot>,
    harmless: &'static [&'static str],
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
            harmless: naming.harmless,
        })
    }

    /// Parameters; a tied table counts once.
    pub fn n_parameters(&self) -> u64 {
        self.slots.iter().map(Slot::n_elements).sum()
    }

    /// Whether a checkpoint's tensor that no slot asks for is known to carry nothing: masks and precomputed tables
    /// that older versions saved, and a second copy of a tied table.
    pub fn is_harmless(&self, name: &str) -> bool {
        self.harmless.iter().any(|pattern| matches(pattern, name))
            || (self.spec.head.matrix == HeadMatrix::Tied && HEAD_NAMES.contains(&name))
    }
}

/// One of a model's two runs of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// Reads the prompt of an encoder-decoder model.
    Encoder,
    /// Continues it.
    Decoder,
}

/// The smallest placeable part of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// Token and position tables.
    Embedding,
    /// A block, without its experts.
    Layer(Side, usize),
    /// One expert of a block of the decoder.
    Expert {
        /// The block.
        layer: usize,
        /// The expert.
        expert: usize,
    },
    /// The norm after a side's last block.
    FinalNorm(Side),
    /// What makes logits, as far as it is not the embedding's table.
    Head,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unit::Embedding => f.write_str("embedding"),
            Unit::Layer(Side::Encoder, i) => write!(f, "encoder layer {i}"),
            Unit::Layer(Side::Decoder, i) => write!(f, "layer {i}"),
            Unit::Expert { layer, expert } => write!(f, "expert {expert} of layer {layer}"),
            Unit::FinalNorm(Side::Encoder) => f.write_str("encoder's final norm"),
            Unit::FinalNorm(Side::Decoder) => f.write_str("final norm"),
            Unit::Head => f.write_str("head"),
        }
    }
}

/// What a tensor is to its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the field's own")]
pub enum Role {
    TokenTable,
    PositionTable,
    EmbedNorm,
    EmbedNormBias,
    /// From the embedding's width to the hidden one, and back.
    ProjectIn,
    ProjectOut,
    /// Stretches of the rotary wavelengths, `[rotary dim / 2]`.
    RopeFactors,
    /// What each head adds for each bucket of distances, `[buckets, heads]`.
    RelativeBias,
    AttnNorm,
    AttnNormBias,
    /// Queries, keys and values in one, rows `[q | k | v]`.
    Qkv,
    QkvBias,
    Q,
    QBias,
    K,
    KBias,
    V,
    VBias,
    QNorm,
    KNorm,
    Out,
    OutBias,
    PostAttnNorm,
    CrossNorm,
    CrossQ,
    CrossK,
    CrossV,
    CrossOut,
    MlpNorm,
    MlpNormBias,
    /// Scores the experts, `[experts, hidden]`.
    Router,
    Gate,
    GateBias,
    Up,
    UpBias,
    /// Gate and up in one, rows `[gate | up]`.
    GateUp,
    GateUpBias,
    Down,
    DownBias,
    PostMlpNorm,
    FinalNorm,
    FinalNormBias,
    Head,
    HeadBias,
}

impl Role {
    /// What the role's tensors have to bear, in most families.
    const fn kind(self) -> TensorKind {
        match self {
            Role::Qkv
            | Role::Q
            | Role::K
            | Role::V
            | Role::Out
            | Role::CrossQ
            | Role::CrossK
            | Role::CrossV
            | Role::CrossOut
            | Role::Gate
            | Role::Up
            | Role::GateUp
            | Role::Down
            | Role::ProjectIn
            | Role::ProjectOut => TensorKind::Projection,
            Role::Head => TensorKind::Head,
            Role::TokenTable
            | Role::PositionTable
            | Role::EmbedNorm
            | Role::EmbedNormBias
            | Role::RopeFactors
            | Role::RelativeBias
            | Role::AttnNorm
            | Role::AttnNormBias
            | Role::QkvBias
            | Role::QBias
            | Role::KBias
            | Role::VBias
            | Role::QNorm
            | Role::KNorm
            | Role::OutBias
            | Role::PostAttnNorm
            | Role::CrossNorm
            | Role::MlpNorm
            | Role::MlpNormBias
            // A few rows, on whose smallest differences the choice of experts hangs.
            | Role::Router
            | Role::GateBias
            | Role::UpBias
            | Role::GateUpBias
            | Role::DownBias
            | Role::PostMlpNorm
            | Role::FinalNorm
            | Role::FinalNormBias
            | Role::HeadBias => TensorKind::Other,
        }
    }
}

/// A tensor that the model needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The part that it belongs to.
    pub unit: Unit,
    /// What it is there.
    pub role: Role,
    /// Its shape after loading: `[out, in]`, `[rows, width]` or `[width]`.
    pub shape: Vec<usize>,
    /// How the checkpoint holds it.
    pub stored: Stored,
    /// What its elements have to bear.
    pub kind: TensorKind,
    /// Its name in a checkpoint, in full.
    pub name: String,
    /// The part of the name that checkpoints of the bare base model lack.
    pub base_prefix: &'static str,
}

impl Slot {
    /// Elements.
    pub fn n_elements(&self) -> u64 {
        self.shape.iter().map(|&d| d as u64).product()
    }

    /// Rows and columns of what computes with it: output and input features, and 1 and the width of a vector.
    pub fn matrix(&self) -> (usize, usize) {
        match *self.shape.as_slice() {
            [rows, cols] => (rows, cols),
            [width] => (1, width),
            ref shape => unreachable!("a slot is a vector or a matrix, not {shape:?}"),
        }
    }

    /// The shape in the checkpoint.
    pub fn stored_shape(&self) -> Vec<usize> {
        match self.stored {
            Stored::AsIs => self.shape.clone(),
            Stored::Transposed => self.shape.iter().rev().copied().collect(),
        }
    }

    /// The name in a checkpoint of the bare base model, where it differs.
    pub fn short_name(&self) -> Option<&str> {
        self.name
            .strip_prefix(self.base_prefix)
            .filter(|short| short.len() < self.name.len())
    }
}

/// How a checkpoint holds a tensor, against the way it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The same.
    AsIs,
    /// `[in, out]`.
    Transposed,
}

/// What a tensor's elements have to bear, when they are kept in fewer bits than the checkpoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorKind {
    /// A matrix that hidden states are multiplied with.
    Projection,
    /// One whose results leave the range of f16: beside tensors in f16 it is kept in f32.
    WideProjection,
    /// The matrix that makes logits.
    Head,
    /// A vector or a table.
    Other,
}

/// What a kind of checkpoint calls its tensors.
pub(crate) type Names = &'static [(Role, &'static str)];

/// The names and storage habits of one kind of checkpoint of a family.
pub(crate) struct Naming {
    /// Name patterns, `{i}` being the layer and `{e}` the expert: the first table that has a role counts, so that a
    /// family says only what it calls otherwise than its relative.
    pub(crate) names: &'static [Names],
    /// Those of an encoder.
    pub(crate) encoder_names: &'static [Names],
    /// What checkpoints of the bare base model leave out.
    pub(crate) base_prefix: &'static str,
    /// How matrices of blocks are stored.
    pub(crate) matrices: Matrices,
    /// Projections whose results leave the range of f16.
    pub(crate) wide: &'static [Role],
    /// Patterns of tensors that carry nothing; `{i}` is any number.
    pub(crate) harmless: &'static [&'static str],
}

/// How the matrices of blocks are stored.
#[derive(Clone, Copy)]
pub(crate) enum Matrices {
    /// `[out, in]`.
    OutIn,
    /// `[in, out]`.
    InOut,
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

struct Slots<'a> {
    naming: &'a Naming,
    hidden: usize,
    out: Vec<Slot>,
}

impl Slots<'_> {
    fn model(&mut self, spec: &ModelSpec) {
        let stack = &spec.decoder;
        let width = spec.embedding.width;
        self.plain(Unit::Embedding, Role::TokenTable, &[spec.vocab, width]);
        match &stack.positions {
            Positions::Learned { rows, .. } => {
                self.plain(Unit::Embedding, Role::PositionTable, &[*rows, self.hidden])
            }
            Positions::Rotary(kinds) => {
                for rotary in kinds
                    .iter()
                    .filter(|rotary| rotary.scaling == RopeScaling::Stored)
                {
                    self.plain(Unit::Embedding, Role::RopeFactors, &[rotary.dim / 2]);
                }
            }
            Positions::Alibi { .. } | Positions::Buckets { .. } => {}
        }
        if let Some(norm) = &spec.embedding.norm {
            self.norm(Unit::Embedding, norm, Role::EmbedNorm, Role::EmbedNormBias);
        }
        if width != self.hidden {
            self.plain(Unit::Embedding, Role::ProjectIn, &[self.hidden, width]);
        }
        if let Some(encoder) = &spec.encoder {
            self.stack(Side::Encoder, &encoder.stack, Cross::Absent);
        }
        let cross = if spec.encoder.is_some() {
            Cross::Present
        } else {
            Cross::Absent
        };
        self.stack(Side::Decoder, stack, cross);
        if width != self.hidden {
            self.plain(Unit::Head, Role::ProjectOut, &[width, self.hidden]);
        }
        match spec.head.matrix {
            HeadMatrix::Tied => {}
            HeadMatrix::Separate => self.plain(Unit::Head, Role::Head, &[spec.vocab, width]),
        }
        self.bias(Unit::Head, Role::HeadBias, spec.vocab, spec.head.bias);
    }

    fn stack(&mut self, side: Side, stack: &StackSpec, cross: Cross) {
        for (i, layer) in stack.layers.iter().enumerate() {
            self.block(Unit::Layer(side, i), i, layer, stack, cross);
        }
        match stack.final_norm {
            FinalNorm::Present => {
                self.norm(
                    Unit::FinalNorm(side),
                    &stack.norm,
                    Role::FinalNorm,
                    Role::FinalNormBias,
                );
            }
            FinalNorm::Absent => {}
        }
    }

    fn block(&mut self, unit: Unit, i: usize, layer: &LayerSpec, stack: &StackSpec, cross: Cross) {
        let BlockSpec {
            residual,
            attention,
        } = &stack.block;
        let norm = &stack.norm;
        self.norm(unit, norm, Role::AttnNorm, Role::AttnNormBias);
        self.qkv(unit, attention);
        if let (Positions::Buckets { n_buckets, .. }, 0) = (&stack.positions, i) {
            self.plain(unit, Role::RelativeBias, &[*n_buckets, attention.n_heads]);
        }
        self.matrix(unit, Role::Out, &[self.hidden, attention.q_width()]);
        self.bias(unit, Role::OutBias, self.hidden, attention.out_bias);
        match residual {
            Residual::Sandwich => self.plain(unit, Role::PostAttnNorm, &[self.hidden]),
            Residual::Sequential
            | Residual::PostNorm
            | Residual::Normed
            | Residual::ParallelOneNorm
            | Residual::ParallelTwoNorms => {}
        }
        match cross {
            Cross::Absent => {}
            Cross::Present => {
                let (q, kv) = (attention.q_width(), attention.kv_width());
                self.plain(unit, Role::CrossNorm, &[self.hidden]);
                self.matrix(unit, Role::CrossQ, &[q, self.hidden]);
                self.matrix(unit, Role::CrossK, &[kv, self.hidden]);
                self.matrix(unit, Role::CrossV, &[kv, self.hidden]);
                self.matrix(unit, Role::CrossOut, &[self.hidden, q]);
            }
        }
        match residual {
            Residual::ParallelOneNorm => {}
            Residual::Sequential
            | Residual::Sandwich
            | Residual::PostNorm
            | Residual::Normed
            | Residual::ParallelTwoNorms => self.norm(unit, norm, Role::MlpNorm, Role::MlpNormBias),
        }
        match &layer.mlp {
            MlpSpec::Dense(mlp) => self.mlp(unit, mlp),
            MlpSpec::Experts(experts) => {
                self.plain(unit, Role::Router, &[experts.n_experts, self.hidden]);
                for expert in 0..experts.n_experts {
                    let unit = Unit::Expert { layer: i, expert };
                    self.matrix(unit, Role::Gate, &[experts.width, self.hidden]);
                    self.matrix(unit, Role::Up, &[experts.width, self.hidden]);
                    self.matrix(unit, Role::Down, &[self.hidden, experts.width]);
                }
            }
        }
        if *residual == Residual::Sandwich {
            self.plain(unit, Role::PostMlpNorm, &[self.hidden]);
        }
    }

    fn qkv(&mut self, unit: Unit, attention: &AttentionSpec) {
        let (q, kv, hidden) = (attention.q_width(), attention.kv_width(), self.hidden);
        match attention.packing {
            Packing::Separate => {
                let parts = [
                    (Role::Q, Role::QBias, q),
                    (Role::K, Role::KBias, kv),
                    (Role::V, Role::VBias, kv),
                ];
                for (matrix, bias, width) in parts {
                    self.matrix(unit, matrix, &[width, hidden]);
                    self.bias(unit, bias, width, attention.qkv_bias);
                }
            }
            Packing::Stacked | Packing::PerGroup => {
                self.matrix(unit, Role::Qkv, &[q + 2 * kv, hidden]);
                self.bias(unit, Role::QkvBias, q + 2 * kv, attention.qkv_bias);
            }
        }
        if attention.qk_norm.is_some() {
            self.plain(unit, Role::QNorm, &[attention.head_dim]);
            self.plain(unit, Role::KNorm, &[attention.head_dim]);
        }
    }

    fn mlp(&mut self, unit: Unit, mlp: &DenseMlp) {
        match mlp.gating {
            Gating::None => {}
            Gating::Separate => {
                self.matrix(unit, Role::Gate, &[mlp.width, self.hidden]);
                self.bias(unit, Role::GateBias, mlp.width, mlp.bias);
            }
            Gating::Fused => {
                self.matrix(unit, Role::GateUp, &[2 * mlp.width, self.hidden]);
                self.bias(unit, Role::GateUpBias, 2 * mlp.width, mlp.bias);
            }
        }
        match mlp.gating {
            Gating::None | Gating::Separate => {
                self.matrix(unit, Role::Up, &[mlp.width, self.hidden]);
                self.bias(unit, Role::UpBias, mlp.width, mlp.bias);
            }
            Gating::Fused => {}
        }
        self.matrix(unit, Role::Down, &[self.hidden, mlp.width]);
        self.bias(unit, Role::DownBias, self.hidden, mlp.bias);
    }

    fn norm(&mut self, unit: Unit, spec: &NormSpec, gain: Role, bias: Role) {
        self.plain(unit, gain, &[self.hidden]);
        match spec.norm {
            Norm::Layer => self.plain(unit, bias, &[self.hidden]),
            Norm::Rms => {}
        }
    }

    fn matrix(&mut self, unit: Unit, role: Role, shape: &[usize]) {
        let stored = match self.naming.matrices {
            Matrices::OutIn => Stored::AsIs,
            Matrices::InOut => Stored::Transposed,
        };
        self.push(unit, role, shape, stored);
    }

    fn bias(&mut self, unit: Unit, role: Role, width: usize, has_bias: bool) {
        if has_bias {
            self.plain(unit, role, &[width]);
        }
    }

    fn plain(&mut self, unit: Unit, role: Role, shape: &[usize]) {
        self.push(unit, role, shape, Stored::AsIs);
    }

    fn push(&mut self, unit: Unit, role: Role, shape: &[usize], stored: Stored) {
        let names = match unit {
            Unit::Layer(Side::Encoder, _) | Unit::FinalNorm(Side::Encoder) => {
                self.naming.encoder_names
            }
            Unit::Embedding
            | Unit::Layer(Side::Decoder, _)
            | Unit::Expert { .. }
            | Unit::FinalNorm(Side::Decoder)
            | Unit::Head => self.naming.names,
        };
        // A family's experts have names of their own beside those of its dense layers.
        let is_expert = matches!(unit, Unit::Expert { .. });
        let named = |(r, name): &&(Role, &str)| *r == role && name.contains("{e}") == is_expert;
        let (_, pattern) = names
            .iter()
            .copied()
            .flatten()
            .find(named)
            .expect("a family names every role it uses");
        let name = match unit {
            Unit::Layer(_, i) => pattern.replace("{i}", &i.to_string()),
            Unit::Expert { layer, expert } => pattern
                .replace("{i}", &layer.to_string())
                .replace("{e}", &expert.to_string()),
            Unit::Embedding | Unit::FinalNorm(_) | Unit::Head => (*pattern).to_owned(),
        };
        self.out.push(Slot {
            unit,
            role,
            shape: shape.to_vec(),
            stored,
            kind: if self.naming.wide.contains(&role) {
                TensorKind::WideProjection
            } else {
                role.kind()
            },
            name,
            base_prefix: self.naming.base_prefix,
        });
    }
}

/// Whether a block attends to an encoder's result.
#[derive(Clone, Copy)]
enum Cross {
    Present,
    Absent,
}

/// Whether `name` ends in `pattern`, at a component's start, `{i}` standing for a number.
fn matches(pattern: &str, name: &str) -> bool {
    let mut name = name.rsplit('.');
    pattern.rsplit('.').all(|wanted| {
        name.next().is_some_and(|part| match wanted {
            "{i}" => part.parse::<usize>().is_ok(),
            _ => part == wanted,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_patterns_match_whole_components() {
        assert!(matches("h.{i}.attn.bias", "transformer.h.11.attn.bias"));
        assert!(matches("h.{i}.attn.bias", "h.0.attn.bias"));
        assert!(!matches("h.{i}.attn.bias", "h.x.attn.bias"));
        assert!(!matches("attn.bias", "h.0.cross_attn.bias"));
        assert!(!matches("h.{i}.attn.bias", "0.attn.bias"));
    }
}
