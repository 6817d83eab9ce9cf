//! Pickles and zip archives by hand, right or wrong. A fragment of a pickle pushes one value.

use std::path::Path;

use llm_tensor::HostBytes;

use crate::{Checkpoint, CheckpointError};

pub(crate) fn text(text: &str) -> Vec<u8> {
    [
        b"X",
        &(text.len() as u32).to_le_bytes()[..],
        text.as_bytes(),
    ]
    .concat()
}

pub(crate) fn int(n: i64) -> Vec<u8> {
    [b"\x8A\x08", &n.to_le_bytes()[..]].concat()
}

pub(crate) fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(", &items.concat()[..], b"t"].concat()
}

pub(crate) fn ints(numbers: &[i64]) -> Vec<u8> {
    tuple(&numbers.iter().copied().map(int).collect::<Vec<_>>())
}

pub(crate) fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

pub(crate) fn call(module: &str, name: &str, arguments: &[Vec<u8>]) -> Vec<u8> {
    [global(module, name), tuple(arguments), b"R".to_vec()].concat()
}

pub(crate) fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<_> = entries
        .iter()
        .map(|(key, value)| [text(key), value.clone()].concat())
        .collect();
    [b"}(", &entries.concat()[..], b"u"].concat()
}

pub(crate) fn storage(class: &str, key: &str, n_elements: i64) -> Vec<u8> {
    let id = tuple(&[
        text("storage"),
        global("torch", class),
        text(key),
        text("cpu"),
        int(n_elements),
    ]);
    [id, b"Q".to_vec()].concat()
}

pub(crate) fn tensor(storage: Vec<u8>, offset: i64, dims: &[i64], strides: &[i64]) -> Vec<u8> {
    let hooks = call("collections", "OrderedDict", &[]);
    let arguments = [
        storage,
        int(offset),
        ints(dims),
        ints(strides),
        b"\x89".to_vec(),
        hooks,
    ];
    call("torch._utils", "_rebuild_tensor_v2", &arguments)
}

pub(crate) fn pickle(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02", value, b"."].concat()
}

/// An archive whose entries have no checksums; nobody looks at them.
pub(crate) fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    for (name, content) in entries {
        let lens = [content.len() as u32; 2].map(u32::to_le_bytes).concat();
        let name_len = (name.len() as u16).to_le_bytes();
        let offset = (file.len() as u32).to_le_bytes();
        file.extend(b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        file.extend([&lens[..], &name_len, &[0; 2], name.as_bytes(), content].concat());
        directory.extend(b"PK\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        directory.extend([&lens[..], &name_len, &[0; 12], &offset, name.as_bytes()].concat());
    }
    let n_entries = (entries.len() as u16).to_le_bytes();
    let (start, len) = (file.len() as u32, directory.len() as u32);
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([n_entries, n_entries].concat());
    file.extend([len, start].map(u32::to_le_bytes).concat());
    file.extend([0, 0]);
    file
}

/// A file whose pickle describes `value`, with one storage, `0`.
pub(crate) fn zip_of(value: &[u8], storage: &[u8]) -> Vec<u8> {
    zip(&[
        ("m/data.pkl", &pickle(value)),
        ("m/byteorder", b"little"),
        ("m/data/0", storage),
    ])
}

/// The same in the older format; the storages are keys, numbers of elements and bytes.
pub(crate) fn legacy_of(value: &[u8], storages: &[(&str, u64, &[u8])]) -> Vec<u8> {
    let keys: Vec<_> = storages.iter().map(|(key, ..)| text(key)).collect();
    let keys = [b"](", &keys.concat()[..], b"e"].concat();
    let mut file = LEGACY_FRONT.to_vec();
    file.extend(pickle(&dict(&[("little_endian", b"\x88".to_vec())])));
    file.extend(pickle(value));
    file.extend(pickle(&keys));
    for (_, n_elements, bytes) in storages {
        file.extend(n_elements.to_le_bytes());
        file.extend(*bytes);
    }
    file
}

/// The magic number, and the version.
pub(crate) const LEGACY_FRONT: &[u8] =
    b"\x80\x02\x8A\x0A\x6C\xFC\x9C\x46\xF9\x20\x6A\xA8\x50\x19.\x80\x02M\xE9\x03.";

pub(crate) fn open(bytes: Vec<u8>) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::from_bytes(Path::new("m.bin"), HostBytes::new(bytes))
}
