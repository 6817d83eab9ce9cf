//! Prefixes: keys and values that a sequence holds are not computed again.

use llm_runtime::Session;

use crate::settings::Settings;

/// Tokens whose keys and values the session's first sequence holds.
#[derive(Debug, Default)]
pub struct Prefix(Vec<u32>);

impl Prefix {
    /// Shortens the sequence to the prefix that it shares with `ids`, less a last token, which has to be computed; the
    /// number of tokens that need not be.
    pub fn share(&self, session: &mut Session, ids: &[u32], settings: &Settings) -> usize {
        let same = self.0.iter().zip(ids).take_while(|(a, b)| a == b);
        let n_shared = match settings.start_token {
            // An encoder reads all of it anew.
            Some(_) => 0,
            None => same.count().min(ids.len() - 1).min(session.len(0)),
        };
        session.truncate(0, n_shared)
    }

    /// Takes note of the prompt and the answer that the sequence holds now, as far as it does.
    pub fn hold(&mut self, session: &Session, prompt: Vec<u32>, answer: &[u32]) {
        self.0 = prompt;
        self.0.extend(answer);
        self.0.truncate(session.len(0));
    }
}
