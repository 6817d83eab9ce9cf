//! Reads pickles: a stack machine without functions.
//!
//! Values live in one list and refer to each other by position. However deep they nest, whether they contain
//! themselves, and however often the memo repeats one: nothing is followed, copied or dropped recursively, and memory
//! grows only with the instructions read.
//!
//! *Source*: Python's `pickletools`, which describes each instruction.

use std::collections::HashMap;

use self::machine::Machine;
use super::globals::{Elements, Global};
use crate::cursor::Cursor;
use crate::error::{CheckpointError, HeaderFlaw};

mod machine;
mod opcode;

pub(super) use machine::Machine as PickleMachine;
pub(super) use opcode::name as opcode_name;

/// Reads the pickle at the cursor.
///
/// # Errors
/// [`HeaderFlaw::Pickle`], [`HeaderFlaw::CutOff`], [`HeaderFlaw::TooLong`], [`HeaderFlaw::NotText`].
pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Pickle, CheckpointError> {
    Machine::new(cursor).run()
}

/// Values of a pickle.
pub(super) struct Pickle {
    values: Vec<Value>,
    pub(super) root: Id,
    /// Each once, in the order in which they are first named.
    pub(super) storages: Vec<Storage>,
}

impl Pickle {
    pub(super) fn value(&self, id: Id) -> &Value {
        &self.values[id.0 as usize]
    }

    /// The value of an integer.
    pub(super) fn int(&self, id: Id) -> Option<i128> {
        match *self.value(id) {
            Value::Int(n) => Some(n),
            _ => None,
        }
    }

    /// Value of a dictionary under `key`.
    pub(super) fn entry(&self, dict: Id, key: &str) -> Option<Id> {
        let Value::Dict(entries) = self.value(dict) else {
            return None;
        };
        let is_it = |id| matches!(self.value(id), Value::Text(text) if **text == *key);
        let found = entries.iter().rev().find(|(id, _)| is_it(*id));
        found.map(|(_, value)| *value)
    }
}

/// A value, by its place in the list of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(u32);

#[derive(Debug)]
pub(super) enum Value {
    None,
    Bool(bool),
    /// Longer ones are [`Value::Other`].
    Int(i128),
    Text(Box<str>),
    List(Vec<Id>),
    Tuple(Box<[Id]>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    /// One of [`Pickle::storages`].
    Storage(u32),
    Tensor(RawTensor),
    /// A tensor of a kind that we cannot read.
    UnreadableTensor(&'static str),
    /// Anything that describes no weights: its content is gone.
    Other,
}

/// A tensor as described, nothing checked but that its storage is one.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawTensor {
    pub(super) storage: u32,
    /// Type of its elements, where the storage does not say it.
    pub(super) elements: Option<&'static Elements>,
    pub(super) offset: Id,
    pub(super) size: Id,
    pub(super) strides: Id,
}

/// Elements that tensors share.
#[derive(Debug, PartialEq)]
pub(super) struct Storage {
    pub(super) key: Box<str>,
    pub(super) elements: &'static Elements,
    pub(super) n_elements: u64,
}

impl Storage {
    /// # Errors
    /// [`HeaderFlaw::StorageLength`] when it takes another number of bytes.
    pub(super) fn check_length(&self, found: u64) -> Result<(), HeaderFlaw> {
        let expected = self.n_elements.saturating_mul(self.elements.n_bytes);
        if found == expected {
            return Ok(());
        }
        Err(HeaderFlaw::StorageLength {
            key: self.key.to_string(),
            expected,
            found,
        })
    }
}

/// Storages by key.
type Keys = HashMap<Box<str>, u32>;

#[cfg(test)]
mod tests;
