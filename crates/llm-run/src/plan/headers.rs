//! A plan of a checkpoint that this version cannot run: where its tensors would go, by their names and sizes alone.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Error, Result};
use llm_checkpoint::Checkpoint;
use llm_plan::{
    Home, Part, PartsCosts, PartsPlan, PartsVerdict, Strategy, Term, WeightDType, place_parts,
};
use llm_tensor::Bytes;
use serde_json::{Map, Value, json};

use super::args::Memories;
use super::bars::{self, Bar};
use super::costs::GPU_CONTEXT;
use super::json::device;
use super::known::KvShape;
use super::{Detail, USUAL_CONTEXT, program, short, subject, svg, text};
use crate::cli::PlanArgs;
use crate::failure::{self, UserError};
use crate::inspect::{Column, dtype_name, grouped, printable, table_of};
use crate::output;

/// Plans by headers. `reason` says why it cannot be run.
pub(super) fn plan(args: &PlanArgs, checkpoint: &Checkpoint, reason: &Error) -> Result<ExitCode> {
    output::notes(checkpoint.notices());
    let memories = args.load.place.memories(&|_| Ok(Bytes::ZERO))?;
    let report = Report::new(args, checkpoint, memories, reason)?;
    if let Some(path) = &args.svg {
        let picture = svg::picture(&report.name, &report.sentence(), &report.bars(), &[]);
        svg::write(path, &picture)?;
    }
    output::print(&match args.json {
        true => serde_json::to_string(&report.json())? + "\n",
        false => report.text(match args.verbose {
            true => Detail::Full,
            false => Detail::Short,
        }),
    })?;
    Ok(match report.verdict {
        PartsVerdict::Fit(_) => ExitCode::SUCCESS,
        PartsVerdict::Lack(..) => ExitCode::from(2),
    })
}

/// All that is said of it.
struct Report {
    name: String,
    /// Why it cannot be run.
    reason: String,
    format: String,
    n_tensors: usize,
    by_dtype: BTreeMap<String, Bytes>,
    n_sequences: usize,
    context: usize,
    kv_cache: Result<KvShape, String>,
    memories: Memories,
    parts: Vec<Part>,
    verdict: PartsVerdict,
    program: Bytes,
    /// What of the command line does not apply.
    unused: Vec<&'static str>,
}

impl Report {
    fn new(
        args: &PlanArgs,
        checkpoint: &Checkpoint,
        memories: Memories,
        reason: &Error,
    ) -> Result<Self> {
        let (n_sequences, load) = (args.batch.get(), &args.load);
        let kv_cache = KvShape::of(checkpoint);
        let most = kv_cache.as_ref().ok().and_then(|shape| shape.context);
        let context = match (load.context, most) {
            (Some(asked), Some(most)) if asked.get() > most => {
                let message = format!(
                    "--context {asked} is more than the {most} positions that the model has"
                );
                return Err(UserError(message).into());
            }
            (Some(asked), _) => asked.get(),
            (None, most) => USUAL_CONTEXT.min(most.unwrap_or(USUAL_CONTEXT)),
        };
        // Names that share their bytes count once.
        let mut places = BTreeMap::new();
        for tensor in checkpoint.tensors() {
            let empty = tensor.bytes.is_empty().then_some(&tensor.name);
            let place = (tensor.file_idx, tensor.bytes.start, tensor.bytes.end, empty);
            places.entry(place).or_insert(tensor);
        }
        let mut by_dtype = BTreeMap::<_, Bytes>::new();
        for tensor in places.values() {
            *by_dtype.entry(dtype_name(tensor.encoding)).or_default() += tensor.stored_bytes();
        }
        let tensors = places.values().map(|t| (t.name.as_str(), t.stored_bytes()));
        let mut parts = Part::of_tensors(tensors);
        if let Ok(shape) = &kv_cache {
            add_kv_cache(&mut parts, shape, shape.of_layer(context, n_sequences));
        }
        let program = program::of_headers(checkpoint.tensors().len());
        let costs = PartsCosts {
            gpu: GPU_CONTEXT,
            ram: program,
        };
        Ok(Report {
            name: subject::name(&args.model),
            reason: failure::message(reason).unwrap_or_default(),
            format: format!("{:?}", checkpoint.format()).to_lowercase(),
            n_tensors: checkpoint.tensors().len(),
            by_dtype,
            n_sequences,
            context,
            kv_cache,
            verdict: place_parts(&parts, &memories.budgets, costs),
            memories,
            parts,
            program,
            unused: unused(args)?,
        })
    }

    fn plan(&self) -> &PartsPlan {
        match &self.verdict {
            PartsVerdict::Fit(plan) | PartsVerdict::Lack(plan, _) => plan,
        }
    }

    /// `x would fit by the sizes of its tensors: …`.
    fn sentence(&self) -> String {
        let plan = self.plan();
        match &self.verdict {
            PartsVerdict::Fit(_) => {
                let needed = plan.needed.iter().map(|&(home, bytes)| match home {
                    Home::Gpu(_) => format!("{bytes} on {home}"),
                    Home::Ram | Home::Disk => format!("{bytes} in {home}"),
                });
                let mut used: Vec<_> = needed.collect();
                if plan.in_place > Bytes::ZERO {
                    used.push(format!(
                        "{} read from the checkpoint on disk",
                        plan.in_place
                    ));
                }
                format!(
                    "{} would fit by the sizes of its tensors: {}",
                    self.name,
                    used.join(", ")
                )
            }
            PartsVerdict::Lack(_, missing) => {
                let budget = self.memories.budgets.ram;
                let needed = plan.needed.iter().find(|(home, _)| *home == Home::Ram);
                let needed = needed.map_or(Bytes::ZERO, |&(_, needed)| needed);
                format!(
                    "{} would not fit by the sizes of its tensors: RAM would have to hold {needed}, which is {missing} \
                     more than its budget of {budget}",
                    self.name
                )
            }
        }
    }

    fn text(&self, detail: Detail) -> String {
        let (total, n_tensors) = (self.weights(), grouped(self.n_tensors as u64));
        let by_dtype = self.by_dtype.iter();
        let by_dtype = by_dtype.map(|(dtype, bytes)| format!("{} in {dtype}", short(*bytes)));
        let plural = if self.n_sequences == 1 { "" } else { "s" };
        let kv_cache = match &self.kv_cache {
            Err(reason) => format!("KV cache: not counted, since {reason}\n"),
            Ok(shape) => format!(
                "KV cache in 16 bits for {} sequence{plural} of {} positions: {} at most, {} layers of {} heads of {}\n",
                self.n_sequences,
                self.context,
                self.kv_bytes(),
                shape.n_layers,
                shape.n_kv_heads,
                shape.head_dim,
            ),
        };
        let unused = match self.unused.as_slice() {
            [] => String::new(),
            unused => format!("of no use here: {}\n", unused.join(", ")),
        };
        let head = format!(
            "{} cannot be run by this version: {}.\n{}.\n\n\
             {}, {n_tensors} tensors of {total} as they are stored: {}\n{kv_cache}\
             activations and workspace: not counted, since they are not known for this model\n{unused}{}",
            self.name,
            printable(&self.reason),
            self.sentence(),
            self.format,
            by_dtype.collect::<Vec<_>>().join(", "),
            text::budgets(&self.memories),
        );
        head + &self.table(detail) + "\n" + &bars::text(&self.bars(), detail)
    }

    /// What goes where: runs of layers, and the modules around them.
    fn table(&self, detail: Detail) -> String {
        let head = [
            Column::Left("parts"),
            Column::Left("rest in"),
            Column::Right("weights"),
            Column::Right("KV cache"),
        ];
        let placed: Vec<_> = self.parts.iter().zip(&self.plan().homes).collect();
        let is_same = |a: &(&Part, &Home), b: &(&Part, &Home)| {
            let is_layer = |part: &Part| part.number.is_some();
            let is_one = match (is_layer(a.0), is_layer(b.0)) {
                (true, true) => a.0.module == b.0.module,
                (false, false) => detail == Detail::Short,
                (true, false) | (false, true) => false,
            };
            is_one && a.1 == b.1
        };
        let row = |run: &[(&Part, &Home)]| {
            let sum = |of: fn(&Part) -> Bytes| -> Bytes { run.iter().map(|(p, _)| of(p)).sum() };
            let some = |bytes: Bytes| match bytes {
                Bytes::ZERO => String::new(),
                bytes => short(bytes),
            };
            vec![
                run_name(run),
                run[0].1.to_string(),
                some(sum(|part| part.weights)),
                some(sum(|part| part.kv_cache)),
            ]
        };
        table_of(&head, placed.chunk_by(is_same).map(row).collect())
    }

    fn bars(&self) -> Vec<Bar> {
        let plan = self.plan();
        let sum = |home: Home, of: fn(&Part) -> Bytes| -> Bytes {
            let placed = self.parts.iter().zip(&plan.homes);
            let there = placed.filter(|&(_, at)| *at == home);
            there.map(|(part, _)| of(part)).sum()
        };
        let bar = |&(home, needed): &(Home, Bytes)| {
            let weights = sum(home, |part| part.weights);
            let mut kv_cache = sum(home, |part| part.kv_cache);
            let (own, context) = match home {
                Home::Gpu(_) => (Term::GpuContext, GPU_CONTEXT),
                Home::Ram | Home::Disk => {
                    kv_cache += sum(Home::Disk, |part| part.kv_cache);
                    (Term::Program, self.program)
                }
            };
            let staging = needed.saturating_sub(weights + kv_cache + context);
            let parts = [
                (Term::Weights, weights),
                (Term::KvCache, kv_cache),
                (Term::Staging, staging),
                (own, context),
            ];
            let parts = parts.into_iter().filter(|&(_, bytes)| bytes > Bytes::ZERO);
            Bar {
                home,
                needed,
                budget: self.memories.budgets.of(home),
                parts: parts.collect(),
                in_place: Bytes::ZERO,
            }
        };
        let mut bars: Vec<_> = plan.needed.iter().map(bar).collect();
        if plan.in_place > Bytes::ZERO {
            bars.push(Bar {
                home: Home::Disk,
                needed: Bytes::ZERO,
                budget: self.memories.budgets.of(Home::Disk),
                parts: Vec::new(),
                in_place: plan.in_place,
            });
        }
        bars
    }

    fn json(&self) -> Value {
        let parts = self.parts.iter().zip(&self.plan().homes);
        let part = |(part, &home): (&Part, &Home)| {
            json!({
                "module": part.module, "number": part.number, "home": device(home),
                "weights": part.weights.get(), "kv_cache": part.kv_cache.get(),
            })
        };
        let needed = self.plan().needed.iter();
        let needed = needed.map(|&(home, bytes)| (device(home), bytes.get().into()));
        let by_dtype = self.by_dtype.iter();
        let by_dtype = by_dtype.map(|(dtype, bytes)| (dtype.clone(), bytes.get().into()));
        json!({
            "model": self.name,
            "can_be_run": false,
            "reason": self.reason,
            "fits": matches!(self.verdict, PartsVerdict::Fit(_)),
            "verdict": self.sentence(),
            "n_tensors": self.n_tensors,
            "weights": self.weights().get(),
            "by_dtype": by_dtype.collect::<Map<String, Value>>(),
            "n_sequences": self.n_sequences,
            "context": self.context,
            "kv_cache": self.kv_cache.is_ok().then(|| self.kv_bytes().get()),
            "needed": needed.collect::<Map<String, Value>>(),
            "read_in_place": self.plan().in_place.get(),
            "parts": parts.map(part).collect::<Vec<_>>(),
        })
    }

    fn weights(&self) -> Bytes {
        self.parts.iter().map(|part| part.weights).sum()
    }

    fn kv_bytes(&self) -> Bytes {
        self.parts.iter().map(|part| part.kv_cache).sum()
    }
}

/// Gives each layer its keys and values: those of the module that is the largest, if it has as many layers as it should;
/// else all of them to a part of their own.
fn add_kv_cache(parts: &mut Vec<Part>, shape: &KvShape, of_layer: Bytes) {
    // A sum over all of them is a number still, whatever a configuration says.
    let most = MOST / shape.n_layers.max(1) as u64;
    let of_layer = Bytes::new(of_layer.get().min(most));
    let mut modules = BTreeMap::<&str, Bytes>::new();
    for part in parts.iter().filter(|part| part.number.is_some()) {
        *modules.entry(&part.module).or_default() += part.weights;
    }
    let largest = modules.into_iter().max_by_key(|&(_, bytes)| bytes);
    let largest = largest.map(|(module, _)| module.to_owned());
    let is_layer = |part: &Part| {
        let is_its = largest.as_ref() == Some(&part.module);
        is_its && part.number.is_some_and(|number| number < shape.n_layers)
    };
    if parts.iter().filter(|part| is_layer(part)).count() == shape.n_layers {
        let layers = parts.iter_mut().filter(|part| is_layer(part));
        layers.for_each(|part| part.kv_cache = of_layer);
        return;
    }
    let all = of_layer.get() * shape.n_layers as u64;
    parts.push(Part {
        module: "keys and values".to_owned(),
        number: None,
        weights: Bytes::ZERO,
        kv_cache: Bytes::new(all),
    });
}

/// `model.layers 0 to 21`, or `model.norm, lm_head`.
fn run_name(run: &[(&Part, &Home)]) -> String {
    let (first, last) = (run[0].0, run[run.len() - 1].0);
    match (first.number, last.number) {
        (Some(from), Some(to)) if from == to => format!("{} {from}", first.module),
        (Some(from), Some(to)) if to - from == run.len() - 1 => {
            format!("{} {from} to {to}", first.module)
        }
        (Some(from), Some(to)) => format!("{} of {} {from} to {to}", run.len(), first.module),
        _ if run.len() <= FEW => {
            let names: Vec<_> = run.iter().map(|(part, _)| part.module.as_str()).collect();
            names.join(", ")
        }
        _ => format!("{} modules, {} to {}", run.len(), first.module, last.module),
    }
}

/// What was asked for and cannot be counted with.
fn unused(args: &PlanArgs) -> Result<Vec<&'static str>> {
    let load = &args.load;
    let mut unused = Vec::new();
    if load.quant.config()?.is_some() {
        unused.push("quantization");
    }
    if load.dtype != WeightDType::Auto {
        unused.push("--dtype");
    }
    match load.place.device_map {
        Strategy::Auto | Strategy::Sequential | Strategy::Cpu => {}
        Strategy::Balanced | Strategy::BalancedLow0 | Strategy::Map(_) => {
            unused.push("--device-map");
        }
    }
    Ok(unused)
}

/// Modules that are listed.
const FEW: usize = 3;
/// An exabyte.
const MOST: u64 = 1_000_000_000_000_000_000;
