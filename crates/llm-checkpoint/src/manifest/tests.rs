use llm_quant::GgmlType;
use std::fs;

use llm_tensor::DType;

use super::*;
use crate::testing::{Folder, fixture, message};
use crate::{Existing, ShardPlan, ShardWriter};

fn of(checkpoint: &Checkpoint) -> Manifest {
    Manifest::of(checkpoint, |_| Ok::<_, CheckpointError>(())).unwrap()
}

fn all_types() -> Checkpoint {
    Checkpoint::open(&fixture("all-types.gguf")).unwrap()
}

#[test]
fn sums_are_those_of_the_stored_bytes() {
    let checkpoint = all_types();
    let file = fs::read(checkpoint.path()).unwrap();
    let manifest = of(&checkpoint);
    assert_eq!(manifest.tensors.len(), checkpoint.tensors().len());
    let mut n_blocks = 0;
    for tensor in checkpoint.tensors() {
        n_blocks += u32::from(matches!(tensor.encoding, crate::Encoding::Block(_)));
        let bytes = &file[tensor.bytes.start as usize..tensor.bytes.end as usize];
        assert_eq!(
            manifest.tensors[&tensor.name].blake3.0,
            blake3::hash(bytes),
            "{}",
            tensor.name
        );
    }
    assert!(n_blocks > 0);
}

#[test]
fn a_tensor_of_many_pieces_has_the_sum_of_the_whole() {
    let folder = Folder::new();
    let n = 2 * PIECE as u64 / GgmlType::Q6K.block_bytes() as u64 * 256 + 17;
    let tensors = vec![crate::NewTensor {
        name: "t".to_owned(),
        dtype: DType::U8,
        shape: llm_tensor::Shape::new(&[n]).unwrap(),
    }];
    let plan = ShardPlan::new(tensors, None).unwrap();
    let bytes: Vec<u8> = (0..n).map(|i| (i * 7 % 251) as u8).collect();
    let mut writer =
        ShardWriter::create(folder.path(), &plan, BTreeMap::new(), Existing::Keep).unwrap();
    writer.write(&bytes).unwrap();
    writer.finish().unwrap();
    let seen = std::sync::Mutex::new(Vec::new());
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let manifest = Manifest::of(&checkpoint, |read| {
        seen.lock().unwrap().push(read.get());
        Ok::<_, CheckpointError>(())
    });
    assert_eq!(
        manifest.unwrap().tensors["t"].blake3.0,
        blake3::hash(&bytes)
    );
    let seen = seen.into_inner().unwrap();
    assert!(seen.len() > 1 && seen.iter().sum::<u64>() == n, "{seen:?}");
}

#[test]
fn a_manifest_survives_being_written_and_the_cutting_of_shards() {
    let folder = Folder::new();
    let source = Checkpoint::open(&fixture("expected.safetensors")).unwrap();
    let manifest = of(&source);
    let path = folder.path().join(MANIFEST);
    assert_eq!(Manifest::read(&path).unwrap(), None);
    manifest.write(&path).unwrap();
    assert_eq!(Manifest::read(&path).unwrap().as_ref(), Some(&manifest));
    let text = message(manifest.write(&path));
    assert!(text.ends_with("manifest.json exists already"), "{text}");

    let plan = ShardPlan::of_checkpoint(&source, None, Some(Bytes::new(5000))).unwrap();
    let out = folder.path().join("out");
    let mut writer = ShardWriter::create(&out, &plan, BTreeMap::new(), Existing::Keep).unwrap();
    writer
        .copy_from(&source, |_| Ok::<_, CheckpointError>(()))
        .unwrap();
    writer.finish().unwrap();
    let copy = Checkpoint::open(&out).unwrap();
    assert!(copy.files().len() > 1);
    assert_eq!(manifest.differences(&of(&copy)), []);
}

#[test]
fn every_difference_is_found_at_once() {
    let checkpoint = all_types();
    let found = of(&checkpoint);
    let names: Vec<String> = found.tensors.keys().cloned().collect();
    let mut expected = found.clone();
    expected.tensors.remove(&names[0]);
    expected.tensors.get_mut(&names[1]).unwrap().shape = vec![1, 2];
    expected.tensors.get_mut(&names[2]).unwrap().blake3 = Hex(blake3::hash(b"other"));
    let absent = expected.tensors[&names[3]].clone();
    expected.tensors.insert("zzz".to_owned(), absent);

    let differences = expected.differences(&found);
    let [n0, n1, n2] = [0, 1, 2].map(|i: usize| names[i].clone());
    let Entry {
        encoding, shape, ..
    } = &found.tensors[&n1];
    let kind = Difference::Kind {
        tensor: n1,
        expected: format!("{encoding} [1, 2]"),
        found: format!("{encoding} {shape:?}"),
    };
    let missing = Difference::Missing {
        tensor: "zzz".to_owned(),
    };
    let expected = [
        Difference::Extra { tensor: n0 },
        kind,
        Difference::Bytes { tensor: n2 },
        missing,
    ];
    assert_eq!(differences, expected);
}

#[test]
fn what_is_no_manifest_is_named() {
    let folder = Folder::new();
    let sum = "0".repeat(63);
    for text in [
        "".to_owned(),
        "[]".to_owned(),
        format!(
            r#"{{"tensors": {{"t": {{"encoding": "f32", "shape": [1], "blake3": "{sum}"}}}}}}"#
        ),
    ] {
        let path = folder.write(MANIFEST, text);
        let text = message(Manifest::read(&path));
        assert!(
            text.contains("llm-run.manifest.json is no valid manifest: "),
            "{text}"
        );
    }
}

#[test]
fn giving_up_ends_the_summing() {
    let stop = |_| {
        Err(CheckpointError::NotACheckpoint {
            path: "stop".into(),
        })
    };
    let text = message(Manifest::of(&all_types(), stop));
    assert!(text.starts_with("stop"), "{text}");
}
