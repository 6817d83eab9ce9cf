use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use llm_tensor::{Bytes, DType, Shape};
use safetensors::SafeTensors;

use super::names::is_shard_name;
use super::*;
use crate::testing::{Folder, fixture, message, natural_dtype, read_all};
use crate::{Checkpoint, CheckpointError, MANIFEST, NewTensor, SafetensorsWriter};

fn new(name: &str, dtype: DType, shape: &[u64]) -> NewTensor {
    NewTensor {
        name: name.to_owned(),
        dtype,
        shape: Shape::new(shape).unwrap(),
    }
}

/// Tensors `a`, `b`, … of as many bytes.
fn of_sizes(sizes: &[u64]) -> Vec<NewTensor> {
    let names = 'a'..;
    let tensor = |(name, &size): (char, &u64)| new(&name.to_string(), DType::U8, &[size]);
    names.zip(sizes).map(tensor).collect()
}

pub(super) fn plan(sizes: &[u64], max: u64) -> ShardPlan {
    ShardPlan::new(of_sizes(sizes), Some(Bytes::new(max))).unwrap()
}

/// Names in a folder, sorted.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

/// Writes a checkpoint of `plan` whose bytes are all `byte`.
pub(super) fn write(
    folder: &Path,
    plan: &ShardPlan,
    byte: u8,
    existing: Existing,
) -> Result<(), CheckpointError> {
    let mut writer = ShardWriter::create(folder, plan, BTreeMap::new(), existing)?;
    writer.write(&vec![byte; plan.total().get() as usize])?;
    writer.finish()
}

#[test]
fn shards_are_cut_as_the_python_libraries_do() {
    struct Case {
        sizes: &'static [u64],
        max: u64,
        shards: &'static [&'static str],
    }
    let cases = [
        Case {
            sizes: &[],
            max: 10,
            shards: &[""],
        },
        Case {
            sizes: &[10],
            max: 10,
            shards: &["a"],
        },
        Case {
            sizes: &[11],
            max: 10,
            shards: &["a"],
        },
        Case {
            sizes: &[4, 6, 1],
            max: 10,
            shards: &["ab", "c"],
        },
        Case {
            sizes: &[4, 7, 3],
            max: 10,
            shards: &["a", "bc"],
        },
        // One that is too large stands alone and ahead of the shard that is being filled, which goes on.
        Case {
            sizes: &[4, 11, 5, 2],
            max: 10,
            shards: &["b", "ac", "d"],
        },
        Case {
            sizes: &[11, 12],
            max: 10,
            shards: &["a", "b"],
        },
        Case {
            sizes: &[10, 0, 0],
            max: 10,
            shards: &["abc"],
        },
        Case {
            sizes: &[3, 3, 3],
            max: u64::MAX,
            shards: &["abc"],
        },
    ];
    for Case { sizes, max, shards } in cases {
        let plan = plan(sizes, max);
        let found: Vec<String> = plan
            .shards()
            .iter()
            .map(|shard| {
                let tensors = &plan.tensors()[shard.tensors.clone()];
                let bytes: u64 = tensors.iter().map(|t| t.shape.n_elements()).sum();
                assert_eq!(shard.bytes.get(), bytes);
                assert!(bytes <= max || tensors.len() == 1);
                tensors.iter().map(|t| &*t.name).collect()
            })
            .collect();
        assert_eq!(found, shards, "{sizes:?} in {max}");
        assert_eq!(plan.total().get(), sizes.iter().sum::<u64>());
    }
}

#[test]
fn wide_elements_come_first_in_their_shard() {
    let tensors = vec![
        new("bytes", DType::U8, &[3]),
        new("halves", DType::F16, &[3]),
        new("wide", DType::F64, &[1]),
        new("other halves", DType::BF16, &[1]),
    ];
    let plan = ShardPlan::new(tensors, None).unwrap();
    let names: Vec<&str> = plan.tensors().iter().map(|t| &*t.name).collect();
    assert_eq!(names, ["wide", "halves", "other halves", "bytes"]);
}

#[test]
fn names_that_no_reader_would_accept_are_refused() {
    let twice = vec![new("t", DType::U8, &[9]), new("t", DType::U8, &[9])];
    let text = message(ShardPlan::new(twice, Some(Bytes::new(9))));
    assert!(
        text.contains("tensor `t`: the header lists it twice"),
        "{text}"
    );
    let reserved = vec![new("__metadata__", DType::U8, &[1])];
    let text = message(ShardPlan::new(reserved, None));
    assert!(text.contains("safetensors reserves"), "{text}");
    let long = vec![new("t", DType::F32, &[1 << 62])];
    let text = message(ShardPlan::new(long, None));
    assert!(
        text.contains("tensor `t`: 4611686018427387904 elements"),
        "{text}"
    );
}

#[test]
fn the_index_is_laid_out_as_the_python_libraries_do() {
    let index = plan(&[4, 11, 5, 2], 10).index().unwrap();
    let expected = r#"{
  "metadata": {
    "total_size": 22
  },
  "weight_map": {
    "a": "model-00002-of-00003.safetensors",
    "b": "model-00001-of-00003.safetensors",
    "c": "model-00002-of-00003.safetensors",
    "d": "model-00003-of-00003.safetensors"
  }
}
"#;
    assert_eq!(index, expected);
    assert_eq!(plan(&[4, 6], 10).index(), None);
    assert_eq!(plan(&[4, 6], 10).shards()[0].name, "model.safetensors");
}

#[test]
fn shards_are_told_by_their_names() {
    for name in [
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model-123456-of-123456.safetensors",
    ] {
        assert!(is_shard_name(name), "{name}");
    }
    for name in [
        "model-1-of-2.safetensors",
        "model-0000a-of-00002.safetensors",
        "consolidated.safetensors",
        "model-00001-of-00002.bin",
    ] {
        assert!(!is_shard_name(name), "{name}");
    }
}

#[test]
fn the_safetensors_crate_reads_every_shard_whatever_the_pieces() {
    let tensors = vec![
        new("x", DType::U8, &[7]),
        new("empty", DType::F32, &[0, 3]),
        new("large", DType::F32, &[5, 2]),
        new("y", DType::F16, &[4]),
        new("scalar", DType::F64, &[]),
    ];
    let plan = ShardPlan::new(tensors, Some(Bytes::new(16))).unwrap();
    let total = plan.total().get();
    let bytes: Vec<u8> = (0..total as u8).collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    for piece in [1, 7, 1000] {
        let folder = Folder::new();
        let out = folder.path().join("out");
        let mut writer =
            ShardWriter::create(&out, &plan, metadata.clone(), Existing::Keep).unwrap();
        writer.add_file("config.json", b"{}").unwrap();
        for part in bytes.chunks(piece) {
            writer.write(part).unwrap();
        }
        writer.finish().unwrap();

        let shards = plan.shards().iter().map(|shard| shard.name.clone());
        let mut expected: Vec<String> = shards.collect();
        expected.extend(["config.json", "model.safetensors.index.json"].map(str::to_owned));
        expected.sort_unstable();
        assert_eq!(names(&out), expected);
        let mut rest = bytes.as_slice();
        for shard in plan.shards() {
            let file = fs::read(out.join(&shard.name)).unwrap();
            let (_, header) = SafeTensors::read_metadata(&file).unwrap();
            assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
            let found = SafeTensors::deserialize(&file).unwrap();
            assert_eq!(found.len(), shard.tensors.len());
            for tensor in &plan.tensors()[shard.tensors.clone()] {
                let view = found.tensor(&tensor.name).unwrap();
                let (data, after) = rest.split_at(view.data().len());
                assert_eq!(view.data(), data, "{}", tensor.name);
                rest = after;
            }
        }
        assert!(rest.is_empty());
        assert_eq!(Checkpoint::open(&out).unwrap().tensors().len(), 5);
    }
}

#[test]
fn tensors_written_in_any_order_are_those_written_in_order() {
    let tensors = vec![
        new("a", DType::U8, &[3]),
        new("b", DType::F32, &[5]),
        new("empty", DType::F32, &[0]),
        new("c", DType::I16, &[4]),
    ];
    let plan = ShardPlan::new(tensors, Some(Bytes::new(24))).unwrap();
    assert_eq!(plan.shards().len(), 2);
    let bytes: Vec<u8> = (0..plan.total().get() as u8).collect();
    let [in_order, in_pieces] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let create = |folder: &tempfile::TempDir| {
        ShardWriter::create(folder.path(), &plan, BTreeMap::new(), Existing::Keep).unwrap()
    };
    let mut writer = create(&in_order);
    writer.write(&bytes).unwrap();
    writer.finish().unwrap();

    let mut writer = create(&in_pieces);
    let mut starts = HashMap::new();
    let mut start = 0;
    for tensor in plan.tensors() {
        starts.insert(tensor.name.as_str(), start);
        start += tensor.bytes().get() as usize;
    }
    for (name, range) in [
        ("c", 4..8),
        ("b", 0..20),
        ("a", 2..3),
        ("a", 0..2),
        ("c", 0..4),
    ] {
        let part = &bytes[starts[name]..][range.clone()];
        writer.write_tensor(name, range.start as u64, part).unwrap();
    }
    writer.finish().unwrap();
    for name in names(in_order.path()) {
        let [a, b] =
            [&in_order, &in_pieces].map(|folder| fs::read(folder.path().join(&name)).unwrap());
        assert_eq!(a, b, "{name}");
    }
}

#[test]
fn a_checkpoint_without_tensors_is_a_checkpoint() {
    let folder = Folder::new();
    write(folder.path(), &plan(&[], 1), 0, Existing::Keep).unwrap();
    assert_eq!(names(folder.path()), ["model.safetensors"]);
    assert_eq!(Checkpoint::open(folder.path()).unwrap().tensors().len(), 0);
}

#[test]
fn every_encoding_is_copied_or_converted() {
    let source = Checkpoint::open(&fixture("all-types.gguf")).unwrap();
    for convert in [None, Some(DType::F32)] {
        let plan = ShardPlan::of_checkpoint(&source, convert, Some(Bytes::new(10_000))).unwrap();
        assert!(plan.shards().len() > 1);
        let folder = Folder::new();
        let mut writer =
            ShardWriter::create(folder.path(), &plan, BTreeMap::new(), Existing::Keep).unwrap();
        let mut seen = Vec::new();
        let progress = |bytes: Bytes| {
            seen.push(bytes);
            Ok::<_, CheckpointError>(())
        };
        writer.copy_from(&source, progress).unwrap();
        writer.finish().unwrap();
        assert_eq!(seen.last(), Some(&plan.total()));

        let copy = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(copy.tensors().len(), source.tensors().len());
        for tensor in copy.tensors() {
            let dtype = natural_dtype(tensor);
            let old = source.get(&tensor.name).unwrap();
            assert_eq!(tensor.shape, old.shape);
            let is_float = matches!(
                natural_dtype(old),
                DType::F64 | DType::F32 | DType::F16 | DType::BF16
            );
            let expected = match old.encoding {
                crate::Encoding::Block(_) => convert.unwrap_or(DType::BF16),
                crate::Encoding::Plain(dtype) => convert.filter(|_| is_float).unwrap_or(dtype),
                crate::Encoding::Opaque(_) => DType::U8,
            };
            assert_eq!(dtype, expected, "{}", tensor.name);
            assert!(
                read_all(&copy, &tensor.name, dtype) == read_all(&source, &tensor.name, dtype),
                "{}",
                tensor.name
            );
        }
    }
}

#[test]
fn a_source_that_fails_and_a_user_who_gives_up_leave_nothing() {
    let folder = Folder::new();
    let path = folder.path().join("in.safetensors");
    let tensors = [new("t", DType::U8, &[64 << 20])];
    let mut writer = SafetensorsWriter::create(&path, &tensors, &BTreeMap::new()).unwrap();
    writer.write(&vec![1; 64 << 20]).unwrap();
    writer.finish().unwrap();
    let source = Checkpoint::open(&path).unwrap();
    let plan = ShardPlan::of_checkpoint(&source, None, None).unwrap();
    let out = folder.path().join("out");
    let create = || ShardWriter::create(&out, &plan, BTreeMap::new(), Existing::Keep).unwrap();

    let mut writer = create();
    let stop = CheckpointError::NotACheckpoint {
        path: "stop".into(),
    };
    let mut stop = Some(stop);
    let text = message(writer.copy_from(&source, |_| Err(stop.take().expect("asked once"))));
    assert!(text.starts_with("stop"), "{text}");
    drop(writer);
    assert_eq!(names(folder.path()), ["in.safetensors"]);

    let mut writer = create();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let text = message(writer.copy_from(&source, |_| Ok::<_, CheckpointError>(())));
    assert!(text.contains("in.safetensors"), "{text}");
    drop(writer);
    assert_eq!(names(folder.path()), ["in.safetensors"]);
}

#[test]
fn what_is_there_is_kept_or_replaced_with_its_stale_shards() {
    let folder = Folder::new();
    let (three, one) = (plan(&[4, 4, 4], 4), plan(&[4, 4], 8));
    write(folder.path(), &three, 1, Existing::Keep).unwrap();
    folder.write("config.json", "mine");
    folder.write(MANIFEST, "of the old one");
    folder.write("notes.txt", "mine");

    let text = message(write(folder.path(), &one, 2, Existing::Keep));
    assert!(
        text.ends_with("llm-run.manifest.json exists already"),
        "{text}"
    );
    fs::remove_file(folder.path().join(MANIFEST)).unwrap();
    let text = message(write(folder.path(), &one, 2, Existing::Keep));
    assert!(
        text.ends_with("model-00001-of-00003.safetensors exists already"),
        "{text}"
    );
    assert_eq!(
        read_all(&Checkpoint::open(folder.path()).unwrap(), "c", DType::U8),
        [1; 4]
    );

    folder.write(MANIFEST, "of the old one");
    write(folder.path(), &one, 2, Existing::Replace).unwrap();
    assert_eq!(
        names(folder.path()),
        ["config.json", "model.safetensors", "notes.txt"]
    );
    assert_eq!(
        fs::read(folder.path().join("config.json")).unwrap(),
        b"mine"
    );
    assert_eq!(
        read_all(&Checkpoint::open(folder.path()).unwrap(), "b", DType::U8),
        [2; 4]
    );

    // Files that go with the weights are kept, too.
    let other = Folder::new();
    other.write("config.json", "mine");
    let writer = ShardWriter::create(other.path(), &one, BTreeMap::new(), Existing::Keep).unwrap();
    let text = message(writer.add_file("config.json", b"new"));
    assert!(text.ends_with("config.json exists already"), "{text}");
    drop(writer);
    assert_eq!(names(other.path()), ["config.json"]);
}

#[test]
fn two_writers_do_not_meet_and_what_a_killed_one_left_is_removed() {
    let folder = Folder::new();
    let plan = plan(&[4], 4);
    let create = || ShardWriter::create(folder.path(), &plan, BTreeMap::new(), Existing::Keep);
    let first = create().unwrap();
    let text = message(create());
    assert!(text.starts_with("another process is writing"), "{text}");
    drop(first);
    fs::create_dir(folder.path().join(".unfinished-checkpoint")).unwrap();
    folder.write(".unfinished-checkpoint/model.safetensors", "half");
    write(folder.path(), &plan, 1, Existing::Keep).unwrap();
    assert_eq!(names(folder.path()), ["model.safetensors"]);
}
