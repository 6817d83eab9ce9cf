use llm_quant::GgmlType;
use std::fs::OpenOptions;

use llm_tensor::DType;

use crate::testing::{Folder, cut_everywhere, fixture, flip_every_byte, message, read_all};
use crate::{Array, Checkpoint, Encoding, Format, Value};

/// Writes GGUF by hand, right or wrong.
struct Writer(Vec<u8>);

const U32: u32 = 4;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
/// Of metadata, as the four before it.
const FLOAT: u32 = 6;
const F32: u32 = 0;
const Q4_0: u32 = 2;

impl Writer {
    fn new(version: u32, n_tensors: u64, n_entries: u64) -> Self {
        Writer(b"GGUF".to_vec())
            .u32(version)
            .u64(n_tensors)
            .u64(n_entries)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn u32(self, n: u32) -> Self {
        self.bytes(&n.to_le_bytes())
    }

    fn u64(self, n: u64) -> Self {
        self.bytes(&n.to_le_bytes())
    }

    fn text(self, text: &str) -> Self {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    fn key(self, key: &str, value_type: u32) -> Self {
        self.text(key).u32(value_type)
    }

    /// `dims` innermost first, as the file has them.
    fn tensor(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Self {
        let mut writer = self.text(name).u32(dims.len() as u32);
        for dim in dims {
            writer = writer.u64(*dim);
        }
        writer.u32(ty).u64(offset)
    }

    /// Padding up to the alignment, then `n` bytes of tensor data.
    fn data(mut self, n: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + n, 0x11);
        self
    }
}

fn small_file() -> Writer {
    Writer::new(3, 2, 3)
        .key("general.alignment", U32)
        .u32(32)
        .key("a.flag", BOOL)
        .bytes(&[1])
        .key("a.tokens", ARRAY)
        .u32(STRING)
        .u64(2)
        .text("<s>")
        .text("x")
        .tensor("one", &[32, 2], Q4_0, 0)
        .tensor("two", &[3], F32, 64)
        .data(64 + 12)
}

#[test]
fn metadata_of_every_type_is_read() {
    let checkpoint = Checkpoint::open(&fixture("all-types.gguf")).unwrap();
    let strings = |texts: &[&str]| Array::String(texts.iter().map(|t| t.to_string()).collect());
    let expected = [
        ("test.u8", Value::U8(250)),
        ("test.i8", Value::I8(-100)),
        ("test.u16", Value::U16(60_000)),
        ("test.i16", Value::I16(-30_000)),
        ("test.u32", Value::U32(4_000_000_000)),
        ("test.i32", Value::I32(-2_000_000_000)),
        ("test.u64", Value::U64((1 << 63) + 1)),
        ("test.i64", Value::I64(-(1 << 62))),
        ("test.f32", Value::F32(0.5)),
        ("test.f64", Value::F64(0.1)),
        ("test.bool", Value::Bool(true)),
        ("test.string", Value::String("naïve".to_owned())),
        ("test.ints", Value::Array(Array::I32(vec![1, -2, 3]))),
        ("test.floats", Value::Array(Array::F32(vec![0.25, -4.0]))),
        ("test.bools", Value::Array(Array::Bool(vec![true, false]))),
        ("test.strings", Value::Array(strings(&["<s>", "", "▁the"]))),
        (
            "test.nested",
            Value::Array(Array::Array(vec![strings(&["a"]), strings(&["b", "c"])])),
        ),
        ("general.architecture", Value::String("llama".to_owned())),
    ];
    for (key, value) in &expected {
        assert_eq!(checkpoint.metadata().get(*key), Some(value), "{key}");
    }
    assert_eq!(checkpoint.metadata().len(), expected.len());
    assert_eq!(checkpoint.format(), Format::Gguf);
}

/// A file with one tensor, and numbers of two layers that begin where no multiple of four does.
fn numbered(tensor: &str, keys: &[(&str, u32)]) -> Vec<u8> {
    let mut writer = Writer::new(3, 1, 2 + keys.len() as u64)
        .key("a.flag", BOOL)
        .bytes(&[1])
        .key("xielu.beta", ARRAY)
        .u32(FLOAT)
        .u64(2)
        .bytes(&0.5f32.to_le_bytes())
        .bytes(&(-3f32).to_le_bytes());
    for (key, value) in keys {
        writer = writer.key(key, U32).u32(*value);
    }
    writer.tensor(tensor, &[1], F32, 0).data(4).0
}

#[test]
fn numbers_of_layers_in_the_metadata_are_tensors() {
    let folder = Folder::new();
    let read = |checkpoint: &Checkpoint, name: &str| {
        let bytes = read_all(checkpoint, name, DType::F32);
        f32::from_le_bytes(bytes[..].try_into().unwrap())
    };
    let path = folder.write("one.gguf", numbered("one", &[]));
    let checkpoint = Checkpoint::open(&path).unwrap();
    let names: Vec<_> = checkpoint.tensors().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["blk.0.xielu.beta", "blk.1.xielu.beta", "one"]);
    assert_ne!(checkpoint.get(names[0]).unwrap().bytes.start % 4, 0);
    let found = [names[0], names[1]].map(|name| read(&checkpoint, name));
    assert_eq!(found, [0.5, -3.0]);
    // A tensor of the file counts.
    let path = folder.write("own.gguf", numbered("blk.1.xielu.beta", &[]));
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.tensors().len(), 2);
    assert_eq!(read(&checkpoint, "blk.0.xielu.beta"), 0.5);
    let own = f32::from_le_bytes([0x11; 4]);
    assert_eq!(read(&checkpoint, "blk.1.xielu.beta"), own);
    // Parts are counted by the tensors that they were written with.
    for (no, name) in ["a", "b"].into_iter().enumerate() {
        let keys = [
            ("split.no", no as u32),
            ("split.count", 2),
            ("split.tensors.count", 2),
        ];
        let file = match no {
            0 => numbered(name, &keys),
            _ => {
                let mut writer = Writer::new(3, 1, 3);
                for (key, value) in keys {
                    writer = writer.key(key, U32).u32(value);
                }
                writer.tensor(name, &[1], F32, 0).data(4).0
            }
        };
        folder.write(&format!("m-0000{}-of-00002.gguf", no + 1), file);
    }
    let checkpoint = Checkpoint::open(&folder.path().join("m-00001-of-00002.gguf")).unwrap();
    assert_eq!(checkpoint.tensors().len(), 4);
}

#[test]
fn values_convert_where_nothing_is_lost() {
    let cases = [
        (Value::I8(3), Some(3)),
        (Value::U64(u64::MAX), Some(u64::MAX)),
        (Value::I64(-1), None),
        (Value::F32(1.0), None),
    ];
    for (value, expected) in cases {
        assert_eq!(value.as_u64(), expected, "{value:?}");
    }
    assert_eq!(Value::F32(0.5).as_f64(), Some(0.5));
    assert_eq!(Value::U8(1).as_bool(), None);
    assert_eq!(Value::String("x".to_owned()).as_str(), Some("x"));
}

#[test]
fn extents_are_turned_around() {
    let folder = Folder::new();
    let file = Writer::new(2, 1, 0)
        .tensor("cube", &[32, 5, 7], Q4_0, 0)
        .data(5 * 7 * 18);
    let checkpoint = Checkpoint::open(&folder.write("m.gguf", file.0)).unwrap();
    let tensor = checkpoint.get("cube").unwrap();
    assert_eq!(*tensor.shape, [7, 5, 32]);
    assert_eq!(tensor.encoding, Encoding::Block(GgmlType::Q4_0));
    assert_eq!(tensor.stored_bytes().get(), 5 * 7 * 18);
    assert!(checkpoint.view("cube").unwrap().is_none());
}

#[test]
fn a_file_without_tensors_may_end_unaligned() {
    let folder = Folder::new();
    let file = Writer::new(3, 0, 1).key("general.name", STRING).text("v");
    let checkpoint = Checkpoint::open(&folder.write("vocab.gguf", file.0)).unwrap();
    assert_eq!(checkpoint.tensors().len(), 0);
    assert_eq!(checkpoint.metadata()["general.name"].as_str(), Some("v"));
}

#[test]
fn empty_tensors_lie_inside_the_file_too() {
    let folder = Folder::new();
    let empty = || Writer::new(3, 1, 0).tensor("none", &[0, 4], F32, 0);
    let checkpoint = Checkpoint::open(&folder.write("m.gguf", empty().data(0).0)).unwrap();
    assert_eq!(checkpoint.view("none").unwrap().unwrap().len(), 0);
    let text = message(Checkpoint::open(&folder.write("m.gguf", empty().0)));
    assert!(text.contains("`none`"), "{text}");
}

struct Case {
    what: &'static str,
    file: Writer,
    /// All of this must be in the message.
    says: &'static [&'static str],
}

fn malformed() -> Vec<Case> {
    let case = |what, file, says| Case { what, file, says };
    let one = |dims: &[u64], ty, offset| {
        Writer::new(3, 1, 0)
            .tensor("blk.0", dims, ty, offset)
            .data(64)
    };
    let entry = |key, ty| Writer::new(3, 0, 1).key(key, ty);
    vec![
        case("magic", Writer(b"GGML\x03\0\0\0".to_vec()), &["`GGUF`"]),
        case("version 1", Writer::new(1, 0, 0), &["version 1"]),
        case(
            "big-endian",
            Writer(b"GGUF\0\0\0\x03".to_vec()),
            &["big-endian"],
        ),
        case(
            "number of tensors",
            Writer::new(3, u64::MAX, 0).data(100),
            &["claims 18446744073709551615 bytes", "offset 24"],
        ),
        case(
            "number of entries",
            Writer::new(3, 0, 1 << 40).data(100),
            &["claims", "left"],
        ),
        case(
            "length of a key",
            Writer::new(3, 0, 1).u64(1 << 60).data(100),
            &["claims 1152921504606846976 bytes at offset 32"],
        ),
        case(
            "length of an array",
            entry("k", ARRAY).u32(U32).u64(1 << 61).data(100),
            &["claims", "left"],
        ),
        case(
            "text",
            Writer::new(3, 0, 1).u64(2).bytes(b"\xFF\xFE").data(100),
            &["offset 32", "not UTF-8"],
        ),
        case(
            "value type",
            entry("k", 13).data(100),
            &["`k`", "value type 13"],
        ),
        case(
            "element type",
            entry("k", ARRAY).u32(99).u64(1).data(100),
            &["`k`", "value type 99"],
        ),
        case(
            "boolean",
            entry("k", BOOL).bytes(&[2]),
            &["`k`", "boolean 2"],
        ),
        case(
            "nesting",
            (0..5)
                .fold(entry("k", ARRAY), |w, _| w.u32(ARRAY).u64(1))
                .data(100),
            &["`k`", "more than 4 deep"],
        ),
        case(
            "key twice",
            Writer::new(3, 0, 2)
                .key("k", U32)
                .u32(1)
                .key("k", BOOL)
                .bytes(&[1]),
            &["`k` appears twice"],
        ),
        case(
            "alignment zero",
            entry("general.alignment", U32).u32(0),
            &["general.alignment` is 0", "power of two"],
        ),
        case(
            "alignment of the wrong type",
            entry("general.alignment", STRING).text("32"),
            &["general.alignment", "not a 32-bit unsigned integer"],
        ),
        case(
            "split",
            entry("split.count", 2).bytes(&[3, 0]),
            &["part 1 of 3", "-00001-of-00003.gguf"],
        ),
        case(
            "unsupported type",
            one(&[256], 15, 0),
            &["`blk.0`", "Q8_K", "number 15", "Q4_K"],
        ),
        case("unknown type", one(&[32], 77, 0), &["`blk.0`", "number 77"]),
        case(
            "rank",
            one(&[1, 1, 1, 1, 1], F32, 0),
            &["`blk.0`", "5 dimensions", "4"],
        ),
        case(
            "partial block",
            one(&[33], Q4_0, 0),
            &["`blk.0`", "33 elements", "32", "Q4_0"],
        ),
        case(
            "scalar block",
            one(&[], Q4_0, 0),
            &["`blk.0`", "rows have 1 elements"],
        ),
        case(
            "too many elements",
            one(&[1 << 40, 1 << 40], F32, 0),
            &["`blk.0`", "64 bits"],
        ),
        case(
            "too many bytes",
            one(&[1 << 63], F32, 0),
            &["`blk.0`", "64 bits"],
        ),
        case(
            "misaligned",
            one(&[1], F32, 4),
            &["`blk.0`", "begins at 4", "alignment 32"],
        ),
        case(
            "past the end",
            one(&[17], F32, 0),
            &["`blk.0`", "end at 68", "64 bytes"],
        ),
        case(
            "far past the end",
            one(&[8], F32, u64::MAX - 31),
            &["`blk.0`", "64 bytes"],
        ),
        case(
            "overlap",
            Writer::new(3, 2, 0)
                .tensor("a", &[9], F32, 0)
                .tensor("b", &[1], F32, 32)
                .data(64),
            &["`b`", "overlap", "`a`"],
        ),
        case(
            "name twice",
            Writer::new(3, 2, 0)
                .tensor("a", &[1], F32, 0)
                .tensor("a", &[1], F32, 32)
                .data(64),
            &["`a`", "twice"],
        ),
    ]
}

#[test]
fn types_that_are_not_decoded_are_refused_by_name() {
    let folder = Folder::new();
    for (code, name) in crate::REFUSED_GGUF_TYPES {
        let file = Writer::new(3, 1, 0).tensor("a", &[256], code, 0).data(1024);
        let path = folder.write("m.gguf", file.0);
        let found = message(Checkpoint::open(&path));
        let expected = format!("type {name} (number {code}) is not supported");
        assert!(found.contains(&expected), "{found}");
    }
}

#[test]
fn malformed_headers_are_refused_with_what_is_wrong() {
    let folder = Folder::new();
    for Case { what, file, says } in malformed() {
        let text = message(Checkpoint::open(&folder.write("bad.gguf", file.0)));
        for part in says.iter().chain(&["bad.gguf"]) {
            assert!(text.contains(part), "{what}: `{part}` in: {text}");
        }
    }
}

#[test]
fn no_flipped_byte_panics() {
    let file = small_file().0;
    flip_every_byte(&file, file.len() - 76, "m.gguf");
}

#[test]
fn no_truncated_file_opens() {
    cut_everywhere(&small_file().0, "m.gguf");
}

#[test]
fn headers_are_capped() {
    let folder = Folder::new();
    let path = folder.write("huge.gguf", Writer::new(3, 0, 1).u64(1 << 32).0);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    // A sparse file that really has the bytes which its header claims.
    file.set_len(1 << 33).unwrap();
    let text = message(Checkpoint::open(&path));
    assert!(text.contains("longer than the 268435456 bytes"), "{text}");
}

#[test]
fn a_tensor_larger_than_memory_is_viewed_and_read_in_part() {
    let folder = Folder::new();
    let n_elements = 1u64 << 38;
    let file = Writer::new(3, 1, 0).tensor("huge", &[n_elements], F32, 0);
    let data_start = file.0.len().next_multiple_of(32) as u64;
    let path = folder.write("huge.gguf", file.0);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(data_start + n_elements * 4).unwrap();

    let checkpoint = Checkpoint::open(&path).unwrap();
    let view = checkpoint.view("huge").unwrap().unwrap();
    assert_eq!(view.len() as u64, n_elements * 4);
    assert_eq!(view[view.len() - 4..], [0; 4]);
    let mut out = [1; 6];
    checkpoint
        .read_into("huge", n_elements - 3..n_elements, DType::BF16, &mut out)
        .unwrap();
    assert_eq!(out, [0; 6]);
}
