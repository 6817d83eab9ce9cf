//! The plan that a model is loaded by.

use anyhow::Result;
use llm_cpu::Cpu;
use llm_plan::{Limits, MaxMemory, Offload, Placement, Plan, Request, RunOn, Verdict, advice};
use llm_quant::QuantConfig;
use llm_runtime::BoundModel;

use crate::cli::LoadArgs;
use crate::failure::refuse;
use crate::output;
use crate::placement::flags::with_flag;
use crate::placement::program;
use crate::placement::request::PlanSetting;
use crate::resident::ResidentSet;

/// A model that is to be loaded.
pub(super) struct LoadRequest<'a> {
    pub(super) model: &'a BoundModel,
    pub(super) args: &'a LoadArgs,
    pub(super) quant: Option<&'a QuantConfig>,
    pub(super) limits: Limits,
}

impl LoadRequest<'_> {
    /// The plan by which it is loaded: `cpu` computes with weights in RAM and on disk.
    ///
    /// # Errors
    /// When it does not fit, or the user asks for more than this build does.
    pub(super) fn plan(&self, cpu: &Cpu) -> Result<Plan> {
        let place = &self.args.place;
        let encodings = self.model.encodings(self.args.dtype, self.quant)?;
        let mut setting = PlanSetting::new(cpu, place, Some((self.model, &encodings)))?;
        if let Some(number) = setting.memories.lacking.first() {
            let hint = "`llm-run plan` shows what a machine with it would do";
            return refuse(format!(
                "--max-memory: this machine has no GPU {number}; {hint}"
            ));
        }
        output::notes(setting.memories.bound().as_slice());
        // A GPU is for those who ask for it, who will be told that it is not used.
        let names_gpus = |max: &MaxMemory| !max.gpus.is_empty();
        if !place.max_memory.as_ref().is_some_and(names_gpus) {
            setting.memories.budgets.gpus.clear();
        }
        let tensors = self.model.tensors();
        let stored: Vec<_> = tensors.map(|bound| bound.stored()).collect();
        // A tokenizer with far more tokens than the model has is beyond what a plan can foresee.
        let program = program::with_model(self.model).max(ResidentSet::now().resident());
        let request = Request {
            offload: Offload::Compute,
            ..setting.request(
                self.model.skeleton(),
                &stored,
                encodings,
                self.limits,
                program,
            )
        };
        let plan = match llm_plan::plan(&request)? {
            Verdict::Fits(plan) => *plan,
            refused @ Verdict::DoesNotFit(_) => {
                return refuse(format!("the model {refused}{}", remedies(&request)?));
            }
        };
        let is_elsewhere = |(_, place): &(_, Placement)| place.run_on != RunOn::Cpu;
        let elsewhere = plan.map.iter().find(is_elsewhere);
        match elsewhere {
            None => Ok(plan),
            Some((unit, place)) => {
                let (device, hint) = (place.run_on, "give --device-map cpu");
                refuse(format!(
                    "the plan has {device} compute the {unit}, but this build computes on the CPU; {hint}"
                ))
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
