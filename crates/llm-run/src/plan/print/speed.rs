//! Expected tokens per second, and the bandwidths that they depend on.

use std::collections::BTreeSet;

use llm_plan::{Home, Placement, Plan, RunOn};

use crate::plan::report::PlanReport;
use crate::system::{Origin, Rates};

/// Expected tokens per second, and of what bandwidths.
pub(super) fn speed(report: &PlanReport<'_>, plan: &Plan) -> String {
    let [full, empty] = plan.step.tokens_per_second(&report.rates.bandwidths);
    let figures = figures(&report.rates, plan);
    let has_gpu = report.memories.gpus.first().is_some();
    let is_assumed =
        |figure: &Figure<'_>| (has_gpu || figure.can_be_measured) && !figure.origin.is_measured();
    let hint = match (figures.iter().any(is_assumed), has_gpu) {
        (true, false) => " `llm-run doctor` measures RAM and disk.",
        (true, true) => " `llm-run doctor` measures RAM, disk and GPUs.",
        (false, _) => "",
    };
    let figures = figures.iter().map(|figure| {
        let (rate, name, origin) = (figure.rate / 1e9, figure.name, figure.origin);
        format!("{rate:.1} GB/s of {name} ({origin})")
    });
    format!(
        "Expected: {} tokens/s in an empty context, {} in a full one, at {}.{hint}\n",
        rate(empty),
        rate(full),
        figures.collect::<Vec<_>>().join(", ")
    )
}

/// A bandwidth that a plan's tokens per second depend on.
pub(super) struct Figure<'r> {
    pub(super) name: &'static str,
    rate: f64,
    pub(super) origin: &'r Origin,
    /// Whatever machine it is of.
    can_be_measured: bool,
}

/// Bandwidths of a plan, each once.
pub(super) fn figures<'r>(rates: &'r Rates, plan: &Plan) -> Vec<Figure<'r>> {
    let weights = plan.step.weights.iter().map(|&(path, _)| path);
    let kv_cache = plan.step.kv_cache.iter().map(|&(run_on, _)| Placement {
        home: run_on.memory(),
        run_on,
    });
    let mut seen = BTreeSet::new();
    let names = weights.chain(kv_cache).map(bottleneck);
    let names = names.filter(|name| seen.insert(*name));
    let bandwidths = &rates.bandwidths;
    let figure = |name| {
        let (rate, origin) = match name {
            GPU_MEMORY => (bandwidths.gpu, &rates.gpu),
            PCIE => (bandwidths.pcie.min(bandwidths.ram), &rates.gpu),
            DISK => (bandwidths.disk, &rates.disk),
            _ => (bandwidths.ram, &rates.ram),
        };
        Figure {
            name,
            rate,
            origin,
            can_be_measured: [DISK, RAM].contains(&name),
        }
    };
    names.map(figure).collect()
}

const GPU_MEMORY: &str = "GPU memory";
const PCIE: &str = "PCIe";
const DISK: &str = "disk";
const RAM: &str = "RAM";

/// The slowest way that weights take from where they rest to what computes with them.
fn bottleneck(path: Placement) -> &'static str {
    match (path.home, path.run_on) {
        (Home::Gpu(home), RunOn::Gpu(run_on)) if home == run_on => GPU_MEMORY,
        (Home::Disk, _) => DISK,
        (Home::Gpu(_) | Home::Ram, RunOn::Gpu(_)) => PCIE,
        (Home::Gpu(_) | Home::Ram, RunOn::Cpu) => RAM,
    }
}

/// `0.28`, `7.4`, `130`.
pub(super) fn rate(tokens_per_second: f64) -> String {
    match tokens_per_second {
        rate if rate < 1.0 => format!("{rate:.2}"),
        rate if rate < 100.0 => format!("{rate:.1}"),
        rate => format!("{rate:.0}"),
    }
}
