//! Those who wait for answers.

use llm_runtime::Interrupt;

use crate::logprobs::Logprobs;

/// A token of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text that is certain with it: often that of the token, but nothing in the middle of a character, or where a
    /// stop string may have begun.
    pub text: String,
    /// Its log-probabilities, where they were asked for.
    pub logprobs: Option<Logprobs>,
}

/// One who waits for an answer of a [`Batch`](crate::Batch).
pub trait Client {
    /// Takes a token of the answer. The one that ends a text is not handed out.
    fn token(&mut self, _token: Token) {}

    /// True where nobody waits any more.
    fn is_gone(&self) -> bool {
        false
    }

    /// Takes note that the request has a sequence from now on; raising `interrupt` stops the pass that it has to itself.
    fn begin(&mut self, _interrupt: Interrupt) {}

    /// Takes note that the sequence is another's from now on: its interrupt is not to be raised any more, and is clear.
    fn leave(&mut self) {}
}
