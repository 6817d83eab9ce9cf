//! `llm-run chat`: talk with a model.

mod command;
mod dialogue;
mod lines;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Error, Result};
use llm_engine::{
    DraftLength, EndReason, Generation, Prefix, Settings, Timings, complete, nth_seed,
};
use llm_plan::Workload;
use llm_runtime::{Interrupt, Session};
use llm_text::Tokenizer;

use self::command::{Command, HELP};
use self::dialogue::{Dialogue, Exchange};
use self::lines::Input;
use crate::cli::ChatArgs;
use crate::failure::{message, refuse};
use crate::input::template::chat_ids;
use crate::load::Loaded;
use crate::open::OpenModel;
use crate::output::usage;
use crate::placement::placed::Placed;
use crate::placement::request::limits;
use crate::speculate::{told, with_drafts};
use crate::{defaults, output, signals};

pub(crate) fn chat(args: &ChatArgs) -> Result<ExitCode> {
    let model = OpenModel::open(&args.model, &args.load.keys)?;
    let tokenizer = model.tokenizer()?;
    if tokenizer.chat_template().is_none() {
        let hint = "use generate, or choose an instruct model";
        return refuse(format!(
            "{} has no chat template; {hint}",
            args.model.display()
        ));
    }
    let config = model.generation()?;
    let of_model = (model.bound.spec(), Some(tokenizer));
    let settings = defaults::settings(&args.sampling, &config, of_model, MAX_NEW_TOKENS)?;
    output::notes(&config.notices);
    let n_sequences = settings.n_sequences();
    let context = args.load.context(model.bound.spec(), CONTEXT)?;
    let speculate = args.speculate.of(model.bound.spec(), &settings)?;
    let limits = limits(model.bound.spec(), context, n_sequences, n_sequences);
    let (interrupt, is_loaded) = (Interrupt::default(), Arc::new(AtomicBool::new(false)));
    let watched = (interrupt.clone(), Arc::clone(&is_loaded));
    signals::watch_each(move |signal| {
        let (interrupt, is_loaded) = &watched;
        let ends_all = signal != signals::INTERRUPT && is_loaded.load(Ordering::SeqCst);
        // An answer that was asked to end and goes on is ended with the program.
        if ends_all || interrupt.is_raised() {
            std::process::exit(signals::code_after(signal).into());
        }
        interrupt.raise();
    })?;
    let Loaded {
        session,
        placed,
        drafts,
        device,
        time,
    } = model.load_under(
        &args.load,
        limits,
        (Workload::default(), speculate),
        &interrupt,
        &mut |_| (),
    )?;
    is_loaded.store(true, Ordering::SeqCst);
    eprintln!(
        "{} on {device}, loaded in {:.2} s; {context} tokens of context. /help lists commands, /exit or Ctrl-D ends.",
        args.model.display(),
        time.as_secs_f64()
    );

    let mut talk = Talk {
        dialogue: Dialogue {
            system: args.system.clone(),
            exchanges: Vec::new(),
        },
        prefix: Prefix::default(),
        n_regenerated: 0,
        last: None,
        session,
        tokenizer,
        settings,
        drafts,
    };
    let mut input = Input::open()?;
    while let Some(text) = input.message()? {
        match Command::of(&text) {
            Some(Command::Exit) => break,
            Some(command) => talk.command(command, &placed)?,
            None if text.trim().is_empty() => {}
            None => talk.turn(text.trim())?,
        }
    }
    if args.verbose {
        eprint!("{}", usage::compare(&placed, &talk.session));
    }
    Ok(ExitCode::SUCCESS)
}

/// Positions that a conversation gets unless told otherwise: those of the largest models would take more memory than
/// their weights.
const CONTEXT: usize = 8192;

/// Tokens of an answer unless told otherwise.
const MAX_NEW_TOKENS: usize = 1024;

/// A conversation with a model.
struct Talk<'a> {
    dialogue: Dialogue,
    prefix: Prefix,
    /// Answers that were made anew since the last question.
    n_regenerated: u64,
    last: Option<Last>,
    session: Session,
    tokenizer: &'a Tokenizer,
    settings: Settings,
    drafts: Option<DraftLength>,
}

/// What the last answer took.
struct Last {
    n_computed: usize,
    n_prompt: usize,
    n_generated: usize,
    timings: Timings,
}

impl Talk<'_> {
    /// Does what a command asks for. What the user can mend is said, and the conversation goes on.
    fn command(&mut self, command: Command<'_>, placed: &Placed) -> Result<()> {
        match command {
            // The caller ends.
            Command::Exit => {}
            Command::Help => eprintln!("{HELP}"),
            Command::Unknown(name) => eprintln!("no command is {name}; /help lists them"),
            Command::Reset => {
                let system = self.dialogue.system.take();
                self.take_up(Dialogue {
                    system,
                    exchanges: Vec::new(),
                });
            }
            Command::System("") => match &self.dialogue.system {
                Some(text) => eprintln!("{text}"),
                None => eprintln!("there are no instructions; /system TEXT gives some"),
            },
            Command::System(text) => self.dialogue.system = Some(text.to_owned()),
            Command::Save("") | Command::Load("") => eprintln!("a file has to be named"),
            Command::Save(file) => match self.dialogue.save(Path::new(file)) {
                Ok(()) => eprintln!("saved {}", counted(&self.dialogue)),
                Err(error) => say(&error),
            },
            Command::Load(file) => match Dialogue::load(Path::new(file)) {
                Ok(dialogue) => {
                    eprintln!("loaded {}", counted(&dialogue));
                    self.take_up(dialogue);
                }
                Err(error) => say(&error),
            },
            Command::Stats => self.stats(placed),
            Command::Regenerate if !self.settings.draws() => eprintln!(
                "answers are not random here, and the same would come; --temperature has them be"
            ),
            Command::Regenerate => match self.dialogue.exchanges.pop() {
                None => eprintln!("there is no answer yet"),
                Some(Exchange { question, answer }) => {
                    self.n_regenerated += 1;
                    let n_before = self.dialogue.exchanges.len();
                    self.answer(&question)?;
                    if self.dialogue.exchanges.len() == n_before {
                        self.dialogue.exchanges.push(Exchange { question, answer });
                    }
                }
            },
        }
        Ok(())
    }

    fn take_up(&mut self, dialogue: Dialogue) {
        (self.dialogue, self.n_regenerated) = (dialogue, 0);
    }

    /// Asks and prints the answer. What the user can mend is said and forgotten; the conversation goes on.
    fn turn(&mut self, text: &str) -> Result<()> {
        self.n_regenerated = 0;
        self.answer(text)
    }

    fn answer(&mut self, question: &str) -> Result<()> {
        let Some(ids) = self.fitting_ids(question)? else {
            eprintln!(
                "this message alone does not fit the context of {} tokens",
                self.session.limits().context
            );
            return Ok(());
        };
        let mut settings = self.settings.clone();
        if self.n_regenerated > 0 {
            settings.seed = nth_seed(settings.seed, self.n_regenerated);
        }
        let session = &mut self.session;
        let begun = Generation::new(session.spec(), Some(self.tokenizer), settings.clone(), &ids);
        let generation = match begun {
            Ok(generation) => generation,
            Err(error) => {
                eprintln!("{error:#}");
                return Ok(());
            }
        };
        let generation = with_drafts(generation, self.drafts);
        let n_shared = self.prefix.share(session, &ids, &settings);
        session.interrupt().clear();
        let (completion, timings) =
            complete(session, generation, &ids[n_shared..], &mut output::print)?;
        output::print("\n")?;
        let last = self.last.insert(Last {
            n_computed: ids.len() - n_shared,
            n_prompt: ids.len(),
            n_generated: completion.ids.len(),
            timings,
        });
        let parts = last.parts().into_iter().chain([context_of(session)]);
        output::closing_line(parts.chain(told(&completion)));
        if completion.end == EndReason::Context {
            let context = session.limits().context;
            eprintln!("{}", output::context_is_full(session.spec(), context));
        }
        session.interrupt().clear();
        self.prefix.hold(session, ids, &completion.ids);
        self.dialogue.exchanges.push(Exchange {
            question: question.to_owned(),
            answer: completion.text,
        });
        Ok(())
    }

    /// The conversation's ids with room for an answer, its oldest exchanges forgotten as far as needed; nothing when
    /// even the question alone leaves no room.
    fn fitting_ids(&mut self, question: &str) -> Result<Option<Vec<u32>>> {
        let context = self.session.limits().context;
        let exchanges = &self.dialogue.exchanges;
        for n_forgotten in 0..=exchanges.len() {
            let shorter = Dialogue {
                system: self.dialogue.system.clone(),
                exchanges: exchanges[n_forgotten..].to_vec(),
            };
            let ids = chat_ids(self.tokenizer, &shorter.asking(question))?;
            let n_new = self
                .settings
                .max_new_tokens(self.settings.begin(&ids).len());
            // A quarter of the context is enough to ask of a small one.
            let room = n_new.unwrap_or(1).min(context / 4).max(1);
            if ids.len() + room <= context {
                if n_forgotten > 0 {
                    eprintln!(
                        "(the oldest {} messages no longer fit the context and are forgotten)",
                        2 * n_forgotten
                    );
                    self.dialogue = shorter;
                }
                return Ok(Some(ids));
            }
        }
        Ok(None)
    }

    /// Says what the conversation takes, and the model.
    fn stats(&self, placed: &Placed) {
        let said = counted(&self.dialogue);
        match &self.last {
            None => eprintln!("{said}, and no answer yet"),
            Some(last) => {
                let shared = last.n_prompt - last.n_computed;
                let shared = format!("{shared} of {} prompt tokens were there", last.n_prompt);
                let parts = [said, context_of(&self.session), shared];
                output::closing_line(parts.into_iter().chain(last.parts()));
            }
        }
        eprint!("{}", usage::compare(placed, &self.session));
    }
}

impl Last {
    /// `prompt 7 tokens at 120.1 tokens/s`, and the same of the answer.
    fn parts(&self) -> [String; 2] {
        let n_decoded = self.n_generated.saturating_sub(1);
        [
            format!(
                "prompt {}",
                output::tokens(self.n_computed, self.timings.prefill)
            ),
            format!("decode {}", output::tokens(n_decoded, self.timings.decode)),
        ]
    }
}

/// `context 34 of 512`.
fn context_of(session: &Session) -> String {
    format!("context {} of {}", session.len(0), session.limits().context)
}

/// `3 questions and answers`.
fn counted(dialogue: &Dialogue) -> String {
    match dialogue.exchanges.len() {
        1 => "1 question and its answer".to_owned(),
        n => format!("{n} questions and answers"),
    }
}

/// Says what the user can mend.
fn say(error: &Error) {
    if let Some(text) = message(error) {
        eprintln!("{text}");
    }
}
