use std::fs;

use crate::testing::{Folder, message};
use crate::{Checkpoint, Notice};

/// A file with one tensor of one f32 and the metadata of a part.
fn part(tensor: &str, entries: &[(&str, u16)]) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend([1, entries.len() as u64].map(u64::to_le_bytes).concat());
    let text = |file: &mut Vec<u8>, text: &str| {
        file.extend((text.len() as u64).to_le_bytes());
        file.extend(text.bytes());
    };
    for (key, value) in entries {
        text(&mut file, key);
        file.extend(2u32.to_le_bytes());
        file.extend(value.to_le_bytes());
    }
    text(&mut file, tensor);
    file.extend(1u32.to_le_bytes());
    file.extend(1u64.to_le_bytes());
    file.extend([0; 12]);
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(1f32.to_le_bytes());
    file
}

const NAMES: [&str; 2] = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];

fn split() -> Folder {
    let folder = Folder::new();
    let keys = [
        ("split.no", 0),
        ("split.count", 2),
        ("split.tensors.count", 2),
    ];
    folder.write(NAMES[0], part("a", &keys));
    folder.write(NAMES[1], part("b", &[("split.no", 1), ("split.count", 2)]));
    folder
}

#[test]
fn a_split_model_opens_by_any_of_its_files() {
    let folder = split();
    let paths = NAMES.map(|name| folder.path().join(name));
    for path in [folder.path(), &paths[0], &paths[1]] {
        let checkpoint = Checkpoint::open(path).unwrap();
        assert!(checkpoint.files().eq(paths.iter()));
        assert_eq!(checkpoint.path(), paths[0]);
        assert_eq!(checkpoint.tensors().len(), 2);
        assert_eq!(checkpoint.notices(), [] as [Notice; 0]);
        let no = checkpoint.metadata()["split.no"].as_u64();
        assert_eq!(no, Some(0), "the first part's metadata count");
    }
}

#[test]
fn what_is_wrong_with_parts_is_said() {
    struct Case {
        what: &'static str,
        bend: fn(&Folder),
        says: &'static [&'static str],
    }
    let cases = [
        Case {
            what: "missing",
            bend: |f| fs::remove_file(f.path().join(NAMES[1])).unwrap(),
            says: &["lacks 1 of the 2 parts", NAMES[1]],
        },
        Case {
            what: "the first missing",
            bend: |f| fs::remove_file(f.path().join(NAMES[0])).unwrap(),
            says: &["lacks 1 of the 2 parts", NAMES[0]],
        },
        Case {
            what: "another number",
            bend: |f| drop(f.write(NAMES[1], part("b", &[("split.no", 0), ("split.count", 2)]))),
            says: &[NAMES[1], "`split.no` is 0, expected 1"],
        },
        Case {
            what: "another count",
            bend: |f| drop(f.write(NAMES[1], part("b", &[("split.no", 1), ("split.count", 3)]))),
            says: &[NAMES[1], "`split.count` is 3, expected 2"],
        },
        Case {
            what: "no part at all",
            bend: |f| drop(f.write(NAMES[1], part("b", &[]))),
            says: &[NAMES[1], "`split.no` is not there"],
        },
        Case {
            what: "the same tensor twice",
            bend: |f| drop(f.write(NAMES[1], part("a", &[("split.no", 1), ("split.count", 2)]))),
            says: &["`a` is both in", NAMES[0], NAMES[1]],
        },
        Case {
            what: "fewer tensors than there were",
            bend: |f| {
                let keys = [
                    ("split.no", 0),
                    ("split.count", 2),
                    ("split.tensors.count", 3),
                ];
                f.write(NAMES[0], part("a", &keys));
            },
            says: &["hold 2 tensors", "`split.tensors.count` is 3"],
        },
        Case {
            what: "renamed",
            bend: |f| {
                fs::remove_file(f.path().join(NAMES[1])).unwrap();
                fs::rename(f.path().join(NAMES[0]), f.path().join("m.gguf")).unwrap();
            },
            says: &["m.gguf", "part 1 of 2", "-00001-of-00002.gguf"],
        },
    ];
    for Case { what, bend, says } in cases {
        let folder = split();
        bend(&folder);
        let text = message(Checkpoint::open(folder.path()));
        for part in says {
            assert!(text.contains(part), "{what}: `{part}` in: {text}");
        }
    }
}
