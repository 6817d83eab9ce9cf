//! Golden models, as the reference library makes them.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::fetch_model::{PYTHON, run_command};

/// Runs the generator for some cases and puts what it makes into `tests/fixtures/models`.
///
/// # Errors
/// When Python, the packages or a case is missing.
pub(crate) fn run(root: &Path, cases: &[String]) -> Result<()> {
    let target = root.join("target");
    let environment = target.join("fixture-environment");
    let python = environment.join("bin/python");
    if !python.exists() {
        fs::create_dir_all(&target)?;
        let mut create = Command::new(PYTHON);
        create.args(["-m", "venv"]).arg(&environment);
        run_command(create)?;
    }
    let mut install = Command::new(&python);
    install
        .args(["-m", "pip", "install", "--quiet"])
        .args(PACKAGES);
    run_command(install)?;

    let scratch = tempfile::tempdir_in(&target)?;
    let mut generate = Command::new(&python);
    generate
        .arg(root.join("tests/fixtures/generate.py"))
        .arg(scratch.path())
        .arg("--case")
        .args(cases);
    run_command(generate)?;
    for case in cases {
        let (from, to) = (
            scratch.path().join("models").join(case),
            root.join("tests/fixtures/models").join(case),
        );
        ensure!(
            from.is_dir(),
            "tests/fixtures/generate.py has no case `{case}`"
        );
        fs::create_dir_all(&to)?;
        for file in fs::read_dir(&from)? {
            let file = file?;
            fs::copy(file.path(), to.join(file.file_name()))
                .with_context(|| to.display().to_string())?;
        }
        println!("{}", to.display());
    }
    println!("now run cargo xtask tidy --update-checksums");
    Ok(())
}

/// Packages that made the fixtures.
const PACKAGES: [&str; 3] = [
    "torch==2.15.*",
    "transformers==5.23.*",
    "safetensors==0.8.*",
];
