//! A model in a precision: planned beside measured.

use std::fmt;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::models::{AS_STORED, Folder};

/// Figures compared, in bytes; the last two are peaks of the whole process.
const FIGURES: [&str; N_FIGURES] = [
    "weights",
    "quantization_statistics",
    "kv_cache",
    "activations",
    "workspace",
    "staging",
    "peak_at_load",
    "peak_in_generation",
];
const N_FIGURES: usize = 8;
const N_EXACT: usize = 6;
const KV_CACHE: usize = 2;
const WORKSPACE: usize = 4;
const STAGING: usize = 5;
const PEAK_AT_LOAD: usize = 6;
const PEAK_IN_GENERATION: usize = 7;

/// By how much a peak may differ from the planned one.
pub(super) const TOLERANCE: f64 = 0.02;
/// Bytes of all else that is resident while a GGUF runs as it is stored.
pub(super) const BESIDE_GGUF: u64 = 60_000_000;
/// Of a smaller peak, the same share of this: what the process takes for itself varies by a page here and there.
const SMALLEST: u64 = 200_000_000;

/// Memory the program comes to need for itself once it loads, and runs, beside what it had before: code of kernels and
/// stacks of threads, less memory that it had freed and uses again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Base {
    at_load: i64,
    in_generation: i64,
}

impl Base {
    /// From a row without one.
    pub(super) fn of(row: &Row) -> Self {
        let own = |figure: usize| row.measured[figure].wrapping_sub(row.planned[figure]) as i64;
        Base {
            at_load: own(PEAK_AT_LOAD),
            in_generation: own(PEAK_IN_GENERATION),
        }
    }

    pub(super) fn json(self) -> Value {
        json!({"at_load": self.at_load, "in_generation": self.in_generation})
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the program itself takes, beside what it had before it loads, {:.1} MB at load and {:.1} MB in generation",
            self.at_load as f64 / 1e6,
            self.in_generation as f64 / 1e6
        )
    }
}

/// One comparison.
pub(super) struct Row {
    pub(super) model: String,
    pub(super) precision: &'static str,
    planned: [u64; N_FIGURES],
    measured: [u64; N_FIGURES],
    /// The process before it loads, and what it comes to need for itself.
    own: u64,
    /// Mapped weights that no pass touches.
    untouched: u64,
    /// The most that a run of a GGUF as it is stored may take.
    limit: Option<u64>,
    /// Of what is not used where it lies, where all is loaded.
    load_gb_per_second: Option<f64>,
    pub(super) tokens_per_second: f64,
}

impl Row {
    /// Joins what `plan` and `generate` print.
    pub(super) fn new(
        (folder, precision): (&Folder, &'static str),
        plan: &Value,
        run: &Value,
        base: Base,
    ) -> Result<Self> {
        let ram = &plan["memories"]["cpu"];
        let memory = &run["memory"];
        let before = &memory["before_load"];
        let own = number(&before["anonymous_bytes"])? + number(&before["file_bytes"])?;
        let units = plan["units"].as_array().context("a plan's units")?;
        let mut in_place = 0;
        let mut untouched = 0;
        let mut resident = 0;
        let rests_in_ram = |unit: &&Value| unit["home"] == "cpu";
        for unit in units.iter().filter(rests_in_ram) {
            let total = number(&unit["weights"])? + number(&unit["quantization_statistics"])?;
            let (mapped, looked_up) = (
                number(&unit["in_place"])?,
                total - number(&unit["per_pass"])?,
            );
            in_place += mapped;
            resident += total;
            // A table that is mapped: passes touch a few rows of it.
            if mapped >= looked_up {
                untouched += looked_up;
            }
        }
        let mut planned = [0; N_FIGURES];
        let mut measured = [0; N_FIGURES];
        for (i, name) in FIGURES[..N_EXACT].iter().enumerate() {
            planned[i] = number(&ram[name])?;
            // What takes nothing is not listed.
            measured[i] = memory["allocated"][name].as_u64().unwrap_or(0);
        }
        let buffers: u64 = planned[KV_CACHE..N_EXACT].iter().sum();
        let transient = number(&ram["load_transient"])?;
        let (at_load, own) = (
            own.saturating_add_signed(base.at_load),
            own.saturating_add_signed(base.in_generation),
        );
        planned[PEAK_AT_LOAD] = at_load + resident - in_place + transient;
        let generation = own + resident - untouched + buffers;
        planned[PEAK_IN_GENERATION] = generation.max(planned[PEAK_AT_LOAD]);
        measured[PEAK_AT_LOAD] = number(&memory["after_load"]["peak_resident_bytes"])?;
        measured[PEAK_IN_GENERATION] = number(&memory["peak_resident_bytes"])?;
        let seconds = run["timings"]["load_seconds"]
            .as_f64()
            .context("load_seconds")?;
        let read = folder.stored.get().saturating_sub(in_place);
        let is_streamed = !units.iter().all(|unit| rests_in_ram(&unit));
        let is_read = !is_streamed && 10 * read > folder.stored.get();
        Ok(Row {
            model: folder.name.clone(),
            precision,
            planned,
            measured,
            own,
            untouched,
            limit: (folder.is_gguf && precision == AS_STORED)
                .then(|| folder.stored.get() + planned[KV_CACHE] + BESIDE_GGUF),
            load_gb_per_second: is_read.then(|| read as f64 / seconds / 1e9),
            tokens_per_second: run["timings"]["decode_tokens_per_second"]
                .as_f64()
                .context("decode_tokens_per_second")?,
        })
    }

    /// Bytes planned for the process in generation: itself, weights, keys and values, buffers.
    pub(super) fn planned_parts(&self) -> [u64; 4] {
        let [weights, statistics, kv_cache, buffers @ .., _, _] = self.planned;
        let weights = weights + statistics - self.untouched;
        [self.own, weights, kv_cache, buffers.iter().sum()]
    }

    /// The highest it came to.
    pub(super) fn measured_peak(&self) -> u64 {
        self.measured[PEAK_IN_GENERATION]
    }

    /// Figures that are not as planned.
    pub(super) fn problems(&self) -> Vec<String> {
        let is_off = |&figure: &usize| {
            if figure < N_EXACT {
                return self.measured[figure] != self.planned[figure];
            }
            let (planned, measured) = (self.planned[figure], self.measured[figure]);
            let begun = match figure {
                // Where weights stay in their file little is allocated but, for a moment, what a tokenizer is read from.
                PEAK_AT_LOAD if self.precision == AS_STORED => {
                    self.planned[PEAK_IN_GENERATION].saturating_sub(planned)
                }
                // What is streamed may be on its way by the time that the rest is loaded.
                PEAK_AT_LOAD => self.planned[STAGING],
                _ => 0,
            };
            let off = measured.abs_diff(measured.clamp(planned, planned + begun));
            off as f64 > TOLERANCE * planned.max(SMALLEST) as f64
        };
        let describe = |figure: usize| {
            let (name, planned, measured) =
                (FIGURES[figure], self.planned[figure], self.measured[figure]);
            format!(
                "{} {}: {name} is {measured}, planned {planned} ({:+.2} %)",
                self.model,
                self.precision,
                100.0 * self.error(figure)
            )
        };
        let off = (0..FIGURES.len()).filter(is_off).map(describe);
        off.chain(self.excess()).collect()
    }

    /// Error of a GGUF's run that takes more than it may.
    fn excess(&self) -> Option<String> {
        let peak = self.measured_peak();
        let limit = self.limit.filter(|limit| peak > *limit)?;
        Some(format!(
            "{} {}: the peak is {peak}, above {limit}: the file, keys and values, and {BESIDE_GGUF}",
            self.model, self.precision
        ))
    }

    /// MB of each figure that has to be exact.
    pub(super) fn exact_figures(&self) -> impl Iterator<Item = String> {
        (0..N_EXACT).map(|figure| self.exact(figure))
    }

    /// MB; an exclamation mark where other than what was planned.
    fn exact(&self, figure: usize) -> String {
        let measured = self.measured[figure];
        let mark = if measured == self.planned[figure] {
            " "
        } else {
            "!"
        };
        mb(measured) + mark
    }

    /// MB planned and measured, and by how much they differ.
    pub(super) fn peak_in_generation(&self) -> String {
        self.peak(PEAK_IN_GENERATION)
    }

    fn peak(&self, figure: usize) -> String {
        let (planned, measured) = (mb(self.planned[figure]), mb(self.measured[figure]));
        let percent = 100.0 * self.error(figure);
        format!("{planned:>8}/{measured:<8}{percent:>+6.2}%")
    }

    /// Relative excess of the measured figure over the planned.
    fn error(&self, figure: usize) -> f64 {
        self.measured[figure] as f64 / self.planned[figure] as f64 - 1.0
    }

    pub(super) fn json(&self) -> Value {
        let by_name = |figures: &[u64; N_FIGURES]| -> Map<String, Value> {
            let named = FIGURES.iter().zip(figures);
            named
                .map(|(name, &n)| ((*name).to_owned(), n.into()))
                .collect()
        };
        json!({
            "model": self.model, "precision": self.precision,
            "planned": by_name(&self.planned), "measured": by_name(&self.measured),
            "limit": self.limit, "process_itself": self.own, "mapped_and_untouched": self.untouched,
            "error_at_load": self.error(PEAK_AT_LOAD),
            "error_in_generation": self.error(PEAK_IN_GENERATION),
            "load_gb_per_second": self.load_gb_per_second, "tokens_per_second": self.tokens_per_second,
        })
    }
}

/// Header of the rows. Sizes are MB, planned and measured.
pub(super) const HEAD: &str = concat!(
    "                                                        ",
    "weights  statistics    KV cache   workspace     peak at load            peak in generation      load     decode\n",
    "model                                         precision ",
    "     MB          MB          MB          MB     MB planned/measured     MB planned/measured     GB/s      tok/s"
);

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:45} {:10}", self.model, self.precision)?;
        for figure in [0, 1, KV_CACHE, WORKSPACE] {
            write!(f, "{:>12}", self.exact(figure))?;
        }
        write!(
            f,
            " {} {}",
            self.peak(PEAK_AT_LOAD),
            self.peak_in_generation()
        )?;
        match self.load_gb_per_second {
            Some(rate) => write!(f, "{rate:>8.2}")?,
            // It is mapped, or in the program, and not read.
            None => write!(f, "{:>8}", "–")?,
        }
        write!(f, "{:>11.1}", self.tokens_per_second)?;
        match self.limit {
            Some(limit) => write!(f, "   at most {} MB", mb(limit)),
            None => Ok(()),
        }
    }
}

pub(super) fn mb(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

pub(super) fn number(value: &Value) -> Result<u64> {
    value
        .as_u64()
        .with_context(|| format!("a number of bytes, not {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gguf_may_take_its_file_and_keys_and_values_and_little_more() {
        let row = |peak, limit| {
            let mut planned = [0; N_FIGURES];
            planned[PEAK_IN_GENERATION] = peak;
            Row {
                model: "gguf".to_owned(),
                precision: AS_STORED,
                planned,
                measured: planned,
                own: 0,
                untouched: 0,
                limit,
                load_gb_per_second: None,
                tokens_per_second: 1.0,
            }
        };
        assert!(row(160, None).problems().is_empty());
        assert!(row(160, Some(160)).problems().is_empty());
        let problems = row(161, Some(160)).problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("the peak is 161, above 160"));
    }
}
