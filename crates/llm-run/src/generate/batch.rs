//! `llm-run generate --prompts`: many prompts, several at a time, each pass over the weights serving all of them.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Error, Result, anyhow};
use llm_engine::{
    Batch, Client, Completion, EndReason, EngineError, Generation, Pace, Settings, complete,
    nth_seed,
};
use llm_plan::Workload;
use llm_runtime::{Interrupt, RuntimeError, Session};
use llm_text::Tokenizer;
use serde_json::json;

use super::prompts::{self, Prompt};
use super::settings::{open, settings};
use crate::cli::GenerateArgs;
use crate::failure::refuse;
use crate::input::lines::{Line, Lines, Patience};
use crate::input::template;
use crate::load::Loaded;
use crate::open::OpenModel;
use crate::output::words::counted;
use crate::output::{self, usage};
use crate::speculate::Speculate;

/// Continues the prompts of a file, or of standard input; prints each result as it ends.
pub(super) fn batch(args: &GenerateArgs, path: &Path) -> Result<ExitCode> {
    let model = open(args)?;
    let tokenizer = model.tokenizer().ok();
    check_chat(args, &model)?;
    let settings = settings(args, &model, tokenizer)?;
    if settings.beams.is_some() && args.batch.is_some() {
        let problem = "with --num-beams prompts are continued one after the other";
        return refuse(format!("--batch: {problem}"));
    }
    let read = |line| prompts::read(line, args, &model);
    let (prompts, needed, n_prompts) = match Lines::open(path)? {
        Lines::All(lines) => {
            let prompts: Vec<_> = lines.map(read).collect();
            let needed = prompts.iter().filter_map(|p| n_positions(p, &settings));
            let (needed, n_prompts) = (needed.max().unwrap_or(1), prompts.len());
            (Waiting::Read(prompts.into_iter()), needed, n_prompts)
        }
        lines @ Lines::Coming { .. } => (Waiting::Coming(lines, &read), CONTEXT, usize::MAX),
    };
    let context = args.load.context(model.bound.spec(), needed)?;
    let n_sequences = match settings.beams {
        Some(beams) => beams.n_beams,
        None => args.batch.map_or(BATCH, usize::from).min(n_prompts),
    };
    let Loaded {
        mut session,
        placed,
        time: load,
        ..
    } = model.load(
        &args.load,
        context,
        n_sequences,
        n_sequences,
        Workload::default(),
        Speculate::Off,
    )?;

    let begin = Instant::now();
    let mut queue = Queue {
        interrupt: session.interrupt(),
        settings: &settings,
        waiting: prompts,
        n_begun: 0,
    };
    let mut results = Results {
        tokenizer,
        ..Results::default()
    };
    let outcome = match settings.beams {
        Some(_) => search_each(&mut session, &mut queue, &mut results),
        None => share_passes(&mut session, n_sequences, &mut queue, &mut results),
    };
    output::closing_line([
        format!("loaded in {:.2} s", load.as_secs_f64()),
        results.prompts(),
        format!("read {} tokens", results.n_read),
        format!(
            "wrote {}",
            output::tokens(results.n_written, begin.elapsed())
        ),
    ]);
    if args.verbose {
        eprint!("{}", usage::compare(&placed, &session));
    }
    outcome?;
    Ok(match results.n_refused {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(2),
    })
}

/// Sequences at a time unless told otherwise.
const BATCH: usize = 8;

/// Positions of a sequence unless told otherwise, where it is not known what comes.
const CONTEXT: usize = 2048;

/// Refuses --chat where no line could mend it.
fn check_chat(args: &GenerateArgs, model: &OpenModel) -> Result<()> {
    if args.chat {
        template::chat_template(model.tokenizer()?)?;
    }
    Ok(())
}

/// Positions that a prompt and its answer take, if it can be answered.
fn n_positions(prompt: &Prompt, settings: &Settings) -> Option<usize> {
    let ids = prompt.ids.as_ref().ok()?;
    let settings = Settings {
        length: prompt.length(&settings.length),
        ..settings.clone()
    };
    let n_new = settings.max_new_tokens(settings.begin(ids).len()).ok()?;
    Some(ids.len().saturating_add(n_new))
}

/// It waits for the whole answer.
impl Client for Prompt {}

/// Prompts that were not begun yet.
enum Waiting<'a> {
    Read(std::vec::IntoIter<Prompt>),
    Coming(Lines, &'a dyn Fn(Line) -> Prompt),
}

/// Prompts in their order, each with the settings of its answer.
struct Queue<'a> {
    interrupt: Interrupt,
    /// For prompts that do not say otherwise.
    settings: &'a Settings,
    waiting: Waiting<'a>,
    /// Prompts that wait no longer.
    n_begun: u64,
}

impl Queue<'_> {
    fn next(&mut self, patience: Patience) -> Result<Option<(Prompt, Settings)>> {
        let prompt = match &mut self.waiting {
            Waiting::Read(prompts) => prompts.next(),
            Waiting::Coming(lines, read) => lines.next(patience, &self.interrupt)?.map(read),
        };
        let Some(prompt) = prompt else {
            return Ok(None);
        };
        let settings = Settings {
            seed: nth_seed(self.settings.seed, self.n_begun),
            length: prompt.length(&self.settings.length),
            ..self.settings.clone()
        };
        self.n_begun += 1;
        Ok(Some((prompt, settings)))
    }
}

/// Brings all prompts to their ends side by side; waits for one only if there is nothing else to do.
fn share_passes(
    session: &mut Session,
    n_sequences: usize,
    queue: &mut Queue<'_>,
    results: &mut Results<'_>,
) -> Result<()> {
    let mut batch = Batch::new(session, n_sequences, Pace::Whole);
    loop {
        while batch.has_room() {
            let patience = match batch.is_empty() {
                true => Patience::Wait,
                false => Patience::Ask,
            };
            let Some((prompt, settings)) = queue.next(patience)? else {
                break;
            };
            let ended = match generation(batch.session(), results.tokenizer, &prompt, settings) {
                Ok(generation) => batch
                    .add(prompt, generation)?
                    .map(|(prompt, outcome)| (prompt, outcome.map_err(Error::from))),
                Err(error) => Some((prompt, Err(error))),
            };
            if let Some((prompt, outcome)) = ended {
                results.print(&prompt, outcome)?;
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        for (prompt, outcome) in batch.advance()? {
            results.print(&prompt, outcome.map_err(Error::from))?;
        }
    }
}

/// Brings one prompt after the other to its end, each with all sequences.
fn search_each(
    session: &mut Session,
    queue: &mut Queue<'_>,
    results: &mut Results<'_>,
) -> Result<()> {
    while let Some((prompt, settings)) = queue.next(Patience::Wait)? {
        let outcome = match generation(session, results.tokenizer, &prompt, settings) {
            Ok(generation) => {
                session.truncate(0, 0);
                let ids = generation.prompt().to_vec();
                let print = &mut |_: &str| Ok::<(), EngineError>(());
                let outcome = complete(session, generation, &ids, print);
                EngineError::of_prompt(outcome)?.map_err(Error::from)
            }
            Err(error) => Err(error),
        };
        let outcome = outcome.map(|(completion, _)| completion);
        if matches!(&outcome, Ok(completion) if completion.end == EndReason::Interrupted) {
            return Err(RuntimeError::Interrupted.into());
        }
        results.print(&prompt, outcome)?;
    }
    Ok(())
}

/// The beginning of a prompt's answer.
///
/// # Errors
/// When it has none.
fn generation<'a>(
    session: &Session,
    tokenizer: Option<&'a Tokenizer>,
    prompt: &Prompt,
    settings: Settings,
) -> Result<Generation<'a>> {
    let ids = prompt.ids.as_ref().map_err(|flaw| anyhow!("{flaw}"))?;
    session.check_prompt(ids)?;
    Ok(Generation::new(session.spec(), tokenizer, settings, ids)?)
}

/// Results that were printed.
#[derive(Default)]
struct Results<'a> {
    tokenizer: Option<&'a Tokenizer>,
    n_answered: usize,
    n_refused: usize,
    /// Tokens of prompts that were answered.
    n_read: usize,
    /// Tokens that were chosen.
    n_written: usize,
}

impl Results<'_> {
    fn print(&mut self, prompt: &Prompt, outcome: Result<Completion>) -> Result<()> {
        let mut line = json!({"line": prompt.line});
        if let Some(id) = &prompt.id {
            line["id"] = id.clone();
        }
        match outcome {
            Ok(completion) => {
                self.n_answered += 1;
                self.n_read += completion.n_prompt_tokens;
                self.n_written += completion.ids.len();
                line["n_prompt_tokens"] = completion.n_prompt_tokens.into();
                line["generated_ids"] = completion.ids.into();
                // Null where there is no tokenizer.
                line["text"] = self.tokenizer.map(|_| completion.text).into();
                line["end"] = json!(completion.end);
                // With it, `--seed` repeats this answer alone.
                if let Some(seed) = completion.seed {
                    line["seed"] = seed.into();
                }
            }
            Err(error) => {
                self.n_refused += 1;
                line["error"] = format!("{error:#}").into();
            }
        }
        output::print(&output::json(&line)?)
    }

    /// `7 prompts`, `7 prompts and 2 errors`.
    fn prompts(&self) -> String {
        let answered = counted(self.n_answered, "prompt");
        match self.n_refused {
            0 => answered,
            n => format!("{answered} and {}", counted(n, "error")),
        }
    }
}
