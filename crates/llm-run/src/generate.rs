//! `llm-run generate`: continue a prompt.

use std::process::ExitCode;

use anyhow::Result;
use llm_engine::{Completion, EndReason, Generation, complete};
use llm_plan::Workload;
use llm_text::Tokenizer;
use serde_json::json;

use self::prompt::prompt_ids;
use self::settings::{open, settings};
use crate::cli::GenerateArgs;
use crate::load::Loaded;
use crate::output::usage;
use crate::resident::{ResidentReport, ResidentSet};
use crate::speculate::{told, with_drafts};
use crate::{demo, output, signals};

mod batch;
mod prompt;
mod prompts;
mod settings;

pub(crate) fn generate(args: &GenerateArgs) -> Result<ExitCode> {
    match &args.prompts {
        Some(path) => batch::batch(args, path),
        None => one(args),
    }
}

/// Continues a single prompt.
fn one(args: &GenerateArgs) -> Result<ExitCode> {
    let model = open(args)?;
    let prompt_ids = prompt_ids(args, &model)?;
    let tokenizer = match args.token_ids {
        Some(_) => model.tokenizer().ok(),
        None => Some(model.tokenizer()?),
    };
    let settings = settings(args, &model, tokenizer)?;
    let n_new = settings.max_new_tokens(settings.begin(&prompt_ids).len())?;
    let needed = prompt_ids.len().saturating_add(n_new);
    let context = args.load.context(model.bound.spec(), needed)?;
    let n_sequences = settings.n_sequences();
    let speculate = args.speculate.of(model.bound.spec(), &settings)?;
    let workload = Workload {
        n_prompt: prompt_ids.len(),
        n_new,
    };

    let before_load = ResidentSet::now();
    let Loaded {
        mut session,
        placed,
        drafts,
        device,
        time: load,
    } = model.load(
        &args.load,
        context,
        n_sequences,
        n_sequences,
        workload,
        speculate,
    )?;
    let after_load = ResidentSet::now();
    let generation = Generation::new(session.spec(), tokenizer, settings.clone(), &prompt_ids)?;
    let generation = with_drafts(generation, drafts);
    let mut print = |piece: &str| {
        if args.json {
            Ok(())
        } else {
            output::print(piece)
        }
    };
    // Who asks for nothing sees what the story begins with.
    if args.prompt_of_demo() {
        print(demo::PROMPT)?;
    }
    let (completion, timings) = complete(&mut session, generation, &prompt_ids, &mut print)?;

    let n_decoded = completion.ids.len().saturating_sub(1);
    if args.json {
        let report = json!({
            "prompt_ids": prompt_ids,
            "generated_ids": completion.ids,
            // Null where there is no tokenizer.
            "text": tokenizer.map(|_| &completion.text),
            "end": completion.end,
            "seed": settings.seed,
            "device": device,
            "dtype": session.dtype().name(),
            "timings": {
                "load_seconds": load.as_secs_f64(),
                "prompt_seconds": timings.prefill.as_secs_f64(),
                "prompt_tokens_per_second": output::rate(prompt_ids.len(), timings.prefill),
                "decode_seconds": timings.decode.as_secs_f64(),
                "decode_tokens_per_second": output::rate(n_decoded, timings.decode),
            },
            // Null where no token was to be guessed.
            "speculation": completion.drafts,
            "memory": ResidentReport::up_to_now(before_load, after_load, &placed, &session),
        });
        output::print(&output::json(&report)?)?;
    } else {
        finish_text(&completion, tokenizer)?;
        output::closing_line([
            format!("loaded in {:.2} s", load.as_secs_f64()),
            format!(
                "prompt {}",
                output::tokens(prompt_ids.len(), timings.prefill)
            ),
            format!("decode {}", output::tokens(n_decoded, timings.decode)),
        ]);
    }
    if completion.end == EndReason::Context {
        eprintln!("{}", output::context_is_full(session.spec(), context));
    }
    if args.verbose {
        told(&completion)
            .iter()
            .for_each(|told| eprintln!("{told}"));
        eprint!("{}", usage::compare(&placed, &session));
    }
    Ok(match completion.end {
        EndReason::Interrupted => ExitCode::from(signals::exit_code()),
        EndReason::Eos
        | EndReason::Stop
        | EndReason::Length
        | EndReason::Context
        | EndReason::Time => ExitCode::SUCCESS,
    })
}

/// Ends the line; without a tokenizer the ids are the answer.
fn finish_text(completion: &Completion, tokenizer: Option<&Tokenizer>) -> Result<()> {
    match tokenizer {
        Some(_) => output::print("\n"),
        None => {
            let ids: Vec<String> = completion.ids.iter().map(u32::to_string).collect();
            output::print(&format!("{}\n", ids.join(",")))
        }
    }
}
