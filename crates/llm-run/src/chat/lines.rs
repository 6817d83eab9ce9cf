//! Lines that are typed.

use std::io::{BufRead, IsTerminal};

use anyhow::Result;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

/// Lines from a terminal, with editing and history, or from a pipe.
pub(super) enum Input {
    Terminal(Box<DefaultEditor>),
    Pipe,
}

/// What was typed.
enum Typed {
    Line(String),
    /// Ctrl-C: what was typed so far is not meant.
    Dropped,
    End,
}

impl Input {
    pub(super) fn open() -> Result<Self> {
        Ok(if std::io::stdin().is_terminal() {
            Input::Terminal(Box::new(DefaultEditor::new()?))
        } else {
            Input::Pipe
        })
    }

    /// The next message, which may have several lines; nothing at the end.
    pub(super) fn message(&mut self) -> Result<Option<String>> {
        let mut has_dropped = false;
        loop {
            match self.lines()? {
                Typed::Line(text) => {
                    if let Input::Terminal(editor) = self {
                        editor.add_history_entry(&text)?;
                    }
                    return Ok(Some(text));
                }
                Typed::End => return Ok(None),
                Typed::Dropped if has_dropped => return Ok(None),
                Typed::Dropped => eprintln!("(Ctrl-D ends, and so does Ctrl-C once more)"),
            }
            has_dropped = true;
        }
    }

    /// A line with those that it goes on in.
    fn lines(&mut self) -> Result<Typed> {
        let first = match self.line("> ")? {
            Typed::Line(line) => line,
            other @ (Typed::Dropped | Typed::End) => return Ok(other),
        };
        let first = first.trim_end_matches(['\n', '\r']);
        if let Some(rest) = first.trim_start().strip_prefix(FENCE) {
            return self.up_to_fence(rest);
        }
        let mut text = first.to_owned();
        while let Some(begun) = text.strip_suffix('\\') {
            text = format!("{begun}\n");
            match self.line(". ")? {
                Typed::Line(line) => text += line.trim_end_matches(['\n', '\r']),
                Typed::End => break,
                Typed::Dropped => return Ok(Typed::Dropped),
            }
        }
        Ok(Typed::Line(text))
    }

    /// Lines up to one that ends with a fence.
    fn up_to_fence(&mut self, first: &str) -> Result<Typed> {
        let mut text = first.to_owned();
        loop {
            if let Some(whole) = text.trim_end().strip_suffix(FENCE) {
                return Ok(Typed::Line(whole.trim_matches('\n').to_owned()));
            }
            match self.line(". ")? {
                Typed::Line(line) => text += &format!("\n{}", line.trim_end_matches(['\n', '\r'])),
                Typed::End => return Ok(Typed::Line(text.trim_matches('\n').to_owned())),
                Typed::Dropped => return Ok(Typed::Dropped),
            }
        }
    }

    fn line(&mut self, prompt: &str) -> Result<Typed> {
        match self {
            Input::Terminal(editor) => match editor.readline(prompt) {
                Ok(line) => Ok(Typed::Line(line)),
                Err(ReadlineError::Eof) => Ok(Typed::End),
                Err(ReadlineError::Interrupted) => Ok(Typed::Dropped),
                Err(error) => Err(error.into()),
            },
            Input::Pipe => {
                let mut line = String::new();
                let n = std::io::stdin().lock().read_line(&mut line)?;
                Ok(if n > 0 { Typed::Line(line) } else { Typed::End })
            }
        }
    }
}

/// Beginning and end of a message of several lines.
const FENCE: &str = "\"\"\"";
