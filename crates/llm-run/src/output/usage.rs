//! Memory that was planned, beside memory that is used.

use llm_plan::{Home, Plan, Term};
use llm_runtime::Session;
use llm_tensor::Bytes;

use super::table::{Column, table};
use super::words::short;
use crate::resident::ResidentSet;

/// Bytes of weights that are read from disk for every token, in a sentence, if any are.
pub(crate) fn streamed(plan: &Plan) -> Option<String> {
    let paths = plan.step.weights.iter();
    let on_disk = paths.filter(|(path, _)| path.home == Home::Disk);
    let bytes: Bytes = on_disk.map(|&(_, bytes)| bytes).sum();
    (bytes > Bytes::ZERO).then(|| {
        format!(
            "{} of weights rest on disk and are read for every token; `llm-run plan` says why",
            short(bytes)
        )
    })
}

/// A table of terms, and what the kernel counts.
pub(crate) fn compare(plan: &Plan, session: &Session) -> String {
    let head = [
        Column::Left("RAM"),
        Column::Right("planned"),
        Column::Right("allocated"),
    ];
    let ram = plan.estimate.memory(Home::Ram);
    let ram = ram.expect("the process is in RAM whatever it computes with");
    let used = session.memory().terms;
    let rows = Term::ALL.into_iter().filter_map(|term| {
        let (planned, allocated) = (ram.terms.get(term), used.get(term));
        let is_there = planned > Bytes::ZERO || allocated > Bytes::ZERO;
        let allocated = match term {
            // The first is gone once the model is loaded, the second no session's: the line below has both.
            Term::LoadTransient | Term::Program => String::new(),
            _ => allocated.to_string(),
        };
        is_there.then(|| vec![term.to_string(), planned.to_string(), allocated])
    });
    let ResidentSet {
        peak_resident_bytes,
        anonymous_bytes,
        file_bytes,
    } = ResidentSet::now();
    table(&head, rows)
        + &format!(
            "planned peak {} at load, {} in generation; used: peak resident {}, \
             now anonymous {}, of mapped files {}\n",
            ram.peak_at_load(),
            ram.peak_in_generation(),
            Bytes::new(peak_resident_bytes),
            Bytes::new(anonymous_bytes),
            Bytes::new(file_bytes),
        )
}
