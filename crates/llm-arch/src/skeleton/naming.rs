//! Tensor names in the checkpoints of a family.

use super::{Extents, Module, Role, Slot, Stored, TensorKind, Unit};
use crate::spec::{ModelSpec, Side};

/// Names of modules in a kind of checkpoint, by the roles of their weights; biases lie beside these. Of a tensor that is no
/// module's, its own.
pub(crate) type Names = &'static [(Role, &'static str)];

/// The names and storage habits of one kind of checkpoint of a family.
#[derive(Debug)]
pub(crate) struct Naming {
    /// Name patterns, `{e}` being the expert: the first table that has a role counts, so that a family says only what it
    /// calls otherwise than its relative.
    pub(crate) names: &'static [Names],
    /// Prefix of all names of a layer, `{i}` being its number.
    pub(crate) layer: &'static str,
    /// Names of an encoder.
    pub(crate) encoder_names: &'static [Names],
    /// Prefix of its layers' names.
    pub(crate) encoder_layer: &'static str,
    /// Prefix that bare base models' checkpoints lack.
    pub(crate) base_prefix: &'static str,
    /// Storage of blocks' matrices.
    pub(crate) matrices: Matrices,
    /// Storage of a convolution's taps.
    pub(crate) taps: Stored,
    /// Storage of the rates of a delta rule's decays.
    pub(crate) rates: Stored,
    /// Storage of the rates of a state space, of what multiplies values beside it, and of its norm.
    pub(crate) space: SpaceStored,
    /// Storage of a router's corrections.
    pub(crate) corrections: Stored,
    /// Storage of numbers that are no parameters.
    pub(crate) buffers: Stored,
    /// Module of blocks' matrices in transformers, experts apart.
    pub(crate) module: Module,
    /// Roles whose tensors are called as the module is, with nothing behind.
    pub(crate) bare: &'static [Role],
    /// Projections whose results leave the range of f16.
    pub(crate) wide: &'static [Role],
    /// Patterns of tensors that carry nothing; `{i}` is any number.
    pub(crate) harmless: &'static [&'static str],
    /// Other places where some writers put a role's tensors, in the order of search.
    pub(crate) elsewhere: &'static [(Role, Elsewhere)],
}

/// Storage of the vectors of state spaces.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SpaceStored {
    /// As they are used.
    AsIs,
    /// As llama.cpp's converter writes them: rates as what they are the logarithms of, below zero; and a norm's gain by groups.
    Gguf,
}

/// Place of a role's tensor other than under its own name.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Elsewhere {
    /// Under this one.
    Name(&'static str),
    /// In a tensor that holds the matrices, or the biases, of all experts of a layer.
    Stack(&'static str, StackRows),
    /// In one that holds their transposes.
    Transposes(&'static str),
    /// In one that holds matrices of several roles, all alike: its number there, and how many they are.
    Item(&'static str, usize, usize),
    /// The table of tokens is in its stead.
    TokenTable,
}

/// Rows of each matrix of a stack that are a role's.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StackRows {
    /// All of them.
    All,
    /// The first half.
    First,
    /// The second half.
    Second,
}

/// Storage of blocks' matrices.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Matrices {
    /// `[out, in]`.
    OutIn,
    /// `[in, out]`.
    InOut,
}

/// A tensor that units of one kind have, as the experts of a layer.
pub(super) struct Pattern {
    role: Role,
    shape: Extents,
    stored: Stored,
    kind: TensorKind,
    module: Module,
    name: String,
    base_prefix: &'static str,
}

impl Pattern {
    /// Slot of one unit.
    pub(super) fn slot(&self, unit: Unit) -> Slot {
        Slot {
            unit,
            role: self.role,
            shape: self.shape,
            stored: self.stored,
            kind: self.kind,
            module: self.module,
            name: name_of(&self.name, unit),
            base_prefix: self.base_prefix,
        }
    }

    /// Storage of the tensor.
    pub(super) fn stored(&self) -> Stored {
        self.stored
    }

    /// Elements; two extents fit.
    pub(super) fn n_elements(&self) -> u128 {
        self.shape.iter().map(|&extent| extent as u128).product()
    }
}

impl Naming {
    /// Matrices as they are used, in plain modules, and each in one place.
    pub(crate) const PLAIN: Naming = Naming {
        names: &[],
        layer: "",
        encoder_names: &[],
        encoder_layer: "",
        base_prefix: "",
        matrices: Matrices::OutIn,
        taps: Stored::Depthwise,
        rates: Stored::AsIs,
        space: SpaceStored::AsIs,
        corrections: Stored::AsIs,
        buffers: Stored::Scalar,
        module: Module::Linear,
        bare: &[],
        wide: &[],
        harmless: &[],
        elsewhere: &[],
    };

    /// A unit's tensor as a checkpoint has it, and those of its kin. Of three extents the first are heads, whose rows lie apart there.
    pub(super) fn pattern(&self, unit: Unit, role: Role, shape: &[usize]) -> Pattern {
        let (names, prefix) = match unit {
            Unit::Layer(Side::Encoder, _) => (self.encoder_names, self.encoder_layer),
            Unit::FinalNorm(Side::Encoder) => (self.encoder_names, ""),
            Unit::Layer(Side::Decoder, _) | Unit::Expert { .. } => (self.names, self.layer),
            Unit::Embedding | Unit::PerLayerTable | Unit::FinalNorm(Side::Decoder) | Unit::Head => {
                (self.names, "")
            }
        };
        let (weight, suffix) = match role.biased() {
            Some(weight) => (weight, ".bias"),
            None if self.bare.contains(&role) => (role, ""),
            None => (role, ".weight"),
        };
        // A family's experts have names of their own beside those of its dense layers.
        let is_expert = matches!(unit, Unit::Expert { .. });
        let named = |(r, name): &&(Role, &str)| *r == weight && name.contains("{e}") == is_expert;
        let mut names = names.iter().copied().flatten();
        let (_, name) = names
            .find(named)
            .expect("a family names every role it uses");
        let (stored, module) = self.matrix(unit, role);
        let (shape, stored) = match *shape {
            [n_heads, rows, cols] => {
                let shape = Extents::of(&[n_heads * rows, cols]);
                (shape, Stored::Heads { n_heads })
            }
            ref shape => (Extents::of(shape), stored),
        };
        Pattern {
            role,
            shape,
            stored,
            kind: match self.wide.contains(&role) {
                true => TensorKind::WideProjection,
                false => role.kind(),
            },
            module,
            name: format!("{prefix}{name}{suffix}"),
            base_prefix: self.base_prefix,
        }
    }

    /// Storage of the gain of a state space's norm, where it is by the groups that it normalises.
    pub(super) fn groups_of(&self, spec: &ModelSpec, unit: Unit, of: &Pattern) -> Option<Stored> {
        let (SpaceStored::Gguf, Unit::Layer(_, layer), Role::SpaceNorm) =
            (self.space, unit, of.role)
        else {
            return None;
        };
        let norm = spec.decoder.layers[layer].mixer.space()?.norm?;
        let n_groups = norm.n_groups;
        Some(Stored::Groups { n_groups })
    }

    /// Storage of a unit's tensor, and its module in transformers: matrices of blocks are all alike.
    fn matrix(&self, unit: Unit, role: Role) -> (Stored, Module) {
        let stored = match self.matrices {
            Matrices::OutIn => Stored::AsIs,
            Matrices::InOut => Stored::Transposed,
        };
        let (space_rates, space_skips) = match self.space {
            SpaceStored::AsIs => (Stored::AsIs, Stored::AsIs),
            SpaceStored::Gguf => (Stored::NegatedExpColumn, Stored::Column),
        };
        let own = [
            (Role::SpaceRate, space_rates),
            (Role::SpaceSkip, space_skips),
            (Role::ConvTaps, self.taps),
            (Role::QTaps, self.taps),
            (Role::KTaps, self.taps),
            (Role::VTaps, self.taps),
            (Role::DeltaRate, self.rates),
            (Role::RouterCorrection, self.corrections),
            (Role::XieluBeta, self.buffers),
            (Role::XieluEps, self.buffers),
        ];
        if let Some((_, own)) = own.into_iter().find(|(of, _)| *of == role) {
            return (own, Module::Linear);
        }
        match (unit, role.kind()) {
            (
                Unit::Layer(..),
                TensorKind::Projection | TensorKind::WideProjection | TensorKind::Both,
            ) => (stored, self.module),
            // In every family that has experts.
            (Unit::Expert { .. }, _) => (stored, Module::Experts),
            (
                Unit::Embedding
                | Unit::PerLayerTable
                | Unit::Layer(..)
                | Unit::FinalNorm(_)
                | Unit::Head,
                TensorKind::Projection
                | TensorKind::WideProjection
                | TensorKind::Both
                | TensorKind::Head
                | TensorKind::Other,
            )
            | (_, TensorKind::Single) => (Stored::AsIs, Module::Linear),
        }
    }
}

/// The name that a pattern gives to a unit's tensor. In one allocation: the largest models have 100 000 tensors.
pub(super) fn name_of(pattern: &str, unit: Unit) -> String {
    let (layer, expert) = match unit {
        Unit::Layer(_, i) => (Some(i), None),
        Unit::Expert { layer, expert } => (Some(layer), Some(expert)),
        Unit::Embedding | Unit::PerLayerTable | Unit::FinalNorm(_) | Unit::Head => (None, None),
    };
    let mut name = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        let (number, after) = match (from.as_bytes().get(..3), layer, expert) {
            (Some(b"{i}"), Some(layer), _) => (layer, &from[3..]),
            (Some(b"{e}"), _, Some(expert)) => (expert, &from[3..]),
            _ => break,
        };
        name.push_str(before);
        push_number(&mut name, number);
        rest = after;
    }
    name.push_str(rest);
    name
}

/// Adds a number in decimal.
fn push_number(name: &mut String, number: usize) {
    if number >= 10 {
        push_number(name, number / 10);
    }
    name.push(char::from(b'0' + (number % 10) as u8));
}

/// True if `name` ends in `pattern`, at a component's start, `{i}` standing for a number.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
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
    use crate::Side;

    #[test]
    fn numbers_stand_where_patterns_have_them() {
        let layer = |i| Unit::Layer(Side::Decoder, i);
        let expert = Unit::Expert {
            layer: 10,
            expert: 383,
        };
        let cases = [
            ("h.{i}.ln_1.weight", layer(0), "h.0.ln_1.weight"),
            ("{i}.w", layer(7), "7.w"),
            ("l.{i}.experts.{e}.up", expert, "l.10.experts.383.up"),
            ("l.{i}", expert, "l.10"),
            ("norm.weight", Unit::Head, "norm.weight"),
        ];
        for (pattern, unit, expected) in cases {
            assert_eq!(name_of(pattern, unit), expected);
        }
    }

    #[test]
    fn harmless_patterns_match_whole_components() {
        assert!(matches("h.{i}.attn.bias", "transformer.h.11.attn.bias"));
        assert!(matches("h.{i}.attn.bias", "h.0.attn.bias"));
        assert!(!matches("h.{i}.attn.bias", "h.x.attn.bias"));
        assert!(!matches("attn.bias", "h.0.cross_attn.bias"));
        assert!(!matches("h.{i}.attn.bias", "0.attn.bias"));
    }
}
