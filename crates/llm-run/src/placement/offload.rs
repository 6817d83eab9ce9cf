//! Device of what no GPU holds: the faster one for a workload, at the rates of where weights would rest.

use std::path::{Path, PathBuf};

use anyhow::Result;
use llm_plan::{Home, Offload, Request, Workload};
use llm_runtime::BoundModel;
use llm_tensor::Bytes;

use super::budgets::MemoryBudgets;
use crate::demo;
use crate::system::Rates;

/// Has a request plan the faster device for what no GPU holds, so that `workload` takes least time; the rates by which it does. `read_from` are the files, or the
/// folders of those, that weights are read from in place.
///
/// # Errors
/// When the request makes no sense.
pub(crate) fn choose_faster(
    request: &mut Request<'_>,
    memories: &MemoryBudgets,
    read_from: &[PathBuf],
    workload: Workload,
) -> Result<Rates> {
    let rates = Rates::of(read_from, &memories.gpus.found);
    request.offload = faster(&rates, workload);
    let verdict = llm_plan::plan(request)?;
    let plan = verdict.plan();
    let on_disk = plan.and_then(|plan| plan.estimate.memory(Home::Disk));
    let Some(disk) = on_disk.filter(|disk| disk.needed() > Bytes::ZERO) else {
        return Ok(rates);
    };
    // On the disk of the offload folder as far as they are written.
    let mut files: Vec<PathBuf> = memories.offload_folder.iter().cloned().collect();
    if disk.in_place > Bytes::ZERO {
        files.extend_from_slice(read_from);
    }
    let rates = Rates::of(&files, &memories.gpus.found);
    request.offload = faster(&rates, workload);
    Ok(rates)
}

fn faster(rates: &Rates, workload: Workload) -> Offload {
    Offload::Fastest {
        speeds: rates.speeds.clone(),
        workload,
        only: None,
    }
}

/// Files that a model's weights are read from in place; none of one that is part of the program.
pub(crate) fn read_from(model: &BoundModel) -> Vec<PathBuf> {
    let checkpoint = model.checkpoint();
    match checkpoint.path() == Path::new(demo::ORIGIN) {
        true => Vec::new(),
        false => checkpoint.files().map(Path::to_owned).collect(),
    }
}
