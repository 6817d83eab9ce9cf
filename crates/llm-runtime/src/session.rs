//! A loaded model and the sequences it works on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use llm_arch::ModelSpec;
use llm_backend::Rows;
use llm_plan::{Limits, Term};
use llm_tensor::DType;

use crate::memory::{Allocated, vec_bytes};
use crate::stage::{Pass, Stage};
use crate::{Result, RuntimeError};

/// Stops a running pass between two blocks; clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    raised: Arc<AtomicBool>,
}

impl Interrupt {
    /// Asks for a stop.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::Relaxed);
    }

    /// Takes the request back.
    pub fn clear(&self) {
        self.raised.store(false, Ordering::Relaxed);
    }

    /// Whether a stop is asked for.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }
}

/// A loaded model with the keys and values of its sequences.
///
/// A sequence is a number below [`Limits::n_sequences`]; each begins empty. A call that fails may have appended a part
/// of its tokens: [`Session::len`] tells, [`Session::truncate`] takes them back.
pub struct Session {
    spec: ModelSpec,
    stages: Vec<Box<dyn Stage>>,
    /// What the stages' weights take.
    weights: Allocated,
    limits: Limits,
    dtype: DType,
    /// Positions taken, by sequence.
    lengths: Vec<usize>,
    /// The most positions taken since it was last empty, by sequence.
    reached: Vec<usize>,
    /// What crosses from stage to stage, `[n_tokens, hidden]`.
    hidden: Vec<f32>,
    /// `[n_logits, vocab]`.
    logits: Vec<f32>,
    interrupt: Interrupt,
}

impl Session {
    pub(crate) fn new(
        spec: ModelSpec,
        (stages, weights): (Vec<Box<dyn Stage>>, Allocated),
        limits: Limits,
        dtype: DType,
    ) -> Self {
        Session {
            // A single stage keeps its hidden states to itself, but for what an encoder made of a prompt.
            hidden: vec![
                0.0;
                if stages.len() > 1 || spec.encoder.is_some() {
                    limits.n_tokens * spec.hidden
                } else {
                    0
                }
            ],
            logits: vec![0.0; limits.n_logits * spec.vocab],
            lengths: vec![0; limits.n_sequences],
            reached: vec![0; limits.n_sequences],
            interrupt: Interrupt::default(),
            spec,
            stages,
            weights,
            limits,
            dtype,
        }
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
        for stage in &self.stages {
            stage.count(&mut allocated);
        }
        let host = vec_bytes(&self.hidden) + vec_bytes(&self.logits);
        allocated.add(Term::Activations, host);
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
        self.lengths[sequence]
    }

    /// Forgets positions of `sequence` from `len` on; returns how many are left: `len`, or none where a window has
    /// already let go of what the position before `len` saw.
    ///
    /// # Panics
    /// When it has fewer.
    pub fn truncate(&mut self, sequence: usize, len: usize) -> usize {
        assert!(
            len <= self.lengths[sequence],
            "sequence {sequence} has but {} positions",
            self.lengths[sequence]
        );
        let layers = &self.spec.decoder.layers;
        let shortest = layers
            .iter()
            .map(|layer| self.limits.capacity(layer.window))
            .min()
            .unwrap_or(0);
        let reached = self.reached[sequence];
        let is_held = reached <= shortest || len + self.limits.n_tokens >= reached;
        self.lengths[sequence] = if is_held { len } else { 0 };
        if self.lengths[sequence] == 0 {
            self.reached[sequence] = 0;
        }
        self.lengths[sequence]
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
        self.check(sequence, ids)?;
        // An encoder sees all of its prompt at once.
        let (n_tokens, context) = (ids.len(), self.limits.n_tokens);
        if n_tokens > context {
            return Err(RuntimeError::ContextFull {
                n_tokens,
                context,
                model_context: self.spec.context,
            });
        }
        let memory = &mut self.hidden[..n_tokens * self.spec.hidden];
        for stage in &mut self.stages {
            stage.encode(sequence, ids, &self.interrupt, memory)?;
        }
        Ok(())
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
        self.check(sequence, ids)?;
        let n_tokens = self.limits.n_tokens;
        let n_pieces = ids.len().div_ceil(n_tokens);
        for (i, piece) in ids.chunks(n_tokens).enumerate() {
            let rows = self.rows(sequence, 0, piece.len());
            self.run(piece, &[(sequence, rows)], i + 1 == n_pieces)?;
        }
        let last = (ids.len() - 1) % n_tokens;
        self.logits_of(&[last])
    }

    /// Appends one token to each of some sequences, each named once; returns their logits, `[tokens, vocab]`.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    ///
    /// # Panics
    /// When there are more tokens than a pass, or its logits, may have rows.
    pub fn step(&mut self, tokens: &[(usize, u32)]) -> Result<&[f32]> {
        let Limits {
            n_tokens, n_logits, ..
        } = self.limits;
        assert!(
            tokens.len() <= n_tokens.min(n_logits),
            "{} tokens exceed the session's limits",
            tokens.len()
        );
        for &(sequence, id) in tokens {
            self.check(sequence, &[id])?;
        }
        // One sequence is the common case, and the hot path allocates nothing.
        if let [(sequence, id)] = *tokens {
            let rows = self.rows(sequence, 0, 1);
            self.run(&[id], &[(sequence, rows)], true)?;
            return self.logits_of(&[0]);
        }
        let ids: Vec<u32> = tokens.iter().map(|&(_, id)| id).collect();
        let rows = tokens.iter().enumerate();
        let rows: Vec<_> = rows
            .map(|(i, &(sequence, _))| (sequence, self.rows(sequence, i, 1)))
            .collect();
        self.run(&ids, &rows, true)?;
        self.logits_of(&(0..tokens.len()).collect::<Vec<_>>())
    }

    /// Appends `ids` to `sequence` and hands the logits after each, with its index, to `each`.
    ///
    /// # Errors
    /// As [`Session::prefill`], and whatever `each` returns.
    pub fn score<E: From<RuntimeError>>(
        &mut self,
        sequence: usize,
        ids: &[u32],
        mut each: impl FnMut(usize, &[f32]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        self.check(sequence, ids)?;
        let (n_tokens, n_logits, vocab) =
            (self.limits.n_tokens, self.limits.n_logits, self.spec.vocab);
        for (first, piece) in ids
            .chunks(n_tokens)
            .enumerate()
            .map(|(i, piece)| (i * n_tokens, piece))
        {
            let rows = self.rows(sequence, 0, piece.len());
            self.run(piece, &[(sequence, rows)], true)?;
            for row in (0..piece.len()).step_by(n_logits) {
                let rows: Vec<usize> = (row..piece.len().min(row + n_logits)).collect();
                for (i, logits) in self.logits_of(&rows)?.chunks_exact(vocab).enumerate() {
                    each(first + row + i, logits)?;
                }
            }
        }
        Ok(())
    }

    fn check(&self, sequence: usize, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.spec.vocab) {
            return Err(RuntimeError::IdOutOfRange {
                id,
                vocab: self.spec.vocab,
            });
        }
        let n_tokens = self.lengths[sequence] + ids.len();
        let Limits { context, .. } = self.limits;
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
            start: self.lengths[sequence],
        }
    }

    fn run(&mut self, ids: &[u32], sequences: &[(usize, Rows)], logits: bool) -> Result<()> {
        let pass = Pass {
            ids,
            sequences,
            logits,
            interrupt: &self.interrupt,
        };
        let n_hidden = if self.hidden.is_empty() {
            0
        } else {
            ids.len() * self.spec.hidden
        };
        for stage in &mut self.stages {
            stage.forward(&pass, &mut self.hidden[..n_hidden])?;
        }
        for &(sequence, rows) in sequences {
            self.lengths[sequence] = rows.start + rows.n_tokens;
            self.reached[sequence] = self.reached[sequence].max(self.lengths[sequence]);
        }
        Ok(())
    }

    fn logits_of(&mut self, rows: &[usize]) -> Result<&[f32]> {
        let out = &mut self.logits[..rows.len() * self.spec.vocab];
        self.stages
            .last_mut()
            .expect("a session has a stage")
            .logits(rows, out)?;
        if !out.iter().all(|x| x.is_finite()) {
            return Err(RuntimeError::NotFinite { dtype: self.dtype });
        }
        Ok(out)
    }
}
