//! The plan that a model is loaded by.

use anyhow::Result;
use llm_cpu::Cpu;
use llm_engine::DraftLength;
use llm_plan::{Budgets, Limits, Plan, Request, Verdict, Workload, advice};
use llm_quant::QuantConfig;
use llm_runtime::BoundModel;

use crate::cli::LoadArgs;
use crate::failure::refuse;
use crate::output;
use crate::placement::flags::with_flag;
use crate::placement::gpus::MachineGpus;
use crate::placement::offload::{choose_faster, read_from};
use crate::placement::program;
use crate::placement::request::PlanSetting;
use crate::resident::ResidentSet;
use crate::speculate::{self, Speculate};

/// A model that is to be loaded.
pub(super) struct LoadRequest<'a> {
    pub(super) model: &'a BoundModel,
    pub(super) args: &'a LoadArgs,
    pub(super) quant: Option<&'a QuantConfig>,
    pub(super) limits: Limits,
    /// Tokens that it is to be fast for.
    pub(super) workload: Workload,
    /// Drafts, which take rows of logits of their own.
    pub(super) speculate: Speculate,
}

/// The plan that a model is loaded by.
pub(super) struct Planned {
    pub(super) plan: Plan,
    /// Those of this machine.
    pub(super) gpus: MachineGpus,
    /// What the memories may hold.
    pub(super) budgets: Budgets,
    pub(super) limits: Limits,
    pub(super) drafts: Option<DraftLength>,
}

impl LoadRequest<'_> {
    /// The plan by which it is loaded: GPUs compute with what they hold, and with weights in RAM and on disk they or `cpu`,
    /// as is faster.
    ///
    /// # Errors
    /// When it does not fit, or the user asks for more than this version does.
    pub(super) fn plan(&self, cpu: &Cpu) -> Result<Planned> {
        let place = &self.args.place;
        let encodings = self.model.encodings(self.args.dtype, self.quant)?;
        let mut setting = PlanSetting::new(cpu, place, Some((self.model, &encodings)))?;
        if let Some(&number) = setting.memories.lacking.first() {
            let absent = setting.memories.gpus.absent(number);
            let hint = "`llm-run plan` shows what a machine with it would do";
            return refuse(format!("--max-memory: {absent}; {hint}"));
        }
        output::notes(&setting.memories.bound());
        let tensors = self.model.tensors();
        let stored: Vec<_> = tensors.map(|bound| bound.stored()).collect();
        // What the driver took of RAM is resident by now. A tokenizer with far more tokens than the model has is beyond what a plan can foresee.
        let program = program::with_model(self.model).max(ResidentSet::now().resident());
        let skeleton = self.model.skeleton();
        let (limits, drafts) = match self.speculate {
            Speculate::Off | Speculate::Auto => (self.limits, None),
            Speculate::Most(n) => (self.limits.with_drafts(n), Some(DraftLength::Fixed(n))),
        };
        let mut request = setting.request(skeleton, &stored, encodings, limits, program);
        let read_from = read_from(self.model);
        choose_faster(&mut request, &setting.memories, &read_from, self.workload)?;
        let mut plan = match llm_plan::plan(&request)? {
            Verdict::Fits(plan) => *plan,
            refused @ Verdict::DoesNotFit(_) => {
                return refuse(format!("the model {refused}{}", remedies(&request)?));
            }
        };
        let (mut limits, mut drafts) = (limits, drafts);
        let pays = |plan: &Plan| speculate::pays(plan, self.model, &encodings);
        if self.speculate == Speculate::Auto && pays(&plan) {
            request.limits = limits.with_drafts(Speculate::MOST);
            // Where their rows of logits have no room there are none.
            if let Verdict::Fits(with_drafts) = llm_plan::plan(&request)?
                && pays(&with_drafts)
            {
                (plan, limits) = (*with_drafts, request.limits);
                drafts = Some(DraftLength::Adaptive(Speculate::MOST));
            }
        }
        if let (Speculate::Most(n), Some(why)) = (
            self.speculate,
            speculate::otherwise(&plan, self.model, &encodings),
        ) {
            let what =
                "where two tokens are about as probable, another may be chosen than without it";
            output::notes(&[format!("--speculate {n}: {why}; {what}")]);
        }
        Ok(Planned {
            plan,
            budgets: request.budgets.clone(),
            gpus: setting.memories.gpus,
            limits,
            drafts,
        })
    }
}

/// Changes that would make it fit.
fn remedies(request: &Request<'_>) -> Result<String> {
    let changes: Vec<_> = advice(request)?.iter().map(with_flag).collect();
    Ok(match changes.as_slice() {
        [] => String::new(),
        changes => format!("; to make it fit, {}", changes.join("; or ")),
    })
}
