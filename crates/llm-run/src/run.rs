//! One answer: token by token until something ends it.

use std::time::{Duration, Instant};

use anyhow::Result;
use llm_arch::ModelSpec;
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

/// Appends `ids`, the end of the prompt, to the session's first sequence and brings the answer to its end; `print`
/// gets the text in pieces as it becomes certain.
///
/// An interrupt ends the answer; one during prefill leaves it empty.
pub(crate) fn answer(
    session: &mut Session,
    mut running: Running<'_>,
    ids: &[u32],
    print: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Answer> {
    let context = session.limits().context;
    let begin = Instant::now();
    let mut logits = session.prefill(0, ids);
    let prefill = begin.elapsed();
    let begin = Instant::now();
    let end = loop {
        let id = match logits {
            Ok(logits) => running.choose(logits),
            Err(RuntimeError::Interrupted) => break EndReason::Interrupted,
            Err(error) => return Err(error.into()),
        };
        if let Some(end) = running.push(id, context - session.len(0), print)? {
            break end;
        }
        logits = session.step(&[(0, id)]);
    };
    let decode = begin.elapsed();
    let (ids, text) = running.finish(print)?;
    Ok(Answer {
        ids,
        text,
        end,
        prefill,
        decode,
    })
}

/// An answer while it is made.
pub(crate) struct Running<'a> {
    settings: Settings,
    sampler: Sampler,
    text: Text<'a>,
    /// Every token that was chosen.
    ids: Vec<u32>,
}

impl<'a> Running<'a> {
    /// The beginning of an answer to `prompt`, which the repetition penalty counts as seen.
    ///
    /// # Errors
    /// When the prompt has a token that the model does not know.
    pub(crate) fn new(
        spec: &ModelSpec,
        tokenizer: Option<&'a Tokenizer>,
        settings: Settings,
        prompt: &[u32],
    ) -> Result<Self> {
        let vocab = spec.vocab;
        if let Some(&id) = prompt.iter().find(|&&id| id as usize >= vocab) {
            return Err(RuntimeError::IdOutOfRange { id, vocab }.into());
        }
        let mut sampler = Sampler::new(settings.sampling, settings.seed, vocab);
        // An encoder's prompt is not what the decoder repeats.
        if spec.encoder.is_none() {
            sampler.observe(prompt);
        }
        Ok(Running {
            text: Text::new(tokenizer, &settings),
            settings,
            sampler,
            ids: Vec::new(),
        })
    }

    /// Chooses the next token from its `logits` `[vocab]`.
    pub(crate) fn choose(&mut self, logits: &[f32]) -> u32 {
        self.sampler.sample(logits)
    }

    /// Takes the next token, with `room` positions left in its sequence; whether and why it is the last one.
    pub(crate) fn push(
        &mut self,
        id: u32,
        room: usize,
        print: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Option<EndReason>> {
        self.ids.push(id);
        Ok(if self.settings.eos_ids.contains(&id) {
            Some(EndReason::Eos)
        } else if self.text.push(id, print)? {
            Some(EndReason::Stop)
        } else if self.ids.len() == self.settings.max_new_tokens {
            Some(EndReason::Length)
        } else if room == 0 {
            Some(EndReason::Context)
        } else {
            None
        })
    }

    /// Tokens that were chosen so far.
    pub(crate) fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    /// Every token that was chosen, and all text, of which `print` gets the rest.
    pub(crate) fn finish(
        self,
        print: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<(Vec<u32>, String)> {
        Ok((self.ids, self.text.finish(print)?))
    }
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
