//! Results of functions that a pickle may call: descriptions of tensors.

use super::globals::Global;
use super::pickle::{Id, PickleMachine, RawTensor, Value};
use crate::error::CheckpointError;

/// Arguments that are looked at; no function takes more.
const MAX_ARGUMENTS: usize = 8;

impl PickleMachine<'_, '_> {
    /// Result of `function` on a tuple of arguments, by the word of instruction `opcode`.
    pub(super) fn make(
        &mut self,
        opcode: u8,
        function: Id,
        arguments: Id,
    ) -> Result<Id, CheckpointError> {
        let (function, arguments) = self.call(opcode, function, arguments)?;
        match (function, &arguments[..]) {
            // The class and the attributes of a tensor do not change its elements. Such calls do not nest.
            (Global::FromType, &[function, _class, arguments, _state]) => {
                let (function, arguments) = self.call(opcode, function, arguments)?;
                self.apply(opcode, function, &arguments)
            }
            (function, arguments) => self.apply(opcode, function, arguments),
        }
    }

    /// The function and the arguments of a call.
    fn call(
        &self,
        opcode: u8,
        function: Id,
        arguments: Id,
    ) -> Result<(Global, Vec<Id>), CheckpointError> {
        match (self.value(function), self.value(arguments)) {
            (&Value::Global(function), Value::Tuple(arguments)) => {
                let arguments = arguments.iter().copied().take(MAX_ARGUMENTS).collect();
                Ok((function, arguments))
            }
            _ => Err(self.operand(opcode, "function with a tuple of arguments")),
        }
    }

    fn apply(
        &mut self,
        opcode: u8,
        function: Global,
        arguments: &[Id],
    ) -> Result<Id, CheckpointError> {
        let made = match (function, arguments) {
            (Global::Mapping, []) => Value::Dict(Vec::new()),
            // The function that would make what is missing in it.
            (Global::Mapping, &[default]) if matches!(self.value(default), Value::Global(_)) => {
                Value::Dict(Vec::new())
            }
            (Global::Tensor, &[storage, offset, size, strides, ..]) => match *self.value(storage) {
                Value::Storage(storage) => Value::Tensor(RawTensor {
                    storage,
                    elements: None,
                    offset,
                    size,
                    strides,
                }),
                _ => return Err(self.operand(opcode, "storage")),
            },
            (Global::TensorOfType, &[storage, offset, size, strides, _, _, elements, ..]) => {
                match (self.value(storage), self.value(elements)) {
                    (&Value::Storage(storage), &Value::Global(Global::ElementType(elements))) => {
                        Value::Tensor(RawTensor {
                            storage,
                            elements: Some(elements),
                            offset,
                            size,
                            strides,
                        })
                    }
                    _ => return Err(self.operand(opcode, "storage with a type of elements")),
                }
            }
            (Global::Parameter, &[tensor, ..]) => match self.value(tensor) {
                Value::Tensor(_) | Value::UnreadableTensor(_) => return Ok(tensor),
                _ => return Err(self.operand(opcode, "tensor")),
            },
            (Global::Size, &[size]) => match self.value(size) {
                Value::Tuple(_) => return Ok(size),
                _ => return Err(self.operand(opcode, "tuple")),
            },
            (Global::UnreadableTensor(kind), _) => Value::UnreadableTensor(kind),
            (Global::Other, _) => Value::Other,
            (
                Global::Mapping
                | Global::Tensor
                | Global::TensorOfType
                | Global::Parameter
                | Global::Size
                | Global::FromType
                | Global::StorageClass(_)
                | Global::ElementType(_),
                _,
            ) => return Err(self.operand(opcode, "function with the arguments that it takes")),
        };
        Ok(self.add(made))
    }
}
