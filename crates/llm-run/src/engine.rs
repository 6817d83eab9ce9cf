//! Generation on a loaded session: requests, scheduling, stop strings and prefixes. Nothing here knows the command line,
//! and nothing prints.

mod batch;
mod beams;
mod generation;
mod outcome;
mod prefix;
mod settings;
mod text;

use std::time::Instant;

use anyhow::Result;
use llm_runtime::{RuntimeError, Session};

pub(crate) use self::batch::{Batch, nth_seed};
pub(crate) use self::generation::{Completion, EndReason, Generation, Timings};
pub(crate) use self::outcome::of_prompt;
pub(crate) use self::prefix::Prefix;
pub(crate) use self::settings::{Length, Settings};

/// Appends `ids`, the end of the prompt, to the session's first sequence and brings the answer to its end; `print`
/// gets the text in pieces as it becomes certain.
///
/// An interrupt ends the answer; one during prefill leaves it empty.
pub(crate) fn complete(
    session: &mut Session,
    mut generation: Generation<'_>,
    ids: &[u32],
    print: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<(Completion, Timings)> {
    if generation.settings().beams.is_some() {
        return beams::complete(session, generation, ids, print);
    }
    let context = session.limits().context;
    let begin = Instant::now();
    let mut next = generation.first(session, ids);
    let prefill = begin.elapsed();
    let begin = Instant::now();
    let end = loop {
        let id = match next {
            Ok(id) => id,
            Err(RuntimeError::Interrupted) => break EndReason::Interrupted,
            Err(error) => return Err(error.into()),
        };
        if let Some(end) = generation.push(id, context - session.len(0), print)? {
            break end;
        }
        next = generation.next(session, id);
    };
    let decode = begin.elapsed();
    let completion = generation.finish(end, print)?;
    Ok((completion, Timings { prefill, decode }))
}
