use std::collections::HashMap;

use llm_tensor::{DType, HostBytes};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView, serialize};

use crate::testing::{Folder, cut_everywhere, flip_every_byte, message, read_all};
use crate::{Checkpoint, Encoding, Format, Value};

/// A file with the given header and `n_data` bytes of tensor data.
fn file(header: &str, n_data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + n_data, 0x3C);
    file
}

const SMALL: &str = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}"#;

#[test]
fn a_header_by_hand_is_read() {
    let folder = Folder::new();
    let checkpoint = Checkpoint::open(&folder.write("m.safetensors", file(SMALL, 28))).unwrap();
    assert_eq!(checkpoint.format(), Format::Safetensors);
    assert_eq!(
        checkpoint.metadata()["format"],
        Value::String("pt".to_owned())
    );
    let names: Vec<_> = checkpoint.tensors().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let b = checkpoint.get("b").unwrap();
    let data_start = 8 + SMALL.len() as u64;
    assert_eq!(b.bytes, data_start + 4..data_start + 28);
    assert_eq!(
        (&*b.shape, b.encoding),
        (&[2, 3][..], Encoding::Plain(DType::F32))
    );
    assert!(checkpoint.get("c").is_none());
}

struct Case {
    what: &'static str,
    header: &'static str,
    n_data: usize,
    /// All of this must be in the message.
    says: &'static [&'static str],
}

const MALFORMED: &[Case] = &[
    Case {
        what: "no object",
        header: "[]",
        n_data: 0,
        says: &["begin with `{`"],
    },
    Case {
        what: "blank first",
        header: " {}",
        n_data: 0,
        says: &["begin with `{`"],
    },
    Case {
        what: "empty header",
        header: "",
        n_data: 0,
        says: &["begin with `{`"],
    },
    Case {
        what: "unfinished",
        header: r#"{"a":{"dtype":"I8","shape":[],"data_offsets":[0,1]}"#,
        n_data: 1,
        says: &["not valid", "EOF"],
    },
    Case {
        what: "something after the object",
        header: "{} x",
        n_data: 0,
        says: &["trailing"],
    },
    Case {
        what: "no data type",
        header: r#"{"a":{"shape":[],"data_offsets":[0,1]}}"#,
        n_data: 1,
        says: &["tensor `a`", "dtype"],
    },
    Case {
        what: "negative extent",
        header: r#"{"a":{"dtype":"I8","shape":[-1],"data_offsets":[0,1]}}"#,
        n_data: 1,
        says: &["tensor `a`", "-1"],
    },
    Case {
        what: "fractional extent",
        header: r#"{"ok":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"I8","shape":[1.5],"data_offsets":[0,1]}}"#,
        n_data: 1,
        says: &["tensor `a`", "1.5"],
    },
    Case {
        what: "three offsets",
        header: r#"{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1,2]}}"#,
        n_data: 1,
        says: &["tensor `a`", "not valid"],
    },
    Case {
        what: "unknown data type",
        header: r#"{"a":{"dtype":"F 4","shape":[2],"data_offsets":[0,1]}}"#,
        n_data: 1,
        says: &["tensor `a`", "`F 4`", "BF16"],
    },
    Case {
        what: "too many elements",
        header: r#"{"a":{"dtype":"I8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#,
        n_data: 0,
        says: &["tensor `a`", "64 bits"],
    },
    Case {
        what: "too many bytes",
        header: r#"{"a":{"dtype":"F64","shape":[4611686018427387904],"data_offsets":[0,0]}}"#,
        n_data: 0,
        says: &["tensor `a`", "64 bits"],
    },
    Case {
        what: "wrong length",
        header: r#"{"a":{"dtype":"F16","shape":[3],"data_offsets":[0,8]}}"#,
        n_data: 8,
        says: &["tensor `a`", "[3]", "f16", "6 bytes", "found 8"],
    },
    Case {
        what: "backwards",
        header: r#"{"a":{"dtype":"I8","shape":[1],"data_offsets":[2,1]}}"#,
        n_data: 2,
        says: &["tensor `a`", "begin at 2", "end at 1"],
    },
    Case {
        what: "past the end",
        header: r#"{"a":{"dtype":"I8","shape":[9],"data_offsets":[0,9]}}"#,
        n_data: 8,
        says: &["tensor `a`", "end at 9", "8 bytes"],
    },
    Case {
        what: "at the end of 64 bits",
        header: r#"{"a":{"dtype":"I8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615]}}"#,
        n_data: 8,
        says: &["tensor `a`", "8 bytes"],
    },
    Case {
        what: "overlap",
        header: r#"{"a":{"dtype":"I8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"I8","shape":[2],"data_offsets":[2,4]}}"#,
        n_data: 4,
        says: &["tensor `b`", "overlap", "`a`"],
    },
    Case {
        what: "gap in front",
        header: r#"{"a":{"dtype":"I8","shape":[1],"data_offsets":[1,2]}}"#,
        n_data: 2,
        says: &["bytes 0..1", "no gaps"],
    },
    Case {
        what: "gap between",
        header: r#"{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"I8","shape":[1],"data_offsets":[3,4]}}"#,
        n_data: 4,
        says: &["bytes 1..3"],
    },
    Case {
        what: "bytes after the last tensor",
        header: r#"{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}"#,
        n_data: 4,
        says: &["bytes 1..4"],
    },
    Case {
        what: "tensor twice",
        header: r#"{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"I8","shape":[1],"data_offsets":[1,2]}}"#,
        n_data: 2,
        says: &["tensor `a`", "twice"],
    },
    Case {
        what: "metadata that is no text",
        header: r#"{"__metadata__":{"n":1}}"#,
        n_data: 0,
        says: &["not valid", "expected a string"],
    },
    Case {
        what: "metadata twice",
        header: r#"{"__metadata__":{},"__metadata__":{}}"#,
        n_data: 0,
        says: &["`__metadata__` appears twice"],
    },
    Case {
        what: "metadata key twice",
        header: r#"{"__metadata__":{"k":"1","k":"2"}}"#,
        n_data: 0,
        says: &["`k` appears twice"],
    },
];

#[test]
fn malformed_headers_are_refused_with_what_is_wrong() {
    let folder = Folder::new();
    for case in MALFORMED {
        let path = folder.write("bad.safetensors", file(case.header, case.n_data));
        let text = message(Checkpoint::open(&path));
        for part in case.says.iter().chain(&["bad.safetensors"]) {
            assert!(text.contains(part), "{}: `{part}` in: {text}", case.what);
        }
    }
}

#[test]
fn lengths_of_headers_are_not_believed() {
    let folder = Folder::new();
    let claims = |n: u64| folder.write("m.safetensors", [&n.to_le_bytes()[..], b"{}"].concat());
    for n in [3, 1 << 40, u64::MAX] {
        let text = message(Checkpoint::open(&claims(n)));
        let claim = format!("claims {n} bytes at offset 8, but only 2 are left");
        assert!(text.contains(&claim), "{text}");
    }
    let path = claims(100_000_001);
    let sparse = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    sparse.set_len(1 << 30).unwrap();
    let text = message(Checkpoint::open(&path));
    assert!(text.contains("longer than the 100000000 bytes"), "{text}");
}

#[test]
fn no_flipped_byte_panics() {
    flip_every_byte(&file(SMALL, 28), 8 + SMALL.len(), "m.safetensors");
}

#[test]
fn no_truncated_file_opens() {
    cut_everywhere(&file(SMALL, 28), "m.safetensors");
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    let folder = Folder::new();
    let header = format!(r#"{{"a":{{"x":{}"#, "[".repeat(1 << 20));
    let text = message(Checkpoint::open(
        &folder.write("m.safetensors", file(&header, 0)),
    ));
    assert!(
        text.contains("tensor `a`") && text.contains("EOF"),
        "{text}"
    );
}

fn oracle_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::F8E4M3 => Dtype::F8_E4M3,
        DType::F8E5M2 => Dtype::F8_E5M2,
        DType::F8E4M3FNUZ => Dtype::F8_E4M3FNUZ,
        DType::F8E5M2FNUZ => Dtype::F8_E5M2FNUZ,
        DType::F8E8M0 => Dtype::F8_E8M0,
        DType::C64 => Dtype::C64,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}

type Tensors = HashMap<String, (DType, Vec<usize>, Vec<u8>)>;

fn tensors() -> impl Strategy<Value = Tensors> {
    let tensor = (
        prop::sample::select(&DType::ALL[..]),
        prop::collection::vec(0usize..5, 0..4),
        any::<u8>(),
    )
        .prop_map(|(dtype, shape, seed)| {
            let n_bytes = shape.iter().product::<usize>() * dtype.size();
            let bytes = (0..n_bytes).map(|i| (i as u8).wrapping_mul(37) ^ seed);
            (dtype, shape, bytes.collect())
        });
    prop::collection::hash_map(".{1,12}", tensor, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    // Metadata is absent or not empty: version 0.8 of the crate writes broken JSON for an empty one.
    #[test]
    fn what_the_safetensors_crate_writes_is_read(
        tensors in tensors(),
        metadata in prop::option::of(prop::collection::hash_map(".*", ".*", 1..4)),
    ) {
        let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
            (name, TensorView::new(oracle_dtype(*dtype), shape.clone(), bytes).unwrap())
        });
        let folder = Folder::new();
        let path = folder.write("m.safetensors", serialize(views, metadata.clone()).unwrap());

        let checkpoint = Checkpoint::open(&path).unwrap();
        prop_assert_eq!(checkpoint.tensors().len(), tensors.len());
        for (name, (dtype, shape, bytes)) in &tensors {
            let tensor = checkpoint.get(name).unwrap();
            let dims: Vec<usize> = tensor.shape.iter().map(|&d| d as usize).collect();
            prop_assert_eq!((tensor.encoding, &dims), (Encoding::Plain(*dtype), shape));
            prop_assert_eq!(&read_all(&checkpoint, name, *dtype), bytes);
            let view: HostBytes = checkpoint.view(name).unwrap().expect("the crate aligns");
            prop_assert_eq!(&*view, &bytes[..]);
        }
        let metadata = metadata.unwrap_or_default();
        prop_assert_eq!(checkpoint.metadata().len(), metadata.len());
        for (key, text) in &metadata {
            prop_assert_eq!(checkpoint.metadata()[key].as_str(), Some(&text[..]));
        }
    }
}
