//! Offload files that are not what they were, before a run.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use llm_checkpoint::Checkpoint;
use serde_json::Value;

use super::{NF4_DOUBLE, Place, errors, is_weights, of_output, stem};
use crate::support::{fixture, json};

/// What a run does about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It sees before it begins that the file is not the one that it needs, and writes it.
    Mends,
    /// It ends, since only the sum tells; the next run mends.
    Ends,
    /// Either.
    Decides,
}

/// What happens to a file, and to another unit's.
type Fault = fn(&Path, &Path);

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn header_len(path: &Path) -> usize {
    let bytes = fs::read(path).unwrap();
    u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize
}

fn cut(path: &Path, len: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
}

const FAULTS: [(&str, Fault, Then); 13] = [
    (
        "is deleted",
        |file, _| fs::remove_file(file).unwrap(),
        Then::Mends,
    ),
    ("is empty", |file, _| cut(file, 0), Then::Mends),
    (
        "ends early",
        |file, _| cut(file, file.metadata().unwrap().len() - 1),
        Then::Mends,
    ),
    (
        "ends in its header",
        |file, _| cut(file, header_len(file) as u64 / 2),
        Then::Mends,
    ),
    (
        "has zeros behind",
        |file, _| cut(file, file.metadata().unwrap().len() + 4096),
        Then::Mends,
    ),
    (
        "is another unit's",
        |file, other| assert!(fs::copy(other, file).unwrap() > 0),
        Then::Mends,
    ),
    (
        "is another unit's, renamed",
        |file, other| fs::rename(other, file).unwrap(),
        Then::Mends,
    ),
    (
        "says another length of its header",
        |file, _| flip(file, 1),
        Then::Mends,
    ),
    (
        "has another header",
        |file, _| flip(file, 8 + 3),
        Then::Decides,
    ),
    (
        "has another header's middle",
        |file, _| flip(file, 8 + header_len(file) / 2),
        Then::Decides,
    ),
    (
        "has another first byte of a tensor",
        |file, _| flip(file, 8 + header_len(file)),
        Then::Ends,
    ),
    (
        "has another byte in the middle",
        |file, _| flip(file, file.metadata().unwrap().len() as usize / 2),
        Then::Ends,
    ),
    (
        "has another last byte",
        |file, _| flip(file, file.metadata().unwrap().len() as usize - 1),
        Then::Ends,
    ),
];

/// A run on a folder in which something is wrong with `file`, and the one after it.
fn check(place: &Place, args: &[&str], expected: &Value, file: &Path, (what, then): (&str, Then)) {
    let name = file.file_name().unwrap().to_str().unwrap();
    let output = place.run(args, "disk");
    match output.code {
        0 => {
            assert_ne!(then, Then::Ends, "{name} {what}, and nobody says so");
            assert_eq!(of_output(&output), *expected, "{name} {what}");
        }
        code => {
            assert_ne!(then, Then::Mends, "{name} {what}: {}", output.stderr);
            let is_named = output.stderr.contains(file.to_str().unwrap());
            assert!(
                code <= 2 && is_named && output.stdout.is_empty() && errors(&output.stderr) == 1,
                "{name} {what}: {}",
                output.stderr
            );
        }
    }
    assert_eq!(place.result(args, "disk"), *expected, "{name} {what}, next");
    place.verify();
    place.is_tidy();
}

/// A complete folder, the arguments with which it came to be, and what they give.
struct Complete {
    place: Place,
    model: String,
    flags: &'static [&'static str],
    files: Vec<PathBuf>,
}

impl Complete {
    fn new(model: &str, flags: &'static [&'static str]) -> Self {
        let complete = Complete {
            place: Place::new(),
            model: fixture(model),
            flags,
            files: Vec::new(),
        };
        complete.place.result(&complete.args(), "disk");
        let names = complete.place.names().into_iter();
        let files = names.filter(|name| is_weights(name));
        let files = files
            .map(|name| complete.place.folder().join(name))
            .collect();
        Complete { files, ..complete }
    }

    fn args(&self) -> Vec<&str> {
        // Probabilities tell of changes that tokens would bear.
        let args = [
            "score",
            &self.model,
            "--token-ids",
            "5,17,3,99,42,8",
            "--json",
        ];
        [&args[..], self.flags].concat()
    }

    fn expected(&self) -> Value {
        json(&self.args())["log_probabilities"].clone()
    }
}

#[test]
fn a_file_that_is_not_what_it_was_is_mended_or_named() {
    for flags in [&["--dtype", "bf16"], NF4_DOUBLE] {
        let complete = Complete::new("models/llama", flags);
        let (expected, place) = (complete.expected(), &complete.place);
        for unit in ["embedding", "decoder-1", "head"] {
            let is_it = |path: &&PathBuf| stem(path) == unit;
            let Some(file) = complete.files.iter().find(is_it) else {
                // Only matrices of layers are not there as they are computed with.
                continue;
            };
            let other = place.file_of("decoder-2");
            for (what, fault, then) in FAULTS {
                fault(file, &other);
                check(place, &complete.args(), &expected, file, (what, then));
            }
        }
    }
}

/// Rows are looked up one by one: their table is summed up before.
#[test]
fn a_row_of_a_token_table_that_changed_is_not_looked_up() {
    for model in ["models/llama", "models/llama3-rope-tied", "models/opt"] {
        let complete = Complete::new(model, &["--dtype", "bf16"]);
        let (expected, place) = (complete.expected(), &complete.place);
        let file = place.file_of("embedding");
        let opened = Checkpoint::open(&file).unwrap();
        let tables: Vec<_> = opened
            .tensors()
            .filter(|t| t.name.contains("embed"))
            .collect();
        assert!(!tables.is_empty());
        for table in tables {
            // In row 3, which is looked up, and in the last one, which is not.
            let row = (table.bytes.end - table.bytes.start) / table.shape[0];
            for at in [table.bytes.start + 3 * row, table.bytes.end - 1] {
                flip(&file, at as usize);
                let what = format!("has another byte in {}", table.name);
                check(
                    place,
                    &complete.args(),
                    &expected,
                    &file,
                    (&what, Then::Ends),
                );
            }
        }
    }
}
