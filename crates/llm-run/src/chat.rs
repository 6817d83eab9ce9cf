//! `llm-run chat`: talk with a model.

use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;

use anyhow::Result;
use llm_engine::{DraftLength, EndReason, Generation, Prefix, Settings, complete};
use llm_plan::Workload;
use llm_runtime::Session;
use llm_text::{Conversation, Message, Role, Tokenizer};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::cli::ChatArgs;
use crate::failure::refuse;
use crate::input::template::chat_ids;
use crate::load::Loaded;
use crate::open::OpenModel;
use crate::output::usage;
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
    let Loaded {
        mut session,
        placed,
        drafts,
        device,
        time,
    } = model.load(
        &args.load,
        context,
        n_sequences,
        n_sequences,
        Workload::default(),
        speculate,
    )?;
    signals::exit_when_terminated()?;
    eprintln!(
        "{} on {device}, loaded in {:.2} s; {context} tokens of context. /reset forgets, /exit or Ctrl-D ends.",
        args.model.display(),
        time.as_secs_f64()
    );

    let settings = &(settings, drafts);
    let mut dialogue = Dialogue::new(args.system.clone());
    let mut input = Input::open()?;
    while let Some(line) = input.line()? {
        match line.trim() {
            "" => {}
            "/exit" | "/quit" => break,
            "/reset" => dialogue = Dialogue::new(args.system.clone()),
            command if command.starts_with('/') => eprintln!("commands are /reset and /exit"),
            text => dialogue.turn(text, &mut session, tokenizer, settings)?,
        }
    }
    if args.verbose {
        eprint!("{}", usage::compare(&placed, &session));
    }
    Ok(ExitCode::SUCCESS)
}

/// Positions that a conversation gets unless told otherwise: those of the largest models would take more memory than
/// their weights.
const CONTEXT: usize = 8192;

/// Tokens of an answer unless told otherwise.
const MAX_NEW_TOKENS: usize = 1024;

struct Dialogue {
    /// The system's message, if any, then the user's and the model's in turn.
    messages: Vec<Message>,
    n_system: usize,
    prefix: Prefix,
}

impl Dialogue {
    fn new(system: Option<String>) -> Self {
        let messages: Vec<_> = system
            .map(|content| Message::new(Role::System, content))
            .into_iter()
            .collect();
        Dialogue {
            n_system: messages.len(),
            messages,
            prefix: Prefix::default(),
        }
    }

    /// Asks and prints the answer. What the user can mend is said and forgotten; the conversation goes on.
    fn turn(
        &mut self,
        text: &str,
        session: &mut Session,
        tokenizer: &Tokenizer,
        (settings, drafts): &(Settings, Option<DraftLength>),
    ) -> Result<()> {
        self.messages
            .push(Message::new(Role::User, text.to_owned()));
        let Some(ids) = self.fitting_ids(session, tokenizer, settings)? else {
            self.messages.pop();
            eprintln!(
                "this message alone does not fit the context of {} tokens",
                session.limits().context
            );
            return Ok(());
        };
        let generation = Generation::new(session.spec(), Some(tokenizer), settings.clone(), &ids);
        let generation = match generation {
            Ok(generation) => generation,
            Err(error) => {
                self.messages.pop();
                eprintln!("{error:#}");
                return Ok(());
            }
        };
        let generation = with_drafts(generation, *drafts);
        let n_shared = self.prefix.share(session, &ids, settings);
        session.interrupt().clear();
        let (completion, timings) =
            complete(session, generation, &ids[n_shared..], &mut output::print)?;
        output::print("\n")?;
        output::closing_line(
            [
                format!(
                    "prompt {}",
                    output::tokens(ids.len() - n_shared, timings.prefill)
                ),
                format!(
                    "decode {}",
                    output::tokens(completion.ids.len().saturating_sub(1), timings.decode)
                ),
                format!("context {} of {}", session.len(0), session.limits().context),
            ]
            .into_iter()
            .chain(told(&completion)),
        );
        if completion.end == EndReason::Context {
            let context = session.limits().context;
            eprintln!("{}", output::context_is_full(session.spec(), context));
        }
        session.interrupt().clear();
        self.prefix.hold(session, ids, &completion.ids);
        self.messages
            .push(Message::new(Role::Assistant, completion.text));
        Ok(())
    }

    /// The conversation's ids with room for an answer, its oldest exchanges forgotten as far as needed; nothing when
    /// even the last message alone leaves no room.
    fn fitting_ids(
        &mut self,
        session: &Session,
        tokenizer: &Tokenizer,
        settings: &Settings,
    ) -> Result<Option<Vec<u32>>> {
        let context = session.limits().context;
        let mut n_forgotten = 0;
        loop {
            let ids = chat_ids(tokenizer, &Conversation::new(self.messages.clone()))?;
            let n_new = settings.max_new_tokens(settings.begin(&ids).len());
            // A quarter of the context is enough to ask of a small one.
            let room = n_new.unwrap_or(1).min(context / 4).max(1);
            if ids.len() + room <= context {
                if n_forgotten > 0 {
                    eprintln!(
                        "(the oldest {n_forgotten} messages no longer fit the context and are forgotten)"
                    );
                }
                return Ok(Some(ids));
            }
            // A question and its answer.
            let exchange = self.n_system..self.n_system + 2;
            if exchange.end >= self.messages.len() {
                return Ok(None);
            }
            n_forgotten += self.messages.drain(exchange).len();
        }
    }
}

/// Lines from a terminal, with editing and history, or from a pipe.
enum Input {
    Terminal(Box<DefaultEditor>),
    Pipe,
}

impl Input {
    fn open() -> Result<Self> {
        Ok(if std::io::stdin().is_terminal() {
            Input::Terminal(Box::new(DefaultEditor::new()?))
        } else {
            Input::Pipe
        })
    }

    /// The next line; nothing at the end.
    fn line(&mut self) -> Result<Option<String>> {
        match self {
            Input::Terminal(editor) => match editor.readline("> ") {
                Ok(line) => {
                    editor.add_history_entry(&line)?;
                    Ok(Some(line))
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
                Err(error) => Err(error.into()),
            },
            Input::Pipe => {
                let mut line = String::new();
                let n = std::io::stdin().lock().read_line(&mut line)?;
                Ok((n > 0).then_some(line))
            }
        }
    }
}
