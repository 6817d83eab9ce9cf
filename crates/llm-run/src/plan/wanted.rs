//! Planning before loading, and holding to it.

use anyhow::Result;
use llm_cpu::Cpu;
use llm_plan::{Limits, MaxMemory, Offload, Placement, Plan, Request, RunOn, Verdict, advice};
use llm_quant::QuantConfig;
use llm_runtime::BoundModel;

use super::program;
use super::request::Setting;
use super::text::with_flag;
use crate::cli::LoadArgs;
use crate::failure::UserError;
use crate::memory::Memory;
use crate::output;

/// A model that is to be loaded.
pub(crate) struct Wanted<'a> {
    pub(crate) model: &'a BoundModel,
    pub(crate) args: &'a LoadArgs,
    pub(crate) quant: Option<&'a QuantConfig>,
    pub(crate) limits: Limits,
}

impl Wanted<'_> {
    /// The plan by which it is loaded: `cpu` computes with weights in RAM and on disk.
    ///
    /// # Errors
    /// When it does not fit, or the user asks for more than this build does.
    pub(crate) fn plan(&self, cpu: &Cpu) -> Result<Plan> {
        let place = &self.args.place;
        let encodings = self.model.encodings(self.args.dtype, self.quant)?;
        let mut setting = Setting::new(cpu, place, Some((self.model, &encodings)))?;
        if let Some(number) = setting.memories.lacking.first() {
            let hint = "`llm-run plan` shows what a machine with it would do";
            let message = format!("--max-memory: this machine has no GPU {number}; {hint}");
            return Err(UserError(message).into());
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
        let program = program::with_model(self.model).max(Memory::now().resident());
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
                let message = format!("the model {refused}{}", remedies(&request)?);
                return Err(UserError(message).into());
            }
        };
        let is_elsewhere = |(_, place): &(_, Placement)| place.run_on != RunOn::Cpu;
        let elsewhere = plan.map.iter().find(is_elsewhere);
        match elsewhere {
            None => Ok(plan),
            Some((unit, place)) => {
                let (device, hint) = (place.run_on, "give --device-map cpu");
                let reason = format!(
                    "the plan has {device} compute the {unit}, but this build computes on the CPU; {hint}"
                );
                Err(UserError(reason).into())
            }
        }
    }
}

/// What would make it fit.
fn remedies(request: &Request<'_>) -> Result<String> {
    let changes: Vec<_> = advice(request)?.iter().map(with_flag).collect();
    Ok(match changes.as_slice() {
        [] => String::new(),
        changes => format!("; to make it fit, {}", changes.join("; or ")),
    })
}
