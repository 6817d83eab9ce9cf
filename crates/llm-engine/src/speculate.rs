//! A pass with drafts, for an answer on the first sequence.

use std::time::Instant;

use llm_runtime::Session;

use crate::EngineError;
use crate::draft::Drafts;
use crate::generation::{After, EndReason, Generation};

/// Outcome of a pass with drafts.
pub(crate) enum Passed {
    /// The token that follows on those that were drafted and chosen.
    Next(Result<u32, EngineError>),
    /// The end of the answer, with a token that was drafted.
    Ended(EndReason),
}

/// What follows on the rows that are kept.
enum Follows {
    Of(Passed),
    /// Unknown, as the results are no finite numbers after this token.
    Unknown(u32),
}

/// Appends the last token and its drafts to the first sequence, and takes drafts as long as they are what is chosen anyway. The
/// sequence then holds what it would without drafts.
///
/// # Errors
/// When no token may follow, the session cannot go back, or `print` fails.
pub(crate) fn pass<E: From<EngineError>>(
    session: &mut Session,
    generation: &mut Generation<'_>,
    drafts: &mut Drafts,
    print: &mut dyn FnMut(&str) -> Result<(), E>,
) -> Result<Passed, E> {
    let (start, context) = (session.len(0), session.limits().context);
    let is_greedy = generation.is_greedy();
    let (begin, ids) = (Instant::now(), &drafts.ids[..]);
    let at = (ids, context - start);
    let (time, taken) = match is_greedy {
        true => {
            if let Err(error) = session.greedy_drafts(0, ids, &mut drafts.found) {
                return Ok(Passed::Next(Err(error.into())));
            }
            let time = begin.elapsed();
            let mut rows = drafts.found.iter().map(|id| id.map(After::Id));
            (time, take_drafts(generation, at, &mut rows, print)?)
        }
        false => {
            let logits = match session.step_drafts(0, ids) {
                Ok(logits) => logits,
                Err(error) => return Ok(Passed::Next(Err(error.into()))),
            };
            let time = begin.elapsed();
            let mut rows = logits.map(|logits| logits.map(After::Logits));
            (time, take_drafts(generation, at, &mut rows, print)?)
        }
    };
    let Taken {
        n_kept,
        n_accepted,
        follows,
    } = taken;
    session
        .rewind(0, start + n_kept)
        .map_err(EngineError::from)?;
    drafts.end(n_accepted, time);
    Ok(match follows {
        Follows::Of(passed) => passed,
        // Alone it is computed as ever, and what is wrong is told of, if anything is.
        Follows::Unknown(id) => Passed::Next(generation.next(session, id)),
    })
}

/// What came of a pass.
struct Taken {
    /// Rows that stay in the sequence.
    n_kept: usize,
    /// Drafts that were chosen.
    n_accepted: usize,
    follows: Follows,
}

/// Chooses a token after each row of `ids`, with `room` positions left before the first, while the next row is that token's.
fn take_drafts<'l, E: From<EngineError>>(
    generation: &mut Generation<'_>,
    (ids, room): (&[u32], usize),
    rows: &mut dyn Iterator<Item = Option<After<'l>>>,
    print: &mut dyn FnMut(&str) -> Result<(), E>,
) -> Result<Taken, E> {
    let mut row = 0;
    loop {
        let taken = |n_kept, n_accepted, follows| Taken {
            n_kept,
            n_accepted,
            follows,
        };
        let Some(after) = rows.next().flatten() else {
            return Ok(taken(row, row, Follows::Unknown(ids[row])));
        };
        let chosen = generation.choose(after);
        let drafted = ids.get(row + 1);
        let id = match chosen {
            Ok(id) if drafted == Some(&id) => id,
            other => return Ok(taken(row + 1, row, Follows::Of(Passed::Next(other)))),
        };
        row += 1;
        if let Some(end) = generation.take(id, room - row, print)? {
            return Ok(taken(row, row, Follows::Of(Passed::Ended(end))));
        }
    }
}
