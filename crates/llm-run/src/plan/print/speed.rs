//! Expected tokens per second, and the speeds that they depend on.

use llm_plan::{Home, Placement, Plan, RunOn};

use crate::plan::report::PlanReport;
use crate::system::{Origin, Rates};

/// Expected tokens per second, and of what speeds.
pub(super) fn speed(report: &PlanReport<'_>, plan: &Plan) -> String {
    let [full, empty] = plan.step.tokens_per_second(&report.rates.speeds);
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
        let (rate, name, origin) = (figure.rate / 1e9, &figure.name, figure.origin);
        format!("{rate:.1} GB/s of {name} ({origin})")
    });
    format!(
        "Expected: {} tokens/s in an empty context, {} in a full one, at {}{}.{hint}\n",
        rate(empty),
        rate(full),
        figures.collect::<Vec<_>>().join(", "),
        waits(report, plan)
    )
}

/// `; 0.7 ms of a step for 300 launches and 3 hand-overs`: what bandwidths have no part in.
fn waits(report: &PlanReport<'_>, plan: &Plan) -> String {
    let (speeds, step) = (&report.rates.speeds, &plan.step);
    let n_launches: f64 = step.launches.iter().map(|(_, n)| n).sum();
    let n_hand_overs: f64 = step.hand_overs.iter().map(|of| of.times).sum();
    if n_launches + n_hand_overs == 0.0 {
        return String::new();
    }
    let milliseconds = 1e3 * step.seconds_without_bytes(speeds);
    let plural = if n_hand_overs.round() == 1.0 { "" } else { "s" };
    format!(
        "; {milliseconds:.1} ms of a step for {n_launches:.0} launches and {n_hand_overs:.0} hand-over{plural}"
    )
}

/// A bandwidth that a plan's tokens per second depend on.
pub(super) struct Figure<'r> {
    pub(super) name: String,
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
    let is_gpu = |run_on: &RunOn| matches!(run_on, RunOn::Gpu(_));
    let n_gpus = plan.map.devices().into_iter().filter(is_gpu).count();
    let mut found: Vec<Figure<'r>> = Vec::new();
    for path in weights.chain(kv_cache) {
        let figure = bottleneck(path, rates, n_gpus > 1);
        if found.iter().all(|other| other.name != figure.name) {
            found.push(figure);
        }
    }
    found
}

/// The slowest way that weights take from where they rest to what computes with them.
fn bottleneck(path: Placement, rates: &Rates, several: bool) -> Figure<'_> {
    let speeds = &rates.speeds;
    let of_gpu = |name: &str, number: u32, rate| Figure {
        name: match several {
            true => format!("{name} of GPU {number}"),
            false => name.to_owned(),
        },
        rate,
        origin: rates.gpu(number),
        can_be_measured: false,
    };
    let of_host = |name: &str, rate, origin| Figure {
        name: name.to_owned(),
        rate,
        origin,
        can_be_measured: true,
    };
    match (path.home, path.run_on) {
        (Home::Gpu(home), RunOn::Gpu(run_on)) if home == run_on => {
            let name = if several { "memory" } else { "GPU memory" };
            of_gpu(name, home, speeds.of_gpu(home).memory)
        }
        (Home::Disk, _) => of_host("disk", speeds.disk, &rates.disk),
        (Home::Gpu(_) | Home::Ram, RunOn::Gpu(number)) => {
            of_gpu("PCIe", number, speeds.to_gpu(number))
        }
        (Home::Gpu(_) | Home::Ram, RunOn::Cpu) => of_host("RAM", speeds.ram, &rates.ram),
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
