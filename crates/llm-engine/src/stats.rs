//! Counts of what an engine has done.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::generation::{Completion, EndReason};

/// Counts of what an engine has done, and of what it is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Requests that wait for a sequence.
    pub n_waiting: usize,
    /// Requests that have one.
    pub n_running: usize,
    /// Requests that there may be of these at most.
    pub n_sequences: usize,
    /// Positions whose keys and values are held, those of answers that are over among them.
    pub n_held: usize,
    /// Positions that could be held.
    pub n_positions: usize,
    /// Passes over the weights, or runs of them where a prompt was read whole.
    pub n_passes: u64,
    /// Tokens of prompts whose answers came to an end,
    pub n_prompt_tokens: u64,
    /// those of them that were not computed again,
    pub n_shared_tokens: u64,
    /// and those of the answers.
    pub n_generated_tokens: u64,
    /// Tokens that were handed out, those of answers that are still being made among them.
    pub n_made_tokens: u64,
    /// Answers by the reason of their end.
    pub n_ended: [(EndReason, u64); EndReason::ALL.len()],
    /// Answers that failed.
    pub n_failed: u64,
    /// Answers that nobody waited for any more.
    pub n_cancelled: u64,
}

/// The same while it is counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) n_waiting: AtomicUsize,
    pub(crate) n_running: AtomicUsize,
    pub(crate) n_held: AtomicUsize,
    pub(crate) n_passes: AtomicU64,
    n_prompt_tokens: AtomicU64,
    n_shared_tokens: AtomicU64,
    n_generated_tokens: AtomicU64,
    pub(crate) n_made_tokens: AtomicU64,
    n_ended: [AtomicU64; EndReason::ALL.len()],
    pub(crate) n_failed: AtomicU64,
    pub(crate) n_cancelled: AtomicU64,
}

impl Counts {
    /// Takes note of an answer that came to its end.
    pub(crate) fn end(&self, completion: &Completion) {
        let add = |count: &AtomicU64, n: usize| count.fetch_add(n as u64, Ordering::Relaxed);
        add(&self.n_prompt_tokens, completion.n_prompt_tokens);
        add(&self.n_shared_tokens, completion.n_shared);
        add(&self.n_generated_tokens, completion.ids.len());
        add(&self.n_ended[completion.end as usize], 1);
    }

    pub(crate) fn stats(&self, n_sequences: usize, n_positions: usize) -> Stats {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Stats {
            n_waiting: self.n_waiting.load(Ordering::Relaxed),
            n_running: self.n_running.load(Ordering::Relaxed),
            n_sequences,
            n_held: self.n_held.load(Ordering::Relaxed),
            n_positions,
            n_passes: of(&self.n_passes),
            n_prompt_tokens: of(&self.n_prompt_tokens),
            n_shared_tokens: of(&self.n_shared_tokens),
            n_generated_tokens: of(&self.n_generated_tokens),
            n_made_tokens: of(&self.n_made_tokens),
            n_ended: EndReason::ALL.map(|end| (end, of(&self.n_ended[end as usize]))),
            n_failed: of(&self.n_failed),
            n_cancelled: of(&self.n_cancelled),
        }
    }
}
