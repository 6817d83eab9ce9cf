//! Scheduling: sequences that share each pass over the weights.

use std::vec::IntoIter;

use llm_runtime::Session;

use crate::generation::{Completion, EndReason, Generation};
use crate::{EngineError, Result};

/// Sequences of a session that generate side by side, each with an outcome of its own. A `T` stands for the request of
/// each.
pub struct Batch<'a, T> {
    session: &'a mut Session,
    /// Sequences of no request.
    free: Vec<usize>,
    /// In the order in which they began. None is fed before those ahead of it are, so the first ones decode while the
    /// last ones still read their prompts.
    active: Vec<Active<'a, T>>,
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

/// Result of a pass for a sequence.
enum After<'l> {
    /// `[vocab]`.
    Logits(&'l [f32]),
    /// The most probable token.
    Id(u32),
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

impl<'a, T> Batch<'a, T> {
    /// A batch of up to `n_sequences` sequences.
    pub fn new(session: &'a mut Session, n_sequences: usize) -> Self {
        Batch {
            session,
            free: (0..n_sequences).collect(),
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
    /// When no sequence is free.
    pub fn add(&mut self, request: T, generation: Generation<'a>) -> Result<Option<Ended<T>>> {
        let sequence = *self.free.last().expect("a sequence is free");
        let pending = match EngineError::of_prompt(self.pending(sequence, &generation))? {
            Ok(pending) => pending,
            Err(error) => return Ok(Some((request, Err(error)))),
        };
        self.free.pop();
        self.active.push(Active {
            request,
            sequence,
            generation,
            pending,
            room: self.session.limits().context,
        });
        Ok(None)
    }

    /// Empties a sequence for a prompt; the tokens to feed to it.
    fn pending(&mut self, sequence: usize, generation: &Generation<'_>) -> Result<Vec<u32>> {
        let prompt = generation.prompt();
        self.session.truncate(sequence, 0);
        self.session.expect(sequence, prompt.len());
        Ok(match generation.settings().start_token {
            Some(start_token) => {
                self.session.encode(sequence, prompt)?;
                vec![start_token]
            }
            None => prompt.to_vec(),
        })
    }

    /// Feeds the active sequences and chooses their next tokens. Those that end, or fail, are handed back and leave
    /// their sequences.
    ///
    /// # Errors
    /// When the session fails.
    pub fn advance(&mut self) -> Result<Vec<Ended<T>>> {
        let mut room = self.tokens_at_once();
        let pieces = self.active.iter().map_while(|active| {
            let n_tokens = active.pending.len().min(room);
            room -= n_tokens;
            (n_tokens > 0).then(|| (active.sequence, &active.pending[..n_tokens]))
        });
        let items: Vec<_> = pieces.collect();
        let n_fed: Vec<_> = items.iter().map(|(_, ids)| ids.len()).collect();
        let mut outcomes = if self
            .active
            .iter()
            .all(|active| active.generation.is_greedy())
        {
            let ids = self.session.greedy_each(&items)?;
            Outcomes::Ids(ids.into_iter())
        } else {
            let logits = self.session.advance_each(&items)?;
            Outcomes::Logits(logits.into_iter())
        };
        let mut fed = n_fed.into_iter().zip(&mut outcomes);
        let mut ended = Vec::new();
        for mut active in std::mem::take(&mut self.active) {
            let end = match fed.next() {
                // Whatever fails from here on is the sequence's own.
                Some((n_tokens, Ok(after))) => active.fed(n_tokens, after),
                Some((_, Err(error))) => Err(error.into()),
                None => Ok(None),
            };
            let Some(end) = end.transpose() else {
                self.active.push(active);
                continue;
            };
            self.free.push(active.sequence);
            let outcome = end.and_then(|end| active.generation.finish(end));
            let outcome = outcome.map(|(completion, _)| completion);
            ended.push((active.request, outcome));
        }
        Ok(ended)
    }

    /// Tokens to feed at once. A sequence that decodes does not wait for long prompts: all get what fits into a single
    /// pass. Where none does, nothing is lost by reading the prompts whole, in as few passes as can be.
    fn tokens_at_once(&self) -> usize {
        let first = self.active.first();
        match first.is_some_and(|first| first.generation.n_tokens() > 0) {
            true => self.session.limits().n_tokens,
            false => usize::MAX,
        }
    }
}

impl<T> Active<'_, T> {
    /// Takes note of `n_tokens` that were fed, and of what came after them; the reason to end, if there is one.
    fn fed(&mut self, n_tokens: usize, after: After<'_>) -> Result<Option<EndReason>> {
        self.pending.drain(..n_tokens);
        self.room -= n_tokens;
        if !self.pending.is_empty() {
            return Ok(None);
        }
        let id = match after {
            After::Logits(logits) => self.generation.choose(logits)?,
            After::Id(id) => id,
        };
        self.pending.push(id);
        let (_, end) = self.generation.push(id, self.room)?;
        Ok(end)
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
