//! The plan that a model is loaded by.

use anyhow::Result;
use llm_cpu::Cpu;
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

/// A model that is to be loaded.
pub(super) struct LoadRequest<'a> {
    pub(super) model: &'a BoundModel,
    pub(super) args: &'a LoadArgs,
    pub(super) quant: Option<&'a QuantConfig>,
    pub(super) limits: Limits,
    /// Tokens that it is to be fast for.
    pub(super) workload: Workload,
}

impl LoadRequest<'_> {
    /// The plan by which it is loaded: GPUs compute with what they hold, and with weights in RAM and on disk they or `cpu`,
    /// as is faster. With it the GPUs of this machine, and what the memories may hold.
    ///
    /// # Errors
    /// When it does not fit, or the user asks for more than this version does.
    pub(super) fn plan(&self, cpu: &Cpu) -> Result<(Plan, MachineGpus, Budgets)> {
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
        let mut request = setting.request(skeleton, &stored, encodings, self.limits, program);
        let read_from = read_from(self.model);
        choose_faster(&mut request, &setting.memories, &read_from, self.workload)?;
        match llm_plan::plan(&request)? {
            Verdict::Fits(plan) => {
                let budgets = request.budgets.clone();
                Ok((*plan, setting.memories.gpus, budgets))
            }
            refused @ Verdict::DoesNotFit(_) => {
                refuse(format!("the model {refused}{}", remedies(&request)?))
            }
        }
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
