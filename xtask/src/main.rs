//! The project's own chores: checks of the source tree, CI, models to test with.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that people run"
)]

use std::env;
use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use sha2::{Digest, Sha256};

mod bench_memory;
mod cargo;
mod ci;
mod dist;
mod fetch_model;
mod fixture;
mod gpu_bundle;
mod kernels;
mod make_model;
mod tidy;

/// The project's own chores; run as `cargo xtask`.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
enum Command {
    /// Checks what the compiler does not: layering, circles of files, file sizes, `unsafe`, fixtures' checksums
    Tidy {
        /// Rewrite the SHA256SUMS of tests/fixtures first
        #[arg(long)]
        update_checksums: bool,
        /// Draw what files use of each other, as SVG, and count the arrows that run back up [default:
        /// target/imports.svg]
        #[arg(long, value_name = "FILE")]
        graph: Option<Option<PathBuf>>,
    },
    /// Runs what continuous integration runs
    Ci {
        /// And what takes long: bench-memory with all models, ignored tests, the kernels for AArch64 under an emulator, and
        /// the check that transformers loads what is written, which installs it into target/ on its first run
        #[arg(long)]
        full: bool,
    },
    /// Downloads a small real model
    FetchModel {
        /// Model to fetch
        model: fetch_model::Model,
        /// The folder of models; here it gets a folder of its own
        #[arg(long, value_name = "DIR", default_value_os_t = root().join("models"))]
        out: PathBuf,
    },
    /// Makes golden models of tests/fixtures anew with the reference library, in a virtual environment of its own
    Fixture {
        /// Names of cases in tests/fixtures/generate.py
        #[arg(required = true)]
        cases: Vec<String>,
    },
    /// Makes a folder that checks and measures llm-run on a machine with a GPU and no Rust, network or checkout
    GpuBundle(gpu_bundle::Options),
    /// Compiles the kernels for GPUs to the PTX that is embedded, in a virtual environment of its own
    Kernels {
        /// Compare with what is there instead, and fail where it differs
        #[arg(long)]
        check: bool,
    },
    /// Measures what runs take beside what was planned for them
    BenchMemory(bench_memory::Options),
    /// Makes the archive that is handed out: program, completions, manual pages, licences and a list of its parts
    Dist(dist::Options),
    /// Writes a random checkpoint with the shapes of a real configuration
    MakeModel(make_model::Options),
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Tidy {
            update_checksums,
            graph,
        } => {
            if update_checksums {
                tidy::update_checksums(&root())?;
            }
            if let Some(out) = graph {
                tidy::graph(&root(), &out.unwrap_or(root().join("target/imports.svg")))?;
            }
            tidy::run(&root())
        }
        Command::Ci { full } => {
            let extent = match full {
                true => ci::Extent::Full,
                false => ci::Extent::Ci,
            };
            ci::run(&root(), extent)
        }
        Command::FetchModel { model, out } => fetch_model::run(model, &out),
        Command::Fixture { cases } => fixture::run(&root(), &cases),
        Command::GpuBundle(options) => gpu_bundle::run(&root(), &options),
        Command::Kernels { check } => kernels::run(&root(), check.into()),
        Command::BenchMemory(options) => bench_memory::run(&root(), &options),
        Command::Dist(options) => dist::run(&root(), &options),
        Command::MakeModel(options) => make_model::run(&options),
    }
}

/// The root of the workspace.
fn root() -> PathBuf {
    // What cargo says when it runs this: copies of the workspace that share a target folder share the program, too.
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    let manifest = PathBuf::from(manifest);
    manifest
        .parent()
        .expect("xtask lies in the workspace")
        .to_owned()
}

/// A SHA-256 in hexadecimal digits, as `sha256sum` prints it.
fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
