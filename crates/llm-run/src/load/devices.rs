//! Devices that a plan has compute.

use std::sync::Arc;

use anyhow::Result;
use llm_cpu::Cpu;
use llm_cuda::Cuda;
use llm_plan::{Plan, RunOn};
use llm_quant::Encoder;
use llm_runtime::Device;

/// The CPU, and the GPU that a plan names, if it does.
pub(super) struct Devices {
    cpu: Arc<Cpu>,
    gpu: Option<(u32, Arc<Cuda>)>,
    /// Those that the plan has compute.
    used: Vec<RunOn>,
}

impl Devices {
    /// Opens the devices of a plan.
    ///
    /// # Errors
    /// When the driver fails.
    pub(super) fn open(cpu: Arc<Cpu>, plan: &Plan) -> Result<Self> {
        let used = plan.map.devices();
        let number = |run_on: &RunOn| match run_on {
            RunOn::Gpu(number) => Some(*number),
            RunOn::Cpu => None,
        };
        let open = |number: u32| anyhow::Ok((number, Arc::new(Cuda::new(number as usize)?)));
        let gpu = used.iter().find_map(number).map(open).transpose()?;
        Ok(Devices { cpu, gpu, used })
    }

    /// Encoder of what is quantized while it is loaded.
    pub(super) fn encoder(&self) -> &dyn Encoder {
        &*self.cpu
    }

    /// Each with the name that a plan has for it.
    pub(super) fn list(&self) -> Vec<(RunOn, &dyn Device)> {
        let gpu = self.gpu.as_ref();
        let gpu = gpu.map(|(number, gpu)| (RunOn::Gpu(*number), gpu as &dyn Device));
        let cpu: (RunOn, &dyn Device) = (RunOn::Cpu, &self.cpu);
        gpu.into_iter().chain([cpu]).collect()
    }

    /// Names of those that compute, as their makers call them.
    pub(super) fn names(&self) -> String {
        let devices = self.list();
        let used = devices
            .iter()
            .filter(|(run_on, _)| self.used.contains(run_on));
        let names = used.map(|(_, device)| device.info().name.clone());
        names.collect::<Vec<_>>().join(" and ")
    }
}
