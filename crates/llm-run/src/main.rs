//! Loads and runs language models.

#![expect(
    clippy::print_stderr,
    reason = "a command-line program talks to its user"
)]

mod cache;
mod chat;
mod cli;
mod defaults;
mod demo;
mod doctor;
mod failure;
mod generate;
mod inspect;
mod memory;
mod model;
mod output;
mod plan;
mod quant;
mod quantize;
mod rewrite;
mod run;
mod score;
mod shard;
mod system;
mod unknown;
mod verify;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Errors of the command line itself end here, with exit code 2.
    let result = match cli::Cli::parse().command {
        cli::Command::Generate(args) => generate::generate(&args),
        cli::Command::Chat(args) => chat::chat(&args),
        cli::Command::Score(args) => score::score(&args),
        cli::Command::Plan(args) => plan::plan(&args),
        cli::Command::Inspect(args) => inspect::inspect(&args),
        cli::Command::Shard(args) => shard::shard(&args),
        cli::Command::Quantize(args) => quantize::quantize(&args),
        cli::Command::Verify(args) => verify::verify(&args),
        cli::Command::Cache(command) => cache::cache(&command),
        cli::Command::Doctor(args) => doctor::doctor(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            if let Some(message) = failure::message(&error) {
                eprintln!("error: {message}");
            }
            failure::exit_code(&error)
        }
    }
}
