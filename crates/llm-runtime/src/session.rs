//! A loaded model and the sequences it works on.

mod diagnose;
mod sequences;

use std::borrow::Cow;

use llm_arch::{ModelSpec, Side, Unit};
use llm_backend::Rows;
use llm_plan::{Home, Limits, Term};
use llm_tensor::DType;

use self::diagnose::is_finite;
use self::sequences::Sequences;
use crate::memory::{Allocated, vec_bytes};
use crate::pass::{Interrupt, Pass};
use crate::pipeline::Pipeline;
use crate::probe::{Origin, Probe};
use crate::{Result, RuntimeError};

/// A loaded model with the keys and values of its sequences.
///
/// A sequence is a number below [`Limits::n_sequences`]; each begins empty. A call that fails may have appended a part
/// of its tokens: [`Session::len`] tells, [`Session::truncate`] takes them back.
pub struct Session {
    spec: ModelSpec,
    pipeline: Pipeline,
    /// What the stages' weights take.
    weights: Allocated,
    limits: Limits,
    dtype: DType,
    sequences: Sequences,
    /// `[n_logits, vocab]`.
    logits: Vec<f32>,
    interrupt: Interrupt,
    /// Where the weights are from.
    origin: Option<Origin>,
}

impl Session {
    pub(crate) fn new(
        spec: ModelSpec,
        (pipeline, weights): (Pipeline, Allocated),
        limits: Limits,
        dtype: DType,
        origin: Option<Origin>,
    ) -> Self {
        Session {
            logits: vec![0.0; limits.n_logits * spec.vocab],
            sequences: Sequences::new(&spec, &limits),
            origin,
            interrupt: Interrupt::default(),
            spec,
            pipeline,
            weights,
            limits,
            dtype,
        }
    }

    /// The same with an interrupt that others hold already.
    pub(crate) fn under(self, interrupt: &Interrupt) -> Self {
        let interrupt = interrupt.clone();
        Session { interrupt, ..self }
    }

    /// What the model is.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The largest passes.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The element type of the weights, and of keys and values.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// What is allocated: all that the session will ever need.
    pub fn memory(&self) -> Allocated {
        let mut allocated = self.weights.clone();
        self.pipeline.count(&mut allocated);
        let host = vec_bytes(&self.logits) + self.sequences.bytes();
        allocated.add(Home::Ram, Term::Activations, host);
        allocated
    }

    /// Raising it makes the running or next call fail with [`RuntimeError::Interrupted`].
    pub fn interrupt(&self) -> Interrupt {
        self.interrupt.clone()
    }

    /// Positions that `sequence` has taken.
    ///
    /// # Panics
    /// When there is no such sequence; so do the methods below.
    pub fn len(&self, sequence: usize) -> usize {
        self.sequences.len(sequence)
    }

    /// Says that `sequence`, which is empty, will be fed a prompt of `n_positions`, if that happens in several calls: some
    /// models tell positions apart by how many there are, and a prompt's are all told apart alike.
    pub fn expect(&mut self, sequence: usize, n_positions: usize) {
        self.sequences.expect(sequence, n_positions);
    }

    /// Forgets positions of `sequence` from `len` on; returns how many are left: `len`, or fewer where a layer has
    /// already let go of what the position before `len` saw.
    ///
    /// # Panics
    /// When it has fewer.
    pub fn truncate(&mut self, sequence: usize, len: usize) -> usize {
        let n_taken = self.len(sequence);
        assert!(
            len <= n_taken,
            "sequence {sequence} has but {n_taken} positions"
        );
        let kept = self.pipeline.rewind(sequence, len);
        self.sequences.truncate(sequence, kept);
        kept
    }

    /// Makes sequence `to` what `from` is, an encoder's prompt included; both go on on their own.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When they are the same.
    pub fn fork(&mut self, from: usize, to: usize) -> Result<()> {
        assert_ne!(from, to, "a sequence is not forked to itself");
        self.pipeline.fork(from, to)?;
        self.sequences.fork(from, to);
        Ok(())
    }

    /// Reads the prompt of an encoder-decoder model; the sequence begins anew.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    ///
    /// # Panics
    /// When the model has no encoder.
    pub fn encode(&mut self, sequence: usize, ids: &[u32]) -> Result<()> {
        assert!(
            self.spec.encoder.is_some(),
            "{} models have no encoder",
            self.spec.family
        );
        self.truncate(sequence, 0);
        self.check_prompt(ids)?;
        let memory = self
            .pipeline
            .encode(sequence, ids, (&self.interrupt, None))?;
        if is_finite(memory) {
            return Ok(());
        }
        let probe = Probe::default();
        self.pipeline
            .encode(sequence, ids, (&self.interrupt, Some(&probe)))?;
        let unit = probe.unit().unwrap_or(Unit::FinalNorm(Side::Encoder));
        Err(self.not_finite(unit, ids))
    }

    /// Appends `ids` to `sequence`, in pieces of [`Limits::n_tokens`]; returns the logits after the last, `[vocab]`. In an
    /// encoder-decoder model the encoder reads them and the continuation begins with its start token.
    ///
    /// # Errors
    /// When `ids` is empty, an id is unknown, the context is full, the device fails or the interrupt is raised.
    pub fn prefill(&mut self, sequence: usize, ids: &[u32]) -> Result<&[f32]> {
        if let Some(start_token) = self
            .spec
            .encoder
            .as_ref()
            .map(|encoder| encoder.start_token)
        {
            self.encode(sequence, ids)?;
            return self.step(&[(sequence, start_token)]);
        }
        self.advance(&[(sequence, ids)])
    }

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
            self.check(sequence, &[id])?;
            let ids = [id];
            let outcome = match self.begin(sequence, &ids) {
                Cow::Borrowed(_) => {
                    let rows = self.rows(sequence, 0, 1);
                    let ran = self.run(&ids, &[(sequence, rows)], true);
                    ran.and_then(|()| self.logits_of(&[0], 0))
                }
                // Its keys are of no use any more.
                all => self.passes(&[(sequence, all)]),
            };
            self.sequences.end(sequence);
            outcome?;
            return self.checked(&[(sequence, &ids)]);
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
    /// The rows of all items, in their order, fill passes of [`Limits::n_tokens`]: there are as few passes as can be,
    /// each of which may have to read all weights. What is named first is through first, so that sequences of one new
    /// token ride along with the first piece of a prompt. In an encoder-decoder model the ids are the decoder's.
    ///
    /// # Errors
    /// As [`Session::prefill`], before anything is appended if it is the fault of `items`.
    ///
    /// # Panics
    /// When a sequence is named twice, or there are more items than [`Limits::n_logits`].
    pub fn advance(&mut self, items: &[(usize, &[u32])]) -> Result<&[f32]> {
        self.feed(items)?;
        self.checked(items)
    }

    /// The same with an outcome of its own for each item whose logits are not finite numbers; nothing is wrong with the others
    /// then.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    ///
    /// # Panics
    /// As [`Session::advance`].
    pub fn advance_each(&mut self, items: &[(usize, &[u32])]) -> Result<Vec<Result<&[f32]>>> {
        self.feed(items)?;
        let vocab = self.spec.vocab;
        let flaw = |(i, &(sequence, ids)): (usize, &(usize, &[u32]))| {
            let is_finite = is_finite(&self.logits[i * vocab..(i + 1) * vocab]);
            (!is_finite).then(|| self.diagnose(sequence, ids))
        };
        let flaws: Vec<_> = items.iter().enumerate().map(flaw).collect();
        let logits = self.logits.chunks_exact(vocab);
        let outcome = |(flaw, logits): (Option<_>, _)| flaw.map_or(Ok(logits), Err);
        Ok(flaws.into_iter().zip(logits).map(outcome).collect())
    }

    /// Computes the logits after each item.
    fn feed(&mut self, items: &[(usize, &[u32])]) -> Result<()> {
        let n_logits = self.limits.n_logits;
        assert!(
            items.len() <= n_logits,
            "{} items exceed the session's {n_logits} rows of logits",
            items.len()
        );
        for (i, &(sequence, ids)) in items.iter().enumerate() {
            let is_named = items[..i].iter().any(|&(earlier, _)| earlier == sequence);
            assert!(!is_named, "sequence {sequence} is named twice");
            self.check(sequence, ids)?;
        }
        let begin = |&(sequence, ids): &(usize, _)| (sequence, self.begin(sequence, ids));
        let fed: Vec<(usize, Cow<'_, [u32]>)> = items.iter().map(begin).collect();
        let outcome = self.passes(&fed);
        for &(sequence, _) in &fed {
            self.sequences.end(sequence);
        }
        outcome
    }

    /// What is fed to append `ids` to `sequence`: all of it where its keys were made for another length.
    fn begin<'i>(&mut self, sequence: usize, ids: &'i [u32]) -> Cow<'i, [u32]> {
        let fed = self.sequences.begin(sequence, ids);
        if let Cow::Owned(_) = fed {
            self.pipeline.rewind(sequence, 0);
        }
        fed
    }

    fn passes(&mut self, items: &[(usize, Cow<'_, [u32]>)]) -> Result<()> {
        let n_tokens = self.limits.n_tokens;
        let mut left: Vec<(usize, &[u32])> = items.iter().map(|(s, ids)| (*s, &**ids)).collect();
        let mut n_done = 0;
        while n_done < items.len() {
            let (mut ids, mut sequences, mut last_rows) = (Vec::new(), Vec::new(), Vec::new());
            let mut horizons = Vec::new();
            for (sequence, rest) in &mut left[n_done..] {
                let room = n_tokens - ids.len();
                if room == 0 {
                    break;
                }
                horizons.push(self.sequences.horizon(*sequence, rest.len()));
                let (piece, after) = rest.split_at(rest.len().min(room));
                sequences.push((*sequence, self.rows(*sequence, ids.len(), piece.len())));
                ids.extend_from_slice(piece);
                *rest = after;
                if after.is_empty() {
                    last_rows.push(ids.len() - 1);
                }
            }
            self.run_to(&ids, (&sequences, &horizons), !last_rows.is_empty())?;
            if !last_rows.is_empty() {
                self.logits_of(&last_rows, n_done)?;
            }
            n_done += last_rows.len();
        }
        Ok(())
    }

    /// Appends `ids` to `sequence` and hands the logits after each, with its index, to `each`.
    ///
    /// # Errors
    /// As [`Session::prefill`], and whatever `each` returns.
    pub fn score<E: From<RuntimeError>>(
        &mut self,
        sequence: usize,
        ids: &[u32],
        each: impl FnMut(usize, &[f32]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        self.check(sequence, ids)?;
        let fed = self.begin(sequence, ids);
        let outcome = self.score_last(sequence, &fed, ids.len(), each);
        self.sequences.end(sequence);
        outcome
    }

    /// The logits after the last `n` of `ids`.
    fn score_last<E: From<RuntimeError>>(
        &mut self,
        sequence: usize,
        ids: &[u32],
        n: usize,
        mut each: impl FnMut(usize, &[f32]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let (n_tokens, n_logits, vocab) =
            (self.limits.n_tokens, self.limits.n_logits, self.spec.vocab);
        let horizon = self.sequences.horizon(sequence, ids.len());
        let n_before = ids.len() - n;
        for (first, piece) in ids
            .chunks(n_tokens)
            .enumerate()
            .map(|(i, piece)| (i * n_tokens, piece))
        {
            let rows = self.rows(sequence, 0, piece.len());
            self.run_to(piece, (&[(sequence, rows)], &[horizon]), true)?;
            let wanted = n_before.saturating_sub(first).min(piece.len());
            for row in (wanted..piece.len()).step_by(n_logits) {
                let rows: Vec<usize> = (row..piece.len().min(row + n_logits)).collect();
                self.logits_of(&rows, 0)?;
                if !is_finite(&self.logits[..rows.len() * vocab]) {
                    let ids = &ids[..first + piece.len()];
                    return Err(self.diagnose(sequence, ids).into());
                }
                let logits = self.logits[..rows.len() * vocab].chunks_exact(vocab);
                for (i, logits) in logits.enumerate() {
                    each(first + row + i - n_before, logits)?;
                }
            }
        }
        Ok(())
    }

    /// Whether `ids` can be a prompt, alone in its sequence.
    ///
    /// # Errors
    /// When it is empty, has an unknown id, or is longer than the context.
    pub fn check_prompt(&self, ids: &[u32]) -> Result<()> {
        let Limits {
            context, n_tokens, ..
        } = self.limits;
        match self.spec.encoder {
            // An encoder sees all of its prompt at once.
            Some(_) => self.check_ids(ids, 0, context.min(n_tokens)),
            None => self.check_ids(ids, 0, context),
        }
    }

    fn check(&self, sequence: usize, ids: &[u32]) -> Result<()> {
        self.check_ids(ids, self.len(sequence), self.limits.context)
    }

    /// Whether `ids` can follow on `n_taken` positions.
    fn check_ids(&self, ids: &[u32], n_taken: usize, context: usize) -> Result<()> {
        if ids.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.spec.vocab) {
            return Err(RuntimeError::IdOutOfRange {
                id,
                vocab: self.spec.vocab,
            });
        }
        let n_tokens = n_taken + ids.len();
        if n_tokens > context {
            return Err(RuntimeError::ContextFull {
                n_tokens,
                context,
                model_context: self.spec.context,
            });
        }
        Ok(())
    }

    fn rows(&self, sequence: usize, first: usize, n_tokens: usize) -> Rows {
        Rows {
            first,
            n_tokens,
            start: self.len(sequence),
        }
    }

    /// A pass of all that is to be read.
    fn run(&mut self, ids: &[u32], sequence: &[(usize, Rows); 1], logits: bool) -> Result<()> {
        let [(number, _)] = *sequence;
        let horizon = self.sequences.horizon(number, ids.len());
        self.run_to(ids, (sequence, &[horizon]), logits)
    }

    fn run_to(
        &mut self,
        ids: &[u32],
        (sequences, horizons): (&[(usize, Rows)], &[usize]),
        logits: bool,
    ) -> Result<()> {
        let pass = Pass {
            ids,
            sequences,
            horizons,
            logits,
            interrupt: &self.interrupt,
            probe: None,
        };
        self.pipeline.forward(&pass)?;
        for &(sequence, rows) in sequences {
            self.sequences
                .extend_to(sequence, rows.start + rows.n_tokens);
        }
        Ok(())
    }

    /// Logits after some rows of the last pass, kept from the `first` row of the session's logits on.
    fn logits_of(&mut self, rows: &[usize], first: usize) -> Result<()> {
        let vocab = self.spec.vocab;
        let out = &mut self.logits[first * vocab..(first + rows.len()) * vocab];
        self.pipeline.logits(rows, out)
    }
}

#[cfg(test)]
mod tests;
