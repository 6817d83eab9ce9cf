//! Resident set of the process, as the kernel counts it.

use std::collections::BTreeMap;

use llm_plan::{Home, TermBytes};
use llm_runtime::Session;
use llm_tensor::Bytes;
use serde::Serialize;

use crate::placement::placed::Placed;
use crate::system::{self, Gpu, figure};

/// Resident set in bytes; all zero where `/proc` does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ResidentSet {
    /// The most that was resident at any time: anonymous and mapped files together.
    pub(crate) peak_resident_bytes: u64,
    /// Anonymous memory now: what the program allocated and touched.
    pub(crate) anonymous_bytes: u64,
    /// Pages of mapped files now: the kernel may take them back.
    pub(crate) file_bytes: u64,
}

impl ResidentSet {
    /// Anonymous memory: what the program allocated and touched.
    pub(crate) fn anonymous(self) -> Bytes {
        Bytes::new(self.anonymous_bytes)
    }

    /// Bytes that are resident now.
    pub(crate) fn resident(self) -> Bytes {
        Bytes::new(self.anonymous_bytes + self.file_bytes)
    }

    /// Current figures.
    pub(crate) fn now() -> Self {
        std::fs::read_to_string("/proc/self/status")
            .map_or_else(|_| Self::default(), |status| parse(&status))
    }
}

/// Resident set over a run, beside what the session has allocated.
#[derive(Debug, Serialize)]
pub(crate) struct ResidentReport {
    #[serde(flatten)]
    now: ResidentSet,
    /// Before weights were loaded: the program, the model's headers, its tokenizer.
    before_load: ResidentSet,
    after_load: ResidentSet,
    /// Allocations of the session, in bytes by term.
    allocated: BTreeMap<&'static str, u64>,
    /// Of GPUs that compute, by number.
    gpus: BTreeMap<u32, GpuUse>,
}

/// Use of a GPU, in bytes.
#[derive(Debug, Serialize)]
struct GpuUse {
    /// Planned by term.
    planned: BTreeMap<&'static str, u64>,
    /// Allocations of the session, by term.
    allocated: BTreeMap<&'static str, u64>,
    /// Planned for the peak at load.
    planned_peak_at_load: u64,
    /// Planned for the peak in generation.
    planned_peak: u64,
    /// Taken by all programs, as the driver counts it, before the model was loaded.
    used_before: u64,
    /// Taken by all programs now.
    used: u64,
}

impl GpuUse {
    /// Use of all GPUs that a plan has compute.
    fn of(placed: &Placed, session: &Session) -> BTreeMap<u32, Self> {
        let allocated = session.memory().memories;
        let now = system::gpus().unwrap_or_default();
        let memories = placed.plan.estimate.memories().iter();
        let of_gpu = memories.filter_map(|memory| match memory.home {
            Home::Gpu(number) => Some((number, memory)),
            Home::Ram | Home::Disk => None,
        });
        let used = |gpus: &[Gpu], number: u32| {
            let gpu = gpus.iter().find(|gpu| gpu.number == number);
            gpu.map_or(0, |gpu| gpu.total.saturating_sub(gpu.free).get())
        };
        let of_gpu = of_gpu.map(|(number, memory)| {
            let allocated = allocated.get(&memory.home).copied().unwrap_or_default();
            let of_it = GpuUse {
                planned: by_name(&memory.terms),
                allocated: by_name(&allocated),
                planned_peak_at_load: memory.peak_at_load().get(),
                planned_peak: memory.peak_in_generation().get(),
                used_before: used(&placed.gpus.found, number),
                used: used(&now.gpus, number),
            };
            (number, of_it)
        });
        of_gpu.collect()
    }
}

fn by_name(terms: &TermBytes) -> BTreeMap<&'static str, u64> {
    let terms = terms.iter();
    terms
        .map(|(term, bytes)| (term.name(), bytes.get()))
        .collect()
}

impl ResidentReport {
    pub(crate) fn up_to_now(
        before_load: ResidentSet,
        after_load: ResidentSet,
        placed: &Placed,
        session: &Session,
    ) -> Self {
        ResidentReport {
            now: ResidentSet::now(),
            before_load,
            after_load,
            allocated: by_name(&session.memory().terms),
            gpus: GpuUse::of(placed, session),
        }
    }
}

fn parse(status: &str) -> ResidentSet {
    let of = |key| figure(status, key).map_or(0, Bytes::get);
    ResidentSet {
        peak_resident_bytes: of("VmHWM"),
        anonymous_bytes: of("RssAnon"),
        file_bytes: of("RssFile"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let status =
            "Name:\tllm-run\nVmHWM:\t  123456 kB\nRssAnon:\t     100 kB\nRssFile:\t       2 kB\n";
        let expected = ResidentSet {
            peak_resident_bytes: 123_456 << 10,
            anonymous_bytes: 100 << 10,
            file_bytes: 2 << 10,
        };
        assert_eq!(parse(status), expected);
        assert_eq!(parse("Name:\tx"), ResidentSet::default());
    }
}
