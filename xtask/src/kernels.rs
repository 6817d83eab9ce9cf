//! Kernels for GPUs, compiled with NVIDIA's compiler for libraries, which needs no GPU and no toolkit.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::fetch_model::{PYTHON, run_command};

/// Use of what is compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is written.
    Write,
    /// It is compared with what is there.
    Check,
}

impl From<bool> for Mode {
    fn from(check: bool) -> Self {
        match check {
            true => Mode::Check,
            false => Mode::Write,
        }
    }
}

/// Compiles the kernels, assembles them for every card, and writes or compares PTX and tables.
///
/// # Errors
/// When Python or its packages are missing, a kernel does not compile, spills registers or leaves a name unresolved, or what
/// is there is not what the kernels compile to.
pub(crate) fn run(root: &Path, mode: Mode) -> Result<()> {
    let target = root.join("target");
    let environment = target.join("kernels-environment");
    let python = environment.join("bin/python");
    if !python.exists() {
        fs::create_dir_all(&target)?;
        let mut create = Command::new(PYTHON);
        create.args(["-m", "venv"]).arg(&environment);
        run_command(create)?;
    }
    let mut install = Command::new(&python);
    install
        .args(["-m", "pip", "install", "--quiet", "--no-deps"])
        .args(["--disable-pip-version-check", "--only-binary=:all:"])
        .args(PACKAGES);
    run_command(install)?;
    let mut compile = Command::new(&python);
    compile.arg(root.join("crates/llm-cuda/compile.py"));
    match mode {
        Mode::Write => {}
        Mode::Check => {
            compile.arg("--check");
        }
    }
    run_command(compile)
}

/// The compiler, its headers, and the assembler: other versions compile to other PTX, and newer PTX needs newer drivers.
const PACKAGES: [&str; 3] = [
    "nvidia-cuda-nvrtc-cu12==12.0.140",
    "nvidia-cuda-runtime-cu12==12.0.146",
    "nvidia-cuda-nvcc-cu12==12.9.86",
];
