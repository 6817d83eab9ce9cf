//! `llm-run chat`: talk with a model.

use std::io::{BufRead, IsTerminal};
use std::process::ExitCode;

use anyhow::Result;
use llm_runtime::Session;
use llm_text::{Message, Role, Tokenizer};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::cli::ChatArgs;
use crate::defaults::Settings;
use crate::failure::UserError;
use crate::generate::{chat_ids, stop_on_ctrl_c};
use crate::model::{Loaded, OpenModel};
use crate::run::{Running, answer};
use crate::{output, plan};

pub(crate) fn chat(args: &ChatArgs) -> Result<ExitCode> {
    let model = OpenModel::open(&args.model, &args.load.keys)?;
    let tokenizer = model.tokenizer()?;
    if tokenizer.chat_template().is_none() {
        let hint = "use generate, or choose an instruct model";
        return Err(UserError(format!(
            "{} has no chat template; {hint}",
            args.model.display()
        ))
        .into());
    }
    let settings = Settings::new(
        &args.sampling,
        &model.generation,
        tokenizer.eos_ids(),
        MAX_NEW_TOKENS,
    );
    let context = args.load.context(model.bound.spec(), CONTEXT)?;
    let Loaded {
        mut session,
        plan,
        device,
        time,
    } = model.load(&args.load, context, 1, 1)?;
    stop_on_ctrl_c(&session)?;
    eprintln!(
        "{} on {device}, loaded in {:.2} s; {context} tokens of context. /reset forgets, /exit or Ctrl-D ends.",
        args.model.display(),
        time.as_secs_f64()
    );

    let mut conversation = Conversation::new(args.system.clone());
    let mut input = Input::open()?;
    while let Some(line) = input.line()? {
        match line.trim() {
            "" => {}
            "/exit" | "/quit" => break,
            "/reset" => conversation = Conversation::new(args.system.clone()),
            command if command.starts_with('/') => eprintln!("commands are /reset and /exit"),
            text => conversation.turn(text, &mut session, tokenizer, &settings)?,
        }
    }
    if args.verbose {
        eprint!("{}", plan::compare(&plan, &session));
    }
    Ok(ExitCode::SUCCESS)
}

/// Positions that a conversation gets unless told otherwise: those of the largest models would take more memory than
/// their weights.
const CONTEXT: usize = 8192;

/// Tokens of an answer unless told otherwise.
const MAX_NEW_TOKENS: usize = 1024;

struct Conversation {
    /// The system's message, if any, then the user's and the model's in turn.
    messages: Vec<Message>,
    n_system: usize,
    /// The tokens that the session holds.
    held: Vec<u32>,
}

impl Conversation {
    fn new(system: Option<String>) -> Self {
        let messages: Vec<_> = system
            .map(|content| Message {
                role: Role::System,
                content,
            })
            .into_iter()
            .collect();
        Conversation {
            n_system: messages.len(),
            messages,
            held: Vec::new(),
        }
    }

    /// Asks and prints the answer. What the user can mend is said and forgotten; the conversation goes on.
    fn turn(
        &mut self,
        text: &str,
        session: &mut Session,
        tokenizer: &Tokenizer,
        settings: &Settings,
    ) -> Result<()> {
        self.messages.push(Message {
            role: Role::User,
            content: text.to_owned(),
        });
        let Some(ids) = self.fitting_ids(session, tokenizer, settings)? else {
            self.messages.pop();
            eprintln!(
                "this message alone does not fit the context of {} tokens",
                session.limits().context
            );
            return Ok(());
        };
        // What both the session and the conversation begin with need not be computed again; one token has to be.
        let common = self
            .held
            .iter()
            .zip(&ids)
            .take_while(|(a, b)| a == b)
            .count()
            .min(ids.len() - 1);
        let fed = session.truncate(0, common.min(session.len(0)));
        let running = Running::new(session.spec(), Some(tokenizer), settings.clone(), &ids)?;
        session.interrupt().clear();
        let answer = answer(session, running, &ids[fed..], &mut output::print)?;
        output::print("\n")?;
        output::closing_line([
            format!("prompt {}", output::tokens(ids.len() - fed, answer.prefill)),
            format!(
                "decode {}",
                output::tokens(answer.ids.len().saturating_sub(1), answer.decode)
            ),
            format!("context {} of {}", session.len(0), session.limits().context),
        ]);
        session.interrupt().clear();
        self.held = ids;
        self.held.extend(&answer.ids);
        self.held.truncate(session.len(0));
        self.messages.push(Message {
            role: Role::Assistant,
            content: answer.text,
        });
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
        // A quarter of the context is enough to ask of a small one.
        let room = settings.max_new_tokens.min(context / 4).max(1);
        let mut n_forgotten = 0;
        loop {
            let ids = chat_ids(tokenizer, &self.messages)?;
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
