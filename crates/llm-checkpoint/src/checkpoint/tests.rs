use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use llm_tensor::{DType, HostBytes, convert_elements};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorView, serialize};

use crate::testing::{Folder, fixture, message, read_all};
use crate::{Checkpoint, CheckpointError, Format};

/// A safetensors file whose tensors each hold four bytes.
pub(crate) fn shard(names: &[&str]) -> Vec<u8> {
    let views = names.iter().map(|name| {
        let bytes = name.as_bytes().first_chunk::<4>().unwrap();
        (name, TensorView::new(Dtype::U8, vec![2, 2], bytes).unwrap())
    });
    serialize(views, None).unwrap()
}

pub(crate) fn index(weight_map: &[(&str, &str)]) -> String {
    let weight_map: BTreeMap<_, _> = weight_map.iter().copied().collect();
    serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": weight_map }).to_string()
}

pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// `aaaa` and `bbbb` in the first shard, `cccc` in the second.
fn sharded() -> Folder {
    let folder = Folder::new();
    folder.write("1.safetensors", shard(&["aaaa", "bbbb"]));
    folder.write("2.safetensors", shard(&["cccc"]));
    folder.write(
        INDEX,
        index(&[
            ("aaaa", "1.safetensors"),
            ("bbbb", "1.safetensors"),
            ("cccc", "2.safetensors"),
        ]),
    );
    folder
}

#[test]
fn shards_are_read_as_one() {
    let folder = sharded();
    for path in [folder.path(), &folder.path().join(INDEX)] {
        let checkpoint = Checkpoint::open(path).unwrap();
        assert_eq!(checkpoint.path(), folder.path().join(INDEX));
        assert_eq!(checkpoint.folder(), folder.path());
        let names: Vec<_> = checkpoint.tensors().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["aaaa", "bbbb", "cccc"]);
        assert!(
            checkpoint
                .files()
                .eq(["1.safetensors", "2.safetensors"].map(|n| folder.path().join(n)))
        );
        for name in names {
            assert_eq!(read_all(&checkpoint, name, DType::U8), name.as_bytes());
            assert_eq!(*checkpoint.view(name).unwrap().unwrap(), *name.as_bytes());
        }
    }
}

#[test]
fn a_tensor_that_the_index_forgot_is_there() {
    let folder = sharded();
    folder.write("2.safetensors", shard(&["cccc", "dddd"]));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(read_all(&checkpoint, "dddd", DType::U8), b"dddd");
}

#[test]
fn what_is_wrong_with_shards_is_said() {
    struct Case {
        what: &'static str,
        bend: fn(&Folder),
        says: &'static [&'static str],
    }
    fn map_c_to(folder: &Folder, shard: &str) {
        folder.write(INDEX, index(&[("aaaa", "1.safetensors"), ("cccc", shard)]));
    }
    let cases = [
        Case {
            what: "missing shard",
            bend: |f| fs::remove_file(f.path().join("2.safetensors")).unwrap(),
            says: &[INDEX, "`2.safetensors` is missing", "`cccc`", "1 of 2"],
        },
        Case {
            what: "damaged shard",
            bend: |f| drop(f.write("2.safetensors", "x")),
            says: &["2.safetensors", "too few"],
        },
        Case {
            what: "tensor in both shards",
            bend: |f| drop(f.write("2.safetensors", shard(&["bbbb", "cccc"]))),
            says: &["`bbbb`", "`1.safetensors`", "`2.safetensors`"],
        },
        Case {
            what: "parent folder",
            bend: |f| map_c_to(f, "../2.safetensors"),
            says: &["`../2.safetensors` of tensor `cccc` is not a plain file name"],
        },
        Case {
            what: "absolute path",
            bend: |f| map_c_to(f, "/etc/passwd"),
            says: &["`/etc/passwd`", "plain file name"],
        },
        Case {
            what: "parent folder alone",
            bend: |f| map_c_to(f, ".."),
            says: &["`..`", "plain file name"],
        },
        Case {
            what: "backslash",
            bend: |f| map_c_to(f, "a\\b.safetensors"),
            says: &["plain file name"],
        },
        Case {
            what: "a folder as shard",
            bend: |f| {
                fs::create_dir(f.path().join("d.safetensors")).unwrap();
                map_c_to(f, "d.safetensors");
            },
            says: &["d.safetensors", "a folder, not a file"],
        },
        Case {
            what: "no tensors",
            bend: |f| drop(f.write(INDEX, index(&[]))),
            says: &["no tensors"],
        },
        Case {
            what: "no weight map",
            bend: |f| drop(f.write(INDEX, "{}")),
            says: &[INDEX, "weight_map"],
        },
        Case {
            what: "shard that is no text",
            bend: |f| drop(f.write(INDEX, r#"{"weight_map":{"aaaa":1}}"#)),
            says: &[INDEX, "not valid", "expected a string"],
        },
        Case {
            what: "tensor listed twice",
            bend: |f| drop(f.write(INDEX, r#"{"weight_map":{"aaaa":"1","aaaa":"2"}}"#)),
            says: &["lists tensor `aaaa` twice"],
        },
    ];
    for Case { what, bend, says } in cases {
        let folder = sharded();
        bend(&folder);
        let text = message(Checkpoint::open(folder.path()));
        for part in says {
            assert!(text.contains(part), "{what}: `{part}` in: {text}");
        }
    }
}

#[test]
fn folders_are_searched_in_order() {
    let folder = Folder::new();
    let opened = || Checkpoint::open(folder.path());
    let gguf = fs::read(fixture("version-2.gguf")).unwrap();
    assert!(message(opened()).contains("no .safetensors, no PyTorch .bin and no .gguf"));

    folder.write("a.gguf", &gguf);
    assert_eq!(opened().unwrap().format(), Format::Gguf);
    folder.write("b.gguf", &gguf);
    assert!(message(opened()).contains("name one of them: a.gguf, b.gguf"));
    folder.write("only.safetensors", shard(&["only"]));
    assert!(opened().unwrap().get("only").is_some());
    folder.write("two.safetensors", shard(&["two!"]));
    assert!(message(opened()).contains("only.safetensors, two.safetensors"));
    folder.write(INDEX, index(&[("only", "only.safetensors")]));
    assert!(opened().unwrap().get("only").is_some());
    folder.write("model.safetensors", shard(&["main"]));
    assert!(opened().unwrap().get("main").is_some());
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let folder = Folder::new();
    let config = folder.write("config.json", "{}");
    assert!(message(Checkpoint::open(&config)).contains("config.json is no checkpoint"));
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    for name in ["model.safetensors", "model.gguf"] {
        let text = message(Checkpoint::open(&folder.write(name, pointer)));
        assert!(
            text.contains(name) && text.contains("git lfs pull"),
            "{text}"
        );
    }
    let text = message(Checkpoint::open(&folder.path().join("no-folder")));
    assert!(
        text.contains("no-folder") && text.contains("No such file"),
        "{text}"
    );
    let text = message(Checkpoint::open(&folder.path().join("gone.gguf")));
    assert!(
        text.contains("gone.gguf") && text.contains("No such file"),
        "{text}"
    );
}

#[test]
fn the_folder_of_a_bare_file_name_is_the_current_one() {
    let checkpoint = Checkpoint {
        path: "model.gguf".into(),
        ..Checkpoint::open(&fixture("version-2.gguf")).unwrap()
    };
    assert_eq!(checkpoint.folder(), Path::new("."));
}

#[test]
fn views_share_one_mapping_and_copy_nothing() {
    let checkpoint = Checkpoint::open(&fixture("all-types.gguf")).unwrap();
    let offset = |name| checkpoint.get(name).unwrap().bytes.start as usize;
    let first = checkpoint.view("f32").unwrap().unwrap();
    for (name, dtype) in [
        ("f64", DType::F64),
        ("bf16", DType::BF16),
        ("i16", DType::I16),
    ] {
        let view = checkpoint.view(name).unwrap().unwrap();
        let distance = (view.as_ptr() as usize).wrapping_sub(first.as_ptr() as usize);
        assert_eq!(distance, offset(name).wrapping_sub(offset("f32")), "{name}");
        assert_eq!(view.as_ptr() as usize % dtype.size(), 0, "{name}");
        assert_eq!(*view, read_all(&checkpoint, name, dtype), "{name}");
    }
    drop(checkpoint);
    assert_eq!(first.len(), 3 * 5 * 4, "a view outlives its checkpoint");
}

#[test]
fn unaligned_and_quantized_tensors_have_no_view() {
    let folder = Folder::new();
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let path = |blanks: usize| {
        let len = (header.len() + blanks) as u64;
        let file = [&len.to_le_bytes()[..], header, &vec![b' '; blanks], &[1; 4]];
        folder.write("m.safetensors", file.concat())
    };
    for blanks in 0..8 {
        let checkpoint = Checkpoint::open(&path(blanks)).unwrap();
        let is_aligned = (header.len() + blanks).is_multiple_of(4);
        assert_eq!(checkpoint.view("a").unwrap().is_some(), is_aligned);
        assert_eq!(read_all(&checkpoint, "a", DType::F32), [1; 4]);
    }
    let checkpoint = Checkpoint::open(&fixture("all-types.gguf")).unwrap();
    assert!(checkpoint.view("q6_k").unwrap().is_none());
}

#[test]
fn what_cannot_be_read_is_said() {
    let checkpoint = Checkpoint::open(&fixture("all-types.gguf")).unwrap();
    let missing = checkpoint.read_into("nope", 0..1, DType::F32, &mut [0; 4]);
    assert!(message(missing).contains("all-types.gguf has no tensor `nope`"));
    assert!(matches!(
        checkpoint.view("nope"),
        Err(CheckpointError::NoSuchTensor { .. })
    ));
    let integers = checkpoint.read_into("i16", 0..1, DType::F32, &mut [0; 4]);
    assert!(message(integers).contains("`i16`: cannot convert elements of i16 to f32"));
    let rounded = checkpoint.read_into("q4_0", 0..1, DType::I8, &mut [0; 1]);
    assert!(message(rounded).contains("`q4_0`"));
}

#[test]
fn a_file_that_shrinks_is_an_error_when_read() {
    let folder = Folder::new();
    let path = folder.write("m.gguf", fs::read(fixture("all-types.gguf")).unwrap());
    let checkpoint = Checkpoint::open(&path).unwrap();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(100)
        .unwrap();
    for name in ["f32", "q4_0"] {
        let result = checkpoint.read_into(name, 0..1, DType::F32, &mut [0; 4]);
        assert!(message(result).contains("m.gguf"), "{name}");
    }
    assert!(message(checkpoint.view("f32")).contains("has 100 now"));
}

/// A tensor of several pieces per encoding; the bytes are arbitrary, but scales are finite.
fn long_tensors(folder: &Folder) -> Vec<(Checkpoint, &'static str, u64)> {
    const N: usize = 100 * 1024;
    let floats: Vec<u8> = (0..N)
        .flat_map(|i| half::f16::from_f32((i as f32 * 0.7).sin()).to_le_bytes())
        .collect();
    let view = TensorView::new(Dtype::F16, vec![N], &floats).unwrap();
    let path = folder.write("m.safetensors", serialize([("f16", view)], None).unwrap());
    let plain = Checkpoint::open(&path).unwrap();

    let n_blocks = N / 256;
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend([1u64, 0, 4].map(u64::to_le_bytes).concat());
    file.extend(b"q6_k\x01\0\0\0");
    file.extend((N as u64).to_le_bytes());
    file.extend([14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.resize(file.len().next_multiple_of(32), 0);
    for block_idx in 0..n_blocks {
        let codes = (0..208).map(|i| (i * 31 + block_idx * 7) as u8);
        file.extend(codes.chain(half::f16::from_f32(0.01).to_le_bytes()));
    }
    let blocks = Checkpoint::open(&folder.write("m.gguf", file)).unwrap();
    vec![(plain, "f16", N as u64), (blocks, "q6_k", N as u64)]
}

#[test]
fn any_range_is_the_slice_of_the_whole() {
    let folder = Folder::new();
    let mut runner = TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let mut tensors = long_tensors(&folder);
    for name in ["q4_0", "q5_1", "q3_k", "q6_k", "bf16", "f64"] {
        let checkpoint = Checkpoint::open(&fixture("all-types.gguf")).unwrap();
        let n_elements = checkpoint.get(name).unwrap().shape.n_elements();
        tensors.push((checkpoint, name, n_elements));
    }
    for (checkpoint, name, n_elements) in tensors {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let whole = read_all(&checkpoint, name, dtype);
            let ends = (0..=n_elements, 0..=n_elements);
            runner
                .run(&ends, |(a, b)| {
                    let range = a.min(b)..a.max(b);
                    let bytes =
                        range.start as usize * dtype.size()..range.end as usize * dtype.size();
                    let mut part = vec![0; bytes.len()];
                    checkpoint.read_into(name, range, dtype, &mut part).unwrap();
                    prop_assert!(part == whole[bytes], "{} as {}", name, dtype);
                    Ok(())
                })
                .unwrap();
        }
    }
}

#[test]
fn narrower_types_are_the_rounded_f32() {
    let folder = Folder::new();
    for (checkpoint, name, n_elements) in long_tensors(&folder) {
        let wide = read_all(&checkpoint, name, DType::F32);
        for dtype in [DType::F64, DType::F16, DType::BF16] {
            let mut rounded = vec![0; n_elements as usize * dtype.size()];
            convert_elements(DType::F32, &wide, dtype, &mut rounded).unwrap();
            assert!(
                read_all(&checkpoint, name, dtype) == rounded,
                "{name} as {dtype}"
            );
        }
    }
}

#[test]
fn threads_may_read_at_once() {
    let checkpoint = Checkpoint::open(&fixture("all-types.gguf")).unwrap();
    let alone = read_all(&checkpoint, "q4_k", DType::F32);
    (0..64).into_par_iter().for_each(|_| {
        assert_eq!(read_all(&checkpoint, "q4_k", DType::F32), alone);
        assert!(checkpoint.view("f32").unwrap().is_some());
    });
}

#[test]
fn bytes_in_memory_are_read_like_a_file() {
    let bytes = shard(&["aaaa", "bbbb"]);
    let checkpoint =
        Checkpoint::from_bytes(Path::new("nowhere"), HostBytes::new(bytes.clone())).unwrap();
    let view = checkpoint.view("bbbb").unwrap().unwrap();
    assert_eq!(*view, *b"bbbb");
    assert_eq!(read_all(&checkpoint, "aaaa", DType::U8), b"aaaa");

    let cut = HostBytes::new(bytes).slice(0..20);
    let message = message(Checkpoint::from_bytes(Path::new("nowhere"), cut));
    assert!(message.contains("nowhere"), "{message}");
}

#[test]
fn a_file_that_is_written_to_is_told_from_one_that_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let bytes = b"\x08\0\0\0\0\0\0\0{}      ";
    fs::write(&path, bytes).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let state = crate::FileState::of(&path.metadata().unwrap());
    assert_eq!(checkpoint.file_states().collect::<Vec<_>>(), [Some(state)]);
    assert_eq!(state.bytes, 16);

    let other = folder.path().join("other");
    fs::write(&other, bytes).unwrap();
    let old = folder.path().join("old");
    fs::rename(&path, &old).unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(checkpoint.changed_file().unwrap(), None);
    fs::File::options()
        .write(true)
        .open(&old)
        .and_then(|file| file.set_modified(std::time::UNIX_EPOCH))
        .unwrap();
    assert_eq!(checkpoint.changed_file().unwrap(), Some(path.as_path()));

    let in_memory = Checkpoint::from_bytes(&path, HostBytes::new(bytes.to_vec()));
    let in_memory = in_memory.unwrap();
    assert_eq!(in_memory.file_states().collect::<Vec<_>>(), [None]);
    assert_eq!(in_memory.changed_file().unwrap(), None);
}
