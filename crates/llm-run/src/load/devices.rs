//! Devices that a plan has compute.

use std::sync::Arc;

use anyhow::{Context, Result};
use llm_cpu::Cpu;
use llm_cuda::{Compute, Cuda};
use llm_plan::{Plan, RunOn};
use llm_quant::Encoder;
use llm_runtime::Device;

/// The CPU, and the GPUs that a plan names.
pub(super) struct Devices {
    cpu: Arc<Cpu>,
    gpus: Vec<(u32, Arc<Cuda>)>,
    /// Those that the plan has compute.
    used: Vec<RunOn>,
}

impl Devices {
    /// Opens the devices of a plan, GPUs for products in `compute`.
    ///
    /// # Errors
    /// When the driver fails.
    pub(super) fn open(cpu: Arc<Cpu>, plan: &Plan, compute: Compute) -> Result<Self> {
        let used = plan.map.devices();
        let numbers = used.iter().filter_map(|run_on| match run_on {
            RunOn::Gpu(number) => Some(*number),
            RunOn::Cpu => None,
        });
        let open = |number: u32| {
            let opened = Cuda::computing_in(number as usize, compute);
            let opened = opened.with_context(|| format!("cannot open GPU {number}"))?;
            Ok((number, Arc::new(opened)))
        };
        let gpus = numbers.map(open).collect::<Result<_>>()?;
        Ok(Devices { cpu, gpus, used })
    }

    /// Encoder of what is quantized while it is loaded.
    pub(super) fn encoder(&self) -> &dyn Encoder {
        &*self.cpu
    }

    /// Each with the name that a plan has for it.
    pub(super) fn list(&self) -> Vec<(RunOn, &dyn Device)> {
        let gpus = self.gpus.iter();
        let gpus = gpus.map(|(number, gpu)| (RunOn::Gpu(*number), gpu as &dyn Device));
        let cpu: (RunOn, &dyn Device) = (RunOn::Cpu, &self.cpu);
        gpus.chain([cpu]).collect()
    }

    /// GPUs among those that compute.
    pub(super) fn gpus(&self) -> Vec<Arc<Cuda>> {
        self.gpus.iter().map(|(_, gpu)| Arc::clone(gpu)).collect()
    }

    /// Names of those that compute, as their makers call them.
    pub(super) fn names(&self) -> String {
        let devices = self.list();
        let used = devices
            .iter()
            .filter(|(run_on, _)| self.used.contains(run_on));
        let names: Vec<_> = used
            .map(|(_, device)| device.info().name.as_str())
            .collect();
        match names.as_slice() {
            [others @ .., last] if !others.is_empty() => {
                format!("{} and {last}", others.join(", "))
            }
            one => one.concat(),
        }
    }
}
