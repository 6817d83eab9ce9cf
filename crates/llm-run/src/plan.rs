//! `llm-run plan`: where a model goes and what it takes, or why it does not fit and what would do.

use std::process::ExitCode;

use anyhow::Result;
use llm_plan::{
    Alternative, Bandwidths, Budgets, Change, MemoryEstimate, Request, Strategy, Verdict, advice,
    alternatives,
};
use llm_tensor::Bytes;

use self::args::Memories;
use self::request::Setting;
use self::subject::Subject;
use crate::cli::PlanArgs;
use crate::failure::UserError;
use crate::output;
use crate::system::{self, Measured};

mod args;
mod bars;
mod costs;
mod json;
mod program;
mod reader;
mod request;
mod subject;
mod svg;
mod text;
mod units;
mod used;
mod wanted;

pub(crate) use self::args::PlaceArgs;
pub(crate) use self::request::limits;
pub(crate) use self::used::{compare, streamed};
pub(crate) use self::wanted::Wanted;

pub(crate) fn plan(args: &PlanArgs) -> Result<ExitCode> {
    let load = &args.load;
    if load.verify {
        let message = "--verify reads all bytes, and a plan only headers; use `llm-run verify`";
        return Err(UserError(message.to_owned()).into());
    }
    let subject = Subject::open(&args.model)?;
    let quant = load.quant.config()?;
    let encodings = subject.encodings(load.dtype, quant.as_ref())?;
    let cpu = load.cpu()?;
    let model = subject.model.as_ref().map(|model| (model, &encodings));
    let setting = Setting::new(&cpu, &load.place, model)?;
    let spec = &subject.skeleton.spec;
    let context = load.context(spec, USUAL_CONTEXT)?;
    let limits = limits(spec, context, args.batch.get(), 1);
    let (skeleton, program) = (&subject.skeleton, subject.program);
    let request = setting.request(skeleton, &subject.stored, encodings, limits, program);
    let report = Report::new(&subject, &setting.memories, &request)?;
    if let Some(path) = &args.svg {
        let error = |e| UserError(format!("cannot write {}: {e}", path.display()));
        std::fs::write(path, svg::draw(&report)).map_err(error)?;
    }
    output::print(&match args.json {
        true => json::text(&report)?,
        false => text::text(&report),
    })?;
    Ok(match report.verdict {
        Verdict::Fits(_) => ExitCode::SUCCESS,
        Verdict::DoesNotFit(_) => ExitCode::from(2),
    })
}

/// All that is said of a request.
struct Report<'a> {
    subject: &'a Subject,
    memories: &'a Memories,
    request: &'a Request<'a>,
    verdict: Verdict,
    /// What the model takes as it is planned; where it does not fit, as RAM of any size would hold it.
    estimate: MemoryEstimate,
    alternatives: Vec<Alternative>,
    advice: Vec<Change>,
    bandwidths: (Bandwidths, Measured),
}

impl<'a> Report<'a> {
    fn new(subject: &'a Subject, memories: &'a Memories, request: &'a Request<'a>) -> Result<Self> {
        let verdict = llm_plan::plan(request)?;
        let in_any_ram = || {
            let request = Request {
                budgets: Budgets {
                    ram: Bytes::new(u64::MAX),
                    ..Budgets::default()
                },
                strategy: Strategy::Cpu,
                ..request.clone()
            };
            llm_plan::plan(&request)
        };
        let planned = match verdict.plan() {
            Some(plan) => Some(plan.estimate.clone()),
            None => in_any_ram()?.plan().map(|plan| plan.estimate.clone()),
        };
        Ok(Report {
            estimate: planned.expect("RAM of any size holds every model"),
            alternatives: alternatives(request)?,
            advice: advice(request)?,
            bandwidths: system::bandwidths(),
            verdict,
            subject,
            memories,
            request,
        })
    }

    /// `bloomz-7b1-mt fits, with weights on …`.
    fn sentence(&self) -> String {
        format!("{} {}", self.subject.name, self.verdict)
    }
}

/// `14.1 GB`.
fn short(bytes: Bytes) -> String {
    let both = bytes.to_string();
    let decimal = both.split(" (").next();
    decimal.unwrap_or_default().to_owned()
}

/// Positions that are planned for unless told, or as many as the model has.
const USUAL_CONTEXT: usize = 4096;
