//! Memory of GPUs: planned beside what a run allocates there, and beside what the driver counts.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::models::{self, Folder};
use super::program::{Gpus, Program};
use super::row::{mb, number};
use super::{PRECISIONS, Precision};

/// Terms that are compared, in bytes.
const TERMS: [&str; 6] = [
    "weights",
    "quantization_statistics",
    "kv_cache",
    "activations",
    "workspace",
    "staging",
];

/// One GPU in one run.
pub(super) struct GpuRow {
    model: String,
    precision: &'static str,
    gpu: String,
    planned: [u64; TERMS.len()],
    allocated: [u64; TERMS.len()],
    planned_peak: u64,
    context: u64,
    used_before: u64,
    used: u64,
}

/// Rows of all models, a GPU and a precision each; they are printed as they come.
///
/// # Errors
/// When something cannot be run, or computes on other GPUs than those that were named.
pub(super) fn rows(
    gpus: &Gpus<'_>,
    models: &[models::Model],
    program: &Program,
    (root, target): (&Path, &Path),
) -> Result<Vec<GpuRow>> {
    println!("{HEAD}");
    let mut rows = Vec::new();
    for model in models {
        let folder = Folder::of(model, root, target)?;
        let precisions = PRECISIONS.iter().filter(|p| model.is_measured_in(p.name));
        for precision in precisions {
            let run = program.on_gpus(&folder, precision, gpus)?;
            let of_run = GpuRow::of((&folder.name, precision), &run)?;
            let n_named = gpus.device.split(',').count();
            ensure!(
                of_run.len() == n_named,
                "{} of {n_named} GPUs were computed on",
                of_run.len()
            );
            for row in of_run {
                println!("{row}");
                rows.push(row);
            }
        }
    }
    Ok(rows)
}

impl GpuRow {
    /// Those of a run's report, one a GPU.
    fn of((model, precision): (&str, &Precision), run: &Value) -> Result<Vec<Self>> {
        let gpus = run["memory"]["gpus"].as_object();
        let gpus = gpus.context("a run's GPUs")?;
        let row = |(gpu, of): (&String, &Value)| {
            // What takes nothing is not listed.
            let terms = |of: &Value| TERMS.map(|term| of[term].as_u64().unwrap_or(0));
            Ok(GpuRow {
                model: model.to_owned(),
                precision: precision.name,
                gpu: gpu.clone(),
                planned: terms(&of["planned"]),
                allocated: terms(&of["allocated"]),
                planned_peak: number(&of["planned_peak"])?
                    .max(number(&of["planned_peak_at_load"])?),
                context: number(&of["planned"]["gpu_context"])?,
                used_before: number(&of["used_before"])?,
                used: number(&of["used"])?,
            })
        };
        gpus.iter().map(row).collect()
    }

    /// Bytes that the driver gave while the model was loaded and ran.
    fn taken(&self) -> u64 {
        self.used.saturating_sub(self.used_before)
    }

    /// Figures that are not as planned: a term, or more than the whole plan by the driver's count.
    pub(super) fn problems(&self) -> Vec<String> {
        let name = format!("{} {}, GPU {}", self.model, self.precision, self.gpu);
        let both = self.planned.iter().zip(&self.allocated);
        let off = TERMS
            .iter()
            .zip(both)
            .filter(|(_, (planned, found))| planned != found);
        let mut problems: Vec<String> = off
            .map(|(term, (planned, found))| format!("{name}: {term} is {found}, planned {planned}"))
            .collect();
        if self.taken() > self.planned_peak {
            let (taken, planned) = (self.taken(), self.planned_peak);
            problems.push(format!(
                "{name}: the driver counts {taken} more than before, planned {planned}"
            ));
        }
        problems
    }

    pub(super) fn json(&self) -> Value {
        let by_name = |terms: &[u64; TERMS.len()]| -> Map<String, Value> {
            let named = TERMS.iter().zip(terms);
            named
                .map(|(name, &n)| ((*name).to_owned(), n.into()))
                .collect()
        };
        json!({
            "model": self.model, "precision": self.precision, "gpu": self.gpu,
            "planned": by_name(&self.planned), "allocated": by_name(&self.allocated),
            "planned_peak": self.planned_peak, "planned_context": self.context,
            "used_before": self.used_before, "used": self.used,
        })
    }
}

/// Header of the rows. Sizes are MB; an exclamation mark is where other than what was planned was allocated.
const HEAD: &str = concat!(
    "                                                        ",
    "     weights  statistics    KV cache activations   workspace     staging planned peak   more used       used\n",
    "model                                         precision  GPU",
    "        MB          MB          MB          MB          MB          MB           MB   by driver  by driver"
);

impl fmt::Display for GpuRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:45} {:10} {:>3}", self.model, self.precision, self.gpu)?;
        for (planned, allocated) in self.planned.iter().zip(&self.allocated) {
            let mark = if planned == allocated { ' ' } else { '!' };
            write!(f, "{:>11}{mark}", mb(*allocated))?;
        }
        let (taken, used) = (mb(self.taken()), mb(self.used));
        write!(f, "{:>12}{taken:>12}{used:>11}", mb(self.planned_peak))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(weights: u64, used: u64) -> Value {
        json!({"memory": {"gpus": {"1": {
            "planned": {"weights": 100, "kv_cache": 20, "gpu_context": 600},
            "allocated": {"weights": weights, "kv_cache": 20},
            "planned_peak_at_load": 700, "planned_peak": 720, "used_before": 50, "used": used,
        }}}})
    }

    #[test]
    fn a_row_is_a_gpu_of_a_run() {
        let rows =
            |weights, used| GpuRow::of(("a model", &PRECISIONS[0]), &run(weights, used)).unwrap();
        let problems = |weights, used| rows(weights, used)[0].problems();
        assert_eq!(problems(100, 770), [""; 0]);
        assert_eq!(
            problems(99, 770),
            ["a model f32, GPU 1: weights is 99, planned 100"]
        );
        assert_eq!(
            problems(100, 771),
            ["a model f32, GPU 1: the driver counts 721 more than before, planned 720"]
        );
        let row = &rows(100, 400)[0];
        assert_eq!(row.json()["used"], 400);
        assert_eq!(row.to_string().split_whitespace().last(), Some("0.0"));
        assert!(GpuRow::of(("a model", &PRECISIONS[0]), &json!({})).is_err());
    }
}
