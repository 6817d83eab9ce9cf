//! One answer, on the first sequence of a session.

use std::time::Instant;

use llm_runtime::{RuntimeError, Session};

use crate::generation::{Completion, EndReason, Generation, Timings, print_piece};
use crate::speculate::{self, Passed};
use crate::{EngineError, beams};

/// Appends `ids`, the end of the prompt, to the session's first sequence and brings the answer to its end; `print`
/// gets the text in pieces as it becomes certain.
///
/// The session's interrupt, or that of the sequence, ends the answer; one during prefill leaves it empty.
///
/// # Errors
/// When the session fails, no token may follow, or `print` fails.
pub fn complete<E: From<EngineError>>(
    session: &mut Session,
    mut generation: Generation<'_>,
    ids: &[u32],
    print: &mut dyn FnMut(&str) -> Result<(), E>,
) -> Result<(Completion, Timings), E> {
    if generation.settings().beams.is_some() {
        return beams::complete(session, generation, ids, print);
    }
    generation.share(generation.prompt().len() - ids.len());
    let mut drafts = generation.take_drafts();
    let context = session.limits().context;
    let begin = Instant::now();
    let mut next = generation.first(session, ids);
    let prefill = begin.elapsed();
    let begin = Instant::now();
    let end = loop {
        let id = match next {
            Ok(id) => id,
            Err(EngineError::Runtime(RuntimeError::Interrupted)) => break EndReason::Interrupted,
            Err(error) => return Err(error.into()),
        };
        if let Some(end) = generation.take(id, context - session.len(0), print)? {
            break end;
        }
        let Some(drafts) = &mut drafts else {
            next = generation.next(session, id);
            continue;
        };
        if generation.draft(session, drafts) > 0 {
            match speculate::pass(session, &mut generation, drafts, print)? {
                Passed::Next(id) => next = id,
                Passed::Ended(end) => break end,
            }
        } else {
            let begin = Instant::now();
            next = generation.next(session, id);
            drafts.end_plain(begin.elapsed());
        }
    };
    let decode = begin.elapsed();
    let completion = Completion {
        drafts: drafts.map(|drafts| drafts.counts()),
        ..generation.finish(end)?
    };
    print_piece(&completion.rest, print)?;
    Ok((completion, Timings { prefill, decode }))
}
