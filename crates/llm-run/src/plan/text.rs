//! A plan as text: the verdict, where everything goes, what loading takes, how fast it will be, and what else there is.

use std::collections::BTreeSet;
use std::fmt::Write;

use llm_plan::{Change, Home, Placement, Plan, Precision, RunOn, Verdict};
use llm_tensor::Bytes;

use super::subject::Files;
use super::units::{UnitGroup, groups};
use super::{Report, bars, reader, short};
use crate::inspect::{Column, grouped, table_of};

pub(super) fn text(report: &Report<'_>) -> String {
    let mut text = format!("{}.\n\n{}", report.sentence(), assumptions(report));
    if let Verdict::Fits(plan) = &report.verdict {
        text += &units(report, plan);
        text += &on_disk(report, plan);
    }
    text += &format!("\n{}", bars::text(&bars::bars(report)));
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
    for (&home, source) in &memories.sources {
        let budget = request.budgets.of(home);
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
    text
}

/// Where units rest and compute, and what they take.
fn units(report: &Report<'_>, plan: &Plan) -> String {
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
        let mut lines = wrapped(&group.name).into_iter();
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

/// Expected tokens per second, and of what bandwidths.
fn speed(report: &Report<'_>, plan: &Plan) -> String {
    let (bandwidths, measured) = &report.bandwidths;
    let [full, empty] = plan.step.tokens_per_second(bandwidths);
    let paths = plan.step.weights.iter();
    let names = paths.map(|&(path, _)| (bottleneck(path), bandwidths.of(path)));
    let mut seen = BTreeSet::new();
    let names = names.filter(|(name, _)| seen.insert(*name));
    let names: Vec<_> = names
        .map(|(name, bandwidth)| format!("{:.1} GB/s of {name}", bandwidth / 1e9))
        .collect();
    format!(
        "Expected: {} tokens/s in an empty context, {} in a full one, at {} ({measured}).\n",
        rate(empty),
        rate(full),
        names.join(", ")
    )
}

/// What weights come through from where they rest to what computes with them.
fn bottleneck(path: Placement) -> &'static str {
    match (path.home, path.run_on) {
        (Home::Gpu(home), RunOn::Gpu(run_on)) if home == run_on => "GPU memory",
        (Home::Disk, _) => "disk",
        (Home::Gpu(_) | Home::Ram, RunOn::Gpu(_)) => "PCIe",
        (Home::Gpu(_) | Home::Ram, RunOn::Cpu) => "RAM",
    }
}

fn rate(tokens_per_second: f64) -> String {
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
        Column::Left("fits"),
    ];
    let rows = report.alternatives.iter().map(|alternative| {
        let tiers = alternative.tiers.map(|tiers| tiers.to_string());
        vec![
            alternative.precision.to_string(),
            short(alternative.weights),
            tiers.unwrap_or_else(|| "no".to_owned()),
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
        Change::Precision(precision) => match precision {
            Precision::F32 => "--dtype f32",
            Precision::Bf16 => "--dtype bf16",
            Precision::Int8 => "--load-in-8bit",
            Precision::Nf4 => "--load-in-4bit",
            Precision::Nf4Double => "--load-in-4bit --double-quant",
            Precision::Fp4 => "--load-in-4bit --quant-type fp4",
        },
        Change::Context { to, .. } => return format!("{change}: --context {to}"),
        Change::Sequences { to, .. } => return format!("{change}: --batch {to}"),
        Change::Disk(_) => "--offload-folder DIR, --max-memory disk=SIZE",
        Change::Budget { .. } => return change.to_string(),
    };
    format!("{change}: {flag}")
}
