use std::collections::HashMap;

use super::opcode::*;
use super::{Id, Keys, Pickle, Storage, Value};
use crate::cursor::Cursor;
use crate::error::{CheckpointError, HeaderFlaw};
use crate::torch::flaw::PickleFlaw;
use crate::torch::globals::Global;

/// Instructions that a pickle may have: about fifty describe a tensor, so these suffice for 300k tensors and keep what
/// a hostile pickle takes in memory below a gigabyte.
const MAX_INSTRUCTIONS: u64 = 1 << 24;

/// Bytes of a storage's key, which is a number. It is copied and compared as often as the storage is named.
const MAX_KEY: usize = 64;

/// The interpreter of one pickle.
pub(in crate::torch) struct Machine<'c, 'f> {
    cursor: &'c mut Cursor<'f>,
    /// Offset of the instruction that is being executed.
    at: u64,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack; what lies below the last one is out of reach.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    storages: Vec<Storage>,
    keys: Keys,
}

impl<'c, 'f> Machine<'c, 'f> {
    pub(super) fn new(cursor: &'c mut Cursor<'f>) -> Self {
        Machine {
            at: cursor.position(),
            cursor,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            storages: Vec::new(),
            keys: Keys::new(),
        }
    }

    pub(super) fn run(mut self) -> Result<Pickle, CheckpointError> {
        for _ in 0..MAX_INSTRUCTIONS {
            self.at = self.cursor.position();
            match self.cursor.u8()? {
                STOP => {
                    return Ok(Pickle {
                        root: self.pop(STOP)?,
                        values: self.values,
                        storages: self.storages,
                    });
                }
                opcode => self.execute(opcode)?,
            }
        }
        Err(self.wrong(PickleFlaw::TooManyInstructions {
            limit: MAX_INSTRUCTIONS,
        }))
    }

    fn execute(&mut self, opcode: u8) -> Result<(), CheckpointError> {
        match opcode {
            PROTO => match self.cursor.u8()? {
                0..=5 => {}
                found => return Err(self.wrong(PickleFlaw::Protocol { found })),
            },
            FRAME => {
                let len = self.cursor.u64()?;
                self.cursor.expect(len)?;
            }
            MARK => self.marks.push(self.stack.len()),
            // As in Python it takes away a mark where that is what was pushed last.
            POP if self.marks.last() == Some(&self.stack.len()) => _ = self.marks.pop(),
            POP => _ = self.pop(opcode)?,
            POP_MARK => _ = self.pop_to_mark(opcode)?,
            DUP => {
                let top = self.top(opcode)?;
                self.stack.push(top);
            }

            NONE => self.push(Value::None),
            NEWTRUE => self.push(Value::Bool(true)),
            NEWFALSE => self.push(Value::Bool(false)),
            INT | LONG | BININT | BININT1 | BININT2 | LONG1 | LONG4 => {
                let number = self.number(opcode)?;
                self.push(number);
            }
            BINFLOAT => {
                self.cursor.skip(8)?;
                self.push(Value::Other);
            }
            SHORT_BINSTRING | SHORT_BINUNICODE | BINSTRING | BINUNICODE | BINUNICODE8 => {
                let len = self.len(opcode)?;
                let text = self.cursor.text(len)?;
                self.push(Value::Text(text.into()));
            }
            SHORT_BINBYTES | BINBYTES | BINBYTES8 | BYTEARRAY8 => {
                let len = self.len(opcode)?;
                self.cursor.skip(len)?;
                self.push(Value::Other);
            }

            EMPTY_TUPLE | TUPLE1 | TUPLE2 | TUPLE3 => {
                let n = match opcode {
                    EMPTY_TUPLE => 0,
                    _ => opcode - TUPLE1 + 1,
                };
                let start = (self.stack.len().checked_sub(n.into()))
                    .filter(|start| *start >= self.floor())
                    .ok_or_else(|| self.wrong(PickleFlaw::Underflow { opcode }))?;
                let items = self.stack.drain(start..).collect();
                self.push(Value::Tuple(items));
            }
            TUPLE => {
                let items = self.pop_to_mark(opcode)?;
                self.push(Value::Tuple(items.into()));
            }
            EMPTY_LIST => self.push(Value::List(Vec::new())),
            LIST => {
                let items = self.pop_to_mark(opcode)?;
                self.push(Value::List(items));
            }
            APPEND => {
                let item = self.pop(opcode)?;
                self.extend_list(opcode, &[item])?;
            }
            APPENDS => {
                let items = self.pop_to_mark(opcode)?;
                self.extend_list(opcode, &items)?;
            }
            EMPTY_DICT => self.push(Value::Dict(Vec::new())),
            DICT => {
                let items = self.pop_to_mark(opcode)?;
                self.push(Value::Dict(Vec::new()));
                self.extend_dict(opcode, &items)?;
            }
            SETITEM => {
                let (value, key) = (self.pop(opcode)?, self.pop(opcode)?);
                self.extend_dict(opcode, &[key, value])?;
            }
            SETITEMS => {
                let items = self.pop_to_mark(opcode)?;
                self.extend_dict(opcode, &items)?;
            }
            EMPTY_SET => self.push(Value::Other),
            ADDITEMS => {
                _ = self.pop_to_mark(opcode)?;
                self.require(opcode, "set", |top| matches!(top, Value::Other))?;
            }
            FROZENSET => {
                _ = self.pop_to_mark(opcode)?;
                self.push(Value::Other);
            }

            BINPUT => {
                let key = self.cursor.u8()?;
                self.memorize(opcode, key.into())?;
            }
            LONG_BINPUT => {
                let key = self.cursor.u32()?;
                self.memorize(opcode, key)?;
            }
            MEMOIZE => self.memorize(opcode, self.memo.len() as u32)?,
            BINGET => {
                let key = self.cursor.u8()?;
                self.recall(key.into())?;
            }
            LONG_BINGET => {
                let key = self.cursor.u32()?;
                self.recall(key)?;
            }

            GLOBAL => {
                let (module, name) = (self.line()?, self.line()?);
                self.push_global(&module, &name)?;
            }
            STACK_GLOBAL => {
                let (name, module) = (self.pop_text(opcode)?, self.pop_text(opcode)?);
                self.push_global(&module, &name)?;
            }
            REDUCE | NEWOBJ => {
                let (arguments, function) = (self.pop(opcode)?, self.pop(opcode)?);
                let made = self.make(opcode, function, arguments)?;
                self.stack.push(made);
            }
            BUILD => {
                _ = self.pop(opcode)?;
                self.require(opcode, "object with attributes", |top| {
                    matches!(
                        top,
                        Value::Dict(_)
                            | Value::Tensor(_)
                            | Value::UnreadableTensor(_)
                            | Value::Other
                    )
                })?;
            }
            BINPERSID => {
                let id = self.pop(opcode)?;
                let storage = self.storage(opcode, id)?;
                self.push(Value::Storage(storage));
            }
            _ => return Err(self.wrong(PickleFlaw::UnknownOpcode { opcode })),
        }
        Ok(())
    }

    /// The operand of an instruction that pushes an integer.
    fn number(&mut self, opcode: u8) -> Result<Value, CheckpointError> {
        let n_bytes = match opcode {
            BININT => return Ok(Value::Int(i32::from_le_bytes(self.cursor.array()?).into())),
            BININT1 => return Ok(Value::Int(self.cursor.u8()?.into())),
            BININT2 => return Ok(Value::Int(self.cursor.u16()?.into())),
            LONG1 => self.cursor.u8()?.into(),
            // As in Python its sign would only be wrong.
            LONG4 => self.cursor.u32()?,
            _ => return self.number_in_words(),
        };
        let mut wide = [0; 16];
        if n_bytes as usize > wide.len() {
            self.cursor.skip(n_bytes.into())?;
            return Ok(Value::Other);
        }
        let bytes = self.cursor.bytes(n_bytes.into())?;
        let is_negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        wide.fill(if is_negative { 0xFF } else { 0 });
        wide[..bytes.len()].copy_from_slice(&bytes);
        Ok(Value::Int(i128::from_le_bytes(wide)))
    }

    /// A decimal integer on a line, as protocol 1 has them; `00` and `01` are how it writes booleans.
    fn number_in_words(&mut self) -> Result<Value, CheckpointError> {
        let text = self.line()?;
        match text.as_str() {
            "00" => Ok(Value::Bool(false)),
            "01" => Ok(Value::Bool(true)),
            digits => match digits.strip_suffix('L').unwrap_or(digits).parse() {
                Ok(n) => Ok(Value::Int(n)),
                Err(_) => Err(self.wrong(PickleFlaw::NotAnInteger { text })),
            },
        }
    }

    /// The length that stands before a text or before bytes.
    fn len(&mut self, opcode: u8) -> Result<u64, CheckpointError> {
        match opcode {
            SHORT_BINSTRING | SHORT_BINUNICODE | SHORT_BINBYTES => self.cursor.u8().map(u64::from),
            BINSTRING | BINUNICODE | BINBYTES => self.cursor.u32().map(u64::from),
            _ => self.cursor.u64(),
        }
    }

    fn line(&mut self) -> Result<String, CheckpointError> {
        const LIMIT: usize = 512;
        let at = self.cursor.position();
        let mut line = Vec::new();
        loop {
            match self.cursor.u8()? {
                b'\n' => break,
                _ if line.len() == LIMIT => {
                    return Err(self.wrong(PickleFlaw::Line { limit: LIMIT }));
                }
                byte => line.push(byte),
            }
        }
        String::from_utf8(line).map_err(|_| self.cursor.error(HeaderFlaw::NotText { at }))
    }

    fn memorize(&mut self, opcode: u8, key: u32) -> Result<(), CheckpointError> {
        let top = self.top(opcode)?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), CheckpointError> {
        match self.memo.get(&key) {
            Some(&id) => self.stack.push(id),
            None => return Err(self.wrong(PickleFlaw::Memo { key })),
        }
        Ok(())
    }

    fn push_global(&mut self, module: &str, name: &str) -> Result<(), CheckpointError> {
        match Global::find(module, name) {
            Some(global) => self.push(Value::Global(global)),
            None => {
                let shorten = |text: &str| text.chars().take(100).collect();
                return Err(self.wrong(PickleFlaw::Refused {
                    module: shorten(module),
                    name: shorten(name),
                }));
            }
        }
        Ok(())
    }

    /// Adds items to the list on top of the stack.
    fn extend_list(&mut self, opcode: u8, items: &[Id]) -> Result<(), CheckpointError> {
        let top = self.top(opcode)?;
        match &mut self.values[top.0 as usize] {
            Value::List(list) => list.extend(items),
            Value::Other => {}
            _ => return Err(self.operand(opcode, "list")),
        }
        Ok(())
    }

    /// Adds keys and values, which take turns, to the dictionary on top of the stack.
    fn extend_dict(&mut self, opcode: u8, items: &[Id]) -> Result<(), CheckpointError> {
        let top = self.top(opcode)?;
        let (pairs, []) = items.as_chunks() else {
            return Err(self.operand(opcode, "pair of key and value"));
        };
        match &mut self.values[top.0 as usize] {
            Value::Dict(entries) => entries.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            Value::Other => {}
            _ => return Err(self.operand(opcode, "dictionary")),
        }
        Ok(())
    }

    /// The number of the storage that a persistent id describes:
    /// `('storage', class, key, device, number of elements)`, followed by `None` in the older format.
    fn storage(&mut self, opcode: u8, id: Id) -> Result<u32, CheckpointError> {
        let described = match self.value(id) {
            Value::Tuple(items) => match **items {
                [tag, class, key, _device, n] => self.described_storage(tag, class, key, n),
                [tag, class, key, _device, n, view] if matches!(self.value(view), Value::None) => {
                    self.described_storage(tag, class, key, n)
                }
                _ => None,
            },
            _ => None,
        };
        let Some(storage) = described else {
            return Err(self.operand(opcode, "description of a storage"));
        };
        if let Some(&idx) = self.keys.get(&storage.key) {
            return match self.storages[idx as usize] == storage {
                true => Ok(idx),
                false => Err(self.wrong(PickleFlaw::StorageConflict {
                    key: storage.key.into(),
                })),
            };
        }
        let idx = self.storages.len() as u32;
        self.keys.insert(storage.key.clone(), idx);
        self.storages.push(storage);
        Ok(idx)
    }

    fn described_storage(&self, tag: Id, class: Id, key: Id, n_elements: Id) -> Option<Storage> {
        match (
            self.value(tag),
            self.value(class),
            self.value(key),
            self.value(n_elements),
        ) {
            (
                Value::Text(tag),
                &Value::Global(Global::StorageClass(elements)),
                Value::Text(key),
                &Value::Int(n),
            ) if **tag == *"storage" && key.len() <= MAX_KEY => Some(Storage {
                key: key.clone(),
                elements,
                n_elements: n.try_into().ok()?,
            }),
            _ => None,
        }
    }

    pub(in crate::torch) fn value(&self, id: Id) -> &Value {
        &self.values[id.0 as usize]
    }

    /// Adds a value that is not on the stack.
    pub(in crate::torch) fn add(&mut self, value: Value) -> Id {
        // No more than there are instructions, so 32 bits suffice.
        let id = Id(self.values.len() as u32);
        self.values.push(value);
        id
    }

    fn push(&mut self, value: Value) {
        let id = self.add(value);
        self.stack.push(id);
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self, opcode: u8) -> Result<Id, CheckpointError> {
        let top = self.top(opcode)?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_text(&mut self, opcode: u8) -> Result<Box<str>, CheckpointError> {
        let id = self.pop(opcode)?;
        match self.value(id) {
            Value::Text(text) => Ok(text.clone()),
            _ => Err(self.operand(opcode, "text")),
        }
    }

    fn pop_to_mark(&mut self, opcode: u8) -> Result<Vec<Id>, CheckpointError> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => Err(self.wrong(PickleFlaw::Underflow { opcode })),
        }
    }

    fn top(&self, opcode: u8) -> Result<Id, CheckpointError> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.floor() => Ok(id),
            _ => Err(self.wrong(PickleFlaw::Underflow { opcode })),
        }
    }

    fn require(
        &self,
        opcode: u8,
        expected: &'static str,
        is_it: fn(&Value) -> bool,
    ) -> Result<(), CheckpointError> {
        match is_it(self.value(self.top(opcode)?)) {
            true => Ok(()),
            false => Err(self.operand(opcode, expected)),
        }
    }

    pub(in crate::torch) fn operand(&self, opcode: u8, expected: &'static str) -> CheckpointError {
        self.wrong(PickleFlaw::Operand { opcode, expected })
    }

    fn wrong(&self, flaw: PickleFlaw) -> CheckpointError {
        self.cursor.error(HeaderFlaw::Pickle { at: self.at, flaw })
    }
}
