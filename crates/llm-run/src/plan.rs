//! `llm-run plan`: where a model goes and what it takes, or why it does not fit and what would do.

use std::process::ExitCode;

use anyhow::{Error, Result};
use llm_checkpoint::Checkpoint;
use llm_plan::{PartsVerdict, Verdict, Workload};
use llm_tensor::Bytes;

use self::headers::{HeaderReport, USUAL_CONTEXT};
pub(crate) use self::model::{CONFIG, PlannedModel, lacks_weights};
pub(crate) use self::print::units::{UnitGroup, groups};
use self::report::{Detail, PlanReport};
use crate::cli::PlanArgs;
use crate::failure::refuse;
use crate::hub_model::{HubModel, ToDownload};
use crate::open::unknown_checkpoint;
use crate::output;
use crate::placement::budgets::MemoryBudgets;
use crate::placement::offload::choose_faster;
use crate::placement::request::{PlanSetting, limits};

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
    let hub = args.hub.as_ref();
    let model = match PlannedModel::open((&args.model, hub), &load.keys) {
        Ok(model) => model,
        Err(error) => {
            return match unknown_checkpoint(&args.model, HubModel::origin(hub), &error) {
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
    let mut request = setting.request(skeleton, &model.stored, encodings, limits, program);
    let (memories, workload) = (&setting.memories, Workload::default());
    let rates = choose_faster(&mut request, memories, &model.read_from, workload)?;
    let report = PlanReport::new(&model, &setting.memories, &request, rates)?;
    if let Some(path) = &args.svg {
        print::svg::write(path, &print::svg::draw(&report))?;
    }
    output::print(&match args.json {
        true => print::json::text(&report)?,
        false => {
            print::text::text(&report, Detail::of(args)) + &to_download(model.to_download.as_ref())
        }
    })?;
    Ok(match report.verdict {
        Verdict::Fits(_) => ExitCode::SUCCESS,
        Verdict::DoesNotFit(_) => ExitCode::from(2),
    })
}

/// What a model is to be downloaded for, in a line.
fn to_download(to_download: Option<&ToDownload>) -> String {
    to_download.map_or_else(String::new, |download| format!("\n{}", download.text()))
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
        false => report.text(Detail::of(args)) + &to_download(report.to_download.as_ref()),
    })?;
    Ok(match report.verdict {
        PartsVerdict::Fit(_) => ExitCode::SUCCESS,
        PartsVerdict::Lack(..) => ExitCode::from(2),
    })
}
