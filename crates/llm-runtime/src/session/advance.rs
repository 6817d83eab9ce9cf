//! Tokens of several sequences, laid into passes.

use std::borrow::Cow;

use super::Session;
use super::diagnose::is_finite;
use crate::{Result, RuntimeError};

/// Tokens on their way into a sequence.
struct Item<'i> {
    sequence: usize,
    ids: Cow<'i, [u32]>,
    /// Tokens that were computed.
    n_done: usize,
    /// The row of the logits after the last, among all that the session keeps.
    outcome: Option<Result<usize>>,
}

/// Results that are asked for after each item.
enum Wanted<'i> {
    /// Logits, which the session keeps.
    Logits,
    /// The most probable tokens, by the row that the logits would have.
    Ids(&'i mut [Option<u32>]),
}

impl Session {
    /// Appends one token to each of some sequences, each named once; returns their logits, `[tokens, vocab]`.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    ///
    /// # Panics
    /// As [`Session::advance`].
    pub fn step(&mut self, tokens: &[(usize, u32)]) -> Result<&[f32]> {
        // One sequence is the common case, and the hot path allocates nothing.
        if let [(sequence, id)] = *tokens {
            self.step_one(sequence, id, &mut Wanted::Logits)?;
            return self.checked(&[(sequence, &[id])]);
        }
        let tokens = tokens.iter();
        let items: Vec<_> = tokens
            .map(|(sequence, id)| (*sequence, std::slice::from_ref(id)))
            .collect();
        self.advance(&items)
    }

    /// Appends ids to each of some sequences, each named once; returns the logits after the last of each,
    /// `[items, vocab]`.
    ///
    /// The rows of all items, in their order, fill passes of [`Limits::n_tokens`](crate::Limits::n_tokens): there are as few
    /// passes as can be, each of which may have to read all weights. What is named first is through first, so that sequences
    /// of one new token ride along with the first piece of a prompt. In an encoder-decoder model the ids are the decoder's.
    ///
    /// # Errors
    /// As [`Session::prefill`], before anything is appended if it is the fault of `items`.
    ///
    /// # Panics
    /// When a sequence is named twice, or there are more items than [`Limits::n_logits`](crate::Limits::n_logits).
    pub fn advance(&mut self, items: &[(usize, &[u32])]) -> Result<&[f32]> {
        for &(sequence, ids) in items {
            self.check(sequence, ids)?;
        }
        for row in self.feed(items, &mut Wanted::Logits)? {
            row?;
        }
        self.checked(items)
    }

    /// The same with an outcome of its own for each item: what ids cannot be appended, whose sequence is interrupted
    /// ([`Session::interrupt_of`]), or whose logits are not finite numbers; nothing is wrong with the others then.
    ///
    /// # Errors
    /// When the device fails or the session's interrupt is raised.
    ///
    /// # Panics
    /// As [`Session::advance`].
    pub fn advance_each(&mut self, items: &[(usize, &[u32])]) -> Result<Vec<Result<&[f32]>>> {
        let vocab = self.spec.vocab;
        let fed = self.feed(items, &mut Wanted::Logits)?;
        let looked_at = |(row, &(sequence, ids)): (Result<usize>, &(usize, &[u32]))| {
            let row = row?;
            match is_finite(&self.logits[row * vocab..(row + 1) * vocab]) {
                true => Ok(row),
                false => Err(self.diagnose(sequence, ids)),
            }
        };
        let rows: Vec<_> = fed.into_iter().zip(items).map(looked_at).collect();
        let logits = |row: usize| &self.logits[row * vocab..(row + 1) * vocab];
        Ok(rows.into_iter().map(|row| row.map(logits)).collect())
    }

    /// Appends ids to a sequence, as [`Session::prefill`] and [`Session::step`] do; returns the most probable token to follow,
    /// the first among equals. Logits stay on the device, if the head makes them there as they are.
    ///
    /// # Errors
    /// As [`Session::prefill`], and when a logit is not a finite number.
    pub fn greedy(&mut self, sequence: usize, ids: &[u32]) -> Result<u32> {
        let mut found = [None];
        let wanted = &mut Wanted::Ids(&mut found);
        match *ids {
            [id] => self.step_one(sequence, id, wanted)?,
            _ => {
                self.check(sequence, ids)?;
                for row in self.feed(&[(sequence, ids)], wanted)? {
                    row?;
                }
            }
        }
        match found {
            [Some(id)] => Ok(id),
            [None] => Err(self.diagnose(sequence, ids)),
        }
    }

    /// Appends ids to each of some sequences; returns the most probable token to follow on each, with an outcome of its own, as
    /// [`Session::advance_each`] does.
    ///
    /// # Errors
    /// As [`Session::advance_each`].
    ///
    /// # Panics
    /// As [`Session::advance`].
    pub fn greedy_each(&mut self, items: &[(usize, &[u32])]) -> Result<Vec<Result<u32>>> {
        let mut found = vec![None; items.len()];
        let fed = self.feed(items, &mut Wanted::Ids(&mut found))?;
        let id_of = |(row, &(sequence, ids)): (Result<usize>, &(usize, &[u32]))| {
            found[row?].ok_or_else(|| self.diagnose(sequence, ids))
        };
        Ok(fed.into_iter().zip(items).map(id_of).collect())
    }

    /// Appends a token.
    fn step_one(&mut self, sequence: usize, id: u32, wanted: &mut Wanted<'_>) -> Result<()> {
        self.check(sequence, &[id])?;
        let ids = [id];
        let outcome = match self.begin(sequence, &ids) {
            Cow::Borrowed(_) => {
                let rows = self.rows(sequence, 0, 1);
                let ran = self.run(&ids, &[(sequence, rows)], true);
                ran.and_then(|()| self.results_of(&[0], 0, wanted))
            }
            // Its keys are of no use any more.
            all => {
                let mut item = [Item::of(sequence, all)];
                let ran = self.passes(&mut item, wanted);
                let [item] = item;
                ran.and_then(|()| item.row().map(|_| ()))
            }
        };
        self.sequences.end(sequence);
        outcome
    }

    /// Results after some rows of the last pass, kept from the `first` row on.
    fn results_of(&mut self, rows: &[usize], first: usize, wanted: &mut Wanted<'_>) -> Result<()> {
        match wanted {
            Wanted::Logits => self.logits_of(rows, first),
            Wanted::Ids(ids) => self.ids_of(rows, &mut ids[first..first + rows.len()]),
        }
    }

    /// Computes what is wanted after each item: the row of each, in the order in which they are through.
    fn feed(
        &mut self,
        items: &[(usize, &[u32])],
        wanted: &mut Wanted<'_>,
    ) -> Result<Vec<Result<usize>>> {
        let n_logits = self.limits.n_logits;
        assert!(
            items.len() <= n_logits,
            "{} items exceed the session's {n_logits} rows of logits",
            items.len()
        );
        for (i, &(sequence, _)) in items.iter().enumerate() {
            let is_named = items[..i].iter().any(|&(earlier, _)| earlier == sequence);
            assert!(!is_named, "sequence {sequence} is named twice");
        }
        let item = |&(sequence, ids): &(usize, _)| match self.check(sequence, ids) {
            Ok(()) => Item::of(sequence, self.begin(sequence, ids)),
            Err(error) => Item {
                outcome: Some(Err(error)),
                ..Item::of(sequence, Cow::Borrowed(ids))
            },
        };
        let mut fed: Vec<_> = items.iter().map(item).collect();
        let ran = self.passes(&mut fed, wanted);
        for item in &fed {
            self.sequences.end(item.sequence);
        }
        ran?;
        Ok(fed.into_iter().map(Item::row).collect())
    }

    fn passes(&mut self, items: &mut [Item<'_>], wanted: &mut Wanted<'_>) -> Result<()> {
        let mut n_rows = 0;
        loop {
            for item in &mut *items {
                let is_raised = self.sequences.interrupt(item.sequence).is_raised();
                if is_raised && item.outcome.is_none() {
                    item.outcome = Some(Err(RuntimeError::Interrupted));
                }
            }
            let (mut ids, mut sequences, mut horizons) = (Vec::new(), Vec::new(), Vec::new());
            // Items in the pass, and how many tokens of each.
            let mut taken = Vec::new();
            for (i, item) in items.iter().enumerate() {
                if item.outcome.is_some() {
                    continue;
                }
                let rest = &item.ids[item.n_done..];
                let n = rest.len().min(self.limits.n_tokens - ids.len());
                if n == 0 {
                    break;
                }
                horizons.push(self.sequences.horizon(item.sequence, rest.len()));
                sequences.push((item.sequence, self.rows(item.sequence, ids.len(), n)));
                ids.extend_from_slice(&rest[..n]);
                taken.push((i, n));
            }
            if taken.is_empty() {
                return Ok(());
            }
            let is_last = |i: usize, n| items[i].n_done + n == items[i].ids.len();
            let rows = taken.iter().zip(&sequences);
            let last_rows = rows.filter(|((i, n), _)| is_last(*i, *n));
            let last_rows = last_rows.map(|(_, (_, rows))| rows.first + rows.n_tokens - 1);
            let last_rows: Vec<usize> = last_rows.collect();
            match self.run_to(&ids, (&sequences, &horizons), !last_rows.is_empty()) {
                // The only sequence in it: its item ends, if that was not taken back since.
                Err(RuntimeError::Interrupted) if !self.interrupt.is_raised() => {
                    for (&(i, _), (sequence, rows)) in taken.iter().zip(&sequences) {
                        // What it would go on from is gone.
                        if self.len(*sequence) != rows.start {
                            items[i].outcome = Some(Err(RuntimeError::Interrupted));
                        }
                    }
                    continue;
                }
                ran => ran?,
            }
            if !last_rows.is_empty() {
                self.results_of(&last_rows, n_rows, wanted)?;
            }
            for (i, n) in taken {
                let item = &mut items[i];
                item.n_done += n;
                if item.n_done == item.ids.len() {
                    item.outcome = Some(Ok(n_rows));
                    n_rows += 1;
                }
            }
        }
    }
}

impl<'i> Item<'i> {
    fn of(sequence: usize, ids: Cow<'i, [u32]>) -> Self {
        Item {
            sequence,
            ids,
            n_done: 0,
            outcome: None,
        }
    }

    /// The row of its logits, once all passes are through.
    fn row(self) -> Result<usize> {
        self.outcome.expect("an item that passes are through with")
    }
}
