//! Folders that cannot be used, and disks that are full.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::mem;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command};

use super::{Place, errors, of_output, text, write_model};
use crate::support::{Output, fixture, json, program, run};

const IDS: [&str; 5] = ["--token-ids", "5,17,3,99", "--json", "--dtype", "bf16"];

/// The user's to mend.
fn refused(output: &Output, words: &[&str]) {
    failed(output, 2, words);
}

fn failed(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(
        (output.code, errors(&output.stderr)),
        (code, 1),
        "{}",
        output.stderr
    );
    assert_eq!(output.stdout, "");
    for word in words {
        assert!(output.stderr.contains(word), "{word} in: {}", output.stderr);
    }
}

#[test]
fn a_file_is_no_folder() {
    let (place, model) = (Place::new(), fixture("models/llama"));
    let args = [&["score", &model][..], &IDS].concat();
    fs::write(place.folder(), "mine").unwrap();
    refused(&place.run(&args, "disk"), &["offload", "is a file"]);
    let (map, below) = (place.path("disk"), place.folder().join("below"));
    let flags = [
        "--device-map",
        &map,
        "--offload-folder",
        below.to_str().unwrap(),
    ];
    let output = run(&[&args[..], &flags].concat());
    refused(&output, &[below.to_str().unwrap()]);
    assert_eq!(fs::read(place.folder()).unwrap(), b"mine");
}

/// Runs the program as a user who may write nowhere, if the tests run as one who may write everywhere; `None` where that
/// user cannot reach the program.
fn as_a_reader(args: &[String]) -> Option<Output> {
    let mut command = program();
    command.args(args);
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.uid(65534).gid(65534);
    }
    let output = match command.output() {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            println!(
                "skipped: nobody but root may run {:?}",
                command.get_program()
            );
            return None;
        }
        output => output.unwrap(),
    };
    Some(text(output))
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_folder_that_may_only_be_read_does_if_all_is_there() {
    let place = Place::new();
    // What nobody may read in the checkout is copied to where everybody may.
    for name in ["config.json", "model.safetensors"] {
        let from = Path::new(&fixture("models/llama")).join(name);
        fs::copy(from, place.path(name)).unwrap();
    }
    let model = place.temporary.path();
    let args = [&["score", model.to_str().unwrap()][..], &IDS].concat();
    let expected = json(&args)["log_probabilities"].clone();
    let reader = || as_a_reader(&place.args(&args, "disk"));

    // Nobody may make it.
    allow(model, 0o555);
    let Some(output) = reader() else {
        return;
    };
    refused(
        &output,
        &[place.folder().to_str().unwrap(), "--offload-folder"],
    );
    assert!(!place.folder().exists());

    allow(model, 0o755);
    place.result(&args, "disk");
    let head = place.file_of("head");
    let entry = head.parent().unwrap();
    allow(entry, 0o555);
    allow(&place.folder(), 0o555);
    let files = place.files();
    assert_eq!(of_output(&reader().unwrap()), expected);

    allow(entry, 0o755);
    fs::remove_file(&head).unwrap();
    allow(entry, 0o555);
    refused(
        &reader().unwrap(),
        &[entry.to_str().unwrap(), "--offload-folder"],
    );
    allow(entry, 0o000);
    let shut = reader().unwrap();
    refused(&shut, &[place.folder().to_str().unwrap()]);

    allow(entry, 0o755);
    allow(&place.folder(), 0o755);
    assert_eq!(place.files().len(), files.len() - 1, "nothing was written");
    assert_eq!(place.result(&args, "disk"), expected);
    assert!(place.files() == files);
}

/// On a small file system of its own.
#[test]
fn a_full_disk_is_an_error_and_keeps_what_is_complete() {
    let (whole, model) = (Place::new(), fixture("models/llama"));
    let args = [&["score", &model][..], &IDS].concat();
    whole.result(&args, "disk");
    let total: usize = whole.files().values().map(Vec::len).sum();

    let place = Place::new();
    fs::create_dir(place.folder()).unwrap();
    // What is not enough is seen beforehand, unless one is told otherwise.
    for (flags, code, words) in [
        (&[][..], 2, &["does not fit", "disk"][..]),
        (
            &["--max-memory", "disk=1GB"],
            1,
            &[
                "cannot write",
                "No space left",
                "--offload-folder",
                "llm-run cache",
            ],
        ),
    ] {
        let script = format!(
            r#"mount -t tmpfs -o size={} none "$0" || exit 77
            "$@"; code=$?
            ls "$0"/* 2>/dev/null
            exit $code"#,
            total / 2
        );
        let output = Command::new("unshare")
            .args(["--map-root-user", "--mount", "sh", "-c", &script])
            .arg(place.folder())
            .arg(env!("CARGO_BIN_EXE_llm-run"))
            .args(place.args(&[&args[..], flags].concat(), "disk"))
            .output();
        let Some(mut output) = finished(output) else {
            println!("skipped: no file system can be mounted here");
            return;
        };
        let names = mem::take(&mut output.stdout);
        failed(&output, code, words);
        assert!(!names.contains("partial"), "{names}");
        assert_eq!(names.contains(".safetensors"), !flags.is_empty(), "{names}");
    }
}

/// What is there need not find room once more.
#[test]
fn a_disk_that_is_full_of_what_is_needed_does() {
    let (whole, model) = (Place::new(), fixture("models/llama"));
    let args = [&["score", &model][..], &IDS].concat();
    let expected = whole.result(&args, "disk");
    let total: usize = whole.files().values().map(Vec::len).sum();

    let place = Place::new();
    fs::create_dir(place.folder()).unwrap();
    // Room for once, beside what is left to others.
    let size = (64 << 20) + 2 * total;
    let script = format!(
        r#"mount -t tmpfs -o size={size} none "$0" || exit 77
        "$@" > /dev/null || exit 78
        cat /dev/zero > "$0/full" 2> /dev/null
        exec "$@""#
    );
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", &script])
        .arg(place.folder())
        .arg(env!("CARGO_BIN_EXE_llm-run"))
        .args(place.args(&args, "disk"))
        .output();
    match finished(output) {
        Some(output) => {
            assert_eq!(output.code, 0, "{}", output.stderr);
            assert_eq!(of_output(&output), expected);
        }
        None => println!("skipped: no file system can be mounted here"),
    }
}

/// A device that ends before the files that lie on it do: root alone can make one.
#[test]
fn a_device_that_cannot_be_read_is_an_error() {
    let place = Place::new();
    write_model(&place.temporary.path().join("model"), 2);
    // What the kernel needs of the file to open it is read before.
    let script = r#"{
        cd "$0" && truncate -s 48M image && mkfs.ext4 image && mkdir device && mount -o loop image device &&
        cp model/* device && umount device && mount -o loop,ro,noload image device &&
        cat device/config.json && head -c 100000 device/model.safetensors && truncate -s 20M image
        } > /dev/null 2>&1 || exit 77
        exec "$@""#;
    let args = ["score", "device", "--token-ids", "5,17,3", "--json"];
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(place.temporary.path())
        .arg(env!("CARGO_BIN_EXE_llm-run"))
        .args(place.args(&args, "disk"))
        .output();
    match finished(output) {
        Some(output) => {
            let words = ["device/model.safetensors", "Input/output error"];
            failed(&output, 1, &words);
        }
        None => println!("skipped: no device can be made here"),
    }
}

/// What a command did in a file system that was made for it; `None` where that was not possible.
fn finished(output: io::Result<process::Output>) -> Option<Output> {
    let output = output.ok()?;
    let is_refused = output.status.code() == Some(77) || output.stderr.starts_with(b"unshare:");
    (!is_refused).then(|| text(output))
}
