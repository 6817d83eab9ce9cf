//! Scheduling: sequences that share each pass over the weights.

use std::vec::IntoIter;

use llm_runtime::{Limits, Session};

use crate::client::{Client, Token};
use crate::generation::{After, Completion, EndReason, Generation};
use crate::held::Held;
use crate::logprobs::Logprobs;
use crate::{EngineError, Result, complete};

/// Sequences of a session that generate side by side, each with an outcome of its own. A `T` stands for the request of
/// each.
///
/// A request begins when a sequence is free. It cannot run out of memory later: each sequence may fill its whole context.
/// What it has in common with the beginning of any other, running or over, is not computed again.
pub struct Batch<'a, T: Client> {
    session: &'a mut Session,
    pace: Pace,
    /// Sequences of no request, the least recently used first.
    free: Vec<usize>,
    held: Held,
    /// In the order in which they began.
    active: Vec<Active<'a, T>>,
}

/// Reading of prompts while nobody writes; exhaustive, as somebody may come or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// All at once, in as few passes as can be: nothing else is there to be done.
    Whole,
    /// Pass by pass: another request may come meanwhile.
    Pass,
}

/// A request that has a sequence.
struct Active<'a, T> {
    request: T,
    sequence: usize,
    generation: Generation<'a>,
    /// Tokens that are not in the sequence yet: what is left of the prompt, later the one that was chosen last.
    pending: Vec<u32>,
    /// Positions that the sequence has left.
    room: usize,
}

/// Results of a pass, in the order of its items.
enum Outcomes<'l> {
    Logits(IntoIter<llm_runtime::Result<&'l [f32]>>),
    Ids(IntoIter<llm_runtime::Result<u32>>),
}

impl<'l> Iterator for Outcomes<'l> {
    type Item = llm_runtime::Result<After<'l>>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Outcomes::Logits(logits) => Some(logits.next()?.map(After::Logits)),
            Outcomes::Ids(ids) => Some(ids.next()?.map(After::Id)),
        }
    }
}

/// A request whose generation is over, and its outcome.
pub type Ended<T> = (T, Result<Completion>);

impl<'a, T: Client> Batch<'a, T> {
    /// A batch of up to `n_sequences` sequences, which are emptied: no more than the session has, and than a pass has rows.
    pub fn new(session: &'a mut Session, n_sequences: usize, pace: Pace) -> Self {
        let n_sequences = n_sequences.min(most_sequences(session.limits()));
        for sequence in 0..n_sequences {
            session.truncate(sequence, 0);
        }
        Batch {
            session,
            pace,
            free: (0..n_sequences).collect(),
            held: Held::new(n_sequences),
            active: Vec::new(),
        }
    }

    /// The session that all of them share.
    pub fn session(&self) -> &Session {
        self.session
    }

    /// True where nothing is generated.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// Requests that have a sequence.
    pub fn len(&self) -> usize {
        self.active.len()
    }

    /// True where another request can be added.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Gives a free sequence to a request, which is handed back where it fails at once.
    ///
    /// # Errors
    /// When the session fails.
    ///
    /// # Panics
    /// When no sequence is free, or the answer is searched by beams.
    pub fn add(
        &mut self,
        mut request: T,
        mut generation: Generation<'a>,
    ) -> Result<Option<Ended<T>>> {
        assert!(
            generation.settings().beams.is_none(),
            "beams take all sequences"
        );
        let prepared = self.prepare(&mut request, &generation);
        let (outcome, failed) = match EngineError::of_prompt(prepared) {
            Ok(Ok(prepared)) => (Ok(prepared), None),
            Ok(Err(error)) => (Err(Some(error)), None),
            // Its own interrupt: nobody waits for an answer.
            Err(_) if request.is_gone() => (Err(None), None),
            Err(error) => (Ok((self.free[0], 0, Vec::new())), Some(error)),
        };
        let (sequence, n_shared, pending) = match outcome {
            Ok(prepared) => prepared,
            Err(error) => {
                request.leave();
                return Ok(error.map(|error| (request, Err(error))));
            }
        };
        generation.share(n_shared);
        self.free.retain(|&free| free != sequence);
        self.active.push(Active {
            request,
            sequence,
            generation,
            pending,
            room: self.session.limits().context - n_shared,
        });
        // It is among those that are to be told.
        failed.map_or(Ok(None), Err)
    }

    /// Prepares a free sequence for a request: the sequence, how much of the prompt it holds, and the tokens to feed to it.
    fn prepare(
        &mut self,
        request: &mut T,
        generation: &Generation<'_>,
    ) -> Result<(usize, usize, Vec<u32>)> {
        let prompt = generation.prompt();
        let Some(start_token) = generation.settings().start_token else {
            let (sequence, n_shared) = self.held.share(self.session, &self.free, prompt)?;
            self.session.expect(sequence, prompt.len());
            request.begin(self.session.interrupt_of(sequence));
            return Ok((sequence, n_shared, prompt[n_shared..].to_vec()));
        };
        // An encoder reads all of it anew.
        let sequence = self.free[0];
        request.begin(self.session.interrupt_of(sequence));
        self.held.forget(self.session, sequence);
        self.session.encode(sequence, prompt)?;
        Ok((sequence, 0, vec![start_token]))
    }

    /// Brings a request to its end alone, with all sequences: a search by beams, which hands out nothing before it is over.
    ///
    /// # Panics
    /// When others have sequences.
    pub fn alone(&mut self, mut request: T, generation: Generation<'a>) -> Ended<T> {
        assert!(self.is_empty(), "beams take all sequences");
        self.clear();
        let (n_sequences, n_beams) = (self.free.len(), generation.settings().n_sequences());
        if n_beams > n_sequences {
            let error = EngineError::TooManyBeams {
                n_beams,
                n_sequences,
            };
            return (request, Err(error));
        }
        request.begin(self.session.interrupt_of(0));
        let ids = generation.prompt().to_vec();
        let outcome = complete(self.session, generation, &ids, &mut |_| Ok(()));
        request.leave();
        self.clear();
        let outcome = outcome.map(|(completion, _)| Completion {
            rest: completion.text.clone(),
            ..completion
        });
        (request, outcome)
    }

    /// Takes all requests out of a batch whose session has failed, or was interrupted; its sequences are empty then.
    pub fn clear(&mut self) -> Vec<T> {
        for sequence in self.active.iter().map(|active| active.sequence) {
            self.free.push(sequence);
        }
        for &sequence in &self.free {
            self.held.forget(self.session, sequence);
        }
        let left = self.active.drain(..).map(|mut active| {
            active.request.leave();
            active.request
        });
        left.collect()
    }

    /// As [`Batch::clear`], for answers that end as they are, each with what it came to.
    pub fn interrupt(&mut self) -> Vec<Ended<T>> {
        let active: Vec<_> = self.active.drain(..).collect();
        let ended = active.into_iter().map(|mut active| {
            active.request.leave();
            self.free.push(active.sequence);
            (
                active.request,
                active.generation.finish(EndReason::Interrupted),
            )
        });
        let ended = ended.collect();
        self.clear();
        ended
    }

    /// Feeds the active sequences and chooses their next tokens. Those that end, or fail, are handed back and leave
    /// their sequences; so do those that nobody waits for any more, which are not handed back.
    ///
    /// # Errors
    /// When the session fails.
    pub fn advance(&mut self) -> Result<Vec<Ended<T>>> {
        let (gone, active) = std::mem::take(&mut self.active)
            .into_iter()
            .partition(|active| active.request.is_gone());
        self.active = active;
        gone.into_iter().for_each(|active| drop(self.leave(active)));
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let shares = self.shares();
        let fed = self.active.iter().zip(&shares).filter(|(_, n)| **n > 0);
        let items: Vec<_> = fed
            .map(|(active, &n)| (active.sequence, &active.pending[..n]))
            .collect();
        let is_greedy = |active: &Active<'_, T>| active.generation.is_greedy();
        let mut outcomes = if self.active.iter().all(is_greedy) {
            let ids = self.session.greedy_each(&items)?;
            Outcomes::Ids(ids.into_iter())
        } else {
            let logits = self.session.advance_each(&items)?;
            Outcomes::Logits(logits.into_iter())
        };
        // Whatever fails from here on is the sequence's own.
        let mut ends = Vec::with_capacity(self.active.len());
        for (active, &n_tokens) in self.active.iter_mut().zip(&shares) {
            let end = match (n_tokens > 0).then(|| outcomes.next()).flatten() {
                Some(Ok(after)) => active.take(n_tokens, after),
                Some(Err(error)) => Err(error.into()),
                None => Ok(None),
            };
            ends.push(end);
        }
        let mut ended = Vec::new();
        let fed = std::mem::take(&mut self.active).into_iter().zip(shares);
        for ((mut active, n_tokens), end) in fed.zip(ends) {
            let ids = &active.pending[..n_tokens];
            self.held.extend(self.session, active.sequence, ids);
            match end {
                Ok(None) => {
                    active.go_on(n_tokens);
                    self.active.push(active);
                }
                Ok(Some(end)) => {
                    let (request, generation) = self.leave(active);
                    ended.push((request, generation.finish(end)));
                }
                Err(error) => {
                    self.held.forget(self.session, active.sequence);
                    ended.push((self.leave(active).0, Err(error)));
                }
            }
        }
        Ok(ended)
    }

    /// Frees the sequence of a request. What it holds stays until another needs the place.
    fn leave(&mut self, mut active: Active<'a, T>) -> (T, Generation<'a>) {
        active.request.leave();
        self.free.push(active.sequence);
        (active.request, active.generation)
    }

    /// Tokens to feed to each at once. All get what fits into a single pass: first those that write, a token each, so that
    /// none waits for long prompts. Of the rows that are left one half goes to the prompt that waits longest, which so comes
    /// to its end, the other to those with the least left, which so do not wait for it.
    ///
    /// Where none writes, and nobody can come meanwhile, nothing is lost by reading the prompts whole.
    fn shares(&self) -> Vec<usize> {
        let writes = |active: &Active<'_, T>| active.generation.n_tokens() > 0;
        let left = self.active.iter().map(|active| active.pending.len());
        if self.pace == Pace::Whole && !self.active.iter().any(writes) {
            return left.collect();
        }
        let left: Vec<usize> = left.collect();
        let is_reader = |&i: &usize| !writes(&self.active[i]);
        let mut readers: Vec<_> = (0..left.len()).filter(is_reader).collect();
        shares(&left, &mut readers, self.session.limits().n_tokens)
    }
}

/// Sequences of a batch at most: each has a row of a pass, and of logits.
pub(crate) fn most_sequences(limits: &Limits) -> usize {
    limits.n_sequences.min(limits.n_logits).min(limits.n_tokens)
}

/// Rows of a pass of `n_rows` for sequences with so many tokens `left`, of which the `readers` are not through with their
/// prompts.
fn shares(left: &[usize], readers: &mut [usize], n_rows: usize) -> Vec<usize> {
    let mut shares = vec![0; left.len()];
    let mut room = n_rows;
    let mut give = |i: usize, most: usize, room: &mut usize| {
        let n = (left[i] - shares[i]).min(most).min(*room);
        shares[i] += n;
        *room -= n;
    };
    for i in (0..left.len()).filter(|i| !readers.contains(i)) {
        give(i, left[i], &mut room);
    }
    let oldest = readers.first().copied();
    if let Some(oldest) = oldest {
        let half = room.div_ceil(2);
        give(oldest, half, &mut room);
    }
    readers.sort_by_key(|&i| left[i]);
    for &i in readers.iter().filter(|i| Some(**i) != oldest) {
        give(i, left[i], &mut room);
    }
    if let Some(oldest) = oldest {
        give(oldest, left[oldest], &mut room);
    }
    shares
}

impl<T: Client> Active<'_, T> {
    /// Takes what came after `n_tokens` that were fed; the reason to end, if there is one.
    fn take(&mut self, n_tokens: usize, after: After<'_>) -> Result<Option<EndReason>> {
        self.room -= n_tokens;
        if n_tokens < self.pending.len() {
            return Ok(None);
        }
        let n_top = self.generation.settings().logprobs;
        let (id, logprobs) = match after {
            After::Logits(logits) => {
                let id = self.generation.choose(after)?;
                (id, n_top.map(|n| Logprobs::of(logits, id, n)))
            }
            After::Id(id) => (id, None),
        };
        // It follows on what is pending, which is noted as held first.
        self.pending.push(id);
        let (text, end) = self.generation.push(id, self.room)?;
        if end != Some(EndReason::Eos) {
            self.request.token(Token { id, text, logprobs });
        }
        Ok(end)
    }

    /// Forgets `n_tokens` that were fed.
    fn go_on(&mut self, n_tokens: usize) {
        self.pending.drain(..n_tokens);
    }
}

/// Seed of the request `index`: the number of that index that SplitMix64 makes of `seed`. What two seeds choose thus
/// has nothing in common, even where a request is repeated and the seeds are neighbours.
///
/// *Source*: Steele, Lea and Flood, Fast splittable pseudorandom number generators (2014).
pub fn nth_seed(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(index.wrapping_add(1)));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_to_writers_then_to_the_oldest_and_the_shortest_prompts() {
        let of =
            |left: &[usize], readers: &[usize], n_rows| shares(left, &mut readers.to_vec(), n_rows);
        // The oldest prompt gets half of what the writers leave, the short one is through.
        assert_eq!(of(&[1, 900, 5, 300, 1], &[1, 2, 3], 64), [1, 31, 5, 26, 1]);
        // What the others do not need is the oldest's.
        assert_eq!(of(&[900, 5], &[0, 1], 64), [59, 5]);
        assert_eq!(of(&[3, 900], &[0, 1], 64), [3, 61]);
        // A single row reads on.
        assert_eq!(of(&[1, 9, 2], &[1, 2], 2), [1, 1, 0]);
        assert!(of(&[], &[], 2).is_empty());
    }

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
