//! Drafts: guesses of the tokens that follow, several of which a pass can look at for the price of one where reading the weights is
//! what it costs.
//!
//! A draft changes nothing of an answer. Each token is chosen from the model's own logits, by the sampler and with the random
//! numbers that it would be chosen with alone; a draft that is the same was computed already, and what comes after one that is
//! another is taken back.

use std::time::Duration;

use serde::Serialize;

/// Source of guesses.
pub trait DraftSource: Send {
    /// Appends up to `most` tokens to `draft`, those that it takes to follow on `prompt` and `answer`.
    fn guess(&mut self, prompt: &[u32], answer: &[u32], most: usize, draft: &mut Vec<u32>);
}

/// Look-up of what was said last in all that was said: what followed then may follow again.
///
/// The longest match of up to three tokens wins, and the most recent among equals. Where what followed ends with the text, it is taken
/// to go round.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lookup;

impl DraftSource for Lookup {
    fn guess(&mut self, prompt: &[u32], answer: &[u32], most: usize, draft: &mut Vec<u32>) {
        let n = prompt.len() + answer.len();
        let at = |i: usize| match i.checked_sub(prompt.len()) {
            None => prompt[i],
            Some(i) => answer[i],
        };
        // The token before which nothing is to be found yet, and tokens that are alike up to there.
        let mut best = (0, 0);
        for end in (n.saturating_sub(LOOK_BACK)..n.saturating_sub(1)).rev() {
            let is_same = |back: &usize| at(end - back) == at(n - 1 - back);
            let len = (0..LONGEST.min(end + 1)).take_while(is_same).count();
            if len > best.1 {
                best = (end + 1, len);
            }
            if len == LONGEST {
                break;
            }
        }
        let (first, len) = best;
        if len > 0 {
            draft.extend((0..most).map(|i| at(first + i % (n - first))));
        }
    }
}

/// Tokens of the longest match.
const LONGEST: usize = 3;
/// Tokens that are looked through, so that a token of a long text costs microseconds.
const LOOK_BACK: usize = 1 << 14;

/// Drafts of one answer.
pub struct Drafts {
    source: Box<dyn DraftSource>,
    length: DraftLength,
    pace: Pace,
    /// The token to be fed and the drafts after it, reused.
    pub(crate) ids: Vec<u32>,
    /// The most probable token after each.
    pub(crate) found: Vec<Option<u32>>,
    counts: DraftCounts,
}

/// Tokens that are drafted for a pass; exhaustive, as they are either chosen or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DraftLength {
    /// As many as are found, and at most so many.
    Fixed(usize),
    /// Fewer where drafts before were wrong, and none for a while where passes took longer for them than they saved.
    Adaptive(usize),
}

/// Counts of what became of drafts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DraftCounts {
    /// Passes after the prompt's.
    pub n_passes: usize,
    /// Tokens that were drafted,
    pub n_drafted: usize,
    /// and those of them that were chosen.
    pub n_accepted: usize,
}

impl Drafts {
    /// Those of a source.
    pub fn new(source: Box<dyn DraftSource>, length: DraftLength) -> Self {
        let most = length.most();
        Drafts {
            source,
            length,
            pace: Pace::new(most),
            ids: Vec::with_capacity(most + 1),
            found: Vec::with_capacity(most + 1),
            counts: DraftCounts::default(),
        }
    }

    /// Drafts up to `most` tokens that may follow on `prompt` and `answer`; the number of them.
    pub(crate) fn draft(&mut self, prompt: &[u32], answer: &[u32], most: usize) -> usize {
        let most = most.min(match self.length {
            DraftLength::Fixed(most) => most,
            DraftLength::Adaptive(_) => self.pace.next(),
        });
        self.ids.clear();
        self.found.clear();
        let Some(&last) = answer.last().filter(|_| most > 0) else {
            return 0;
        };
        self.ids.push(last);
        self.source.guess(prompt, answer, most, &mut self.ids);
        self.ids.truncate(1 + most);
        self.found.resize(self.ids.len(), None);
        self.ids.len() - 1
    }

    /// Takes note of a pass without drafts.
    pub(crate) fn end_plain(&mut self, time: Duration) {
        self.counts.n_passes += 1;
        self.pace.end_plain(time);
    }

    /// Takes note of a pass with drafts, so many of which were chosen.
    pub(crate) fn end(&mut self, n_accepted: usize, time: Duration) {
        let n_drafted = self.ids.len() - 1;
        self.counts.n_passes += 1;
        self.counts.n_drafted += n_drafted;
        self.counts.n_accepted += n_accepted;
        self.pace.end(n_drafted, n_accepted, time);
    }

    /// What became of all of them.
    pub(crate) fn counts(&self) -> DraftCounts {
        self.counts
    }
}

impl DraftLength {
    /// Tokens of a pass at most.
    pub fn most(self) -> usize {
        match self {
            DraftLength::Fixed(most) | DraftLength::Adaptive(most) => most,
        }
    }
}

/// Length of drafts by what became of those before, and by what passes take.
#[derive(Debug)]
struct Pace {
    most: usize,
    length: usize,
    /// Passes to come without drafts, and how many they are to be when drafts lose again.
    rest: usize,
    next_rest: usize,
    /// Seconds of a pass without drafts.
    plain: Option<f64>,
    /// Seconds that drafts have lost of late.
    lost: f64,
}

impl Pace {
    fn new(most: usize) -> Self {
        Pace {
            most,
            length: most.min(FIRST_LENGTH),
            rest: 0,
            next_rest: FIRST_REST,
            plain: None,
            lost: 0.0,
        }
    }

    fn next(&mut self) -> usize {
        if self.rest == 0 {
            return self.length;
        }
        self.rest -= 1;
        0
    }

    fn end_plain(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        let before = self.plain.unwrap_or(seconds);
        self.plain = Some(before + (seconds - before) * NEW_SHARE);
    }

    fn end(&mut self, n_drafted: usize, n_accepted: usize, time: Duration) {
        self.length = match n_accepted {
            n if n == n_drafted => (2 * self.length.max(n)).min(self.most),
            // The first that is wrong is worth a look.
            n => (n + 1).min(self.length),
        };
        let Some(plain) = self.plain else {
            return;
        };
        let lost = time.as_secs_f64() - plain * (1 + n_accepted) as f64;
        // What was won long ago is no reason to lose now.
        self.lost = (self.lost + lost).max(-PATIENCE * plain);
        if lost < 0.0 {
            self.next_rest = FIRST_REST;
        }
        if self.lost > PATIENCE * plain {
            self.rest = self.next_rest;
            self.next_rest = (2 * self.next_rest).min(LONGEST_REST);
            self.lost = 0.0;
        }
    }
}

/// Drafts of the first pass that has some.
const FIRST_LENGTH: usize = 4;
/// Share of the latest pass in the time that passes are taken to need.
const NEW_SHARE: f64 = 0.25;
/// Passes whose time drafts may lose before they rest.
const PATIENCE: f64 = 1.0;
/// Passes that they rest for,
const FIRST_REST: usize = 8;
/// and at most.
const LONGEST_REST: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(prompt: &[u32], answer: &[u32], most: usize) -> Vec<u32> {
        let mut draft = vec![];
        Lookup.guess(prompt, answer, most, &mut draft);
        draft
    }

    #[test]
    fn the_longest_match_wins_and_then_the_most_recent() {
        // Of three tokens, though `2 3` and `3` came later.
        assert_eq!(
            guess(&[1, 2, 3, 4, 9, 2, 3, 5, 3, 6], &[1, 2, 3], 2),
            [4, 9]
        );
        assert_eq!(guess(&[2, 3, 4, 9, 2, 3, 5, 7], &[2, 3], 3), [5, 7, 2]);
        assert_eq!(guess(&[3, 8, 3, 6], &[3], 1), [6]);
        // Across the border of prompt and answer.
        assert_eq!(guess(&[7, 8, 1], &[5, 7, 8, 1], 2), [5, 7]);
    }

    #[test]
    fn nothing_is_guessed_of_what_was_never_said() {
        assert_eq!(guess(&[1, 2, 3], &[4], 4), [0; 0]);
        assert_eq!(guess(&[], &[4], 4), [0; 0]);
        assert_eq!(guess(&[4], &[4], 0), [0; 0]);
    }

    #[test]
    fn what_followed_goes_round_at_the_end_of_the_text() {
        assert_eq!(guess(&[], &[5, 5], 3), [5, 5, 5]);
        assert_eq!(guess(&[9], &[1, 2, 1, 2], 5), [1, 2, 1, 2, 1]);
    }

    #[test]
    fn a_look_has_an_end() {
        let mut prompt = vec![7; LOOK_BACK + 9];
        prompt[..2].copy_from_slice(&[1, 2]);
        assert_eq!(guess(&prompt, &[1], 1), [0; 0]);
        prompt[20..22].copy_from_slice(&[1, 2]);
        assert_eq!(guess(&prompt, &[1], 1), [2]);
    }

    /// Tokens that are drafted for each of some passes, of which so many are right, and which take `seconds` by the number
    /// drafted.
    fn lengths(right: &[usize], seconds: impl Fn(usize) -> f64) -> Vec<usize> {
        let mut pace = Pace::new(8);
        pace.end_plain(Duration::from_secs_f64(seconds(0)));
        let length = |&right: &usize| {
            let n = pace.next();
            let time = Duration::from_secs_f64(seconds(n));
            match n {
                0 => pace.end_plain(time),
                n => pace.end(n, n.min(right), time),
            }
            n
        };
        right.iter().map(length).collect()
    }

    #[test]
    fn drafts_grow_while_they_are_right_and_shrink_to_what_was() {
        let of_bytes = |_| 1.0;
        let found = lengths(&[9, 9, 9, 2, 9, 0, 0, 1, 9], of_bytes);
        assert_eq!(found, [4, 8, 8, 8, 3, 6, 1, 1, 2]);
    }

    #[test]
    fn drafts_that_lose_rest_ever_longer_and_come_back() {
        let of_products = |n: usize| 1.0 + n as f64;
        let found = lengths(&[0; 300], of_products);
        let n_drafted = found.iter().filter(|n| **n > 0).count();
        assert!((6..20).contains(&n_drafted), "{found:?}");
        // Where they are right again they are used again.
        let mut right = vec![0; 100];
        right.extend([9; 200]);
        let found = lengths(&right, |n| 1.0 + 0.1 * n as f64);
        assert!(found[260..].iter().all(|n| *n == 8), "{found:?}");
    }
}
