//! A plan by headers as text, as JSON and as bars.

use llm_plan::{Home, Part, PartsVerdict, Term};
use llm_tensor::Bytes;
use serde_json::{Map, Value, json};

use super::bars::{self, Bar};
use super::json::device;
use super::{svg, text};
use crate::hub_model::ToDownload;
use crate::output::table::{Column, table};
use crate::output::words::{grouped, printable, short};
use crate::plan::headers::HeaderReport;
use crate::plan::report::Detail;

impl HeaderReport {
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

    pub(in crate::plan) fn text(&self, detail: Detail) -> String {
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

    /// Table of parts: runs of layers, and the modules around them.
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
        table(&head, placed.chunk_by(is_same).map(row))
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
                Home::Gpu(_) => (Term::GpuContext, self.gpu_context),
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

    pub(in crate::plan) fn picture(&self) -> String {
        svg::picture(&self.name, &self.sentence(), &self.bars(), &[])
    }

    pub(in crate::plan) fn json(&self) -> Value {
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
            "to_download": self.to_download.as_ref().map(ToDownload::json),
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

/// Modules that are listed.
const FEW: usize = 3;
