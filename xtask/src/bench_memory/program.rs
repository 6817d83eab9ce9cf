//! The program that is measured.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Precision;
use super::models::Folder;
use super::row::{Base, Row};

/// `llm-run`, built.
pub(super) struct Program(PathBuf);

impl Program {
    /// Builds it as the tests have it, or optimised.
    pub(super) fn build(root: &Path, is_quick: bool) -> Result<Self> {
        let (profile, arguments) = if is_quick {
            ("debug", "build --locked --workspace --bins")
        } else {
            ("release", "build --locked --package llm-run --release")
        };
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(arguments.split(' ')).current_dir(root);
        ensure!(cargo.status()?.success(), "{cargo:?} failed");
        // Beside this program, which lies in the target folder's `debug`.
        let own = env::current_exe()?;
        let target = own
            .ancestors()
            .nth(2)
            .context("a program in a target folder")?;
        Ok(Program(target.join(profile).join("llm-run")))
    }

    /// Plans a model in a precision, runs it over all of its context, and joins both.
    pub(super) fn row(&self, folder: &Folder, precision: &Precision, base: Base) -> Result<Row> {
        let context = folder.context.to_string();
        let planned = self.plan(
            &folder.path,
            &[precision.flags, &["--context", &context]].concat(),
        )?;
        // A few neighbouring rows of the table, so that what is touched of it does not count.
        let ids: Vec<String> = (0..folder.context - N_NEW)
            .map(|i| (3 + i % 64).to_string())
            .collect();
        let mut command = Command::new(&self.0);
        command
            .arg("generate")
            .arg(&folder.path)
            .args(precision.flags);
        command.args(["--token-ids", &ids.join(","), "--context", &context]);
        command.args([
            "--max-new-tokens",
            &N_NEW.to_string(),
            "--ignore-eos",
            "--greedy",
        ]);
        command.args(ON_THE_CPU).arg("--json");
        Row::new((folder, precision.name), &planned, &json(command)?, base)
    }

    /// What `llm-run plan --json` says of a model.
    pub(super) fn plan(&self, model: &Path, flags: &[&str]) -> Result<Value> {
        let mut command = Command::new(&self.0);
        command.arg("plan").arg(model).args(flags);
        command.args(ON_THE_CPU).arg("--json");
        json(command)
    }
}

/// The object that a command prints.
fn json(mut command: Command) -> Result<Value> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output();
    let output = output.with_context(|| format!("cannot start {:?}", command.get_program()))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}",
        output.status
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// All in RAM, whatever the machine has: it is measured whether the plan is right, not whether it is kept.
const ON_THE_CPU: [&str; 6] = [
    "--device-map",
    "cpu",
    "--max-memory",
    "cpu=1TB",
    "--threads",
    "2",
];
/// Tokens that are generated.
const N_NEW: usize = 8;
