//! `llm-run generate`: continue a prompt.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use llm_arch::ModelSpec;
use llm_runtime::RuntimeError;
use llm_text::{
    ChatTemplate, Conversation, GenerationPrompt, Message, Role, SpecialTokens, Tokenizer,
};
use serde::Serialize;

use crate::cli::GenerateArgs;
use crate::defaults::Settings;
use crate::demo;
use crate::failure::{UserError, unreadable};
use crate::memory::{Course, Memory};
use crate::model::{Loaded, OpenModel};
use crate::run::{Answer, EndReason, Running, answer};
use crate::{output, plan, signals};

mod batch;
mod lines;
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
    let settings = settings(args, &model, tokenizer)?;
    let n_new = settings.max_new_tokens(settings.begin(&prompt_ids).len())?;
    let needed = prompt_ids.len().saturating_add(n_new);
    let context = args.load.context(model.bound.spec(), needed)?;
    let n_sequences = settings.n_sequences();

    let before_load = Memory::now();
    let Loaded {
        mut session,
        plan,
        device,
        time: load,
    } = model.load(&args.load, context, n_sequences, n_sequences)?;
    let after_load = Memory::now();
    let running = Running::new(session.spec(), tokenizer, settings.clone(), &prompt_ids)?;
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
    if answer.end == EndReason::Context {
        eprintln!("{}", context_is_full(session.spec(), context));
    }
    if args.verbose {
        eprint!("{}", plan::compare(&plan, &session));
    }
    Ok(match answer.end {
        EndReason::Interrupted => ExitCode::from(signals::exit_code()),
        EndReason::Eos
        | EndReason::Stop
        | EndReason::Length
        | EndReason::Context
        | EndReason::Time => ExitCode::SUCCESS,
    })
}

/// Says that an answer ended with the context, and what would help.
pub(crate) fn context_is_full(spec: &ModelSpec, context: usize) -> String {
    match spec.context {
        most if context < most => format!(
            "the context of {context} positions is full; --context gives more, up to the {most} that the model has"
        ),
        _ => format!("the context of {context} positions, all that the model has, is full"),
    }
}

fn open(args: &GenerateArgs) -> Result<OpenModel> {
    let model = args.model.as_deref().unwrap_or(Path::new(demo::NAME));
    OpenModel::open(model, &args.load.keys)
}

/// Says, too, what of the model's own wishes is not done.
fn settings(
    args: &GenerateArgs,
    model: &OpenModel,
    tokenizer: Option<&Tokenizer>,
) -> Result<Settings> {
    let config = model.generation()?;
    let of_model = (model.bound.spec(), tokenizer);
    let settings = Settings::new(&args.sampling, &config, of_model, MAX_NEW_TOKENS)?;
    output::notes(&config.notices);
    if tokenizer.is_none() && !settings.stop.is_empty() {
        let problem = "`stop_strings` was not applied: there is no tokenizer";
        output::notes(&[format!("{}: {problem}", config.path.display())]);
    }
    Ok(settings)
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

impl GenerateArgs {
    /// Whether neither a model nor a prompt is given.
    fn prompt_of_demo(&self) -> bool {
        let has_text = self.prompt.is_some() || self.prompt_text.is_some();
        let has_other = self.prompt_file.is_some() || self.token_ids.is_some();
        self.model.is_none() && !has_text && !has_other
    }
}

/// The ids of a prompt, as a message of a conversation if so asked.
fn text_ids(text: String, args: &GenerateArgs, model: &OpenModel) -> Result<Vec<u32>> {
    // Some tokenizers would make a begin-of-text token of it, and the answer would have nothing to do with any prompt.
    if text.is_empty() {
        return Err(RuntimeError::EmptyPrompt.into());
    }
    let tokenizer = model.tokenizer()?;
    if args.chat {
        let system = args.system.clone();
        let system = system.map(|text| Message::new(Role::System, text));
        let messages = system.into_iter().chain([Message::new(Role::User, text)]);
        let mut conversation = Conversation::new(messages.collect());
        given_to_template(args, &mut conversation)?;
        chat_ids(tokenizer, &conversation)
    } else {
        Ok(tokenizer.encode(&text, SpecialTokens::Add)?)
    }
}

/// Gives the template the tools and the variables of the command line, unless the conversation has its own.
fn given_to_template(args: &GenerateArgs, conversation: &mut Conversation) -> Result<()> {
    if let (Some(path), None) = (&args.tools, &conversation.tools) {
        let text = read_file(path)?;
        let tools = serde_json::from_str(&text);
        let tools = tools.map_err(|error| {
            let expected = "expected a list of objects, each a tool's JSON schema";
            UserError(format!("{}: {expected}: {error}", path.display()))
        });
        conversation.tools = Some(tools?);
    }
    for given in &args.template_arg {
        let (name, value) = (given.name.clone(), given.value.clone());
        conversation.variables.entry(name).or_insert(value);
    }
    Ok(())
}

/// The ids of a conversation by the model's own template, up to where its answer begins.
pub(crate) fn chat_ids(tokenizer: &Tokenizer, conversation: &Conversation) -> Result<Vec<u32>> {
    let template = chat_template(tokenizer)?;
    let text = template.render(conversation, GenerationPrompt::Add)?;
    Ok(tokenizer.encode(&text, SpecialTokens::AsIs)?)
}

/// What a conversation is written with.
fn chat_template(tokenizer: &Tokenizer) -> Result<&ChatTemplate> {
    let missing = || {
        UserError(
            "the model has no chat template; give plain prompts, without --chat, or choose an instruct model"
                .to_owned(),
        )
    };
    Ok(tokenizer.chat_template().ok_or_else(missing)?)
}

fn prompt_text(args: &GenerateArgs) -> Result<String> {
    let text = args.prompt.as_ref().or(args.prompt_text.as_ref());
    match (text, &args.prompt_file, &args.model) {
        (Some(text), _, _) if text == "-" => read_stdin(),
        (Some(text), _, _) => {
            if Path::new(text).is_file() {
                let hint = "--prompt-file reads the file of that name";
                output::notes(&[format!("the prompt is the text `{text}`; {hint}")]);
            }
            Ok(text.clone())
        }
        (None, Some(path), _) => read_file(path),
        (None, None, None) => Ok(demo::PROMPT.to_owned()),
        (None, None, Some(_)) => {
            let ways =
                "after the model, with -p, --prompt-file or --token-ids, or `-` for standard input";
            Err(UserError(format!("there is no prompt; give one {ways}")).into())
        }
    }
}

/// The text of a file, `-` being standard input.
pub(crate) fn read_file(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        return read_stdin();
    }
    std::fs::read_to_string(path).map_err(|error| unreadable(path.display(), error))
}

fn read_stdin() -> Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|error| unreadable("standard input", error))?;
    Ok(text)
}
