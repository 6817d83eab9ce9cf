//! One generation: token by token until something ends it.

use std::time::{Duration, Instant};

use llm_arch::ModelSpec;
use llm_runtime::{Rules, RuntimeError, Sampler, Session};
use llm_text::Tokenizer;
use serde::Serialize;

use crate::draft::{DraftCounts, Drafts};
use crate::settings::Settings;
use crate::text::StoppingText;
use crate::{EngineError, Result};

/// Reason why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
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

impl EndReason {
    /// All of them, in their order.
    pub const ALL: [EndReason; 6] = [
        EndReason::Eos,
        EndReason::Stop,
        EndReason::Length,
        EndReason::Context,
        EndReason::Time,
        EndReason::Interrupted,
    ];
}

/// Tokens and text of a generation that has ended.
#[derive(Debug)]
pub struct Completion {
    /// Tokens of the prompt.
    pub n_prompt_tokens: usize,
    /// Every token that was chosen, one that ended the text included.
    pub ids: Vec<u32>,
    /// Tokens of the prompt that were not computed again, since a sequence held them already.
    pub n_shared: usize,
    /// All text that was handed out.
    pub text: String,
    /// The last of it, which became certain with the end.
    pub rest: String,
    /// Reason of its end.
    pub end: EndReason,
    /// The seed, where choices are random.
    pub seed: Option<u64>,
    /// What became of drafts, where there were to be some.
    pub drafts: Option<DraftCounts>,
}

/// Time that a completion took.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// Reading the prompt.
    pub prefill: Duration,
    /// Writing the answer.
    pub decode: Duration,
}

/// Generation in progress: the answer to one prompt.
pub struct Generation<'a> {
    settings: Settings,
    /// Tokens that it answers.
    prompt: Vec<u32>,
    /// Tokens to generate at most.
    max_new_tokens: usize,
    /// Tokens of the prompt that are not computed again.
    n_shared: usize,
    begin: Instant,
    sampler: Sampler,
    text: StoppingText<'a>,
    /// Every token that was chosen.
    ids: Vec<u32>,
    drafts: Option<Drafts>,
}

/// Result of a pass for a sequence.
#[derive(Clone, Copy)]
pub(crate) enum After<'l> {
    /// `[vocab]`.
    Logits(&'l [f32]),
    /// The most probable token.
    Id(u32),
}

impl<'a> Generation<'a> {
    /// The beginning of an answer to `prompt`.
    ///
    /// # Errors
    /// When the prompt has a token that the model does not know, a stop string is empty, or the prompt is as long as it and the answer may be together.
    pub fn new(
        spec: &ModelSpec,
        tokenizer: Option<&'a Tokenizer>,
        settings: Settings,
        prompt: &[u32],
    ) -> Result<Self> {
        let vocab = spec.vocab;
        if let Some(&id) = prompt.iter().find(|&&id| id as usize >= vocab) {
            return Err(RuntimeError::IdOutOfRange { id, vocab }.into());
        }
        if settings.stop.iter().any(String::is_empty) {
            return Err(EngineError::EmptyStop);
        }
        if settings.constraint.is_some() && settings.beams.is_some() {
            let problem = "a search with beams is held to no grammar".to_owned();
            return Err(EngineError::Grammar { problem });
        }
        let begin = settings.begin(prompt);
        let max_new_tokens = settings.max_new_tokens(begin.len())?;
        let rules = settings
            .rules
            .up_to(begin.len().saturating_add(max_new_tokens));
        let sampler = Sampler::new(settings.sampling, settings.seed, vocab);
        Ok(Generation {
            text: StoppingText::new(tokenizer, &settings),
            sampler: sampler.under(rules, prompt, begin),
            settings,
            prompt: prompt.to_vec(),
            max_new_tokens,
            n_shared: 0,
            begin: Instant::now(),
            ids: Vec::new(),
            drafts: None,
        })
    }

    /// The same with drafts, which are of use to [`complete`](crate::complete) alone: the answer is the same, in fewer passes.
    pub fn with_drafts(self, drafts: Drafts) -> Self {
        Generation {
            drafts: Some(drafts),
            ..self
        }
    }

    /// Takes the drafts out.
    pub(crate) fn take_drafts(&mut self) -> Option<Drafts> {
        self.drafts.take()
    }

    /// Drafts what may follow on the tokens that were chosen, the last of which is yet to be fed to the first sequence; the number of
    /// drafts.
    pub(crate) fn draft(&self, session: &Session, drafts: &mut Drafts) -> usize {
        // The last token needs no pass after it.
        let n_left = self.max_new_tokens.saturating_sub(self.ids.len() + 1);
        drafts.draft(&self.prompt, &self.ids, session.draft_room(0).min(n_left))
    }

    /// Appends `ids`, the end of the prompt, to the first sequence, or has the encoder read all of it; chooses the next token.
    pub(crate) fn first(&mut self, session: &mut Session, ids: &[u32]) -> Result<u32> {
        if !self.is_greedy() {
            let logits = self.prefill(session, ids)?;
            return self.choose(After::Logits(logits));
        }
        let id = match self.settings.start_token {
            Some(start_token) => {
                session.encode(0, ids)?;
                session.greedy(0, &[start_token])?
            }
            None => session.greedy(0, ids)?,
        };
        Ok(id)
    }

    /// Appends a token to the first sequence, and chooses the next.
    pub(crate) fn next(&mut self, session: &mut Session, id: u32) -> Result<u32> {
        match self.is_greedy() {
            true => Ok(session.greedy(0, &[id])?),
            false => self.choose(After::Logits(session.step(&[(0, id)])?)),
        }
    }

    /// True where tokens are chosen without a look at logits.
    pub(crate) fn is_greedy(&self) -> bool {
        let needs_logits = self.settings.logprobs.is_some() || self.settings.constraint.is_some();
        self.sampler.is_greedy() && !needs_logits
    }

    /// Takes note that the first `n` tokens of the prompt are not computed again.
    pub(crate) fn share(&mut self, n: usize) {
        self.n_shared = n;
    }

    /// Appends `ids`, the end of the prompt, to the first sequence, or has the encoder read all of it; the logits of the
    /// next token.
    pub(crate) fn prefill<'s>(
        &self,
        session: &'s mut Session,
        ids: &[u32],
    ) -> llm_runtime::Result<&'s [f32]> {
        match self.settings.start_token {
            Some(start_token) => {
                session.encode(0, ids)?;
                session.step(&[(0, start_token)])
            }
            None => session.prefill(0, ids),
        }
    }

    /// Chooses the next token.
    ///
    /// # Errors
    /// When none may follow, or the grammar is too much for its machinery.
    pub(crate) fn choose(&mut self, after: After<'_>) -> Result<u32> {
        let logits = match after {
            After::Logits(logits) => logits,
            After::Id(id) => return Ok(id),
        };
        let Some(constraint) = &mut self.settings.constraint else {
            return Ok(self.sampler.sample(logits)?);
        };
        let id = self.sampler.sample(constraint.allowed(logits)?)?;
        constraint.take(id)?;
        Ok(id)
    }

    /// Takes the next token, with `room` positions left in its sequence; the text that is certain now, and the reason to end
    /// with it, if there is one.
    pub(crate) fn push(&mut self, id: u32, room: usize) -> Result<(String, Option<EndReason>)> {
        self.ids.push(id);
        let (piece, is_stop) = match self.settings.rules.eos_ids.contains(&id) {
            // Whose text is not the answer's.
            true => return Ok((String::new(), Some(EndReason::Eos))),
            false => self.text.push(id)?,
        };
        let end = if is_stop {
            Some(EndReason::Stop)
        } else if self.ids.len() == self.max_new_tokens {
            Some(EndReason::Length)
        } else if room == 0 {
            Some(EndReason::Context)
        } else if self.is_late() {
            Some(EndReason::Time)
        } else {
            None
        };
        Ok((piece, end))
    }

    /// The same, printing the text; the reason to end.
    pub(crate) fn take<E: From<EngineError>>(
        &mut self,
        id: u32,
        room: usize,
        print: &mut dyn FnMut(&str) -> std::result::Result<(), E>,
    ) -> std::result::Result<Option<EndReason>, E> {
        let (piece, end) = self.push(id, room)?;
        print_piece(&piece, print)?;
        Ok(end)
    }

    /// True where the answer takes more time than it may.
    fn is_late(&self) -> bool {
        let max_time = self.settings.max_time;
        max_time.is_some_and(|max_time| self.begin.elapsed() > max_time)
    }

    /// Tokens of the prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Tokens that were chosen so far.
    pub(crate) fn n_tokens(&self) -> usize {
        self.ids.len()
    }

    /// Rules of the choices, for texts of up to `longest` tokens.
    pub(crate) fn rules(&self, longest: usize) -> Rules {
        let n_begin = self.settings.begin(&self.prompt).len();
        let max_length = n_begin.saturating_add(self.max_new_tokens);
        self.settings.rules.up_to(max_length.min(longest))
    }

    /// True where `ids`, which begin an answer, are its end: by a stop string that the last of them completes, or since
    /// no time is left.
    pub(crate) fn is_ended(&self, ids: &[u32]) -> bool {
        self.is_late() || self.text.is_stopped(ids)
    }

    /// The completion, which ended for the reason `end`.
    pub(crate) fn finish(self, end: EndReason) -> Result<Completion> {
        let (text, rest) = self.text.finish()?;
        Ok(Completion {
            n_prompt_tokens: self.prompt.len(),
            seed: self.settings.draws().then_some(self.settings.seed),
            ids: self.ids,
            n_shared: self.n_shared,
            text,
            rest,
            end,
            drafts: None,
        })
    }
}

/// Prints text, if there is some.
pub(crate) fn print_piece<E>(
    piece: &str,
    print: &mut dyn FnMut(&str) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    match piece {
        "" => Ok(()),
        piece => print(piece),
    }
}
