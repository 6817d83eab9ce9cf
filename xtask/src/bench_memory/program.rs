//! The program that is measured.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Precision;
use super::cgroup::Cgroup;
use super::models::Folder;
use super::row::{Base, Row};

/// Devices as `--device` names them, `cuda:0,cuda:1`, and the driver that is to be found.
pub(super) struct Gpus<'a> {
    pub(super) device: &'a str,
    /// Folder of a library in place of NVIDIA's.
    pub(super) driver: Option<&'a Path>,
}

/// `llm-run`, built.
pub(super) struct Program(PathBuf);

impl Program {
    /// Builds it, together with all others, so that dependencies have the features that tests built them with.
    pub(super) fn build(root: &Path) -> Result<Self> {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args(["build", "--locked", "--release", "--workspace", "--bins"])
            .current_dir(root);
        ensure!(cargo.status()?.success(), "{cargo:?} failed");
        // In the target folder of this program, which may be of another profile.
        let own = env::current_exe()?;
        let target = own
            .ancestors()
            .nth(2)
            .context("a program in a target folder")?;
        Ok(Program(target.join("release/llm-run")))
    }

    /// Plans a model in a precision, wholly in RAM, runs it over all of its context, and joins both.
    pub(super) fn row(&self, folder: &Folder, precision: &Precision, base: Base) -> Result<Row> {
        let flags = [precision.flags, &IN_RAM].concat();
        let context = folder.context.to_string();
        let plan = self.plan(
            &folder.path,
            &[&flags, &["--context", &context][..]].concat(),
        )?;
        let run = self.generate(folder, &flags, (N_NEW, &["--greedy"]), None)?;
        Row::new((folder, precision.name), &plan, &run, base)
    }

    /// Output of `llm-run generate --json` on GPUs, over a model's whole context.
    pub(super) fn on_gpus(
        &self,
        folder: &Folder,
        precision: &Precision,
        gpus: &Gpus<'_>,
    ) -> Result<Value> {
        let mut command = Command::new(&self.0);
        if let Some(driver) = gpus.driver {
            command.env("LD_LIBRARY_PATH", driver);
            // The emulated one's: more than anybody names.
            command.env("CUDA_EMULATOR_DEVICES", "8");
        }
        let context = match gpus.driver {
            // Emulated kernels take their time.
            Some(_) => EMULATED_CONTEXT,
            None => folder.context,
        };
        command.arg("generate").arg(&folder.path);
        command
            .args(precision.flags)
            .args(["--device", gpus.device]);
        if gpus.device.contains(',') {
            // What one holds would be on that alone.
            command.args(["--device-map", "balanced"]);
        }
        over_context(&mut command, context, N_NEW.min(context / 2), &["--greedy"]);
        json(command)
    }

    /// Output of `llm-run plan --json` for a model.
    pub(super) fn plan(&self, model: &Path, flags: &[&str]) -> Result<Value> {
        let mut command = Command::new(&self.0);
        command.arg("plan").arg(model).args(flags);
        command.args(THREADS).arg("--json");
        command.env("CUDA_VISIBLE_DEVICES", "");
        json(command)
    }

    /// Output of `llm-run generate --json` for a run over a model's whole context, of which the last `n_new` tokens are
    /// generated, chosen as `choice` has it; in a control group if one is given.
    pub(super) fn generate(
        &self,
        folder: &Folder,
        flags: &[&str],
        (n_new, choice): (usize, &[&str]),
        group: Option<&Cgroup>,
    ) -> Result<Value> {
        let mut command = match group {
            Some(group) => group.command(&self.0),
            None => Command::new(&self.0),
        };
        // What is measured is RAM, whatever GPU there is.
        command.env("CUDA_VISIBLE_DEVICES", "");
        command.arg("generate").arg(&folder.path).args(flags);
        over_context(&mut command, folder.context, n_new, choice);
        json(command)
    }
}

/// Flags of a run over a whole context, of which the last `n_new` tokens are generated, chosen as `choice` has it.
fn over_context(command: &mut Command, context: usize, n_new: usize, choice: &[&str]) {
    // A few neighbouring rows of the table, so that what is touched of it does not count.
    let ids: Vec<String> = (0..context - n_new)
        .map(|i| (3 + i % 64).to_string())
        .collect();
    command.args(["--token-ids", &ids.join(",")]);
    command.args(["--context", &context.to_string()]);
    command.args(["--max-new-tokens", &n_new.to_string(), "--ignore-eos"]);
    command.args(choice).args(THREADS).arg("--json");
}

/// The object that a command prints. Its notes are shown where it fails; of each run they would be the same.
fn json(mut command: Command) -> Result<Value> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {:?}", command.get_program()))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// All in RAM, whatever the machine has: it is measured whether the plan is right, not whether it is kept.
pub(super) const IN_RAM: [&str; 4] = ["--device-map", "cpu", "--max-memory", "cpu=1TB"];
const THREADS: [&str; 2] = ["--threads", "2"];
/// Tokens that are generated.
const N_NEW: usize = 8;
/// Positions on an emulated GPU.
const EMULATED_CONTEXT: usize = 8;
