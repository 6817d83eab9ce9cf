//! Places of a slot's tensor in checkpoints.

use std::ops::Range;

use super::naming::{Elsewhere, Naming, StackRows, name_of};
use super::slot::Extents;
use super::{Role, Skeleton, Slot, Stored, Unit};
use crate::spec::MlpSpec;

/// A place in a checkpoint where a slot's tensor may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A tensor of its own.
    Whole(String),
    /// A part of one that holds the matrices of all experts of a layer.
    Stack(StackPlace),
}

/// Rows of one of the matrices that a tensor stacks, or one of its vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackPlace {
    /// The tensor.
    pub name: String,
    /// Matrices, and the rows and columns of each; one row of vectors.
    pub shape: [usize; 3],
    /// Whose matrix it is, by its number in the stack.
    pub expert: usize,
    /// Its rows.
    pub rows: Range<usize>,
    /// Form of what is stacked.
    pub of: Stacked,
}

/// Form of what a tensor stacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stacked {
    /// `[experts, rows, cols]`.
    Matrices,
    /// `[experts, cols, rows]`.
    Transposes,
    /// `[experts, width]`.
    Vectors,
}

impl StackPlace {
    /// The tensor's shape.
    pub fn stored_shape(&self) -> Vec<usize> {
        let [n, rows, cols] = self.shape;
        match self.of {
            Stacked::Matrices => vec![n, rows, cols],
            Stacked::Transposes => vec![n, cols, rows],
            Stacked::Vectors => vec![n, cols],
        }
    }
}

impl Place {
    /// The checkpoint's name for the tensor.
    pub fn name(&self) -> &str {
        match self {
            Place::Whole(name) => name,
            Place::Stack(stack) => &stack.name,
        }
    }
}

impl Skeleton {
    /// Possible places of `slot`, in the order of search. A table that the head is tied to may be stored under the
    /// head's name alone.
    pub fn places(&self, slot: &Slot) -> impl Iterator<Item = Place> {
        let own = [
            Some(slot.name.clone()),
            slot.short_name().map(str::to_owned),
        ];
        let own = own.into_iter().flatten().map(Place::Whole);
        let elsewhere = elsewhere(self.naming, slot.role);
        let elsewhere = elsewhere.flat_map(|place| self.place(place, slot));
        let is_tied = self.spec.is_tied();
        let head = (slot.role == Role::TokenTable && is_tied).then(|| self.head_names());
        let head = head.into_iter().flatten();
        let head = head.map(Place::Whole);
        own.chain(elsewhere)
            .chain(head)
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// Names of the head's matrix where it is stored, be it tied or not.
    pub fn head_names(&self) -> impl Iterator<Item = String> {
        let own = self.naming.names.iter().copied().flatten();
        let own = own.filter(|(role, _)| *role == Role::Head);
        let own = own.map(|(_, module)| format!("{module}.weight"));
        let elsewhere = elsewhere(self.naming, Role::Head).filter_map(|place| match place {
            Elsewhere::Name(name) => Some((*name).to_owned()),
            Elsewhere::Stack(..)
            | Elsewhere::Transposes(_)
            | Elsewhere::Item(..)
            | Elsewhere::TokenTable => None,
        });
        own.chain(elsewhere).map(|name| self.outer_name(&name))
    }

    /// True if the table of tokens makes the logits where no head is stored, whatever the configuration says.
    pub fn ties_without_head(&self) -> bool {
        let mut places = elsewhere(self.naming, Role::Head);
        places.any(|place| matches!(place, Elsewhere::TokenTable))
    }

    fn place(&self, elsewhere: &Elsewhere, slot: &Slot) -> Vec<Place> {
        let is_expert = matches!(slot.unit, Unit::Expert { .. });
        match *elsewhere {
            Elsewhere::Name(pattern) if pattern.contains("{e}") == is_expert => {
                let name = self.outer_name(&name_of(pattern, slot.unit));
                let short = name.strip_prefix(slot.base_prefix).map(str::to_owned);
                let short = short.filter(|short| *short != name);
                [Some(name), short]
                    .into_iter()
                    .flatten()
                    .map(Place::Whole)
                    .collect()
            }
            Elsewhere::Stack(pattern, part) => self.stack(pattern, (part, Stacked::Matrices), slot),
            Elsewhere::Transposes(pattern) => {
                self.stack(pattern, (StackRows::All, Stacked::Transposes), slot)
            }
            Elsewhere::Item(name, at, n) => self.item(name, (at, n), slot),
            Elsewhere::Name(_) | Elsewhere::TokenTable => Vec::new(),
        }
    }

    fn item(&self, name: &str, (at, n): (usize, usize), slot: &Slot) -> Vec<Place> {
        let (rows, cols) = slot.matrix();
        vec![Place::Stack(StackPlace {
            name: self.outer_name(name),
            shape: [n, rows, cols],
            expert: at,
            rows: 0..rows,
            of: Stacked::Matrices,
        })]
    }

    fn stack(&self, pattern: &str, (part, of): (StackRows, Stacked), slot: &Slot) -> Vec<Place> {
        let Unit::Expert { layer, expert } = slot.unit else {
            return Vec::new();
        };
        let (rows, cols, of) = match slot.shape {
            Extents::Matrix([rows, cols]) => (rows, cols, of),
            Extents::Vector([width]) => (1, width, Stacked::Vectors),
        };
        let MlpSpec::Experts(experts) = self.spec.decoder.layers[layer].mlp else {
            return Vec::new();
        };
        let (stacked_rows, range) = match part {
            StackRows::All => (rows, 0..rows),
            StackRows::First => (2 * rows, 0..rows),
            StackRows::Second => (2 * rows, rows..2 * rows),
        };
        let name = self.outer_name(&name_of(pattern, slot.unit));
        let short = name.strip_prefix(slot.base_prefix).map(str::to_owned);
        let short = short.filter(|short| *short != name);
        let names = [Some(name), short].into_iter().flatten();
        let place = |name| {
            Place::Stack(StackPlace {
                name,
                shape: [experts.routing.n_experts, stacked_rows, cols],
                expert,
                rows: range.clone(),
                of,
            })
        };
        names.map(place).collect()
    }
}

impl Skeleton {
    /// Takes the transposes of experts' matrices, stacked, where a checkpoint has these.
    pub(super) fn settle_transposes(&mut self, has_tensor: impl Fn(&str) -> bool) {
        let is_there = |slot: &Slot| {
            let mut places = elsewhere(self.naming, slot.role);
            places.any(|place| match place {
                Elsewhere::Transposes(_) => {
                    let mut places = self.place(place, slot).into_iter();
                    places.any(|place| has_tensor(place.name()))
                }
                Elsewhere::Name(_)
                | Elsewhere::Stack(..)
                | Elsewhere::Item(..)
                | Elsewhere::TokenTable => false,
            })
        };
        let are_there: Vec<bool> = self.slots.iter().map(is_there).collect();
        for (slot, is_there) in self.slots.iter_mut().zip(are_there) {
            if is_there {
                slot.stored = Stored::Transposed;
            }
        }
    }
}

fn elsewhere(naming: &Naming, role: Role) -> impl Iterator<Item = &'static Elsewhere> {
    let places = naming.elsewhere.iter().filter(move |(of, _)| *of == role);
    places.map(|(_, place)| place)
}
