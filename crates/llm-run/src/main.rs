//! Loads and runs language models.

#![expect(
    clippy::print_stderr,
    reason = "a command-line program talks to its user"
)]

mod cache;
mod chat;
mod checksum;
mod cli;
mod defaults;
mod demo;
mod doctor;
mod failure;
mod generate;
mod generation_config;
mod hub_model;
mod input;
mod inspect;
mod load;
mod manual;
mod models;
mod named;
mod open;
mod output;
mod peers;
mod placement;
mod plan;
mod quantize;
mod resident;
mod rewrite;
mod score;
mod serve;
mod shard;
mod signals;
mod speculate;
mod system;
mod verify;

use std::process::ExitCode;

fn main() -> ExitCode {
    bound_threads();
    // Errors of the command line itself end here, with exit code 2.
    let mut command = cli::Cli::of_arguments().command;
    let result = named::resolve(&mut command).and_then(|()| run(command));
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

fn run(command: cli::Command) -> anyhow::Result<ExitCode> {
    match command {
        cli::Command::Generate(args) => generate::generate(&args),
        cli::Command::Chat(args) => chat::chat(&args),
        cli::Command::Serve(args) => serve::serve(args),
        cli::Command::Score(args) => score::score(&args),
        cli::Command::Plan(args) => plan::plan(&args),
        cli::Command::Inspect(args) => inspect::inspect(&args),
        cli::Command::Shard(args) => shard::shard(&args),
        cli::Command::Quantize(args) => quantize::quantize(&args),
        cli::Command::Verify(args) => verify::verify(&args),
        cli::Command::Pull(args) => models::pull(&args),
        cli::Command::List(args) => models::list(&args),
        cli::Command::Remove(args) => models::remove(&args),
        cli::Command::Cache(command) => cache::cache(&command),
        cli::Command::Doctor(args) => doctor::doctor(&args),
        cli::Command::Completions(args) => manual::completions(&args),
        cli::Command::Man(args) => manual::man(&args),
    }
}

/// Keeps an environment variable from asking for threads that never end to be started.
fn bound_threads() {
    // The second is the first one's old name, which still counts.
    let asks_too_many = |name: &&str| {
        let asked = std::env::var(name).ok();
        let asked = asked.and_then(|count| count.trim().parse::<u128>().ok());
        asked.is_some_and(|count| count > MOST_THREADS)
    };
    let names = ["RAYON_NUM_THREADS", "RAYON_RS_NUM_CPUS"];
    if names.iter().any(asks_too_many) {
        let n_processors = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_processors);
        // It is built already where somebody else has had it built.
        let _ = pool.build_global();
    }
}

/// Threads that files are read with at most.
const MOST_THREADS: u128 = 64;
