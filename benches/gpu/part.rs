//! One part of a report: a program under a limit of time, and what became of it.

use std::fmt;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

/// Outcome of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// With a reason in a few words.
    Failed(String),
    /// With the word that says what is missing.
    Skipped(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Passed => f.write_str("passed"),
            Outcome::Failed(reason) => write!(f, "FAILED: {reason}"),
            Outcome::Skipped(reason) => write!(f, "skipped: {reason}"),
        }
    }
}

/// A part that was run, or was not.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
    pub(crate) seconds: f64,
    /// Objects that it printed, one a line.
    pub(crate) results: Vec<Value>,
    /// Last lines of what else it said, where it failed.
    pub(crate) said: Vec<String>,
}

impl Part {
    /// A part that is not run.
    pub(crate) fn skipped(name: &str, reason: impl Into<String>) -> Self {
        Part {
            name: name.to_owned(),
            outcome: Outcome::Skipped(reason.into()),
            seconds: 0.0,
            results: Vec::new(),
            said: Vec::new(),
        }
    }

    /// Runs a program for at most `limit`; what it prints goes to a file in `logs`.
    ///
    /// # Errors
    /// When the log cannot be written. A program that cannot be started is a part that failed.
    pub(crate) fn run(
        name: &str,
        command: &mut Command,
        limit: Duration,
        logs: &Path,
    ) -> Result<Self> {
        let log = logs.join(format!("{name}.txt"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0);
        let begin = Instant::now();
        let ended = match command.spawn() {
            Ok(mut child) => wait(&mut child, begin + limit),
            Err(error) => Err(format!("it does not start: {error}")),
        };
        let printed = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
        let of_line = |line: &str| serde_json::from_str(line).ok().filter(Value::is_object);
        let mut part = Part {
            name: name.to_owned(),
            outcome: Outcome::Passed,
            seconds: begin.elapsed().as_secs_f64(),
            results: printed.lines().filter_map(of_line).collect(),
            said: Vec::new(),
        };
        let skipped = printed
            .lines()
            .find_map(|line| line.split_once("skipped: "));
        part.outcome = match (ended, skipped) {
            (Ok(()), None) if printed.contains("running 0 tests") => {
                Outcome::Failed("it ran no test".to_owned())
            }
            (Ok(()), None) => Outcome::Passed,
            // A model that does not fit ends with such an error, a test without a GPU with such a line.
            (Ok(()) | Err(_), Some((_, why))) => Outcome::Skipped(why.to_owned()),
            (Err(why), None) => Outcome::Failed(why),
        };
        if let Outcome::Failed(_) = part.outcome {
            let lines: Vec<&str> = printed.lines().filter(|line| !line.is_empty()).collect();
            let last = lines[lines.len().saturating_sub(SAID)..].iter();
            part.said = last.map(|line| (*line).to_owned()).collect();
        }
        Ok(part)
    }

    /// True if its limit of time ended it.
    pub(crate) fn is_too_long(&self) -> bool {
        self.outcome == Outcome::Failed(TOO_LONG.to_owned())
    }

    /// As an object of the report.
    pub(crate) fn json(&self) -> Value {
        let (outcome, reason) = match &self.outcome {
            Outcome::Passed => ("passed", None),
            Outcome::Failed(reason) => ("failed", Some(reason)),
            Outcome::Skipped(reason) => ("skipped", Some(reason)),
        };
        json!({
            "part": self.name,
            "outcome": outcome,
            "reason": reason,
            "seconds": self.seconds,
            "results": self.results,
            "said": self.said,
        })
    }
}

/// Waits for a program's end, or ends it with all that it has started.
fn wait(child: &mut Child, deadline: Instant) -> std::result::Result<(), String> {
    loop {
        match child.try_wait() {
            Err(error) => return Err(format!("it cannot be waited for: {error}")),
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("it ended with {status}")),
            Ok(None) if Instant::now() < deadline => thread::sleep(POLL),
            Ok(None) => {
                // A group of its own, named by its first process.
                let group = Pid::from_child(child);
                let ended = kill_process_group(group, Signal::KILL);
                let _ = child.wait();
                return Err(match ended {
                    Ok(()) => TOO_LONG.to_owned(),
                    Err(error) => {
                        format!("{TOO_LONG}, and does not end: {error}")
                    }
                });
            }
        }
    }
}

const TOO_LONG: &str = "it took longer than its limit";
const POLL: Duration = Duration::from_millis(20);
/// Lines that are kept of what a part said.
const SAID: usize = 30;

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, limit: Duration) -> Part {
        let logs = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Part::run("x", &mut command, limit, logs.path()).expect("a log")
    }

    #[test]
    fn a_part_is_what_its_program_says() {
        let limit = Duration::from_secs(60);
        let passed = run("echo '{\"what\": 1}'; echo word; echo '[2]'", limit);
        assert_eq!(passed.outcome, Outcome::Passed);
        assert_eq!(passed.results, [json!({"what": 1})]);
        let failed = run("echo '{\"a\": 1}'; echo why >&2; exit 3", limit);
        let why = "it ended with exit status: 3";
        assert_eq!(failed.outcome, Outcome::Failed(why.to_owned()));
        assert_eq!(failed.said, ["{\"a\": 1}", "why"]);
        assert_eq!(failed.results.len(), 1, "what was measured before is kept");
        let nothing = run("echo; echo running 0 tests", limit);
        assert_eq!(
            nothing.outcome,
            Outcome::Failed("it ran no test".to_owned())
        );
        let skipped = run("echo 'Error: skipped: no room'; exit 1", limit);
        assert_eq!(skipped.outcome, Outcome::Skipped("no room".to_owned()));
    }

    #[test]
    fn what_hangs_is_ended_with_its_children() {
        let begin = Instant::now();
        let hung = run("sleep 60 & sleep 60; true", Duration::from_millis(100));
        assert!(hung.is_too_long(), "{}", hung.outcome);
        assert!(begin.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_program_that_is_not_there_fails_its_part() {
        let logs = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("/nonexistent");
        let part = Part::run("x", &mut command, Duration::ZERO, logs.path()).expect("a log");
        assert!(
            part.outcome
                .to_string()
                .starts_with("FAILED: it does not start")
        );
    }
}
