//! The format before PyTorch 1.6: pickles of a magic number, a version, the writer's machine, the state dict and the
//! keys of the storages; then for each key, in that order, a count of elements and the elements.

use std::collections::HashMap;

use super::pickle::{self, Pickle, Value};
use super::state_dict::Storages;
use crate::cursor::Cursor;
use crate::error::{CheckpointError, HeaderFlaw};
use crate::source::SourceFile;

/// Bytes within which the magic number is found.
pub(super) const FRONT: usize = 32;

/// True if a file that begins with `front` is of this format.
pub(super) fn is_legacy(front: &[u8]) -> bool {
    // A pickle's first instruction, then as an integer the magic number, whatever the protocol puts in between.
    front.first() == Some(&0x80) && front.windows(MAGIC_BYTES.len()).any(|w| w == MAGIC_BYTES)
}

/// The state dict's pickle, and where the storages lie that it names. Of the storages nothing is read but the
/// counts before them.
pub(super) fn read(file: &SourceFile) -> Result<(Pickle, Storages), CheckpointError> {
    let mut cursor = Cursor::new(file);
    let magic = pickle::read(&mut cursor)?;
    if magic.int(magic.root) != Some(MAGIC) {
        return Err(file.header_error(HeaderFlaw::NotTorch));
    }
    let version = pickle::read(&mut cursor)?;
    if version.int(version.root) != Some(VERSION) {
        return Err(file.header_error(HeaderFlaw::LegacyVersion { expected: VERSION }));
    }
    let machine = pickle::read(&mut cursor)?;
    let order = machine.entry(machine.root, "little_endian");
    if !order.is_some_and(|order| matches!(machine.value(order), Value::Bool(true))) {
        return Err(file.header_error(HeaderFlaw::ByteOrder));
    }
    let pickle = pickle::read(&mut cursor)?;
    let keys = pickle::read(&mut cursor)?;
    let storages = locate(file, cursor.position(), &pickle, &keys)?;
    Ok((pickle, storages))
}

/// Passes over the storages, which begin at `at`.
fn locate(
    file: &SourceFile,
    mut at: u64,
    pickle: &Pickle,
    keys: &Pickle,
) -> Result<Storages, CheckpointError> {
    let wrong = |reason| file.header_error(HeaderFlaw::StorageList { reason });
    let Value::List(list) = keys.value(keys.root) else {
        return Err(wrong("it is not a list"));
    };
    let known: HashMap<&str, usize> = pickle
        .storages
        .iter()
        .enumerate()
        .map(|(idx, storage)| (&*storage.key, idx))
        .collect();
    let mut storages: Storages = vec![None; pickle.storages.len()];
    for &key in list {
        let Value::Text(key) = keys.value(key) else {
            return Err(wrong("it holds something that is not a key"));
        };
        let Some(&idx) = known.get(&**key) else {
            return Err(wrong("it holds a key that no tensor uses"));
        };
        if storages[idx].is_some() {
            return Err(wrong("it holds a key twice"));
        }
        let storage = &pickle.storages[idx];
        let count = Cursor::over(file, at..file.len()).u64()?;
        let start = at + 8;
        let len = count.saturating_mul(storage.elements.n_bytes);
        storage
            .check_length(len)
            .map_err(|flaw| file.header_error(flaw))?;
        let left = file.len() - start;
        if len > left {
            return Err(file.header_error(HeaderFlaw::CutOff {
                at: start,
                needed: len,
                left,
            }));
        }
        at = start + len;
        storages[idx] = Some(start..at);
    }
    Ok(storages)
}

/// Content of the first pickle.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;

/// The same as the pickle has it: little-endian, as few bytes as it takes.
const MAGIC_BYTES: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Content of the second pickle.
const VERSION: i128 = 1001;
