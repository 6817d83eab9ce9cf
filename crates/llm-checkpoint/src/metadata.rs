use std::collections::BTreeMap;

/// Metadata of a checkpoint, by key: GGUF's key-values, or safetensors' `__metadata__`, which are all strings.
pub type Metadata = BTreeMap<String, Value>;

/// One metadata value, in the type that the file gives it.
///
/// Exhaustive on purpose: these are all types that GGUF defines.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are the types' own")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// A metadata array. Its elements have one type, so that a vocabulary takes little more memory than it does in the
/// file.
///
/// Exhaustive on purpose, as [`Value`] is.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are the types' own")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Array>),
}

impl Value {
    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        let Value::String(text) = self else {
            return None;
        };
        Some(text)
    }

    /// The value of an integer of any width, unless it is negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(n) => Some(n.into()),
            Value::U16(n) => Some(n.into()),
            Value::U32(n) => Some(n.into()),
            Value::U64(n) => Some(n),
            Value::I8(n) => n.try_into().ok(),
            Value::I16(n) => n.try_into().ok(),
            Value::I32(n) => n.try_into().ok(),
            Value::I64(n) => n.try_into().ok(),
            Value::F32(_) | Value::F64(_) => None,
            Value::Bool(_) | Value::String(_) | Value::Array(_) => None,
        }
    }

    /// The value of a floating-point number of either width.
    pub fn as_f64(&self) -> Option<f64> {
        if let Value::F32(x) = *self {
            return Some(x.into());
        }
        let Value::F64(x) = *self else {
            return None;
        };
        Some(x)
    }

    /// The value of a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        let Value::Bool(b) = *self else {
            return None;
        };
        Some(b)
    }

    /// The elements of an array of strings.
    pub fn as_strings(&self) -> Option<&[String]> {
        let Value::Array(Array::String(texts)) = self else {
            return None;
        };
        Some(texts)
    }
}
