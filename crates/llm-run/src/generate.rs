//! `llm-run generate`: continue a prompt.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use llm_runtime::{RuntimeError, Session};
use llm_text::{GenerationPrompt, Message, Role, SpecialTokens, Tokenizer};
use serde::Serialize;

use crate::cli::GenerateArgs;
use crate::defaults::Settings;
use crate::demo;
use crate::failure::{INTERRUPTED, UserError};
use crate::memory::{Course, Memory};
use crate::model::{Loaded, OpenModel};
use crate::run::{Answer, EndReason, Running, answer};
use crate::{output, plan};

mod batch;
mod prompts;

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
    let settings = settings(args, &model, tokenizer);
    let context = args.load.context(
        model.bound.spec(),
        prompt_ids.len().saturating_add(settings.max_new_tokens),
    )?;

    let before_load = Memory::now();
    let Loaded {
        mut session,
        plan,
        device,
        time: load,
    } = model.load(&args.load, context, 1, 1)?;
    let after_load = Memory::now();
    stop_on_ctrl_c(&session)?;
    let running = Running::new(session.spec(), tokenizer, settings.clone(), &prompt_ids)?;
    let mut print = |piece: &str| {
        if args.json {
            Ok(())
        } else {
            output::print(piece)
        }
    };
    let answer = answer(&mut session, running, &prompt_ids, &mut print)?;

    let n_decoded = answer.ids.len().saturating_sub(1);
    if args.json {
        let report = Report {
            prompt_ids: &prompt_ids,
            generated_ids: &answer.ids,
            text: tokenizer.map(|_| answer.text.as_str()),
            end: answer.end,
            seed: settings.seed,
            device: &device,
            dtype: session.dtype().name(),
            timings: Timings {
                load_seconds: load.as_secs_f64(),
                prompt_seconds: answer.prefill.as_secs_f64(),
                prompt_tokens_per_second: output::rate(prompt_ids.len(), answer.prefill),
                decode_seconds: answer.decode.as_secs_f64(),
                decode_tokens_per_second: output::rate(n_decoded, answer.decode),
            },
            memory: Course::up_to_now(before_load, after_load, &session),
        };
        output::print(&format!("{}\n", serde_json::to_string(&report)?))?;
    } else {
        finish_text(&answer, tokenizer)?;
        output::closing_line([
            format!("loaded in {:.2} s", load.as_secs_f64()),
            format!(
                "prompt {}",
                output::tokens(prompt_ids.len(), answer.prefill)
            ),
            format!("decode {}", output::tokens(n_decoded, answer.decode)),
        ]);
    }
    if args.verbose {
        eprint!("{}", plan::compare(&plan, &session));
    }
    Ok(match answer.end {
        EndReason::Interrupted => ExitCode::from(INTERRUPTED),
        EndReason::Eos | EndReason::Stop | EndReason::Length | EndReason::Context => {
            ExitCode::SUCCESS
        }
    })
}

fn open(args: &GenerateArgs) -> Result<OpenModel> {
    let model = args.model.as_deref().unwrap_or(Path::new(demo::NAME));
    OpenModel::open(model, &args.load.keys)
}

fn settings(args: &GenerateArgs, model: &OpenModel, tokenizer: Option<&Tokenizer>) -> Settings {
    let eos_ids = tokenizer.map_or(&[][..], Tokenizer::eos_ids);
    Settings::new(&args.sampling, &model.generation, eos_ids, MAX_NEW_TOKENS)
}

/// Tokens that are generated unless told otherwise.
const MAX_NEW_TOKENS: usize = 256;

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    prompt_ids: &'a [u32],
    generated_ids: &'a [u32],
    /// Absent where there is no tokenizer.
    text: Option<&'a str>,
    end: EndReason,
    seed: u64,
    device: &'a str,
    dtype: &'a str,
    timings: Timings,
    memory: Course,
}

#[derive(Serialize)]
struct Timings {
    load_seconds: f64,
    prompt_seconds: f64,
    prompt_tokens_per_second: f64,
    decode_seconds: f64,
    decode_tokens_per_second: f64,
}

/// Ends the line; without a tokenizer the ids are the answer.
fn finish_text(answer: &Answer, tokenizer: Option<&Tokenizer>) -> Result<()> {
    match tokenizer {
        Some(_) => output::print("\n"),
        None => {
            let ids: Vec<String> = answer.ids.iter().map(u32::to_string).collect();
            output::print(&format!("{}\n", ids.join(",")))
        }
    }
}

fn prompt_ids(args: &GenerateArgs, model: &OpenModel) -> Result<Vec<u32>> {
    if let Some(ids) = &args.token_ids {
        return Ok(ids.clone());
    }
    text_ids(prompt_text(args)?, args, model)
}

/// The ids of a prompt, as a message of a conversation if so asked.
fn text_ids(text: String, args: &GenerateArgs, model: &OpenModel) -> Result<Vec<u32>> {
    // Some tokenizers would make a begin-of-text token of it, and the answer would have nothing to do with any prompt.
    if text.is_empty() {
        return Err(RuntimeError::EmptyPrompt.into());
    }
    let tokenizer = model.tokenizer()?;
    if args.chat {
        let system = args.system.as_ref().map(|text| Message {
            role: Role::System,
            content: text.clone(),
        });
        let messages: Vec<_> = system
            .into_iter()
            .chain([Message {
                role: Role::User,
                content: text,
            }])
            .collect();
        chat_ids(tokenizer, &messages)
    } else {
        Ok(tokenizer.encode(&text, SpecialTokens::Add)?)
    }
}

/// The ids of a conversation by the model's own template, up to where its answer begins.
pub(crate) fn chat_ids(tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>> {
    let missing = || {
        UserError(
            "the model has no chat template; give plain prompts, without --chat, or choose an instruct model"
                .to_owned(),
        )
    };
    let template = tokenizer.chat_template().ok_or_else(missing)?;
    let text = template.render(messages, GenerationPrompt::Add)?;
    Ok(tokenizer.encode(&text, SpecialTokens::AsIs)?)
}

fn prompt_text(args: &GenerateArgs) -> Result<String> {
    match (&args.prompt, &args.prompt_file, &args.model) {
        (Some(text), _, _) if text == "-" => read_stdin(),
        (Some(text), _, _) => Ok(text.clone()),
        (None, Some(path), _) => read_file(path),
        (None, None, None) => Ok(demo::PROMPT.to_owned()),
        (None, None, Some(_)) => {
            let ways =
                "after the model, with --prompt-file or --token-ids, or `-` for standard input";
            Err(UserError(format!("there is no prompt; give one {ways}")).into())
        }
    }
}

/// The text of a file, `-` being standard input.
pub(crate) fn read_file(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        return read_stdin();
    }
    let error = |e: std::io::Error| UserError(format!("cannot read {}: {e}", path.display()));
    Ok(std::fs::read_to_string(path).map_err(error)?)
}

fn read_stdin() -> Result<String> {
    let mut text = String::new();
    let error = |e: std::io::Error| UserError(format!("cannot read standard input: {e}"));
    std::io::stdin().read_to_string(&mut text).map_err(error)?;
    Ok(text)
}

/// The first Ctrl-C ends the answer, a second one the program.
pub(crate) fn stop_on_ctrl_c(session: &Session) -> Result<()> {
    let interrupt = session.interrupt();
    ctrlc::set_handler(move || {
        if interrupt.is_raised() {
            std::process::exit(INTERRUPTED.into());
        }
        interrupt.raise();
    })
    .context("cannot watch for Ctrl-C")
}
