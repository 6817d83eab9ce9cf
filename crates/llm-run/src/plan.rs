//! `llm-run plan`: where a model goes and what it takes, or why it does not fit and what would do.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Error, Result};
use llm_checkpoint::Checkpoint;
use llm_plan::{Home, Offload, PartsVerdict, Request, Verdict, Workload};
use llm_tensor::Bytes;

use self::headers::{HeaderReport, USUAL_CONTEXT};
use self::model::PlannedModel;
use self::report::{Detail, PlanReport};
use crate::cli::PlanArgs;
use crate::failure::refuse;
use crate::open::unknown_checkpoint;
use crate::output;
use crate::placement::budgets::MemoryBudgets;
use crate::placement::request::{PlanSetting, limits};
use crate::system::Rates;

mod headers;
mod kv_bound;
mod model;
mod print;
mod report;

pub(crate) fn plan(args: &PlanArgs) -> Result<ExitCode> {
    let load = &args.load;
    if load.verify {
        return refuse("--verify reads all bytes, and a plan only headers; use `llm-run verify`");
    }
    let model = match PlannedModel::open(&args.model, &load.keys) {
        Ok(model) => model,
        Err(error) => {
            return match unknown_checkpoint(&args.model, &error) {
                Some(checkpoint) => plan_headers(args, &checkpoint, &error),
                None => Err(error),
            };
        }
    };
    let quant = load.quant.config()?;
    let encodings = model.encodings(load.dtype, quant.as_ref())?;
    let cpu = load.cpu()?;
    let bound = model.bound.as_ref().map(|bound| (bound, &encodings));
    let setting = PlanSetting::new(&cpu, &load.place, bound)?;
    let spec = &model.skeleton.spec;
    let context = load.context(spec, USUAL_CONTEXT)?;
    let limits = limits(spec, context, args.batch.get(), 1);
    let (skeleton, program) = (&model.skeleton, model.program);
    let rates = Rates::of(&model.read_from, &setting.memories.gpus.found);
    let mut request = Request {
        offload: offload(&setting.memories, &rates),
        ..setting.request(skeleton, &model.stored, encodings, limits, program)
    };
    let rates = rates_of_plan(&model, &setting.memories, &mut request, rates)?;
    let report = PlanReport::new(&model, &setting.memories, &request, rates)?;
    if let Some(path) = &args.svg {
        print::svg::write(path, &print::svg::draw(&report))?;
    }
    output::print(&match args.json {
        true => print::json::text(&report)?,
        false => print::text::text(&report, Detail::of(args)),
    })?;
    Ok(match report.verdict {
        Verdict::Fits(_) => ExitCode::SUCCESS,
        Verdict::DoesNotFit(_) => ExitCode::from(2),
    })
}

/// The rates that hold where the plan has weights rest: on the disk of the offload folder as far as they are written.
fn rates_of_plan(
    model: &PlannedModel,
    memories: &MemoryBudgets,
    request: &mut Request<'_>,
    rates: Rates,
) -> Result<Rates> {
    let verdict = llm_plan::plan(request)?;
    let on_disk = verdict
        .plan()
        .and_then(|plan| plan.estimate.memory(Home::Disk));
    let Some(disk) = on_disk.filter(|disk| disk.needed() > Bytes::ZERO) else {
        return Ok(rates);
    };
    let mut files: Vec<PathBuf> = memories.offload_folder.iter().cloned().collect();
    if disk.in_place > Bytes::ZERO {
        files.extend_from_slice(&model.read_from);
    }
    let rates = Rates::of(&files, &memories.gpus.found);
    request.offload = offload(memories, &rates);
    Ok(rates)
}

/// Device of what no GPU holds. On a GPU of this machine it is what a run here does; of another machine's the faster way
/// is planned.
fn offload(memories: &MemoryBudgets, rates: &Rates) -> Offload {
    match memories.budgets.gpus.is_empty() || !memories.lacking.is_empty() {
        true => Offload::Fastest {
            speeds: rates.speeds.clone(),
            workload: Workload::default(),
        },
        false => Offload::Compute,
    }
}

/// Plans a checkpoint by its headers. `reason` says why it cannot be run.
fn plan_headers(args: &PlanArgs, checkpoint: &Checkpoint, reason: &Error) -> Result<ExitCode> {
    output::notes(checkpoint.notices());
    let memories = MemoryBudgets::new(&args.load.place, &|_| Ok(Bytes::ZERO))?;
    let report = HeaderReport::new(args, checkpoint, memories, reason)?;
    if let Some(path) = &args.svg {
        print::svg::write(path, &report.picture())?;
    }
    output::print(&match args.json {
        true => output::json(&report.json())?,
        false => report.text(Detail::of(args)),
    })?;
    Ok(match report.verdict {
        PartsVerdict::Fit(_) => ExitCode::SUCCESS,
        PartsVerdict::Lack(..) => ExitCode::from(2),
    })
}
