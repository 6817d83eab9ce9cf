//! A loaded model and the sequences it works on.

mod advance;
mod diagnose;
mod drafts;
mod rewind;
mod sequences;

use std::borrow::Cow;

use llm_arch::{ModelSpec, Side, Unit};
use llm_backend::{Rows, first_of_largest};
use llm_plan::{Home, Limits, Term};
use llm_tensor::DType;

use self::diagnose::is_finite;
pub use self::rewind::Mark;
use self::sequences::Sequences;
use crate::allocated::{Allocated, vec_bytes};
use crate::pass::{Interrupt, Interrupts, Pass};
use crate::pipeline::Pipeline;
use crate::probe::{Origin, Probe};
use crate::{Result, RuntimeError};

/// A loaded model with the keys and values of its sequences.
///
/// A sequence is a number below [`Limits::n_sequences`]; each begins empty. A call that fails may have appended a part
/// of its tokens: [`Session::len`] tells, [`Session::truncate`] takes them back. Where layers keep no more of a sequence than
/// what it came to ([`StackSpec::is_recurrent`](llm_arch::StackSpec::is_recurrent)) it may be empty instead.
///
/// ```
/// use std::sync::Arc;
///
/// use llm_backend::Reference;
/// use llm_plan::WeightDType;
/// use llm_quant::Scalar;
/// use llm_runtime::{BoundModel, Limits, LoadOptions, Sampler, Sampling, load};
///
/// # let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/llama");
/// let model = BoundModel::open(&folder)?;
/// let limits = Limits { n_sequences: 1, context: 32, n_tokens: 8, n_logits: 1 };
/// let options = LoadOptions { dtype: WeightDType::Auto, quant: None, encoder: &Scalar, limits, offload: None };
/// let mut session = load(&model, &Arc::new(Reference::new()), &options, &mut |_| ())?;
///
/// let mut sampler = Sampler::new(Sampling::GREEDY, 0, model.spec().vocab);
/// let first = sampler.sample(session.prefill(0, &[1, 5, 9])?)?;
/// let second = sampler.sample(session.step(&[(0, first)])?)?;
/// assert_eq!(session.len(0), 4);
/// # Ok::<(), llm_runtime::RuntimeError>(())
/// ```
pub struct Session {
    spec: ModelSpec,
    pipeline: Pipeline,
    /// Allocations of the stages' weights.
    weights: Allocated,
    limits: Limits,
    dtype: DType,
    sequences: Sequences,
    /// `[n_logits, vocab]`.
    logits: Vec<f32>,
    interrupt: Interrupt,
    /// Source of the weights.
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

    /// Description of the model.
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

    /// Allocations: all that the session will ever need.
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

    /// Raising it ends what is fed to `sequence`, now or next, with [`RuntimeError::Interrupted`], and nothing that is fed to
    /// others. It stays raised until it is cleared.
    ///
    /// # Panics
    /// When there is no such sequence; so do the methods below.
    pub fn interrupt_of(&self, sequence: usize) -> Interrupt {
        self.sequences.interrupt(sequence).clone()
    }

    /// Positions that `sequence` has taken.
    pub fn len(&self, sequence: usize) -> usize {
        self.sequences.len(sequence)
    }

    /// Says that `sequence`, which is empty, will be fed a prompt of `n_positions`, if that happens in several calls: some
    /// models tell positions apart by how many there are, and a prompt's are all told apart alike.
    pub fn expect(&mut self, sequence: usize, n_positions: usize) {
        self.sequences.expect(sequence, n_positions);
    }

    /// Makes sequence `to` what `from` is, an encoder's prompt included; both go on on their own. Keys and values are shared,
    /// and copied block by block where either writes. States of recurrent layers are copied.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When they are the same, or `to` keeps a mark.
    pub fn fork(&mut self, from: usize, to: usize) -> Result<()> {
        assert_ne!(from, to, "a sequence is not forked to itself");
        self.sequences.assert_free(to);
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
        self.check_prompt(ids)?;
        self.truncate(sequence, 0);
        self.sequences.set_encoded(sequence, false);
        let interrupts = Interrupts {
            session: &self.interrupt,
            sequence: Some(self.sequences.interrupt(sequence)),
        };
        if interrupts.is_raised() {
            return Err(RuntimeError::Interrupted);
        }
        let encoded = self.pipeline.encode(sequence, ids, (interrupts, None))?;
        expect_whole(self.origin.as_ref())?;
        if is_finite(encoded) {
            self.sequences.set_encoded(sequence, true);
            return Ok(());
        }
        let probe = Probe::default();
        let watch = (interrupts, Some(&probe));
        self.pipeline.encode(sequence, ids, watch)?;
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

    /// Tokens to be fed to append `ids` to `sequence`: all of it where its keys were made for another length.
    fn begin<'i>(&mut self, sequence: usize, ids: &'i [u32]) -> Cow<'i, [u32]> {
        let fed = self.sequences.begin(sequence, ids);
        if let Cow::Owned(_) = fed {
            self.pipeline.rewind(sequence, 0);
        }
        fed
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

    /// Check that `ids` can be a prompt, alone in its sequence.
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
        self.sequences.assert_free(sequence);
        if self.sequences.interrupt(sequence).is_raised() {
            return Err(RuntimeError::Interrupted);
        }
        if self.spec.encoder.is_some() && !self.sequences.is_encoded(sequence) {
            return Err(RuntimeError::NotEncoded { sequence });
        }
        self.check_ids(ids, self.len(sequence), self.limits.context)
    }

    /// Check that `ids` can follow on `n_taken` positions.
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
            n_positions: self.len(sequence) + n_tokens,
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
            interrupt: Interrupts {
                session: &self.interrupt,
                sequence: match sequences {
                    [(sequence, _)] => Some(self.sequences.interrupt(*sequence)),
                    _ => None,
                },
            },
            probe: None,
        };
        if let Err(error) = self.pipeline.forward(&pass) {
            self.forget_broken(sequences);
            return Err(error);
        }
        for &(sequence, rows) in sequences {
            self.sequences
                .extend_to(sequence, rows.start + rows.n_tokens);
        }
        Ok(())
    }

    /// Empties sequences whose states a pass that failed has overwritten in some layers.
    fn forget_broken(&mut self, sequences: &[(usize, Rows)]) {
        for &(sequence, rows) in sequences {
            let is_broken = !self.pipeline.can_rewind(sequence, rows.start);
            if is_broken && self.spec.decoder.is_recurrent() {
                self.truncate(sequence, 0);
            }
        }
    }

    /// Logits after some rows of the last pass, kept from the `first` row of the session's logits on.
    fn logits_of(&mut self, rows: &[usize], first: usize) -> Result<()> {
        let vocab = self.spec.vocab;
        let out = &mut self.logits[first * vocab..(first + rows.len()) * vocab];
        self.pipeline.logits(rows, out)?;
        expect_whole(self.origin.as_ref())
    }

    /// The most probable tokens after some rows of the last pass. Logits that the host changes may be equal when they were
    /// not before, so that it has to choose.
    fn ids_of(&mut self, rows: &[usize], ids: &mut [Option<u32>]) -> Result<()> {
        if !self.spec.head.changes_logits() {
            self.pipeline.ids(rows, ids)?;
            return expect_whole(self.origin.as_ref());
        }
        self.logits_of(rows, 0)?;
        for (id, logits) in ids
            .iter_mut()
            .zip(self.logits.chunks_exact(self.spec.vocab))
        {
            *id = first_of_largest(logits);
        }
        Ok(())
    }
}

/// Refuses results of weights whose file was shortened meanwhile.
fn expect_whole(origin: Option<&Origin>) -> Result<()> {
    let cut = origin.and_then(|origin| origin.model.checkpoint().cut_file());
    match cut {
        None => Ok(()),
        Some(path) => Err(RuntimeError::SourceCut {
            path: path.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests;
