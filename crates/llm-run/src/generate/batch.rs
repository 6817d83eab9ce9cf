//! `llm-run generate --prompts`: many prompts, several at a time, each pass over the weights serving all of them.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use llm_runtime::{RuntimeError, Session};
use llm_text::Tokenizer;
use serde::Serialize;
use serde_json::Value;

use super::prompts::{self, Prompt};
use super::{open, settings, stop_on_ctrl_c};
use crate::cli::GenerateArgs;
use crate::defaults::Settings;
use crate::model::Loaded;
use crate::run::{EndReason, Running};
use crate::{output, plan};

/// Continues the prompts of a file; prints each result as it ends.
pub(super) fn batch(args: &GenerateArgs, path: &Path) -> Result<ExitCode> {
    let model = open(args)?;
    let prompts = prompts::read(path, args, &model)?;
    let tokenizer = model.tokenizer().ok();
    let settings = settings(args, &model, tokenizer);
    let needed = |prompt: &Prompt| {
        let n_new = prompt.max_new_tokens(settings.max_new_tokens);
        Some(prompt.ids.as_ref().ok()?.len().saturating_add(n_new))
    };
    let longest = prompts.iter().filter_map(needed).max().unwrap_or(1);
    let context = args.load.context(model.bound.spec(), longest)?;
    let n_sequences = args.batch.map_or(BATCH, usize::from).min(prompts.len());
    let Loaded {
        mut session,
        plan,
        time: load,
        ..
    } = model.load(&args.load, context, n_sequences, 1)?;
    stop_on_ctrl_c(&session)?;

    let begin = Instant::now();
    let mut batch = Batch {
        session: &mut session,
        tokenizer,
        settings: &settings,
        waiting: prompts.iter().enumerate(),
        free: (0..n_sequences).collect(),
        active: Vec::new(),
        tally: Tally::default(),
    };
    let outcome = batch.run();
    let tally = batch.tally;
    output::closing_line([
        format!("loaded in {:.2} s", load.as_secs_f64()),
        tally.prompts(),
        format!("read {} tokens", tally.n_read),
        format!("wrote {}", output::tokens(tally.n_written, begin.elapsed())),
    ]);
    if args.verbose {
        eprint!("{}", plan::compare(&plan, &session));
    }
    outcome?;
    Ok(match tally.n_refused {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(2),
    })
}

/// Sequences at a time unless told otherwise.
const BATCH: usize = 8;

/// Prompts on their way through a session.
struct Batch<'a> {
    session: &'a mut Session,
    tokenizer: Option<&'a Tokenizer>,
    /// For prompts that do not say otherwise.
    settings: &'a Settings,
    waiting: std::iter::Enumerate<std::slice::Iter<'a, Prompt>>,
    /// Sequences that nobody has.
    free: Vec<usize>,
    /// In the order in which they began. None is fed before those ahead of it are, so the first ones decode while the
    /// last ones still read their prompts.
    active: Vec<Active<'a>>,
    tally: Tally,
}

/// A prompt that has a sequence.
struct Active<'a> {
    prompt: &'a Prompt,
    sequence: usize,
    /// Where its choices are random.
    seed: Option<u64>,
    answer: Running<'a>,
    n_prompt_tokens: usize,
    /// Tokens that are not in the sequence yet: what is left of the prompt, later the one that was chosen last.
    pending: Vec<u32>,
    /// Positions that the sequence has left.
    room: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    n_answered: usize,
    n_refused: usize,
    /// Tokens of prompts that were answered.
    n_read: usize,
    /// Tokens that were chosen.
    n_written: usize,
}

/// What is printed of a prompt.
#[derive(Serialize)]
struct Line<'a> {
    line: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Value>,
    #[serde(flatten)]
    outcome: Outcome<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Outcome<'a> {
    Answer {
        n_prompt_tokens: usize,
        generated_ids: &'a [u32],
        /// Null where there is no tokenizer.
        text: Option<&'a str>,
        end: EndReason,
        /// With it, `--seed` repeats this answer alone.
        #[serde(skip_serializing_if = "Option::is_none")]
        seed: Option<u64>,
    },
    Refusal {
        error: &'a str,
    },
}

impl<'a> Batch<'a> {
    /// Brings all prompts to their ends.
    fn run(&mut self) -> Result<()> {
        loop {
            self.begin_waiting()?;
            if self.active.is_empty() {
                return Ok(());
            }
            self.advance()?;
        }
    }

    /// Gives free sequences to the prompts that wait.
    fn begin_waiting(&mut self) -> Result<()> {
        while let Some(&sequence) = self.free.last() {
            let Some((index, prompt)) = self.waiting.next() else {
                break;
            };
            match self.usable_ids(prompt) {
                Ok(ids) => match self.begin(sequence, index, prompt, ids) {
                    Ok(()) => {
                        self.free.pop();
                    }
                    Err(error) if is_of_one(&error) => self.refuse(prompt, &error.to_string())?,
                    Err(error) => return Err(error),
                },
                Err(error) => self.refuse(prompt, &error)?,
            }
        }
        Ok(())
    }

    fn refuse(&mut self, prompt: &Prompt, error: &str) -> Result<()> {
        self.tally.n_refused += 1;
        print_line(prompt, Outcome::Refusal { error })
    }

    fn usable_ids(&self, prompt: &'a Prompt) -> Result<&'a [u32], String> {
        let ids = prompt.ids.as_ref().map_err(String::clone)?;
        self.session
            .check_prompt(ids)
            .map_err(|error| error.to_string())?;
        Ok(ids)
    }

    fn begin(
        &mut self,
        sequence: usize,
        index: usize,
        prompt: &'a Prompt,
        ids: &[u32],
    ) -> Result<()> {
        let settings = Settings {
            seed: nth_seed(self.settings.seed, index as u64),
            max_new_tokens: prompt.max_new_tokens(self.settings.max_new_tokens),
            ..self.settings.clone()
        };
        let seed = (settings.sampling.temperature > 0.0).then_some(settings.seed);
        let answer = Running::new(self.session.spec(), self.tokenizer, settings, ids)?;
        self.session.truncate(sequence, 0);
        self.session.expect(sequence, ids.len());
        let start_token = self.session.spec().encoder.as_ref().map(|e| e.start_token);
        let pending = match start_token {
            Some(start_token) => {
                self.session.encode(sequence, ids)?;
                vec![start_token]
            }
            None => ids.to_vec(),
        };
        self.active.push(Active {
            prompt,
            sequence,
            seed,
            answer,
            n_prompt_tokens: ids.len(),
            pending,
            room: self.session.limits().context,
        });
        Ok(())
    }

    /// Feeds the active sequences, chooses what follows, and prints and lets go of those that end.
    fn advance(&mut self) -> Result<()> {
        // A sequence that decodes does not wait for long prompts: all get what fits into a single pass. Where none does,
        // nothing is lost by reading the prompts whole, in as few passes as can be.
        let is_decoding = self
            .active
            .first()
            .is_some_and(|first| first.answer.n_tokens() > 0);
        let mut room = match is_decoding {
            true => self.session.limits().n_tokens,
            false => usize::MAX,
        };
        let pieces = self.active.iter().map_while(|active| {
            let n_tokens = active.pending.len().min(room);
            room -= n_tokens;
            (n_tokens > 0).then(|| (active.sequence, &active.pending[..n_tokens]))
        });
        let items: Vec<_> = pieces.collect();
        let n_fed: Vec<_> = items.iter().map(|(_, ids)| ids.len()).collect();
        let logits = self.session.advance_each(&items)?;
        let mut fed = n_fed.into_iter().zip(logits);
        let mut refused = Vec::new();
        for mut active in std::mem::take(&mut self.active) {
            let end = match fed.next() {
                Some((n_tokens, Ok(logits))) => active.fed(n_tokens, logits)?,
                // Nothing is wrong with the others.
                Some((_, Err(error))) => {
                    self.free.push(active.sequence);
                    refused.push((active.prompt, error.to_string()));
                    continue;
                }
                None => None,
            };
            let Some(end) = end else {
                self.active.push(active);
                continue;
            };
            self.free.push(active.sequence);
            self.tally.n_answered += 1;
            self.tally.n_read += active.n_prompt_tokens;
            self.tally.n_written += active.answer.n_tokens();
            active.print(end, self.tokenizer)?;
        }
        for (prompt, error) in refused {
            self.refuse(prompt, &error)?;
        }
        Ok(())
    }
}

/// Whether an error is of one prompt alone.
fn is_of_one(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<RuntimeError>();
    matches!(cause, Some(RuntimeError::NotFinite { .. }))
}

impl Active<'_> {
    /// Takes note of `n_tokens` that were fed, and of the `logits` `[vocab]` after them; whether and why that was all.
    fn fed(&mut self, n_tokens: usize, logits: &[f32]) -> Result<Option<EndReason>> {
        self.pending.drain(..n_tokens);
        self.room -= n_tokens;
        if !self.pending.is_empty() {
            return Ok(None);
        }
        let id = self.answer.choose(logits);
        self.pending.push(id);
        self.answer.push(id, self.room, &mut |_| Ok(()))
    }

    fn print(self, end: EndReason, tokenizer: Option<&Tokenizer>) -> Result<()> {
        let (ids, text) = self.answer.finish(&mut |_| Ok(()))?;
        let answer = Outcome::Answer {
            n_prompt_tokens: self.n_prompt_tokens,
            generated_ids: &ids,
            text: tokenizer.map(|_| text.as_str()),
            end,
            seed: self.seed,
        };
        print_line(self.prompt, answer)
    }
}

impl Tally {
    /// `7 prompts`, `7 prompts and 2 errors`.
    fn prompts(&self) -> String {
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        let (n, n_errors) = (self.n_answered, self.n_refused);
        let answered = format!("{n} prompt{}", plural(n));
        match n_errors {
            0 => answered,
            _ => format!("{answered} and {n_errors} error{}", plural(n_errors)),
        }
    }
}

fn print_line(prompt: &Prompt, outcome: Outcome<'_>) -> Result<()> {
    let line = Line {
        line: prompt.line,
        id: prompt.id.as_ref(),
        outcome,
    };
    output::print(&format!("{}\n", serde_json::to_string(&line)?))
}

/// The seed of the prompt `index`: the number of that index that SplitMix64 makes of `seed`. What two seeds choose thus
/// has nothing in common, even where a file repeats a prompt and the seeds are neighbours.
///
/// *Source*: Steele, Lea and Flood, Fast splittable pseudorandom number generators (2014).
fn nth_seed(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(index.wrapping_add(1)));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_those_of_splitmix64() {
        // The first outputs of the authors' program from 1234567.
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];
        let found = [0, 1, 2].map(|index| nth_seed(1_234_567, index));
        assert_eq!(found, expected);
    }
}
