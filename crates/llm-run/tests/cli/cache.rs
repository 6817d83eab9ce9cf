//! `llm-run cache`: what lies in an offload folder is listed, checked and removed, and nothing else is.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use crate::support::{json, run};

const KEY: &str = "0123456789abcdef0123456789abcdef";
const STALE: &str = "fedcba98765432100123456789abcdef";

/// An offload folder with two entries; the checkpoint of the second has been changed.
struct Folder {
    temporary: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder { temporary };
        for (key, at) in [(KEY, 0), (STALE, 1)] {
            let source = folder.path().join(format!("{key}.safetensors"));
            fs::write(&source, "weights").unwrap();
            let time = UNIX_EPOCH + std::time::Duration::from_secs(1);
            let file = File::options().write(true).open(&source).unwrap();
            file.set_modified(time).unwrap();
            let about = json!({
                "format": 1,
                "model": source,
                "weights": "bf16, nf4 double",
                "created": 1_750_000_000,
                "sources": [{"path": source, "bytes": 7, "mtime_ns": 1_000_000_000 + at, "ctime_ns": ctime_ns(&source)}],
            });
            folder.add(key, "offload.json", about.to_string().as_bytes());
            for (unit, len) in [("embedding", 1000), ("decoder-0", 1234)] {
                let bytes = vec![at as u8; len];
                let sum = xxh3_64(&xxh3_64(&bytes).to_le_bytes());
                folder.add(key, &format!("{unit}-{sum:016x}.safetensors"), &bytes);
            }
        }
        folder.add(STALE, ".decoder-1.aB3dE5.partial", b"half");
        folder
    }

    fn path(&self) -> &Path {
        self.temporary.path()
    }

    fn add(&self, key: &str, name: &str, bytes: &[u8]) {
        fs::create_dir_all(self.path().join(key)).unwrap();
        fs::write(self.path().join(key).join(name), bytes).unwrap();
    }

    /// The arguments of a subcommand on this folder.
    fn args<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        let folder = ["--offload-folder", self.path().to_str().unwrap()];
        [&["cache"], args, &folder].concat()
    }

    fn json(&self, args: &[&str]) -> Value {
        json(&self.args(&[args, &["--json"]].concat()))
    }

    /// The file of a unit in the first entry.
    fn file_of(&self, unit: &str) -> PathBuf {
        let files = fs::read_dir(self.path().join(KEY)).unwrap();
        let mut files = files.map(|file| file.unwrap().path());
        let is_it = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with(unit)
        };
        files.find(is_it).unwrap()
    }
}

fn ctime_ns(path: &Path) -> i64 {
    let metadata = path.metadata().unwrap();
    metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec()
}

#[test]
fn entries_are_listed_with_what_they_are_about() {
    let folder = Folder::new();
    let found = folder.json(&["list"]);
    assert_eq!(found["folder"], folder.path().to_str().unwrap());
    let entries = found["entries"].as_array().unwrap();
    let source = folder.path().join(format!("{KEY}.safetensors"));
    assert_eq!(
        entries[0],
        json!({
            "key": KEY,
            "model": source,
            "weights": "bf16, nf4 double",
            "created": 1_750_000_000,
            "sources": [{"path": source, "bytes": 7, "mtime_ns": 1_000_000_000, "ctime_ns": ctime_ns(&source)}],
            "n_files": 2,
            "bytes": 2234,
            "n_unfinished": 0,
            "is_stale": false,
            "is_in_use": false,
        })
    );
    let second = &entries[1];
    assert_eq!(
        (&second["key"], &second["is_stale"]),
        (&json!(STALE), &json!(true))
    );
    assert_eq!(
        (&second["n_files"], &second["n_unfinished"]),
        (&json!(2), &json!(1))
    );

    let output = run(&folder.args(&["list"]));
    assert_eq!(output.code, 0, "{}", output.stderr);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert!(
        lines[0].ends_with(": 2 entries, 4.5 KB (4.4 KiB)"),
        "{}",
        lines[0]
    );
    assert!(
        lines[2].starts_with("key ") && lines.len() == 5,
        "{lines:?}"
    );
    for word in [
        KEY,
        "2.2 KB",
        "nf4 double",
        "2025-06-1",
        source.to_str().unwrap(),
    ] {
        assert!(lines[3].contains(word), "{word}: {}", lines[3]);
    }
    assert!(lines[4].contains("stale, unfinished files"), "{}", lines[4]);
}

#[test]
fn no_folder_is_an_empty_one_and_foreign_things_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let args = [
        "cache",
        "list",
        "--offload-folder",
        missing.to_str().unwrap(),
    ];
    let output = run(&args);
    assert_eq!((output.code, output.stderr.as_str()), (0, ""));
    assert!(
        output.stdout.contains("holds no weights"),
        "{}",
        output.stdout
    );
    assert_eq!(
        json(&[&args[..], &["--json"]].concat())["entries"],
        json!([])
    );
    assert!(!missing.exists());

    let folder = Folder::new();
    let unknown = "00000000000000000000000000000000";
    folder.add(unknown, "offload.json", b"{\"format\": 99}");
    folder.add("\u{1b}[2J", "offload.json", b"{}");
    let hostile = json!({
        "format": 1, "model": "\u{1b}[2J", "weights": "\u{7}", "created": u64::MAX, "sources": [],
    });
    folder.add(KEY, "offload.json", hostile.to_string().as_bytes());
    let found = folder.json(&["list"]);
    let entries = found["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 3);
    assert_eq!(
        (&entries[0]["key"], &entries[0]["model"]),
        (&json!(unknown), &Value::Null)
    );
    let output = run(&folder.args(&["list"]));
    assert!(output.stdout.contains("not described"), "{}", output.stdout);
    let controls = output
        .stdout
        .chars()
        .filter(|c| c.is_control() && *c != '\n');
    assert_eq!(controls.count(), 0, "{:?}", output.stdout);
    assert_eq!(run(&folder.args(&["clear", "--all"])).code, 0);
    let left = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().any(|name| name == "\u{1b}[2J"));
}

#[test]
fn verify_names_what_was_altered() {
    let folder = Folder::new();
    let found = folder.json(&["verify"]);
    assert_eq!(
        (
            &found["n_entries"],
            &found["n_files"],
            &found["bytes"],
            &found["damages"]
        ),
        (&json!(2), &json!(4), &json!(4468), &json!([]))
    );
    let output = run(&folder.args(&["verify", KEY]));
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(
        output.stdout.contains("2 files, 2.2 KB"),
        "{}",
        output.stdout
    );

    let file = folder.file_of("decoder-0");
    let mut bytes = fs::read(&file).unwrap();
    bytes[77] ^= 4;
    fs::write(&file, &bytes).unwrap();
    let sum = format!("{:016x}", xxh3_64(&xxh3_64(&bytes).to_le_bytes()));
    let output = run(&folder.args(&["verify"]));
    assert_eq!((output.code, output.stdout.lines().count()), (2, 1));
    assert!(
        output.stdout.starts_with(file.to_str().unwrap()),
        "{}",
        output.stdout
    );
    assert!(
        output.stderr.starts_with("error: 1 file is damaged"),
        "{}",
        output.stderr
    );
    let output = run(&folder.args(&["verify", "0123", "--json"]));
    let found: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(output.code, 2);
    assert_eq!(found["damages"][0]["path"], file.to_str().unwrap());
    assert_eq!(found["damages"][0]["found"], sum);
    // The other entry is sound.
    assert_eq!(run(&folder.args(&["verify", STALE])).code, 0);
}

#[test]
fn clear_removes_what_it_is_told_to() {
    let folder = Folder::new();
    let entries = || {
        let found = folder.json(&["list"]);
        let entries = found["entries"].as_array().unwrap().iter();
        entries
            .map(|entry| entry["key"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    for (args, words) in [
        (&["clear"][..], &["--stale", "--all", "KEY"][..]),
        (&["clear", "abc"], &["no entry", "abc", "cache list"]),
        (&["clear", "--all", KEY], &["--all"]),
        (&["verify", "abc"], &["no entry"]),
    ] {
        let output = run(&folder.args(args));
        assert_eq!(output.code, 2, "{args:?}");
        assert!(
            words.iter().all(|word| output.stderr.contains(word)),
            "{}",
            output.stderr
        );
        assert_eq!(entries(), [KEY, STALE]);
    }

    let found = folder.json(&["clear", "--stale"]);
    assert_eq!(
        (&found["cleared"], &found["bytes"], &found["in_use"]),
        (&json!([STALE]), &json!(2234), &json!([]))
    );
    assert_eq!(entries(), [KEY]);
    assert!(!folder.path().join(STALE).exists());
    let output = run(&folder.args(&["clear", &KEY[..5]]));
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(
        output
            .stdout
            .ends_with("cleared 1 entry, 2.2 KB (2.2 KiB)\n"),
        "{}",
        output.stdout
    );
    assert!(entries().is_empty());
}

#[test]
fn what_a_process_uses_is_not_cleared() {
    let folder = Folder::new();
    let lock = folder.path().join(KEY).join("use.lock");
    let lock = File::create(lock).unwrap();
    lock.lock_shared().unwrap();
    assert_eq!(folder.json(&["list"])["entries"][0]["is_in_use"], true);
    let output = run(&folder.args(&["clear", "--all", "--json"]));
    assert_eq!(output.code, 2);
    let expected = format!("error: {KEY} is in use by a running process");
    assert!(output.stderr.starts_with(&expected), "{}", output.stderr);
    let found: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(
        (&found["cleared"], &found["in_use"]),
        (&json!([STALE]), &json!([KEY]))
    );
    assert!(folder.file_of("embedding").exists());
    drop(lock);
    assert_eq!(run(&folder.args(&["clear", "--all"])).code, 0);
    assert!(!folder.path().join(KEY).exists());
}
