//! A plan as one JSON object.

use anyhow::Result;
use llm_plan::{
    Alternative, Choice, GpuSpeed, HandOver, Home, LinkSpeed, MemoryEstimate, MemoryUse, Plan,
    Shortfall, Term, UnitUse, Verdict,
};
use serde_json::{Map, Value, json};

use super::reader::whole_files;
use super::recommended;
use super::speed::figures;
use crate::hub_model::ToDownload;
use crate::output;
use crate::placement::budgets::Beyond;
use crate::placement::flags::{flag, with_flag};
use crate::plan::model::CheckpointFiles;
use crate::plan::report::PlanReport;
use crate::system::Gpu;

/// Object that `--json` prints. Sizes are bytes.
pub(in crate::plan) fn text(report: &PlanReport<'_>) -> Result<String> {
    let (model, request) = (report.model, report.request);
    let plan = report.verdict.plan();
    let estimate = plan.map(|plan| &plan.estimate);
    output::json(&json!({
        "model": model.name,
        // Null where all of it is here.
        "to_download": model.to_download.as_ref().map(ToDownload::json),
        "family": model.skeleton.spec.family,
        "n_parameters": model.skeleton.n_parameters(),
        // What this version cannot run has another plan.
        "can_be_run": true,
        "fits": plan.is_some(),
        "verdict": report.verdict.to_string(),
        // Null where nothing would do.
        "recommendation": recommendation(report),
        "shortfalls": shortfalls(report),
        "hypothetical_gpus": report.memories.lacking,
        "beyond_this_machine": beyond(report),
        "n_sequences": request.limits.n_sequences,
        "context": request.limits.context,
        "kv_dtype": request.kv_dtype().name(),
        // Where there are no weights.
        "assumed_dtype": match &model.files {
            CheckpointFiles::Present(_) => None,
            CheckpointFiles::Expected { dtype, .. } => Some(dtype.name()),
        },
        "budgets": budgets(report),
        "gpu_contexts": contexts(report),
        // By term, over all memories; where it does not fit, as RAM of any size would hold the model.
        "totals": totals(&report.estimate),
        "memories": estimate.map_or_else(Map::new, memories),
        "device_map": plan.map(|plan| plan.map.hf_device_map(&model.skeleton)),
        "units": estimate.map_or_else(Vec::new, |e| e.units().iter().map(unit).collect()),
        "offload": estimate.and_then(|estimate| offload(report, estimate)),
        "load_peak": load_peak(report),
        "tokens_per_second": plan.map(|plan| tokens_per_second(report, plan)),
        "alternatives": alternatives(report),
        "advice": report.advice.iter().map(with_flag).collect::<Vec<_>>(),
    }))
}

fn recommendation(report: &PlanReport<'_>) -> Option<Value> {
    let text = recommended::sentence(report)?;
    Some(match &report.recommendation {
        None => json!({"text": text}),
        Some(found) => {
            let [full, empty] = found.way.step.tokens_per_second(&report.rates.speeds);
            json!({
                "text": text,
                "flags": recommended::flags(found.choice),
                "is_as_asked": found.choice == Choice::AsAsked,
                "tiers": found.way.tiers.to_string(),
                "tokens_per_second": {"empty_context": empty, "full_context": full},
            })
        }
    })
}

fn beyond(report: &PlanReport<'_>) -> Map<String, Value> {
    let beyond = report.memories.beyond.iter();
    let entry = |(&home, beyond): (&Home, &Beyond)| {
        let value = json!({"free": beyond.free.get(), "source": beyond.source});
        (device(home), value)
    };
    beyond.map(entry).collect()
}

fn tokens_per_second(report: &PlanReport<'_>, plan: &Plan) -> Value {
    let rates = &report.rates;
    let speeds = &rates.speeds;
    let [full, empty] = plan.step.tokens_per_second(speeds);
    let figures = figures(rates, plan);
    let gpus = report.request.budgets.gpus.keys().copied();
    // Of the first GPU; `gpus` has each.
    let first = gpus.clone().next().unwrap_or(0);
    let GpuSpeed { memory, pcie, .. } = speeds.of_gpu(first);
    let of_gpu = rates.gpu(first);
    let gpu = |number: u32| {
        let GpuSpeed {
            memory,
            pcie,
            products,
            launch,
            hand_over,
        } = speeds.of_gpu(number);
        let speeds = json!({
            "memory": memory, "pcie": pcie, "products": products, "launch_seconds": launch,
            "hand_over_seconds": hand_over, "source": rates.gpu(number),
        });
        (number.to_string(), speeds)
    };
    let link = |(&(from, to), of): (&(u32, u32), &LinkSpeed)| json!({"from": from, "to": to, "bytes_per_second": of.rate, "hand_over_seconds": of.hand_over});
    let hand_over = |of: &HandOver| {
        json!({
            "from": device(of.from.memory()), "to": device(of.to.memory()), "row_bytes": of.row.get(), "times": of.times,
        })
    };
    json!({
        "empty_context": empty,
        "full_context": full,
        "bandwidths": {
            "gpu": memory, "pcie": pcie, "ram": speeds.ram, "disk": speeds.disk,
        },
        "sources": {
            "gpu": of_gpu, "pcie": of_gpu, "ram": rates.ram, "disk": rates.disk,
        },
        "gpus": gpus.map(gpu).collect::<Map<_, _>>(),
        "gpu_links": speeds.links.iter().map(link).collect::<Vec<_>>(),
        "launches": plan.step.launches.iter().map(|(_, n)| n).sum::<f64>(),
        "hand_overs": plan.step.hand_overs.iter().map(hand_over).collect::<Vec<_>>(),
        // All that these tokens per second depend on.
        "are_measured": figures.iter().all(|figure| figure.origin.is_measured()),
    })
}

/// A memory as accelerate calls it.
pub(super) fn device(home: Home) -> String {
    match home {
        Home::Gpu(number) => number.to_string(),
        Home::Ram => "cpu".to_owned(),
        Home::Disk => "disk".to_owned(),
    }
}

fn shortfalls(report: &PlanReport<'_>) -> Vec<Value> {
    let Verdict::DoesNotFit(refusal) = &report.verdict else {
        return Vec::new();
    };
    let shortfalls = refusal.shortfalls.iter().chain(&refusal.on_cpu);
    let shortfall = |s: &Shortfall| {
        let (term, bytes) = s.largest_term();
        json!({
            "device": device(s.memory.home), "needed": s.memory.needed().get(), "budget": s.budget.get(),
            "missing": s.missing().get(), "largest_term": term.name(), "largest_term_bytes": bytes.get(),
        })
    };
    shortfalls.map(shortfall).collect()
}

fn budgets(report: &PlanReport<'_>) -> Map<String, Value> {
    let homes = report.memories.sources.iter();
    let budget = |home| report.request.budgets.of(home).get();
    let entry = |(&home, source): (&Home, &String)| {
        (
            device(home),
            json!({"bytes": budget(home), "source": source}),
        )
    };
    homes.map(entry).collect()
}

/// Bytes that a process takes of each GPU for itself, and whether `llm-run doctor` has measured them.
fn contexts(report: &PlanReport<'_>) -> Map<String, Value> {
    let gpus = report.memories.gpus.found.iter();
    let context = |gpu: &Gpu| {
        let (bytes, is_measured) = (gpu.context().get(), gpu.has_measured_context());
        let context =
            json!({"bytes": bytes, "is_measured": is_measured, "cublas_bytes": gpu.cublas().get()});
        (gpu.number.to_string(), context)
    };
    gpus.map(context).collect()
}

fn totals(estimate: &MemoryEstimate) -> Map<String, Value> {
    let total = |term: Term| (term.name().to_owned(), estimate.total(term).get().into());
    Term::ALL.into_iter().map(total).collect()
}

fn memories(estimate: &MemoryEstimate) -> Map<String, Value> {
    let memory = |memory: &MemoryUse| {
        let terms = Term::ALL.into_iter();
        let terms = terms.map(|term| (term.name().to_owned(), memory.terms.get(term).get().into()));
        let mut entry: Map<String, Value> = terms.collect();
        let peaks = [
            ("in_place", memory.in_place),
            ("peak_at_load", memory.peak_at_load()),
            ("peak_in_generation", memory.peak_in_generation()),
            ("needed", memory.needed()),
        ];
        entry.extend(peaks.map(|(name, bytes)| (name.to_owned(), bytes.get().into())));
        (device(memory.home), entry.into())
    };
    estimate.memories().iter().map(memory).collect()
}

fn unit(unit: &UnitUse) -> Value {
    json!({
        "unit": unit.unit.to_string(),
        "home": device(unit.placement.home),
        "computes_on": device(unit.placement.run_on.memory()),
        "weights": unit.weights.get(),
        "quantization_statistics": unit.quantization_statistics.get(),
        "kv_cache": unit.kv_cache.get(),
        "per_pass": unit.per_pass.get(),
        "in_place": unit.in_place.get(),
    })
}

fn offload(report: &PlanReport<'_>, estimate: &MemoryEstimate) -> Option<Value> {
    let disk = estimate.memory(Home::Disk)?;
    let folder = report.memories.offload_folder.as_deref();
    Some(json!({
        "read_in_place": disk.in_place.get(),
        "written": disk.needed().get(),
        "folder": folder.map(|folder| folder.display().to_string()),
    }))
}

fn load_peak(report: &PlanReport<'_>) -> Value {
    let whole_files = whole_files(report);
    let whole_files = whole_files.iter().map(|whole| {
        json!({
            "n_files": whole.n_files, "largest_file": whole.largest.get(), "ram": whole.peak.get(),
        })
    });
    let plan = report.verdict.plan();
    let ram = plan.and_then(|plan| plan.estimate.memory(Home::Ram));
    json!({
        "ram": ram.map(|memory| memory.peak_at_load().get()),
        "ram_of_a_reader_of_whole_files": whole_files.collect::<Vec<_>>(),
    })
}

fn alternatives(report: &PlanReport<'_>) -> Vec<Value> {
    let alternative = |a: &Alternative| {
        let way = a.way.as_ref();
        let tokens = way.map(|way| way.step.tokens_per_second(&report.rates.speeds));
        json!({
            "precision": a.precision.to_string(), "flags": flag(a.precision),
            "weights": a.weights.get(),
            "tiers": way.map(|way| way.tiers.to_string()),
            "tokens_per_second": tokens.map(|[full, empty]| {
                json!({"empty_context": empty, "full_context": full})
            }),
        })
    };
    report.alternatives.iter().map(alternative).collect()
}
