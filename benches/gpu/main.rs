//! Checks and measures llm-run on the GPU of a machine that has nothing but its driver: `gpu-report all` runs the parts of
//! a bundle that `cargo xtask gpu-bundle` made, each under a limit of time, and writes `results.json` and `table.txt`.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that people run"
)]

mod attention;
mod bundle;
mod card;
mod kernels;
mod model;
mod part;
mod seed;
mod table;
mod timing;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};

/// Checks and measures llm-run on this machine's GPU.
#[derive(Parser)]
#[command(name = "gpu-report", args_override_self = true)]
enum Command {
    /// Runs all parts and writes what they found
    All(bundle::Options),
    /// Tells what the GPU is, and measures its memory and the way to it
    Card {
        /// Less, for an emulated GPU
        #[arg(long)]
        small: bool,
    },
    /// Measures attention, and products with quantized and dense weights
    Kernels {
        /// Less, for an emulated GPU
        #[arg(long)]
        small: bool,
        /// The copy bandwidth that shares are of, in bytes a second
        #[arg(long, value_name = "RATE")]
        copy: f64,
    },
    /// Measures a model of random weights, decoding and prefill, and holds its memory to the plan
    Model {
        /// Its folder
        folder: PathBuf,
        /// Encoding of weights
        #[arg(long)]
        encoding: Encoding,
        /// Less, for an emulated GPU
        #[arg(long)]
        small: bool,
    },
    /// Runs a model wholly on the GPU, and with weights on GPU, RAM and disk: the same tokens, and memory as planned
    Seed {
        /// Its folder
        folder: PathBuf,
        /// Encoding of weights
        #[arg(long)]
        encoding: Encoding,
        /// Less, for an emulated GPU
        #[arg(long)]
        small: bool,
        /// The copy bandwidth that tokens a second are expected of, in bytes a second
        #[arg(long, value_name = "RATE")]
        copy: f64,
        /// The same from pinned memory to the GPU
        #[arg(long, value_name = "RATE")]
        pcie: f64,
    },
}

/// Encoding of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Encoding {
    Bf16,
    Int8,
    Nf4,
    Nf4Double,
}

impl Encoding {
    const ALL: [Encoding; 4] = [
        Encoding::Bf16,
        Encoding::Int8,
        Encoding::Nf4,
        Encoding::Nf4Double,
    ];

    /// As it is called on the command line and in results.
    fn name(self) -> &'static str {
        match self {
            Encoding::Bf16 => "bf16",
            Encoding::Int8 => "int8",
            Encoding::Nf4 => "nf4",
            Encoding::Nf4Double => "nf4-double",
        }
    }
}

/// Amount that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// On an emulated GPU, where times mean nothing.
    Small,
    /// On a real one.
    Full,
}

impl Extent {
    fn of(small: bool) -> Self {
        match small {
            true => Extent::Small,
            false => Extent::Full,
        }
    }
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::All(options) => bundle::run(&options),
        Command::Card { small } => card::run(Extent::of(small)),
        Command::Kernels { small, copy } => kernels::run(Extent::of(small), copy),
        Command::Model {
            folder,
            encoding,
            small,
        } => model::run(&folder, encoding, Extent::of(small)),
        Command::Seed {
            folder,
            encoding,
            small,
            copy,
            pcie,
        } => seed::run(&seed::Options {
            folder: &folder,
            encoding,
            extent: Extent::of(small),
            rates: [copy, pcie],
        }),
    }
}
