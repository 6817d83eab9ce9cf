//! Memory that was planned, beside memory that is used.

use llm_backend::Backend;
use llm_plan::{Home, MemoryUse, Placement, Plan, Term, TermBytes};
use llm_runtime::Session;
use llm_tensor::Bytes;

use super::table::{Column, table};
use super::words::short;
use crate::placement::placed::Placed;
use crate::resident::ResidentSet;
use crate::system::{self, Gpu};

/// Bytes of weights that are read from disk, and that are brought from RAM to GPUs, for every token: a sentence each, if any
/// are.
pub(crate) fn streamed(plan: &Plan) -> Vec<String> {
    let bytes_of = |of: &dyn Fn(Placement) -> bool| -> Bytes {
        let paths = plan.step.weights.iter();
        let paths = paths.filter(|(path, _)| of(*path));
        paths.map(|&(_, bytes)| bytes).sum()
    };
    let sentences = [
        (
            bytes_of(&|path| path.home == Home::Disk),
            "rest on disk and are read for every token",
        ),
        (
            bytes_of(&|path| path.home == Home::Ram && !path.is_resident()),
            "rest in RAM and are brought to a GPU for every token",
        ),
    ];
    let sentences = sentences.into_iter().filter(|(n, _)| *n > Bytes::ZERO);
    let sentences = sentences.map(|(bytes, what)| {
        format!(
            "{} of weights {what}; `llm-run plan` says why",
            short(bytes)
        )
    });
    sentences.collect()
}

/// Bytes of weights that a GPU does not copy by itself, in a sentence, if there are any.
pub(crate) fn pageable(session: &Session) -> Option<String> {
    let pageable = session.memory().pageable;
    (pageable > Bytes::ZERO).then(|| {
        format!(
            "the driver does not lock {} of weights in RAM: bringing them to the GPU takes the processor's help, and is slower",
            short(pageable)
        )
    })
}

/// Tables of terms, one a memory, what the kernel and the driver count, and why no GPU computes, where none does.
pub(crate) fn compare(placed: &Placed, session: &Session) -> String {
    let used = session.memory().memories;
    let memories = placed.plan.estimate.memories().iter();
    let in_memory = memories.filter(|memory| memory.home != Home::Disk);
    let tables = in_memory.map(|memory| {
        let used = used.get(&memory.home).copied().unwrap_or_default();
        of_memory(memory, &used) + &peak(memory, placed)
    });
    let mut text: String = tables.collect();
    if let Some(rounding) = &placed.rounding {
        text += &rounding.line();
    }
    for gpu in &placed.opened {
        if let Some(products) = gpu.products() {
            text += &format!("products of many rows on {}: {products}\n", gpu.info().name);
        }
    }
    for left_out in &placed.gpus.left_out {
        text += &format!("{left_out}\n");
    }
    if let Some(none) = &placed.gpus.none_because {
        text += &format!("no GPU computes: {none}\n");
    }
    text
}

/// Bytes of a memory by term: as planned and as allocated.
fn of_memory(memory: &MemoryUse, used: &TermBytes) -> String {
    let name = memory.home.to_string();
    let head = [
        Column::Left(&name),
        Column::Right("planned"),
        Column::Right("allocated"),
    ];
    let rows = Term::ALL.into_iter().filter_map(|term| {
        let (planned, allocated) = (memory.terms.get(term), used.get(term));
        let is_there = planned > Bytes::ZERO || allocated > Bytes::ZERO;
        let allocated = match term {
            // The first is gone once the model is loaded, the others no session's: the line below has them.
            Term::LoadTransient | Term::Program | Term::GpuContext => String::new(),
            _ => allocated.to_string(),
        };
        is_there.then(|| vec![term.to_string(), planned.to_string(), allocated])
    });
    table(&head, rows)
}

/// The most that a memory was planned to hold, and what the system counts there.
fn peak(memory: &MemoryUse, placed: &Placed) -> String {
    let planned = format!(
        "planned peak {} at load, {} in generation",
        memory.peak_at_load(),
        memory.peak_in_generation()
    );
    if let Home::Gpu(number) = memory.home {
        let before = placed.gpus.found.iter().find(|gpu| gpu.number == number);
        let now = system::gpus().unwrap_or_default();
        let now = now.gpus.iter().find(|gpu| gpu.number == number);
        let free = |gpu: Option<&Gpu>| gpu.map_or(Bytes::ZERO, |gpu| gpu.free);
        return format!(
            "{planned}; used: {} less is free there than before, by its driver\n",
            free(before).saturating_sub(free(now)),
        );
    }
    let ResidentSet {
        peak_resident_bytes,
        anonymous_bytes,
        file_bytes,
    } = ResidentSet::now();
    format!(
        "{planned}; used: peak resident {}, now anonymous {}, of mapped files {}\n",
        Bytes::new(peak_resident_bytes),
        Bytes::new(anonymous_bytes),
        Bytes::new(file_bytes),
    )
}
