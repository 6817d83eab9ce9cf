//! Results of planning, before they are printed.

use anyhow::Result;
use llm_plan::{
    Alternative, Budgets, Change, MemoryEstimate, Offload, Recommendation, Request, Rest, Strategy,
    Verdict, advice, alternatives, recommend,
};
use llm_tensor::Bytes;

use super::model::PlannedModel;
use crate::cli::PlanArgs;
use crate::placement::budgets::MemoryBudgets;
use crate::system::Rates;

/// Length of the printed plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// Figures that people decide by.
    Short,
    /// Each unit, and each term of each memory.
    Full,
}

impl Detail {
    pub(super) fn of(args: &PlanArgs) -> Self {
        match args.verbose {
            true => Detail::Full,
            false => Detail::Short,
        }
    }
}

/// Results for a request: all that is printed.
pub(super) struct PlanReport<'a> {
    pub(super) model: &'a PlannedModel,
    pub(super) memories: &'a MemoryBudgets,
    pub(super) request: &'a Request<'a>,
    pub(super) verdict: Verdict,
    /// Memory of the plan; where the model does not fit, of a plan for RAM of any size.
    pub(super) estimate: MemoryEstimate,
    pub(super) recommendation: Option<Recommendation>,
    pub(super) alternatives: Vec<Alternative>,
    pub(super) advice: Vec<Change>,
    pub(super) rates: Rates,
    /// Tokens a second where what no GPU holds is streamed to one, and where the CPU computes with it, if there is such
    /// a choice.
    pub(super) ways: Option<[Option<f64>; 2]>,
}

impl<'a> PlanReport<'a> {
    pub(super) fn new(
        model: &'a PlannedModel,
        memories: &'a MemoryBudgets,
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
            && request.strategy != Strategy::Cpu
            && matches!(request.offload, Offload::Fastest { only: None, .. });
        let way = |rest| {
            let Offload::Fastest {
                speeds, workload, ..
            } = request.offload.clone()
            else {
                return None;
            };
            let request = Request {
                offload: Offload::Fastest {
                    speeds,
                    workload,
                    only: Some(rest),
                },
                ..request.clone()
            };
            let verdict = llm_plan::plan(&request).ok()?;
            let [_, empty] = verdict.plan()?.step.tokens_per_second(&rates.speeds);
            Some(empty)
        };
        let ways = is_shared.then(|| [Rest::Streamed, Rest::OnCpu].map(way));
        Ok(PlanReport {
            estimate: planned.expect("RAM of any size holds every model"),
            recommendation: recommend(request, &rates.speeds)?,
            alternatives: alternatives(request)?,
            advice: advice(request)?,
            ways,
            rates,
            verdict,
            model,
            memories,
            request,
        })
    }

    /// `bloomz-7b1-mt fits, with weights on …`.
    pub(super) fn sentence(&self) -> String {
        format!("{} {}", self.model.name, self.verdict)
    }
}
