//! One answer: token by token until something ends it.

use std::time::{Duration, Instant};

use anyhow::Result;
use llm_arch::ModelSpec;
use llm_runtime::{RuntimeError, Sampler, Session};
use llm_text::{StopOutcome, StopStrings, StreamingDetokenizer, TextError, Tokenizer};
use serde::Serialize;

use crate::defaults::Settings;

mod beams;

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
    /// The time that the model's configuration allows.
    Time,
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
    if running.settings.beams.is_some() {
        return beams::answer(session, running, ids, print);
    }
    let context = session.limits().context;
    let begin = Instant::now();
    let mut logits = prefill(session, &running.settings, ids);
    let prefill = begin.elapsed();
    let begin = Instant::now();
    let end = loop {
        let id = match logits {
            Ok(logits) => running.choose(logits)?,
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

/// Appends the end of the prompt to the first sequence, or lets the encoder read all of it; the logits of what follows.
fn prefill<'s>(
    session: &'s mut Session,
    settings: &Settings,
    ids: &[u32],
) -> llm_runtime::Result<&'s [f32]> {
    match settings.start_token {
        Some(start_token) => {
            session.encode(0, ids)?;
            session.step(&[(0, start_token)])
        }
        None => session.prefill(0, ids),
    }
}

/// An answer while it is made.
pub(crate) struct Running<'a> {
    settings: Settings,
    /// What it answers.
    prompt: Vec<u32>,
    /// Tokens to generate at most.
    max_new_tokens: usize,
    begin: Instant,
    sampler: Sampler,
    text: Text<'a>,
    /// Every token that was chosen.
    ids: Vec<u32>,
}

impl<'a> Running<'a> {
    /// The beginning of an answer to `prompt`.
    ///
    /// # Errors
    /// When the prompt has a token that the model does not know, or is as long as it and the answer may be together.
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
        let begin = settings.begin(prompt);
        let max_new_tokens = settings.max_new_tokens(begin.len())?;
        let rules = settings
            .rules
            .up_to(begin.len().saturating_add(max_new_tokens));
        let sampler = Sampler::new(settings.sampling, settings.seed, vocab);
        Ok(Running {
            text: Text::new(tokenizer, &settings),
            sampler: sampler.under(rules, prompt, begin),
            settings,
            prompt: prompt.to_vec(),
            max_new_tokens,
            begin: Instant::now(),
            ids: Vec::new(),
        })
    }

    /// Chooses the next token from its `logits` `[vocab]`.
    ///
    /// # Errors
    /// When none may follow.
    pub(crate) fn choose(&mut self, logits: &[f32]) -> Result<u32> {
        Ok(self.sampler.sample(logits)?)
    }

    /// Takes the next token, with `room` positions left in its sequence; whether and why it is the last one.
    pub(crate) fn push(
        &mut self,
        id: u32,
        room: usize,
        print: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Option<EndReason>> {
        self.ids.push(id);
        Ok(if self.settings.rules.eos_ids.contains(&id) {
            Some(EndReason::Eos)
        } else if self.text.push(id, print)? {
            Some(EndReason::Stop)
        } else if self.ids.len() == self.max_new_tokens {
            Some(EndReason::Length)
        } else if room == 0 {
            Some(EndReason::Context)
        } else if self.is_late() {
            Some(EndReason::Time)
        } else {
            None
        })
    }

    /// Whether the answer takes more time than it may.
    fn is_late(&self) -> bool {
        let max_time = self.settings.max_time;
        max_time.is_some_and(|max_time| self.begin.elapsed() > max_time)
    }

    /// Where its choices are random.
    pub(crate) fn seed(&self) -> Option<u64> {
        self.settings.draws().then_some(self.settings.seed)
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
    tokenizer: Option<&'t Tokenizer>,
    stop: Vec<String>,
    detokenizer: Option<StreamingDetokenizer<'t>>,
    stops: StopStrings,
    all: String,
}

impl<'t> Text<'t> {
    fn new(tokenizer: Option<&'t Tokenizer>, settings: &Settings) -> Self {
        Text {
            tokenizer,
            stop: settings.stop.clone(),
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

    /// Whether the text of `ids`, which begin an answer, has a stop string that the last of them completes.
    fn is_stopped(&self, ids: &[u32]) -> bool {
        let Some(tokenizer) = self.tokenizer.filter(|_| !self.stop.is_empty()) else {
            return false;
        };
        let mut detokenizer = tokenizer.detokenizer();
        let mut stops = StopStrings::new(self.stop.clone());
        ids.iter().any(|&id| {
            let piece = detokenizer.push(id).unwrap_or_default();
            matches!(stops.push(&piece), StopOutcome::Stop(_))
        })
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
