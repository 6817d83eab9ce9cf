//! Tokens that sequences hold: what two prompts have in common is not computed twice.

use std::cmp::Reverse;

use llm_runtime::Session;

use crate::Result;

/// Tokens whose keys and values each sequence of a session holds, those of requests that have ended among them.
pub(crate) struct Held(Vec<Vec<u32>>);

impl Held {
    /// Of `n_sequences` that are empty.
    pub(crate) fn new(n_sequences: usize) -> Self {
        Held(vec![Vec::new(); n_sequences])
    }

    /// Takes note of tokens that were fed to a sequence, as far as it has taken them.
    pub(crate) fn extend(&mut self, session: &Session, sequence: usize, ids: &[u32]) {
        self.0[sequence].extend(ids);
        self.0[sequence].truncate(session.len(sequence));
    }

    /// Empties a sequence.
    pub(crate) fn forget(&mut self, session: &mut Session, sequence: usize) {
        session.truncate(sequence, 0);
        self.0[sequence].clear();
    }

    /// Has one of the `free` sequences, the least recently used first, hold as much of a prompt as any sequence does, less
    /// its last token, which has to be computed. The sequence, and how much of the prompt it holds.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When none is free.
    pub(crate) fn share(
        &mut self,
        session: &mut Session,
        free: &[usize],
        prompt: &[u32],
    ) -> Result<(usize, usize)> {
        let (donor, n_common) = self.donor(session, free, prompt);
        let is_free = free.contains(&donor);
        let others = || free.iter().copied().filter(|&other| other != donor);
        let least_used = others()
            .find(|&other| self.0[other].is_empty())
            .or_else(|| others().next());
        let sequence = match least_used {
            // What it holds beyond the prompt is of little use to anybody else.
            _ if is_free && 2 * n_common >= self.0[donor].len() => donor,
            Some(other) if n_common > 0 => {
                // The blocks are shared, and copied where one of the two goes on.
                self.forget(session, other);
                session.fork(donor, other)?;
                self.0[other] = self.0[donor][..n_common].to_vec();
                other
            }
            Some(other) => other,
            None => donor,
        };
        let n_shared = match n_common {
            0 => 0,
            n => session.truncate(sequence, n.min(session.len(sequence))),
        };
        match n_shared {
            0 => self.forget(session, sequence),
            n => self.0[sequence].truncate(n),
        }
        Ok((sequence, n_shared))
    }

    /// The sequence that holds the longest beginning of a prompt, and its length; one that is free among equals.
    fn donor(&self, session: &Session, free: &[usize], prompt: &[u32]) -> (usize, usize) {
        let is_recurrent = session.spec().decoder.is_recurrent();
        let most = prompt.len().saturating_sub(1);
        let common = |held: &[u32]| {
            let same = held.iter().zip(&prompt[..most]);
            let n_same = same.take_while(|(a, b)| a == b).count();
            // A state of one size is not taken back a few positions.
            match is_recurrent && n_same < held.len() {
                true => 0,
                false => n_same,
            }
        };
        let all = self.0.iter().enumerate();
        let ranked = all.map(|(sequence, held)| {
            let (n_common, is_free) = (common(held), free.contains(&sequence));
            ((n_common, is_free, Reverse(held.len())), sequence)
        });
        let best = ranked.max_by_key(|(rank, sequence)| (*rank, Reverse(*sequence)));
        let ((n_common, ..), donor) = best.expect("a batch has sequences");
        match n_common {
            0 => (free[0], 0),
            n => (donor, n),
        }
    }
}
