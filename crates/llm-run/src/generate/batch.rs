//! `llm-run generate --prompts`: many prompts, several at a time, each pass over the weights serving all of them.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Error, Result};
use llm_runtime::{Interrupt, RuntimeError, Session};
use llm_text::Tokenizer;
use serde::Serialize;
use serde_json::Value;

use super::lines::{Line, Lines, Patience};
use super::prompts::{self, Prompt};
use super::{chat_template, open, settings};
use crate::cli::GenerateArgs;
use crate::defaults::Settings;
use crate::failure::UserError;
use crate::model::{Loaded, OpenModel};
use crate::run::{EndReason, Running, answer};
use crate::{output, plan};

/// Continues the prompts of a file, or of standard input; prints each result as it ends.
pub(super) fn batch(args: &GenerateArgs, path: &Path) -> Result<ExitCode> {
    let model = open(args)?;
    let tokenizer = model.tokenizer().ok();
    check_chat(args, &model)?;
    let settings = settings(args, &model, tokenizer)?;
    if settings.beams.is_some() && args.batch.is_some() {
        let problem = "with --num-beams prompts are continued one after the other";
        return Err(UserError(format!("--batch: {problem}")).into());
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
        plan,
        time: load,
        ..
    } = model.load(&args.load, context, n_sequences, n_sequences)?;

    let begin = Instant::now();
    let mut batch = Batch {
        interrupt: session.interrupt(),
        session: &mut session,
        tokenizer,
        settings: &settings,
        waiting: prompts,
        n_begun: 0,
        free: (0..n_sequences).collect(),
        active: Vec::new(),
        tally: Tally::default(),
    };
    let outcome = match settings.beams {
        Some(_) => batch.search_each(),
        None => batch.run(),
    };
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

/// Positions of a sequence unless told otherwise, where it is not known what comes.
const CONTEXT: usize = 2048;

/// What no line could mend is said at once.
fn check_chat(args: &GenerateArgs, model: &OpenModel) -> Result<()> {
    match args.chat {
        true => chat_template(model.tokenizer()?).map(|_| ()),
        false => Ok(()),
    }
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

/// Prompts that were not begun yet.
enum Waiting<'a> {
    Read(std::vec::IntoIter<Prompt>),
    Coming(Lines, &'a dyn Fn(Line) -> Prompt),
}

impl Waiting<'_> {
    fn next(&mut self, patience: Patience, interrupt: &Interrupt) -> Result<Option<Prompt>> {
        match self {
            Waiting::Read(prompts) => Ok(prompts.next()),
            Waiting::Coming(lines, read) => Ok(lines.next(patience, interrupt)?.map(read)),
        }
    }
}

/// Prompts on their way through a session.
struct Batch<'a> {
    interrupt: Interrupt,
    session: &'a mut Session,
    tokenizer: Option<&'a Tokenizer>,
    /// For prompts that do not say otherwise.
    settings: &'a Settings,
    waiting: Waiting<'a>,
    /// Prompts that wait no longer.
    n_begun: u64,
    /// Sequences that nobody has.
    free: Vec<usize>,
    /// In the order in which they began. None is fed before those ahead of it are, so the first ones decode while the
    /// last ones still read their prompts.
    active: Vec<Active<'a>>,
    tally: Tally,
}

/// A prompt that has a sequence.
struct Active<'a> {
    prompt: Prompt,
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
struct Report<'a> {
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

    /// Gives free sequences to the prompts that wait; waits for one only if there is nothing else to do.
    fn begin_waiting(&mut self) -> Result<()> {
        while let Some(&sequence) = self.free.last() {
            let patience = match self.active.is_empty() {
                true => Patience::Wait,
                false => Patience::Ask,
            };
            let Some((prompt, settings)) = self.next(patience)? else {
                break;
            };
            match self.running(&prompt, settings) {
                Ok((ids, answer)) => match self.pending(sequence, &ids) {
                    Ok(pending) => {
                        self.free.pop();
                        self.active.push(Active {
                            sequence,
                            seed: answer.seed(),
                            answer,
                            n_prompt_tokens: ids.len(),
                            pending,
                            room: self.session.limits().context,
                            prompt,
                        });
                    }
                    Err(error) if is_of_one(&error) => {
                        self.refuse(&prompt, &format!("{error:#}"))?
                    }
                    Err(error) => return Err(error),
                },
                Err(error) => self.refuse(&prompt, &error)?,
            }
        }
        Ok(())
    }

    /// The next prompt and the settings of its answer.
    fn next(&mut self, patience: Patience) -> Result<Option<(Prompt, Settings)>> {
        let Some(prompt) = self.waiting.next(patience, &self.interrupt)? else {
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

    /// The prompt's ids and the beginning of its answer, or why it has none.
    fn running(
        &self,
        prompt: &Prompt,
        settings: Settings,
    ) -> Result<(Vec<u32>, Running<'a>), String> {
        let ids = prompt.ids.clone()?;
        let said = |error: Error| format!("{error:#}");
        self.session
            .check_prompt(&ids)
            .map_err(|error| said(error.into()))?;
        let spec = self.session.spec();
        let running = Running::new(spec, self.tokenizer, settings, &ids).map_err(said)?;
        Ok((ids, running))
    }

    fn refuse(&mut self, prompt: &Prompt, error: &str) -> Result<()> {
        self.tally.n_refused += 1;
        print_line(prompt, Outcome::Refusal { error })
    }

    /// Empties a sequence for a prompt; what is to be fed to it.
    fn pending(&mut self, sequence: usize, ids: &[u32]) -> Result<Vec<u32>> {
        self.session.truncate(sequence, 0);
        self.session.expect(sequence, ids.len());
        Ok(match self.settings.start_token {
            Some(start_token) => {
                self.session.encode(sequence, ids)?;
                vec![start_token]
            }
            None => ids.to_vec(),
        })
    }

    /// Brings one prompt after the other to its end, each with all sequences.
    fn search_each(&mut self) -> Result<()> {
        while let Some((prompt, settings)) = self.next(Patience::Wait)? {
            let (ids, running) = match self.running(&prompt, settings) {
                Ok(running) => running,
                Err(error) => {
                    self.refuse(&prompt, &error)?;
                    continue;
                }
            };
            let seed = running.seed();
            self.session.truncate(0, 0);
            let answer = match answer(self.session, running, &ids, &mut |_| Ok(())) {
                Ok(answer) => answer,
                Err(error) if is_of_one(&error) => {
                    self.refuse(&prompt, &format!("{error:#}"))?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if answer.end == EndReason::Interrupted {
                return Err(RuntimeError::Interrupted.into());
            }
            self.tally.n_answered += 1;
            self.tally.n_read += ids.len();
            self.tally.n_written += answer.ids.len();
            let outcome = Outcome::Answer {
                n_prompt_tokens: ids.len(),
                generated_ids: &answer.ids,
                text: self.tokenizer.map(|_| answer.text.as_str()),
                end: answer.end,
                seed,
            };
            print_line(&prompt, outcome)?;
        }
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
        for mut active in std::mem::take(&mut self.active) {
            let end = match fed.next() {
                Some((n_tokens, Ok(logits))) => active.fed(n_tokens, logits),
                // Nothing is wrong with the others.
                Some((_, Err(error))) => Err(error.into()),
                None => Ok(None),
            };
            let end = match end {
                Ok(Some(end)) => end,
                Ok(None) => {
                    self.active.push(active);
                    continue;
                }
                Err(error) if is_of_one(&error) => {
                    self.free.push(active.sequence);
                    self.tally.n_refused += 1;
                    let error = &format!("{error:#}");
                    print_line(&active.prompt, Outcome::Refusal { error })?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.free.push(active.sequence);
            self.tally.n_answered += 1;
            self.tally.n_read += active.n_prompt_tokens;
            self.tally.n_written += active.answer.n_tokens();
            active.print(end, self.tokenizer)?;
        }
        Ok(())
    }
}

/// Whether an error is of one prompt alone.
fn is_of_one(error: &Error) -> bool {
    let cause = error.downcast_ref::<RuntimeError>();
    matches!(
        cause,
        Some(RuntimeError::NotFinite { .. } | RuntimeError::NoTokenLeft)
    )
}

impl Active<'_> {
    /// Takes note of `n_tokens` that were fed, and of the `logits` `[vocab]` after them; whether and why that was all.
    fn fed(&mut self, n_tokens: usize, logits: &[f32]) -> Result<Option<EndReason>> {
        self.pending.drain(..n_tokens);
        self.room -= n_tokens;
        if !self.pending.is_empty() {
            return Ok(None);
        }
        let id = self.answer.choose(logits)?;
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
        print_line(&self.prompt, answer)
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
    let line = Report {
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
