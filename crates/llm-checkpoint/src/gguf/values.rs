use super::cursor::Cursor;
use crate::error::{CheckpointError, HeaderFlaw};
use crate::metadata::{Array, Value};

/// Levels of arrays in arrays; real files have one.
const MAX_DEPTH: u32 = 4;

/// Reads the value of metadata key `key`: its type, then what belongs to it.
///
/// *Source*: GGUF specification, `gguf_metadata_value_type`.
pub(super) fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, CheckpointError> {
    Ok(match cursor.u32()? {
        0 => Value::U8(u8::from_le_bytes(cursor.array()?)),
        1 => Value::I8(i8::from_le_bytes(cursor.array()?)),
        2 => Value::U16(u16::from_le_bytes(cursor.array()?)),
        3 => Value::I16(i16::from_le_bytes(cursor.array()?)),
        4 => Value::U32(u32::from_le_bytes(cursor.array()?)),
        5 => Value::I32(i32::from_le_bytes(cursor.array()?)),
        6 => Value::F32(f32::from_le_bytes(cursor.array()?)),
        7 => Value::Bool(read_bool(cursor, key)?),
        8 => Value::String(cursor.text()?),
        9 => Value::Array(read_array(cursor, key, 1)?),
        10 => Value::U64(u64::from_le_bytes(cursor.array()?)),
        11 => Value::I64(i64::from_le_bytes(cursor.array()?)),
        12 => Value::F64(f64::from_le_bytes(cursor.array()?)),
        found => return Err(unknown_type(cursor, key, found)),
    })
}

/// `depth` counts this array and those around it.
fn read_array(cursor: &mut Cursor<'_>, key: &str, depth: u32) -> Result<Array, CheckpointError> {
    if depth > MAX_DEPTH {
        return Err(cursor.error(HeaderFlaw::Nesting {
            key: key.to_owned(),
            limit: MAX_DEPTH,
        }));
    }
    let element_type = cursor.u32()?;
    let n = cursor.u64()?;
    Ok(match element_type {
        0 => Array::U8(read_scalars(cursor, n, u8::from_le_bytes)?),
        1 => Array::I8(read_scalars(cursor, n, i8::from_le_bytes)?),
        2 => Array::U16(read_scalars(cursor, n, u16::from_le_bytes)?),
        3 => Array::I16(read_scalars(cursor, n, i16::from_le_bytes)?),
        4 => Array::U32(read_scalars(cursor, n, u32::from_le_bytes)?),
        5 => Array::I32(read_scalars(cursor, n, i32::from_le_bytes)?),
        6 => Array::F32(read_scalars(cursor, n, f32::from_le_bytes)?),
        7 => Array::Bool(read_elements(cursor, n, 1, |c| read_bool(c, key))?),
        8 => Array::String(read_elements(cursor, n, 8, |c| c.text())?),
        9 => Array::Array(read_elements(cursor, n, 12, |c| {
            read_array(c, key, depth + 1)
        })?),
        10 => Array::U64(read_scalars(cursor, n, u64::from_le_bytes)?),
        11 => Array::I64(read_scalars(cursor, n, i64::from_le_bytes)?),
        12 => Array::F64(read_scalars(cursor, n, f64::from_le_bytes)?),
        found => return Err(unknown_type(cursor, key, found)),
    })
}

fn read_scalars<const N: usize, T>(
    cursor: &mut Cursor<'_>,
    n: u64,
    decode: fn([u8; N]) -> T,
) -> Result<Vec<T>, CheckpointError> {
    read_elements(cursor, n, N as u64, |c| c.array().map(decode))
}

/// `n` elements that take at least `min_bytes` each in the file. Memory grows with what is really read.
fn read_elements<T>(
    cursor: &mut Cursor<'_>,
    n: u64,
    min_bytes: u64,
    mut read: impl FnMut(&mut Cursor<'_>) -> Result<T, CheckpointError>,
) -> Result<Vec<T>, CheckpointError> {
    cursor.expect_records(n, min_bytes)?;
    let mut elements = Vec::new();
    for _ in 0..n {
        elements.push(read(cursor)?);
    }
    Ok(elements)
}

fn read_bool(cursor: &mut Cursor<'_>, key: &str) -> Result<bool, CheckpointError> {
    match cursor.array()? {
        [0] => Ok(false),
        [1] => Ok(true),
        [found] => Err(cursor.error(HeaderFlaw::NotABool {
            key: key.to_owned(),
            found,
        })),
    }
}

fn unknown_type(cursor: &Cursor<'_>, key: &str, found: u32) -> CheckpointError {
    cursor.error(HeaderFlaw::ValueType {
        key: key.to_owned(),
        found,
    })
}
