//! Runs that are killed, and runs at the same time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{NF4_DOUBLE, Place, Random, is_partial, is_weights, of_output, text, write_model};
use crate::support::{json, program, signals};

/// A model that takes a while to encode, and what it answers.
struct Slow {
    model: tempfile::TempDir,
    expected: Value,
}

impl Slow {
    fn new(n_layers: usize) -> Self {
        let model = tempfile::tempdir().unwrap();
        write_model(model.path(), n_layers);
        let mut slow = Slow {
            model,
            expected: Value::Null,
        };
        slow.expected = json(&slow.args())["generated_ids"].clone();
        slow
    }

    fn args(&self) -> Vec<&str> {
        let model = self.model.path().to_str().unwrap();
        let args = [
            "generate",
            model,
            "--token-ids",
            "5,17,3",
            "--max-new-tokens",
            "5",
            "--json",
            // Encoding takes longer, and as long whatever else runs.
            "--threads",
            "1",
        ];
        [&args[..], NF4_DOUBLE].concat()
    }

    fn start(&self, place: &Place) -> Child {
        let mut command = program();
        let command = command
            .args(place.args(&self.args(), "disk"))
            .stdin(Stdio::null());
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn is_right(&self, child: Child) {
        let output = text(child.wait_with_output().unwrap());
        assert_eq!(output.code, 0, "{}", output.stderr);
        assert_eq!(of_output(&output), self.expected);
    }
}

#[test]
fn who_is_asked_to_stop_leaves_no_half_a_file() {
    let slow = Slow::new(6);
    for (signal, code) in signals() {
        let place = Place::new();
        let child = slow.start(&place);
        let begin = Instant::now();
        let has_partial =
            || place.folder().exists() && place.names().iter().any(|path| is_partial(path));
        while !has_partial() {
            assert!(begin.elapsed() < Duration::from_secs(60), "it never begins");
            sleep(Duration::from_millis(1));
        }
        let (kill, id) = (format!("kill -{signal} $0"), child.id().to_string());
        let sent = Command::new("sh").args(["-c", &kill, &id]).status();
        assert!(sent.unwrap().success());
        let output = text(child.wait_with_output().unwrap());
        assert_eq!(output.code, code, "{signal}: {}", output.stderr);
        assert!(!has_partial(), "{signal}: {:?}", place.names());
    }
}

#[test]
fn kills_at_any_moment_leave_a_folder_that_the_next_run_completes() {
    let slow = Slow::new(6);
    let begin = Instant::now();
    let whole = Place::new();
    slow.is_right(slow.start(&whole));
    let took = begin.elapsed();
    let (mut random, mut n_killed, mut n_left) = (Random(3), 0, 0);
    let files = weights(&whole);
    for _ in 0..FOLDERS {
        let place = Place::new();
        // What one has left is taken up by the next.
        for _ in 0..KILLS {
            let mut child = slow.start(&place);
            sleep(took.mul_f64(random.below(1000) as f64 / 1000.0));
            child.kill().unwrap();
            n_killed += usize::from(child.wait().unwrap().code().is_none());
            if place.folder().exists() {
                place.verify();
            }
            n_left += place.names().iter().filter(|name| is_partial(name)).count();
        }
        slow.is_right(slow.start(&place));
        place.is_tidy();
        place.verify();
        assert!(weights(&place) == files, "other files than of one run");
    }
    let n_runs = FOLDERS * KILLS;
    println!(
        "{n_killed} of {n_runs} runs of {took:?} were killed, {n_left} files were left half-written"
    );
    assert!(n_killed > 0);
}

/// Kills of runs on one folder.
const KILLS: usize = 2;
const FOLDERS: usize = 8;

/// What was written for all units.
fn weights(place: &Place) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = place.files();
    files.retain(|path, _| is_weights(path));
    files
}

#[test]
fn runs_at_the_same_time_share_what_one_writes() {
    let slow = Slow::new(2);
    let place = Place::new();
    let runs = [(); 2].map(|()| slow.start(&place));
    runs.into_iter().for_each(|run| slow.is_right(run));
    place.is_tidy();
    place.verify();
    let files = weights(&place);

    fs::remove_dir_all(place.folder()).unwrap();
    let mut killed = slow.start(&place);
    let begin = Instant::now();
    let has_begun = || place.names().iter().any(|name| is_partial(name));
    while !has_begun() {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "nothing is written"
        );
        sleep(Duration::from_millis(1));
    }
    // These wait for the one that writes, which does not come to an end.
    let runs = [(); 2].map(|()| slow.start(&place));
    sleep(Duration::from_millis(30));
    killed.kill().unwrap();
    killed.wait().unwrap();
    runs.into_iter().for_each(|run| slow.is_right(run));
    place.is_tidy();
    place.verify();
    assert!(weights(&place) == files);
}

/// It may take long, and in a log no bar is seen.
#[test]
fn who_waits_for_another_run_says_so_once() {
    let (slow, place) = (Slow::new(1), Place::new());
    place.result(&slow.args(), "disk");
    let names = place.names();
    let lock = names.iter().find(|name| name.ends_with("use.lock"));
    let lock = File::open(place.folder().join(lock.unwrap())).unwrap();
    lock.lock().unwrap();
    let mut child = slow.start(&place);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut first = String::new();
    stderr.read_line(&mut first).unwrap();
    assert!(first.starts_with("waiting for another run"), "{first}");
    // It looks ten times a second.
    sleep(Duration::from_millis(250));
    lock.unlock().unwrap();
    let output = text(child.wait_with_output().unwrap());
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert!(!rest.contains("waiting"), "{rest}");
    assert_eq!(output.code, 0, "{rest}");
    assert_eq!(of_output(&output), slow.expected);
}
