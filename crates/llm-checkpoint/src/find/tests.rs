use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use llm_tensor::DType;

use crate::Checkpoint;
use crate::checkpoint::tests::{INDEX, index, shard};
use crate::testing::{Folder, message, read_all};
use crate::torch::testing::{dict, storage, tensor, zip_of};

fn said(folder: &Folder) -> Vec<String> {
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    checkpoint
        .notices()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn shards_without_an_index_are_found_by_their_names() {
    let folder = Folder::new();
    let names = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    folder.write(names[1], shard(&["bbbb"]));
    let text = message(Checkpoint::open(folder.path()));
    assert!(text.contains("lacks 1 of the 2 parts"), "{text}");
    assert!(
        text.contains(names[0]) && !text.contains(names[1]),
        "{text}"
    );

    folder.write(names[0], shard(&["aaaa"]));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.path(), folder.path().join(names[0]));
    assert_eq!(read_all(&checkpoint, "bbbb", DType::U8), b"bbbb");
    let said = said(&folder);
    assert_eq!(said.len(), 1);
    assert!(said[0].contains("no index; its 2 shards"), "{said:?}");

    // A file that is named is opened alone.
    let one = Checkpoint::open(&folder.path().join(names[0])).unwrap();
    assert_eq!(one.tensors().len(), 1);

    folder.write(names[0], shard(&["aaaa", "bbbb"]));
    let text = message(Checkpoint::open(folder.path()));
    assert!(text.contains("`bbbb` is both in"), "{text}");
}

#[test]
fn many_missing_parts_are_counted_and_a_few_named() {
    let folder = Folder::new();
    folder.write(
        "a-000000000007-of-999999999999.safetensors",
        shard(&["aaaa"]),
    );
    let text = message(Checkpoint::open(folder.path()));
    assert!(
        text.contains("lacks 999999999998 of the 999999999999"),
        "{text}"
    );
    assert!(
        text.contains("a-000000000009-of-999999999999.safetensors and 999999999990 more"),
        "{text}"
    );
}

#[test]
fn what_was_chosen_is_said_and_why() {
    let folder = Folder::new();
    folder.write("model.safetensors", shard(&["aaaa"]));
    folder.write(INDEX, index(&[("aaaa", "model.safetensors")]));
    assert_eq!(said(&folder), [""; 0], "the index is that file's own");
    folder.write("1.safetensors", shard(&["bbbb"]));
    folder.write(INDEX, index(&[("bbbb", "1.safetensors")]));
    let lines = said(&folder);
    assert!(lines[0].contains("model.safetensors is taken"), "{lines:?}");
    assert!(
        lines[0].contains(INDEX) && lines[0].contains("transformers"),
        "{lines:?}"
    );
    let named = Checkpoint::open(&folder.path().join(INDEX)).unwrap();
    assert!(named.get("bbbb").is_some() && named.notices().is_empty());
}

#[test]
fn shards_of_the_usual_name_come_before_what_lies_beside_them() {
    let folder = Folder::new();
    let names = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    folder.write(names[0], shard(&["aaaa"]));
    folder.write(names[1], shard(&["bbbb"]));
    folder.write("embeddings.safetensors", shard(&["cccc"]));
    folder.write("other-00001-of-00001.safetensors", shard(&["dddd"]));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.path(), folder.path().join(names[0]));
    assert!(checkpoint.get("cccc").is_none() && checkpoint.get("dddd").is_none());
    let lines = said(&folder);
    assert!(lines[0].contains("no index"), "{lines:?}");
    let words = ["embeddings.safetensors", "other-00001", "passed over"];
    assert!(words.iter().all(|w| lines[1].contains(w)), "{lines:?}");
    folder.write("model-00001-of-00001.safetensors", shard(&["eeee"]));
    let text = message(Checkpoint::open(folder.path()));
    assert!(text.contains("name one of them"), "{text}");
}

#[test]
fn weights_in_another_format_are_spoken_of_if_they_are_others() {
    let torch_file = |folder: &Folder, names: &[&str], dims: &[i64], strides: &[i64]| {
        let (n_elements, n_names) = (dims.iter().product::<i64>(), names.len() as i64);
        let mut entries = Vec::new();
        for (name, start) in names.iter().zip((0..).step_by(n_elements as usize)) {
            let storage = storage("ByteStorage", "0", n_names * n_elements);
            entries.push((*name, tensor(storage, start, dims, strides)));
        }
        let bytes = vec![0; (n_names * n_elements) as usize];
        folder.write("pytorch_model.bin", zip_of(&dict(&entries), &bytes));
    };
    let folder = Folder::new();
    folder.write("model.safetensors", shard(&["aaaa"]));
    torch_file(&folder, &["aaaa"], &[2, 2], &[2, 1]);
    assert_eq!(said(&folder), [""; 0], "the same by its headers");
    folder.write(
        "pytorch_model.bin",
        "version https://git-lfs.github.com/spec/v1\n",
    );
    assert_eq!(said(&folder), [""; 0], "no choice at all");
    let others: [(&[&str], &[i64], &[i64]); 2] = [
        (&["aaaa"], &[4], &[1]),
        (&["aaaa", "bbbb"], &[2, 2], &[2, 1]),
    ];
    for (names, dims, strides) in others {
        torch_file(&folder, names, dims, strides);
        let lines = said(&folder);
        assert!(
            lines[0].contains("`pytorch_model.bin` is passed over"),
            "{lines:?}"
        );
    }
    fs::remove_file(folder.path().join("pytorch_model.bin")).unwrap();
    folder.write("q4.gguf", "GGUF");
    let lines = said(&folder);
    assert!(lines[0].contains("`q4.gguf` is passed over"), "{lines:?}");
}

#[test]
fn an_index_that_is_wrong_is_no_harm() {
    let folder = Folder::new();
    folder.write("1.safetensors", shard(&["aaaa", "bbbb"]));
    folder.write("2.safetensors", shard(&["cccc"]));
    let entries = [
        ("aaaa", "1.safetensors"),
        ("bbbb", "2.safetensors"),
        ("lost", "2.safetensors"),
    ];
    folder.write(INDEX, index(&entries));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.tensors().len(), 3);
    let line = checkpoint.notices()[0].to_string();
    assert!(
        line.contains("1 of its tensors are in none of them: `lost`"),
        "{line}"
    );
    assert!(
        line.contains("1 are in another than it says: `bbbb`"),
        "{line}"
    );
}

#[test]
fn adapters_are_told_from_models() {
    let folder = Folder::new();
    folder.write(
        "adapter_config.json",
        r#"{"base_model_name_or_path": "a/b", "r": 8}"#,
    );
    folder.write("adapter_model.safetensors", shard(&["lora"]));
    let text = message(Checkpoint::open(folder.path()));
    assert!(
        text.contains("an adapter (LoRA) of `a/b`, not a model"),
        "{text}"
    );
    let named = folder.path().join("adapter_model.safetensors");
    assert!(Checkpoint::open(&named).is_ok(), "to be looked at");
    folder.write("adapter_config.json", "[");
    let text = message(Checkpoint::open(folder.path()));
    assert!(text.contains("of some model"), "{text}");

    folder.write("model.safetensors", shard(&["aaaa"]));
    let lines = said(&folder);
    assert!(lines[0].contains("is not applied"), "{lines:?}");
}

#[test]
fn folders_without_weights_say_what_they_have() {
    for (name, what) in [
        ("tf_model.h5", "TensorFlow"),
        ("flax_model.msgpack", "Flax"),
        ("model.onnx", "ONNX"),
        (".unfinished-checkpoint", "did not end"),
    ] {
        let folder = Folder::new();
        folder.write("config.json", "{}");
        folder.write(name, "");
        let text = message(Checkpoint::open(folder.path()));
        assert!(text.contains(what), "{text}");
    }
    let folder = Folder::new();
    let staging = folder.path().join(".unfinished-checkpoint");
    fs::create_dir(&staging).unwrap();
    fs::write(staging.join("model.safetensors"), shard(&["aaaa"])).unwrap();
    assert!(message(Checkpoint::open(&staging)).contains("did not end"));
}

#[test]
fn what_came_in_the_place_of_weights_is_told() {
    for (contents, what) in [
        ("<!DOCTYPE html><html>", "an HTML page"),
        ("{\"error\":\"Invalid credentials\"}", "error message"),
        ("../../blobs/0123", "symbolic link"),
        ("", "the file is empty"),
        (
            "version https://git-lfs.github.com/spec/v1\n",
            "git lfs pull",
        ),
    ] {
        let names = ["model.safetensors", "pytorch_model.bin", "a.gguf"];
        for name in names {
            let folder = Folder::new();
            folder.write(name, contents);
            let text = message(Checkpoint::open(folder.path()));
            assert!(text.contains(what) && text.contains(name), "{name}: {text}");
        }
        let folder = Folder::new();
        folder.write("1.safetensors", contents);
        folder.write(INDEX, index(&[("aaaa", "1.safetensors")]));
        let text = message(Checkpoint::open(folder.path()));
        assert!(
            text.contains(what) && text.contains("1.safetensors"),
            "{text}"
        );
        folder.write(INDEX, contents);
        let text = message(Checkpoint::open(folder.path()));
        assert!(text.contains(what) && text.contains(INDEX), "{text}");
    }
}

#[test]
fn pipes_and_devices_are_refused_and_not_waited_for() {
    let names = [
        "model.safetensors",
        INDEX,
        "pytorch_model.bin",
        "m.pt",
        "a.gguf",
    ];
    for name in names {
        let folder = Folder::new();
        let path = folder.path().join(name);
        assert!(
            Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        let expected = format!("{} is a pipe, not a file", path.display());
        assert_eq!(message(Checkpoint::open(&path)), expected);
        assert!(Checkpoint::open(folder.path()).is_err());
        fs::remove_file(&path).unwrap();
        symlink("/dev/zero", &path).unwrap();
        assert!(Checkpoint::open(folder.path()).is_err());
    }
    let folder = Folder::new();
    let path = folder.path().join("adapter_config.json");
    symlink("/dev/zero", &path).unwrap();
    assert!(message(Checkpoint::open(folder.path())).contains("an adapter"));
}
