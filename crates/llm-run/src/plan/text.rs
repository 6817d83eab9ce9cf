//! A plan as text: the verdict, where everything goes, what loading takes, how fast it will be, and what else there is.

use std::collections::BTreeSet;
use std::fmt::Write;

use llm_plan::{Change, Home, Placement, Plan, RunOn, Verdict};
use llm_tensor::Bytes;

use super::args::Memories;
use super::recommended::flag;
use super::subject::Files;
use super::units::{UnitGroup, groups};
use super::{Detail, Report, bars, reader, recommended, short};
use crate::inspect::{Column, grouped, table_of};
use crate::system::{Origin, Rates};

pub(super) fn text(report: &Report<'_>, detail: Detail) -> String {
    let mut text = String::new();
    if let Some(recommended) = recommended::sentence(report) {
        let _ = writeln!(text, "Recommended: {recommended}.");
    }
    text += &format!("{}.\n\n{}", report.sentence(), assumptions(report));
    if let Verdict::Fits(plan) = &report.verdict {
        text += &units(report, plan, detail);
        text += &on_disk(report, plan);
        text += &who_computes(report, plan);
    }
    text += &format!("\n{}", bars::text(&bars::bars(report), detail));
    text += &format!("\n{}", reader::text(report));
    if let Verdict::Fits(plan) = &report.verdict {
        text += &speed(report, plan);
    }
    text += &precisions(report);
    text + &changes(report)
}

/// What was asked of what.
fn assumptions(report: &Report<'_>) -> String {
    let (subject, request, memories) = (report.subject, report.request, report.memories);
    let limits = &request.limits;
    let plural = if limits.n_sequences == 1 { "" } else { "s" };
    let mut text = format!(
        "{}, {} parameters; KV cache in {} for {} sequence{plural} of {} positions\n",
        subject.skeleton.spec.family,
        grouped(subject.skeleton.n_parameters()),
        request.kv_dtype(),
        limits.n_sequences,
        limits.context,
    );
    if let Files::Guessed { dtype, .. } = &subject.files {
        let named = match subject.skeleton.spec.dtype {
            Some(_) => "as config.json says",
            None => "which config.json does not say",
        };
        let _ = writeln!(
            text,
            "there are no weights, only config.json: they are taken to be stored in {dtype}, {named}"
        );
    }
    text + &budgets(memories)
}

/// What each memory may hold, and what this machine lacks of it.
pub(super) fn budgets(memories: &Memories) -> String {
    let mut text = String::new();
    for (&home, source) in &memories.sources {
        let budget = memories.budgets.of(home);
        let _ = writeln!(text, "{home} may hold {budget}: {source}");
    }
    if !memories.lacking.is_empty() {
        let lacking = memories.lacking.iter().map(|&n| Home::Gpu(n).to_string());
        let lacking: Vec<_> = lacking.collect();
        let _ = writeln!(
            text,
            "hypothetical: this machine has no {}",
            lacking.join(", no ")
        );
    }
    for (home, beyond) in &memories.beyond {
        let (free, source) = (beyond.free, &beyond.source);
        let bounded = match home {
            Home::Ram => "; a run here takes no more",
            Home::Gpu(_) | Home::Disk => "",
        };
        let _ = writeln!(
            text,
            "hypothetical: this machine has only {free} of {home} free ({source}){bounded}"
        );
    }
    text
}

/// Where units rest and compute, and what they take.
fn units(report: &Report<'_>, plan: &Plan, detail: Detail) -> String {
    let groups = groups(&report.subject.skeleton.spec, plan.estimate.units());
    let has_statistics = groups.iter().any(|group| group.statistics > Bytes::ZERO);
    let mut head = vec![
        Column::Left("units"),
        Column::Left("rest in"),
        Column::Left("compute on"),
        Column::Right("weights"),
    ];
    if has_statistics {
        head.push(Column::Right("statistics"));
    }
    head.push(Column::Right("KV cache"));
    let some = |bytes: Bytes| match bytes {
        Bytes::ZERO => String::new(),
        bytes => short(bytes),
    };
    let rows = |group: &UnitGroup| {
        let name = match detail {
            Detail::Short => vec![group.name.clone()],
            Detail::Full => wrapped(&group.full_name),
        };
        let mut lines = name.into_iter();
        let mut row = vec![
            lines.next().unwrap_or_default(),
            group.placement.home.to_string(),
            group.placement.run_on.to_string(),
            some(group.weights),
        ];
        if has_statistics {
            row.push(some(group.statistics));
        }
        row.push(some(group.kv_cache));
        let mut rows = vec![row];
        rows.extend(lines.map(|line| {
            let mut row = vec![String::new(); head.len()];
            row[0] = format!("  {line}");
            row
        }));
        rows
    };
    table_of(&head, groups.iter().flat_map(rows).collect())
}

/// An enumeration in lines of about [`NAME_WIDTH`].
fn wrapped(name: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for part in name.split_inclusive(", ") {
        let line = lines.last_mut().expect("there is always one");
        if !line.is_empty() && line.len() + part.trim_end().len() > NAME_WIDTH {
            line.truncate(line.trim_end().len());
            lines.push(part.to_owned());
        } else {
            line.push_str(part);
        }
    }
    lines
}

/// Characters of a unit's name in a line of the table.
const NAME_WIDTH: usize = 40;

/// What of the weights on disk is read where, and what is written.
fn on_disk(report: &Report<'_>, plan: &Plan) -> String {
    let Some(disk) = plan.estimate.memory(Home::Disk) else {
        return String::new();
    };
    let (in_place, written) = (disk.in_place, disk.needed());
    let folder = match &report.memories.offload_folder {
        Some(folder) => format!("the offload folder {}", folder.display()),
        None => "an offload folder, which --offload-folder is to name".to_owned(),
    };
    match (in_place, written) {
        (in_place, Bytes::ZERO) => format!(
            "All {in_place} of weights on disk are read in place from the checkpoint; nothing is written.\n"
        ),
        (Bytes::ZERO, written) => {
            format!("All {written} of weights on disk are written to {folder}.\n")
        }
        (in_place, written) => format!(
            "Of the weights on disk {in_place} are read in place from the checkpoint and {written} are written to {folder}.\n"
        ),
    }
}

/// What computes with weights that no GPU holds, and why.
fn who_computes(report: &Report<'_>, plan: &Plan) -> String {
    let Some([Some(streamed), Some(computed)]) = report.ways else {
        return String::new();
    };
    let is_elsewhere = |place: Placement| !matches!(place.home, Home::Gpu(_));
    let mut elsewhere = plan.map.iter().filter(|&(_, place)| is_elsewhere(place));
    let on_cpu = elsewhere.any(|(_, place)| place.run_on == RunOn::Cpu);
    let (streamed, computed) = (rate(streamed), rate(computed));
    match on_cpu {
        true => format!(
            "What no GPU holds the CPU computes with: {computed} tokens/s; streamed to a GPU it would be {streamed}.\n"
        ),
        false => format!(
            "What no GPU holds is streamed to one: {streamed} tokens/s; with the CPU computing it would be {computed}.\n"
        ),
    }
}

/// Expected tokens per second, and of what bandwidths.
fn speed(report: &Report<'_>, plan: &Plan) -> String {
    let [full, empty] = plan.step.tokens_per_second(&report.rates.bandwidths);
    let figures = figures(&report.rates, plan);
    let is_assumed = |figure: &Figure<'_>| figure.can_be_measured && !figure.origin.is_measured();
    let hint = match figures.iter().any(is_assumed) {
        true => " `llm-run doctor` measures RAM and disk.",
        false => "",
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
    can_be_measured: bool,
}

/// Those of a plan, each once.
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
            GPU_MEMORY => (bandwidths.gpu, &Origin::ASSUMED),
            PCIE => (bandwidths.pcie.min(bandwidths.ram), &Origin::ASSUMED),
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

/// What weights come through from where they rest to what computes with them.
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

/// Where the weights would rest in every precision.
fn precisions(report: &Report<'_>) -> String {
    let head = [
        Column::Left("precision"),
        Column::Right("weights"),
        Column::Right("tokens/s"),
        Column::Left("fits"),
    ];
    let rows = report.alternatives.iter().map(|alternative| {
        let (tokens, tiers) = match &alternative.way {
            None => (String::new(), "no".to_owned()),
            Some(way) => {
                let [_, empty] = way.step.tokens_per_second(&report.rates.bandwidths);
                (rate(empty), way.tiers.to_string())
            }
        };
        vec![
            alternative.precision.to_string(),
            short(alternative.weights),
            tokens,
            tiers,
        ]
    });
    let table = table_of(&head, rows.collect());
    match &report.subject.scheme {
        None => table,
        Some(scheme) => {
            format!("{table}What the checkpoint holds in {scheme} stays so in all of them.\n")
        }
    }
}

/// What would make it fit.
fn changes(report: &Report<'_>) -> String {
    if report.verdict.plan().is_some() {
        return String::new();
    }
    if report.advice.is_empty() {
        return "\nNo single change would make it fit.\n".to_owned();
    }
    let mut text = "\nAny one of these would make it fit:\n".to_owned();
    for change in &report.advice {
        let _ = writeln!(text, "  {}", with_flag(change));
    }
    text
}

/// `quantize to int8 (--load-in-8bit)`.
pub(super) fn with_flag(change: &Change) -> String {
    let flag = match change {
        Change::Precision(precision) => flag(*precision),
        Change::Context { to, .. } => return format!("{change}: --context {to}"),
        Change::Sequences { to, .. } => return format!("{change}: --batch {to}"),
        Change::Disk(_) => "--offload-folder DIR, --max-memory disk=SIZE",
        Change::Budget { .. } => return change.to_string(),
    };
    format!("{change}: {flag}")
}
