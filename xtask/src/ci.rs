//! Steps of continuous integration, here and there.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::cargo::cargo;
use crate::{bench_memory, fetch_model, gpu_bundle, kernels, tidy};

/// Steps to run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Steps of continuous integration.
    Ci,
    /// All, also what takes half an hour, some ten GB of disk and Python packages from the network.
    Full,
}

/// Runs every step, up to the first that fails. All build the release profile, so that nothing is built twice; what users
/// run is what is tested, checks of overflow included.
///
/// # Errors
/// When a step fails; the message names it.
pub(crate) fn run(root: &Path, extent: Extent) -> Result<()> {
    let cargo = |arguments| cargo(root, arguments);
    step("format", || run_command(cargo("fmt --all --check")))?;
    step("lints", || {
        run_command(cargo(
            "clippy --workspace --all-targets --locked --release -- -D warnings",
        ))
    })?;
    step("documentation", || {
        let mut doc = cargo("doc --workspace --no-deps --locked --release");
        doc.env("RUSTDOCFLAGS", "-Dwarnings");
        run_command(doc)
    })?;
    step("tidy", || tidy::run(root))?;
    step("kernels as they are compiled", || {
        kernels::run(root, kernels::Mode::Check)
    })?;
    step("model for the tests", || {
        fetch_model::run(fetch_model::Model::Smollm2, &root.join("models"))
    })?;
    step("tests", || {
        let mut test = cargo("test --workspace --locked --release");
        // Tests of the real model skip themselves without it; here that would hide something.
        test.env("LLM_RUN_REQUIRE_MODELS", "1");
        run_command(test)
    })?;
    let measured = match extent {
        Extent::Ci => bench_memory::Options::quick(),
        Extent::Full => bench_memory::Options::all(),
    };
    step("memory as it was planned", || {
        bench_memory::run(root, &measured)
    })?;
    step(
        "memory of two GPUs and a bundle for GPUs, on the emulated driver",
        || {
            run_command(cargo("build --release --locked -p cuda-emulator"))?;
            let target = root.join("target");
            let driver = target.join("release/libcuda_emulator.so");
            let out = target.join("bench-memory");
            bench_memory::run(root, &bench_memory::Options::emulated(driver.clone(), out))?;
            // The operations' conformance the tests have run in this very build.
            let parts = match extent {
                Extent::Ci => Some(gpu_bundle::ALL_BUT_CONFORMANCE),
                Extent::Full => None,
            };
            let out = target.join("gpu-bundle");
            gpu_bundle::run(root, &gpu_bundle::Options::checked(out, driver, parts))
        },
    )?;
    match extent {
        Extent::Ci => {}
        Extent::Full => {
            step("tests that take long", || {
                run_command(cargo("test --workspace --locked --release -- --ignored"))
            })?;
            step("memory that threads share, under Miri", || miri(root))?;
            step("kernels for AArch64, under an emulator", || arm(root))?;
            step("crates as they would be published", || {
                // In order, each with all that it needs; what is packed is not built once more.
                run_command(cargo(
                    "publish --workspace --dry-run --no-verify --allow-dirty --locked",
                ))
            })?;
            step("what is written, in transformers", || {
                let mut check = Command::new(fetch_model::PYTHON);
                check.args(["benches/peers.py", "check"]).current_dir(root);
                run_command(check)
            })?;
        }
    }
    step("the readme's first command", || {
        check_prints(cargo(
            "run --release --locked -- generate --max-new-tokens 32",
        ))
    })
}

/// Interprets the tests of what is `unsafe` between threads. Miri comes with a nightly toolchain, which need not be there.
fn miri(root: &Path) -> Result<()> {
    // By way of rustup, as the cargo of the toolchain that runs this knows no other.
    let miri = |arguments: &[&str]| {
        let mut miri = Command::new("cargo");
        miri.args(["+nightly", "miri"])
            .args(arguments)
            .current_dir(root)
            .env_remove("RUSTC")
            // Else exp and its like differ at random, from call to call, and bits are compared.
            .env("MIRIFLAGS", "-Zmiri-deterministic-floats")
            .stdin(Stdio::null());
        miri
    };
    let found = miri(&["--version"]).output();
    if !found.is_ok_and(|found| found.status.success()) {
        eprintln!(
            "skipped: no Miri; rustup toolchain install nightly --component miri,rust-src brings it"
        );
        return Ok(());
    }
    MIRI_TESTS
        .into_iter()
        .try_for_each(|arguments| run_command(miri(&Vec::from_iter(arguments.split_whitespace()))))
}

/// Tests the kernels for AArch64 on an emulated processor, whose emulator and linker need not be there.
fn arm(root: &Path) -> Result<()> {
    let is_there = |program: &&str| {
        let found = Command::new(program).arg("--version").output();
        found.is_ok_and(|found| found.status.success())
    };
    let emulator = ["qemu-aarch64-static", "qemu-aarch64"]
        .into_iter()
        .find(is_there);
    let (Some(emulator), true) = (emulator, is_there(&ARM_LINKER)) else {
        eprintln!(
            "skipped: no emulator; apt-get install qemu-user-static gcc-aarch64-linux-gnu libc6-dev-arm64-cross brings it"
        );
        return Ok(());
    };
    let mut target = Command::new("rustup");
    target.args(["target", "add", "aarch64-unknown-linux-gnu"]);
    run_command(target)?;
    let mut test = cargo(
        root,
        // What is written for no processor takes a quarter of an hour there, and is tested everywhere else.
        "test --locked --release -p llm-cpu --lib --target aarch64-unknown-linux-gnu -- --skip portable_conforms",
    );
    test.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", ARM_LINKER)
        .env(
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER",
            format!("{emulator} -L /usr/aarch64-linux-gnu"),
        );
    run_command(test)
}

const ARM_LINKER: &str = "aarch64-linux-gnu-gcc";

/// What threads share, products and attention among it; all tests of the kernels would take hours.
const MIRI_TESTS: [&str; 2] = [
    "test --locked -p llm-tensor --lib -- host:: pages::",
    "test --locked -p llm-cpu --lib -- pool:: share:: memory:: threads::",
];

fn step(name: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    eprintln!("== {name}");
    let started = Instant::now();
    run().with_context(|| format!("step `{name}` failed"))?;
    eprintln!("== {name}: {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn run_command(mut command: Command) -> Result<()> {
    eprintln!("{command:?}");
    let status = command.status()?;
    ensure!(status.success(), "{status}");
    Ok(())
}

fn check_prints(mut command: Command) -> Result<()> {
    eprintln!("{command:?}");
    let output = command.stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    ensure!(output.status.success(), "{}", output.status);
    ensure!(!text.trim().is_empty(), "it printed nothing");
    Ok(())
}
