use std::fs;

use safetensors::{Dtype, SafeTensors};

use super::*;
use crate::Checkpoint;
use crate::testing::{Folder, message, read_all};

fn new(name: &str, dtype: DType, shape: &[u64]) -> NewTensor {
    NewTensor {
        name: name.to_owned(),
        dtype,
        shape: Shape::new(shape).unwrap(),
    }
}

fn metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("format".to_owned(), "pt".to_owned())])
}

/// Names in a folder, sorted.
fn names(folder: &Folder) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn the_safetensors_crate_reads_what_was_written() {
    let tensors = [
        new("z.first", DType::F32, &[2, 3]),
        new("a.\"second\"\n", DType::BF16, &[5]),
        new("scalar", DType::U8, &[]),
        new("empty", DType::I64, &[0, 4]),
    ];
    let folder = Folder::new();
    let path = folder.path().join("out.safetensors");
    let bytes: Vec<u8> = (0..35).collect();

    // In pieces that do not respect where tensors begin.
    for piece in [1, 7, 35] {
        let mut writer = SafetensorsWriter::create(&path, &tensors, &metadata()).unwrap();
        for part in bytes.chunks(piece) {
            writer.write(part).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(names(&folder), ["out.safetensors"]);

        let file = fs::read(&path).unwrap();
        let found = SafeTensors::deserialize(&file).unwrap();
        let mut parts = bytes.as_slice();
        for tensor in &tensors {
            let view = found.tensor(&tensor.name).unwrap();
            let shape: Vec<u64> = view.shape().iter().map(|&d| d as u64).collect();
            assert_eq!(shape, tensor.shape.to_vec(), "{}", tensor.name);
            let (data, rest) = parts.split_at(view.data().len());
            assert_eq!(view.data(), data, "{}", tensor.name);
            parts = rest;
        }
        assert!(parts.is_empty() && found.len() == tensors.len());
        let (header_len, header) = SafeTensors::read_metadata(&file).unwrap();
        assert_eq!(header_len % 8, 0, "tensor data begins aligned");
        assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    }

    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(
        read_all(&checkpoint, "z.first", DType::F32),
        &bytes[..24],
        "our own reader agrees"
    );
}

#[test]
fn every_element_type_has_the_name_that_the_safetensors_crate_knows() {
    let folder = Folder::new();
    for dtype in DType::ALL {
        let path = folder.path().join(dtype.name());
        let tensors = [new("t", dtype, &[3])];
        let mut writer = SafetensorsWriter::create(&path, &tensors, &BTreeMap::new()).unwrap();
        writer.write(&vec![0; 3 * dtype.size()]).unwrap();
        writer.finish().unwrap();
        let file = fs::read(&path).unwrap();
        let found = SafeTensors::deserialize(&file).unwrap();
        let found: Dtype = found.tensor("t").unwrap().dtype();
        assert_eq!(found.bitsize(), 8 * dtype.size(), "{dtype} is {found}");
    }
}

#[test]
fn a_file_without_tensors_is_a_file() {
    let folder = Folder::new();
    let path = folder.path().join("none.safetensors");
    let writer = SafetensorsWriter::create(&path, &[], &BTreeMap::new()).unwrap();
    writer.finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"\x08\0\0\0\0\0\0\0{}      ");
}

#[test]
fn until_finish_the_old_file_stays_and_a_dropped_writer_leaves_nothing() {
    let folder = Folder::new();
    let path = folder.write("out.safetensors", "old");
    let tensors = [new("t", DType::F32, &[2])];
    let open = || {
        let mut writer = SafetensorsWriter::create(&path, &tensors, &metadata()).unwrap();
        writer.write(&[0; 4]).unwrap();
        writer
    };

    let writer = open();
    assert_eq!(names(&folder).len(), 2, "the temporary file is beside it");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    drop(writer);
    assert_eq!(names(&folder), ["out.safetensors"]);
    assert_eq!(fs::read(&path).unwrap(), b"old");

    let mut writer = open();
    writer.write(&[0; 4]).unwrap();
    writer.finish().unwrap();
    assert_eq!(names(&folder), ["out.safetensors"]);
    Checkpoint::open(&path).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    let usual = fs::metadata(folder.write("usual", "")).unwrap();
    assert_eq!(mode, usual.permissions().mode(), "readable as any file");
}

#[test]
fn what_no_reader_would_accept_is_refused() {
    struct Case {
        tensors: Vec<NewTensor>,
        says: &'static str,
    }
    let cases = [
        Case {
            tensors: vec![new("t", DType::F32, &[2]), new("t", DType::U8, &[1])],
            says: "tensor `t`: the header lists it twice",
        },
        Case {
            tensors: vec![new("__metadata__", DType::F32, &[2])],
            says: "tensor `__metadata__`: safetensors reserves",
        },
        Case {
            tensors: vec![new("t", DType::F32, &[1 << 62])],
            says: "tensor `t`: 4611686018427387904 elements of f32",
        },
        Case {
            tensors: vec![new(&"n".repeat(MAX_HEADER as usize), DType::U8, &[])],
            says: "the header is longer than",
        },
    ];
    let folder = Folder::new();
    let path = folder.path().join("out.safetensors");
    for Case { tensors, says } in cases {
        let text = message(SafetensorsWriter::create(&path, &tensors, &BTreeMap::new()));
        assert!(
            text.contains("out.safetensors") && text.contains(says),
            "{text}"
        );
        assert!(names(&folder).is_empty());
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let folder = Folder::new();
    let path = folder.path().join("no/such/out.safetensors");
    let text = message(SafetensorsWriter::create(&path, &[], &BTreeMap::new()));
    assert!(
        text.starts_with("cannot write") && text.contains("no/such/out.safetensors"),
        "{text}"
    );
    let root = message(SafetensorsWriter::create(
        Path::new("/"),
        &[],
        &BTreeMap::new(),
    ));
    assert!(root.starts_with("cannot write /: "), "{root}");
}
