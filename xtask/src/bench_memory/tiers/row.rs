//! A run under a budget: planned beside measured.

use std::fmt;

use anyhow::{Context, Result};
use llm_tensor::Bytes;
use serde_json::{Value, json};

use crate::bench_memory::row::{Row, mb, number};

/// One run.
pub(in crate::bench_memory) struct TierRow {
    row: Row,
    /// Placement of weights.
    tiers: &'static str,
    /// Of RAM, for the whole process.
    budget: Option<Bytes>,
    /// Bytes read from disk in a pass.
    streamed: u64,
    ids: Ids,
}

/// Generated ids, beside those of the same weights wholly in RAM.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ids {
    /// This run itself.
    Reference,
    Same,
    Different,
    /// They do not fit into this machine's RAM.
    NotCompared,
}

impl TierRow {
    /// `row` compares a run with its plan.
    pub(super) fn new(row: Row, plan: &Value, budget: Option<Bytes>, ids: Ids) -> Result<Self> {
        let units = plan["units"].as_array().context("a plan's units")?;
        let has_weights_on = |home: &str| {
            let mut units = units.iter();
            units.any(|unit| unit["home"] == home && unit["weights"] != 0)
        };
        let on_disk = units.iter().filter(|unit| unit["home"] == "disk");
        let streamed = on_disk.map(|unit| number(&unit["per_pass"]));
        Ok(TierRow {
            row,
            tiers: match (has_weights_on("cpu"), has_weights_on("disk")) {
                (true, true) => "RAM + disk",
                (false, true) => "disk",
                (_, false) => "RAM",
            },
            budget,
            streamed: streamed.sum::<Result<_>>()?,
            ids,
        })
    }

    /// Figures that are not as planned, a budget that was not kept, other ids.
    pub(in crate::bench_memory) fn problems(&self) -> Vec<String> {
        let mut problems = self.row.problems();
        let what = format!(
            "{} {} on {}",
            self.row.model, self.row.precision, self.tiers
        );
        let peak = Bytes::new(self.row.measured_peak());
        if let Some(budget) = self.budget.filter(|&budget| peak > budget) {
            problems.push(format!("{what} came to {peak} under a budget of {budget}"));
        }
        if self.ids == Ids::Different {
            problems.push(format!("{what} generates other ids than in RAM alone"));
        }
        problems
    }

    pub(in crate::bench_memory) fn json(&self) -> Value {
        json!({
            "row": self.row.json(), "tiers": self.tiers, "budget": self.budget.map(Bytes::get),
            "streamed_bytes_per_token": self.streamed, "streamed_gb_per_second": self.streamed_rate(),
            "ids": self.ids.name(),
        })
    }

    fn streamed_rate(&self) -> f64 {
        self.streamed as f64 * self.row.tokens_per_second / 1e9
    }
}

impl Ids {
    fn name(self) -> &'static str {
        match self {
            Ids::Reference => "reference",
            Ids::Same => "same",
            Ids::Different => "different",
            Ids::NotCompared => "not compared",
        }
    }
}

/// Header of the rows. Sizes are MB, terms those in RAM, and what is streamed a token is as planned.
pub(in crate::bench_memory) const HEAD: &str = concat!(
    "                                       budget    weights statistics   KV cache activations  workspace    staging  ",
    "    peak in generation      streamed    decode  streamed\n",
    "model          precision  weights on       MB         MB         MB         MB         MB         MB         MB  ",
    "    MB planned/measured     MB/token     tok/s      GB/s  ids"
);

impl fmt::Display for TierRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let budget = self.budget.map_or("–".to_owned(), |b| mb(b.get()));
        let Row {
            model, precision, ..
        } = &self.row;
        write!(f, "{model:14} {precision:10} {:10} {budget:>8}", self.tiers)?;
        for figure in self.row.exact_figures() {
            write!(f, " {figure:>10}")?;
        }
        write!(f, " {}", self.row.peak_in_generation())?;
        let tokens = self.row.tokens_per_second;
        let (streamed, rate) = match self.streamed {
            0 => ("–".to_owned(), "–".to_owned()),
            n_bytes => (mb(n_bytes), format!("{:.2}", self.streamed_rate())),
        };
        let ids = self.ids.name();
        write!(f, " {streamed:>12} {tokens:>9.2} {rate:>9}  {ids}")
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::bench_memory::models::Folder;
    use crate::bench_memory::row::Base;

    const MB: u64 = 1_000_000;

    /// A run that allocates staging places of so many MB, where 20 are planned beside 300 of weights, and another 100 on
    /// disk.
    fn row(staging: u64, budget: u64, ids: Ids) -> TierRow {
        let unit = |home: &str, weights: u64| {
            json!({
                "home": home, "weights": weights, "quantization_statistics": 0, "in_place": 0,
                "per_pass": weights,
            })
        };
        let plan = json!({
            "memories": {"cpu": {
                "weights": 300 * MB, "quantization_statistics": 0, "kv_cache": 0, "activations": 0, "workspace": 0,
                "staging": 20 * MB, "load_transient": 0,
            }},
            "units": [unit("cpu", 300 * MB), unit("disk", 100 * MB)],
        });
        let peak = |n_mb: u64| json!({"peak_resident_bytes": n_mb * MB});
        let mut memory = peak(330);
        memory["before_load"] = json!({"anonymous_bytes": 4 * MB, "file_bytes": 6 * MB});
        memory["after_load"] = peak(320);
        memory["allocated"] = json!({"weights": 300 * MB, "staging": staging * MB});
        let run = json!({
            "memory": memory, "timings": {"load_seconds": 1.0, "decode_tokens_per_second": 5.0},
        });
        let folder = Folder::made("model".to_owned(), PathBuf::from("demo"), 8).unwrap();
        let row = Row::new((&folder, "bf16"), &plan, &run, Base::default()).unwrap();
        TierRow::new(row, &plan, Some(Bytes::new(budget * MB)), ids).unwrap()
    }

    #[test]
    fn a_run_as_planned_has_no_problems() {
        let row = row(20, 330, Ids::Same);
        assert_eq!(row.problems(), [""; 0]);
        assert_eq!((row.tiers, row.streamed), ("RAM + disk", 100 * MB));
        assert_eq!(row.json()["streamed_gb_per_second"], 0.5);
    }

    #[test]
    fn each_problem_is_named() {
        let cases = [
            (
                row(21, 330, Ids::Same),
                "staging is 21000000, planned 20000000",
            ),
            (
                row(20, 329, Ids::Same),
                "came to 330.0 MB (314.7 MiB) under a budget of 329.0 MB",
            ),
            (
                row(20, 330, Ids::Different),
                "generates other ids than in RAM alone",
            ),
        ];
        for (row, expected) in cases {
            let problems = row.problems();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains(expected), "{problems:?}");
        }
    }
}
