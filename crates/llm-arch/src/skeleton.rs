//! The list of tensors that a model needs.

use std::fmt;

use llm_tensor::Norm;

use crate::spec::{BlockSpec, Head, ModelSpec, Packing, Positions, StackSpec};
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
    /// [`ArchError::TooLarge`] when the extents together make no real model, so that sums of sizes fit 64 bits.
    pub(crate) fn new(spec: ModelSpec, naming: &Naming) -> Result<Self, ArchError> {
        let mut slots = Slots {
            naming,
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
            || (self.spec.head == Head::Tied && HEAD_NAMES.contains(&name))
    }
}

/// The smallest placeable part of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// Token and position tables.
    Embedding,
    /// One block of the decoder.
    Layer(usize),
    /// The norm after the last block.
    FinalNorm,
    /// The matrix that makes logits, where it is not the embedding's table.
    Head,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unit::Embedding => f.write_str("embedding"),
            Unit::Layer(i) => write!(f, "layer {i}"),
            Unit::FinalNorm => f.write_str("final norm"),
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
    /// Stretches of the rotary wavelengths, `[rotary dim / 2]`.
    RopeFactors,
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
    Out,
    OutBias,
    MlpNorm,
    MlpNormBias,
    Gate,
    GateBias,
    Up,
    UpBias,
    Down,
    DownBias,
    FinalNorm,
    FinalNormBias,
    Head,
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

    /// The shape in the checkpoint.
    pub fn stored_shape(&self) -> Vec<usize> {
        match self.stored {
            Stored::AsIs | Stored::AdjacentPairs { .. } => self.shape.clone(),
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
    /// Rows of each head interleaved so that rotary pairs are adjacent, where the model turns halves.
    AdjacentPairs {
        /// Heads that the rows form.
        n_heads: usize,
    },
}

/// The names and storage habits of one kind of checkpoint of a family.
pub(crate) struct Naming {
    /// Name patterns, `{i}` being the layer.
    pub(crate) names: &'static [(Role, &'static str)],
    /// What checkpoints of the bare base model leave out.
    pub(crate) base_prefix: &'static str,
    /// How matrices of blocks are stored.
    pub(crate) matrices: Matrices,
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
    /// `[out, in]`, with the queries' and keys' rows in the order of adjacent rotary pairs.
    RotaryAdjacent,
}

/// What the head's matrix is called where it could have been stored beside the table it is tied to.
const HEAD_NAMES: [&str; 2] = ["lm_head.weight", "output.weight"];

/// A quadrillion: three orders of magnitude above the largest models.
const MAX_PARAMETERS: u128 = 1_000_000_000_000_000;

struct Slots<'a> {
    naming: &'a Naming,
    out: Vec<Slot>,
}

impl Slots<'_> {
    fn model(&mut self, spec: &ModelSpec) {
        let stack = &spec.decoder;
        self.plain(
            Unit::Embedding,
            Role::TokenTable,
            &[spec.vocab, spec.hidden],
        );
        match &stack.positions {
            Positions::Learned { max } => {
                self.plain(Unit::Embedding, Role::PositionTable, &[*max, spec.hidden])
            }
            Positions::Rotary(rotary) => match rotary.scaling {
                RopeScaling::Stored => {
                    self.plain(Unit::Embedding, Role::RopeFactors, &[rotary.dim / 2])
                }
                RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. } => {}
            },
        }
        for i in 0..stack.n_layers {
            self.block(Unit::Layer(i), spec.hidden, stack);
        }
        self.norm(
            Unit::FinalNorm,
            spec.hidden,
            stack,
            Role::FinalNorm,
            Role::FinalNormBias,
        );
        match spec.head {
            Head::Tied => {}
            Head::Separate => self.plain(Unit::Head, Role::Head, &[spec.vocab, spec.hidden]),
        }
    }

    fn block(&mut self, unit: Unit, hidden: usize, stack: &StackSpec) {
        let BlockSpec { attention, mlp } = &stack.block;
        let (q, kv) = (attention.q_width(), attention.kv_width());
        self.norm(unit, hidden, stack, Role::AttnNorm, Role::AttnNormBias);
        match attention.packing {
            Packing::Separate => {
                let turned = |n_heads| match (self.naming.matrices, &stack.positions) {
                    (Matrices::RotaryAdjacent, Positions::Rotary(_)) => {
                        Stored::AdjacentPairs { n_heads }
                    }
                    (Matrices::OutIn | Matrices::RotaryAdjacent, _) => Stored::AsIs,
                    (Matrices::InOut, _) => Stored::Transposed,
                };
                let (q_stored, k_stored) =
                    (turned(attention.n_heads), turned(attention.n_kv_heads));
                self.push(unit, Role::Q, &[q, hidden], q_stored);
                self.bias(unit, Role::QBias, q, attention.qkv_bias);
                self.push(unit, Role::K, &[kv, hidden], k_stored);
                self.bias(unit, Role::KBias, kv, attention.qkv_bias);
                self.matrix(unit, Role::V, &[kv, hidden]);
                self.bias(unit, Role::VBias, kv, attention.qkv_bias);
            }
            Packing::Stacked => {
                self.matrix(unit, Role::Qkv, &[q + 2 * kv, hidden]);
                self.bias(unit, Role::QkvBias, q + 2 * kv, attention.qkv_bias);
            }
        }
        self.matrix(unit, Role::Out, &[hidden, q]);
        self.bias(unit, Role::OutBias, hidden, attention.out_bias);
        self.norm(unit, hidden, stack, Role::MlpNorm, Role::MlpNormBias);
        if mlp.gated {
            self.matrix(unit, Role::Gate, &[mlp.width, hidden]);
            self.bias(unit, Role::GateBias, mlp.width, mlp.bias);
        }
        self.matrix(unit, Role::Up, &[mlp.width, hidden]);
        self.bias(unit, Role::UpBias, mlp.width, mlp.bias);
        self.matrix(unit, Role::Down, &[hidden, mlp.width]);
        self.bias(unit, Role::DownBias, hidden, mlp.bias);
    }

    fn norm(&mut self, unit: Unit, hidden: usize, stack: &StackSpec, gain: Role, bias: Role) {
        self.plain(unit, gain, &[hidden]);
        match stack.norm.norm {
            Norm::Layer => self.plain(unit, bias, &[hidden]),
            Norm::Rms => {}
        }
    }

    fn matrix(&mut self, unit: Unit, role: Role, shape: &[usize]) {
        let stored = match self.naming.matrices {
            Matrices::OutIn | Matrices::RotaryAdjacent => Stored::AsIs,
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
        let names = self.naming.names;
        let (_, pattern) = names
            .iter()
            .find(|(r, _)| *r == role)
            .expect("a family names every role it uses");
        let name = match unit {
            Unit::Layer(i) => pattern.replace("{i}", &i.to_string()),
            Unit::Embedding | Unit::FinalNorm | Unit::Head => (*pattern).to_owned(),
        };
        self.out.push(Slot {
            unit,
            role,
            shape: shape.to_vec(),
            stored,
            name,
            base_prefix: self.naming.base_prefix,
        });
    }
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
