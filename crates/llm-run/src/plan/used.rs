//! What was planned beside what was used.

use llm_plan::{Home, Plan, Term};
use llm_runtime::Session;
use llm_tensor::Bytes;

use crate::inspect::{Column, table_of};
use crate::memory::Memory;

/// A table of terms, and what the kernel counts.
pub(crate) fn compare(plan: &Plan, session: &Session) -> String {
    let head = [
        Column::Left("RAM"),
        Column::Right("planned"),
        Column::Right("allocated"),
    ];
    let used = session.memory().terms;
    let terms = Term::ALL.into_iter();
    let rows = terms.filter_map(|term| {
        let (planned, allocated) = (plan.estimate.total(term), used.get(term));
        let is_there = planned > Bytes::ZERO || allocated > Bytes::ZERO;
        // It is gone once the model is loaded.
        let allocated = match term {
            Term::LoadTransient => String::new(),
            _ => allocated.to_string(),
        };
        is_there.then(|| vec![term.to_string(), planned.to_string(), allocated])
    });
    let mut text = table_of(&head, rows.collect());
    if let Some(ram) = plan.estimate.memory(Home::Ram) {
        let Memory {
            peak_resident_bytes,
            anonymous_bytes,
            file_bytes,
        } = Memory::now();
        text += &format!(
            "planned peak {} at load, {} in generation; used with the program itself: peak resident {}, \
             now anonymous {}, of mapped files {}\n",
            ram.peak_at_load(),
            ram.peak_in_generation(),
            Bytes::new(peak_resident_bytes),
            Bytes::new(anonymous_bytes),
            Bytes::new(file_bytes),
        );
    }
    text
}
