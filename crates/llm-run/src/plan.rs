//! `llm-run plan`: where a model goes and what it takes, or why it does not fit and what would do.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use llm_plan::{
    Alternative, Budgets, Change, Home, MemoryEstimate, Offload, Recommendation, Request, Strategy,
    Verdict, advice, alternatives, recommend,
};
use llm_tensor::Bytes;

use self::args::Memories;
use self::request::Setting;
use self::subject::Subject;
use crate::cli::PlanArgs;
use crate::failure::UserError;
use crate::system::Rates;
use crate::{output, unknown};

mod args;
mod bars;
mod costs;
mod headers;
mod json;
mod known;
mod program;
mod reader;
mod recommended;
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
    let subject = match Subject::open(&args.model, &load.keys) {
        Ok(subject) => subject,
        Err(error) => {
            return match unknown::checkpoint(&args.model, &error) {
                Some(checkpoint) => headers::plan(args, &checkpoint, &error),
                None => Err(error),
            };
        }
    };
    let quant = load.quant.config()?;
    let encodings = subject.encodings(load.dtype, quant.as_ref())?;
    let cpu = load.cpu()?;
    let model = subject.model.as_ref().map(|model| (model, &encodings));
    let setting = Setting::new(&cpu, &load.place, model)?;
    let spec = &subject.skeleton.spec;
    let context = load.context(spec, USUAL_CONTEXT)?;
    let limits = limits(spec, context, args.batch.get(), 1);
    let (skeleton, program) = (&subject.skeleton, subject.program);
    let rates = Rates::of(&subject.read_from);
    let mut request = Request {
        offload: Offload::Fastest(rates.bandwidths),
        ..setting.request(skeleton, &subject.stored, encodings, limits, program)
    };
    let rates = rates_of_plan(&subject, &setting.memories, &mut request, rates)?;
    let detail = match args.verbose {
        true => Detail::Full,
        false => Detail::Short,
    };
    let report = Report::new(&subject, &setting.memories, &request, rates)?;
    if let Some(path) = &args.svg {
        svg::write(path, &svg::draw(&report))?;
    }
    output::print(&match args.json {
        true => json::text(&report)?,
        false => text::text(&report, detail),
    })?;
    Ok(match report.verdict {
        Verdict::Fits(_) => ExitCode::SUCCESS,
        Verdict::DoesNotFit(_) => ExitCode::from(2),
    })
}

/// The rates that hold where the plan has weights rest: on the disk of the offload folder as far as they are written.
fn rates_of_plan(
    subject: &Subject,
    memories: &Memories,
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
        files.extend_from_slice(&subject.read_from);
    }
    let rates = Rates::of(&files);
    request.offload = Offload::Fastest(rates.bandwidths);
    Ok(rates)
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    /// What people decide by.
    Short,
    /// Each unit, and each term of each memory.
    Full,
}

/// All that is said of a request.
struct Report<'a> {
    subject: &'a Subject,
    memories: &'a Memories,
    request: &'a Request<'a>,
    verdict: Verdict,
    /// What the model takes as it is planned; where it does not fit, as RAM of any size would hold it.
    estimate: MemoryEstimate,
    recommendation: Option<Recommendation>,
    alternatives: Vec<Alternative>,
    advice: Vec<Change>,
    rates: Rates,
    /// Tokens a second where what no GPU holds is streamed to one, and where the CPU computes with it, if there is such
    /// a choice.
    ways: Option<[Option<f64>; 2]>,
}

impl<'a> Report<'a> {
    fn new(
        subject: &'a Subject,
        memories: &'a Memories,
        request: &'a Request<'a>,
        rates: Rates,
    ) -> Result<Self> {
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
        let tiers = verdict.plan().map(|plan| plan.map.tiers());
        let is_shared = tiers.is_some_and(|tiers| tiers.ram || tiers.disk)
            && !request.budgets.gpus.is_empty()
            && request.strategy != Strategy::Cpu;
        let way = |offload| {
            let request = Request {
                offload,
                ..request.clone()
            };
            let verdict = llm_plan::plan(&request).ok()?;
            let [_, empty] = verdict.plan()?.step.tokens_per_second(&rates.bandwidths);
            Some(empty)
        };
        let ways = is_shared.then(|| [Offload::Stream, Offload::Compute].map(way));
        Ok(Report {
            estimate: planned.expect("RAM of any size holds every model"),
            recommendation: recommend(request, &rates.bandwidths)?,
            alternatives: alternatives(request)?,
            advice: advice(request)?,
            ways,
            rates,
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
