//! A plan as text: the verdict, where everything goes, what loading takes, how fast it will be, and what else there is.

use std::fmt::Write;

use llm_arch::{Side, Unit};
use llm_plan::{Home, Placement, Plan, RunOn, Verdict};
use llm_tensor::Bytes;

use super::speed::{rate, speed};
use super::units::{UnitGroup, groups};
use super::{bars, reader, recommended};
use crate::output::table::{Column, table};
use crate::output::words::{grouped, short};
use crate::placement::budgets::MemoryBudgets;
use crate::placement::flags::with_flag;
use crate::plan::model::CheckpointFiles;
use crate::plan::report::{Detail, PlanReport};
use crate::system::Gpu;

pub(in crate::plan) fn text(report: &PlanReport<'_>, detail: Detail) -> String {
    let mut text = String::new();
    if let Some(recommended) = recommended::sentence(report) {
        let _ = writeln!(text, "Recommended: {recommended}.");
    }
    text += &format!("{}.\n\n{}", report.sentence(), assumptions(report));
    if detail == Detail::Full {
        text += &contexts(report);
    }
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

/// Model, limits and budgets that the plan is made for.
fn assumptions(report: &PlanReport<'_>) -> String {
    let (model, request, memories) = (report.model, report.request, report.memories);
    let limits = &request.limits;
    let plural = if limits.n_sequences == 1 { "" } else { "s" };
    let mut text = format!(
        "{}, {} parameters; KV cache in {} for {} sequence{plural} of {} positions\n",
        model.skeleton.spec.family,
        grouped(model.skeleton.n_parameters()),
        request.kv_dtype(),
        limits.n_sequences,
        limits.context,
    );
    if let CheckpointFiles::Expected { dtype, .. } = &model.files {
        let named = match model.skeleton.spec.dtype {
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

/// Bytes that a process takes of each GPU for itself, and how they are known.
fn contexts(report: &PlanReport<'_>) -> String {
    let gpus = report.memories.gpus.found.iter();
    let used = gpus.filter(|gpu| report.request.budgets.gpus.contains_key(&gpu.number));
    let line = |gpu: &Gpu| {
        let known = match gpu.has_measured_context() {
            true => "as `llm-run doctor` has measured",
            false => "assumed",
        };
        let (number, context, cublas) = (gpu.number, gpu.context(), gpu.cublas());
        let beside = match cublas {
            Bytes::ZERO => String::new(),
            cublas => format!("; cuBLAS takes {cublas} beside"),
        };
        format!("of GPU {number} the driver and the kernels take {context}, {known}{beside}\n")
    };
    used.map(line).collect()
}

/// Budget of each memory, and what this machine lacks of it.
pub(super) fn budgets(memories: &MemoryBudgets) -> String {
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
            Home::Gpu(_) | Home::Ram => "; a run here takes no more",
            Home::Disk => "",
        };
        let _ = writeln!(
            text,
            "hypothetical: this machine has only {free} of {home} free ({source}){bounded}"
        );
    }
    text
}

/// Table of units: where they rest, where they compute, and their bytes.
fn units(report: &PlanReport<'_>, plan: &Plan, detail: Detail) -> String {
    let groups = groups(&report.model.skeleton.spec, plan.estimate.units());
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
    table(&head, groups.iter().flat_map(rows))
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

/// Weights on disk: read in place, or written to the offload folder.
fn on_disk(report: &PlanReport<'_>, plan: &Plan) -> String {
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

/// Device that computes with weights that no GPU holds, and why.
fn who_computes(report: &PlanReport<'_>, plan: &Plan) -> String {
    let Some([Some(streamed), Some(computed)]) = report.ways else {
        return String::new();
    };
    let is_elsewhere = |place: Placement| !matches!(place.home, Home::Gpu(_));
    let elsewhere = plan.map.iter().filter(|&(_, place)| is_elsewhere(place));
    let elsewhere: Vec<RunOn> = elsewhere.map(|(_, place)| place.run_on).collect();
    let on_cpu = elsewhere.contains(&RunOn::Cpu);
    let on_gpu = elsewhere.iter().any(|&run_on| run_on != RunOn::Cpu);
    let [_, own] = plan.step.tokens_per_second(&report.rates.speeds);
    let [own, streamed, computed] = [own, streamed, computed].map(rate);
    match (on_cpu, on_gpu) {
        (true, true) if is_divided(plan) => format!(
            "Of what no GPU holds some is streamed to one while it computes, with the rest the CPU computes: {own} tokens/s. \
             All streamed it would be {streamed}, all computed by the CPU {computed}.\n"
        ),
        (true, true) => format!(
            "What no GPU holds and reads the prompt alone is streamed to one; with the rest the CPU computes: {own} tokens/s. \
             All streamed it would be {streamed}, all computed by the CPU {computed}, with slower prompts.\n"
        ),
        (true, false) => format!(
            "What no GPU holds the CPU computes with: {own} tokens/s; streamed to a GPU it would be {streamed}.\n"
        ),
        (false, _) => format!(
            "What no GPU holds is streamed to one: {own} tokens/s; with the CPU computing it would be {computed}.\n"
        ),
    }
}

/// True if what every token reads is on both sides of a division between a GPU and the CPU.
fn is_divided(plan: &Plan) -> bool {
    let is_of_tokens = |unit: Unit| match unit {
        Unit::Layer(Side::Encoder, _) | Unit::FinalNorm(Side::Encoder) => false,
        // Of this a token reads a row.
        Unit::PerLayerTable => false,
        Unit::Embedding | Unit::Layer(Side::Decoder, _) | Unit::Expert { .. } => true,
        Unit::FinalNorm(Side::Decoder) | Unit::Head => true,
    };
    let is_streamed = |(unit, place): (Unit, Placement)| {
        is_of_tokens(unit) && place.run_on != RunOn::Cpu && !place.is_resident()
    };
    plan.map.iter().any(is_streamed)
}

/// Table of precisions, each with where the weights would rest.
fn precisions(report: &PlanReport<'_>) -> String {
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
                let [_, empty] = way.step.tokens_per_second(&report.rates.speeds);
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
    let table = table(&head, rows);
    match &report.model.scheme {
        None => table,
        Some(scheme) => {
            format!("{table}What the checkpoint holds in {scheme} stays so in all of them.\n")
        }
    }
}

/// Changes that would make it fit.
fn changes(report: &PlanReport<'_>) -> String {
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
