//! Beam search: several continuations side by side, the best of which is printed.

use std::time::Instant;

use llm_runtime::{BeamSearch, BeamStep, RuntimeError, Session};

use crate::EngineError;
use crate::generation::{Completion, EndReason, Generation, Timings};

/// As [`crate::complete`], by a beam search over as many sequences of the session; afterwards the first one holds the
/// prompt.
pub(crate) fn complete<E: From<EngineError>>(
    session: &mut Session,
    mut generation: Generation<'_>,
    ids: &[u32],
    print: &mut dyn FnMut(&str) -> Result<(), E>,
) -> Result<(Completion, Timings), E> {
    let context = session.limits().context;
    generation.share(generation.prompt().len() - ids.len());
    let begin = Instant::now();
    let logits = generation.prefill(session, ids).map(<[f32]>::to_vec);
    let prefill = begin.elapsed();
    let begin = Instant::now();
    let mut search = search(session, &generation);
    let n_prompt = session.len(0);
    let interrupted = match logits {
        Ok(logits) => run(session, &generation, &mut search, &logits)?,
        Err(RuntimeError::Interrupted) => Some(EndReason::Interrupted),
        Err(error) => return Err(EngineError::from(error).into()),
    };
    let mut end = None;
    for (i, &id) in search.best().iter().enumerate() {
        let room = context.saturating_sub(n_prompt + i);
        let (piece, ended) = generation.push(id, room)?;
        if !piece.is_empty() {
            print(&piece)?;
        }
        end = ended;
        if end.is_some() {
            break;
        }
    }
    session.truncate(0, n_prompt.min(session.len(0)));
    // A continuation that nothing else ends was the best when time ran out.
    let end = interrupted.or(end).unwrap_or(EndReason::Time);
    let decode = begin.elapsed();
    let completion = generation.finish(end)?;
    if !completion.rest.is_empty() {
        print(&completion.rest)?;
    }
    Ok((completion, Timings { prefill, decode }))
}

fn search(session: &Session, generation: &Generation<'_>) -> BeamSearch {
    let (settings, prompt) = (generation.settings(), generation.prompt());
    // The last token's own position is never needed.
    let rules = generation.rules(session.limits().context + 1);
    BeamSearch::new(
        settings.beams.expect("a search has beams"),
        (settings.sampling, rules),
        settings.seed,
        session.spec().vocab,
        (prompt, settings.begin(prompt)),
    )
}

/// Brings the search to its end; `Interrupted` where that is an interrupt.
fn run(
    session: &mut Session,
    generation: &Generation<'_>,
    search: &mut BeamSearch,
    logits: &[f32],
) -> crate::Result<Option<EndReason>> {
    let mut is_end = |ids: &[u32]| generation.is_ended(ids);
    let mut slots = Slots::new(session.limits().n_sequences);
    let mut steps = search.advance(logits, &mut is_end)?.to_vec();
    let interrupt = session.interrupt_of(0);
    while !steps.is_empty() {
        // The first sequence's is that of all beams, though it may not be among them.
        if interrupt.is_raised() {
            return Ok(Some(EndReason::Interrupted));
        }
        let tokens = slots.follow(session, &steps)?;
        let logits = match session.step(tokens) {
            Ok(logits) => logits,
            Err(RuntimeError::Interrupted) => return Ok(Some(EndReason::Interrupted)),
            Err(error) => return Err(error.into()),
        };
        let next = search.advance(logits, &mut is_end)?;
        steps.clear();
        steps.extend_from_slice(next);
    }
    Ok(None)
}

/// Sequences of the session that the beams have.
struct Slots {
    /// By beam.
    of_beams: Vec<usize>,
    free: Vec<usize>,
    /// Of the beams before.
    former: Vec<usize>,
    tokens: Vec<(usize, u32)>,
}

impl Slots {
    /// One beam, the prompt, has the first sequence.
    fn new(n_sequences: usize) -> Self {
        Slots {
            of_beams: vec![0],
            free: (1..n_sequences).collect(),
            former: Vec::new(),
            tokens: Vec::new(),
        }
    }

    /// Gives each beam a sequence that holds what it goes on from; the tokens to feed to them.
    fn follow(
        &mut self,
        session: &mut Session,
        steps: &[BeamStep],
    ) -> crate::Result<&[(usize, u32)]> {
        std::mem::swap(&mut self.of_beams, &mut self.former);
        self.of_beams.clear();
        let is_gone = |beam: &usize| steps.iter().all(|step| step.parent != *beam);
        let gone = (0..self.former.len()).filter(is_gone);
        self.free.extend(gone.map(|beam| self.former[beam]));
        for (i, step) in steps.iter().enumerate() {
            let theirs = self.former[step.parent];
            // The first of a beam's heirs has its sequence, the others copies: nobody has gone on yet.
            let is_first = steps[..i].iter().all(|other| other.parent != step.parent);
            let slot = match is_first {
                true => theirs,
                false => {
                    let slot = self.free.pop().expect("a sequence for each beam");
                    session.fork(theirs, slot)?;
                    slot
                }
            };
            self.of_beams.push(slot);
        }
        self.tokens.clear();
        let slots = self.of_beams.iter();
        self.tokens
            .extend(slots.zip(steps).map(|(&slot, step)| (slot, step.id)));
        Ok(&self.tokens)
    }
}
