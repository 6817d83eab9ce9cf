//! One answer: prefill, then token by token until something ends it.

use std::time::{Duration, Instant};

use anyhow::Result;
use llm_runtime::{RuntimeError, Sampler, Session};
use llm_text::{StopOutcome, StopStrings, StreamingDetokenizer, TextError, Tokenizer};
use serde::Serialize;

use crate::defaults::Settings;

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EndReason {
    /// The model's end-of-text token.
    Eos,
    /// A stop string.
    Stop,
    /// As many tokens as asked for.
    Length,
    /// The context is full.
    Context,
    /// The user's interrupt.
    Interrupted,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Every token that was chosen, one that ended the text included.
    pub(crate) ids: Vec<u32>,
    /// All text that was handed out.
    pub(crate) text: String,
    pub(crate) end: EndReason,
    pub(crate) prefill: Duration,
    pub(crate) decode: Duration,
}

/// Appends `ids` to the session's sequence and answers; `print` gets the text in pieces as it becomes certain.
///
/// An interrupt ends the answer; one during prefill leaves it empty.
pub(crate) fn answer(
    session: &mut Session,
    tokenizer: Option<&Tokenizer>,
    settings: &Settings,
    sampler: &mut Sampler,
    ids: &[u32],
    print: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Answer> {
    let mut text = Text::new(tokenizer, settings);
    let mut generated = Vec::new();
    let begin = Instant::now();
    let mut next = match session.prefill(0, ids) {
        Ok(logits) => Some(sampler.sample(logits)),
        Err(RuntimeError::Interrupted) => None,
        Err(error) => return Err(error.into()),
    };
    let prefill = begin.elapsed();
    let begin = Instant::now();
    let end = loop {
        let Some(id) = next else {
            break EndReason::Interrupted;
        };
        generated.push(id);
        if settings.eos_ids.contains(&id) {
            break EndReason::Eos;
        }
        if text.push(id, print)? {
            break EndReason::Stop;
        }
        if generated.len() == settings.max_new_tokens {
            break EndReason::Length;
        }
        if session.len(0) == session.limits().context {
            break EndReason::Context;
        }
        next = match session.step(&[(0, id)]) {
            Ok(logits) => Some(sampler.sample(logits)),
            Err(RuntimeError::Interrupted) => None,
            Err(error) => return Err(error.into()),
        };
    };
    let decode = begin.elapsed();
    let text = text.finish(print)?;
    Ok(Answer {
        ids: generated,
        text,
        end,
        prefill,
        decode,
    })
}

/// Text as it becomes certain: whole characters, no beginnings of stop strings.
struct Text<'t> {
    detokenizer: Option<StreamingDetokenizer<'t>>,
    stops: StopStrings,
    all: String,
}

impl<'t> Text<'t> {
    fn new(tokenizer: Option<&'t Tokenizer>, settings: &Settings) -> Self {
        Text {
            detokenizer: tokenizer.map(Tokenizer::detokenizer),
            stops: StopStrings::new(settings.stop.clone()),
            all: String::new(),
        }
    }

    /// Takes a token; whether a stop string was met.
    fn push(&mut self, id: u32, print: &mut dyn FnMut(&str) -> Result<()>) -> Result<bool> {
        let Some(detokenizer) = &mut self.detokenizer else {
            return Ok(false);
        };
        let piece = match detokenizer.push(id) {
            // A vocabulary that was padded to a round number has entries beyond the tokenizer's: they have no text.
            Err(TextError::UnknownId { .. }) => String::new(),
            piece => piece?,
        };
        let (piece, is_stop) = match self.stops.push(&piece) {
            StopOutcome::Continue(piece) => (piece, false),
            StopOutcome::Stop(piece) => (piece, true),
        };
        self.emit(&piece, print)?;
        Ok(is_stop)
    }

    fn finish(mut self, print: &mut dyn FnMut(&str) -> Result<()>) -> Result<String> {
        if let Some(detokenizer) = self.detokenizer.take() {
            let rest = detokenizer.finish()?;
            let stops = std::mem::replace(&mut self.stops, StopStrings::new(Vec::new()));
            let rest = finish_stops(stops, &rest);
            self.emit(&rest, print)?;
        }
        Ok(self.all)
    }

    fn emit(&mut self, piece: &str, print: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        self.all.push_str(piece);
        if piece.is_empty() {
            Ok(())
        } else {
            print(piece)
        }
    }
}

/// The last text: what was held back, unless the rest completes a stop string or one was met before.
fn finish_stops(mut stops: StopStrings, rest: &str) -> String {
    match stops.push(rest) {
        StopOutcome::Continue(piece) => piece + &stops.finish(),
        StopOutcome::Stop(piece) => piece,
    }
}
