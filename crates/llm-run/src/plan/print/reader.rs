//! Peak memory of loading, beside that of a reader that holds whole files.

use llm_plan::{Home, Term, Verdict, whole_shards_peak};
use llm_tensor::Bytes;

use crate::output::words::short;
use crate::plan::model::CheckpointFiles;
use crate::plan::report::PlanReport;

/// RAM that a reader needs that holds each file whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WholeFiles {
    pub(super) n_files: usize,
    /// The size of the largest.
    pub(super) largest: Bytes,
    pub(super) peak: Bytes,
}

/// Needs for the model's checkpoint, for each way in which this is, or may be, cut into files.
pub(super) fn whole_files(report: &PlanReport<'_>) -> Vec<WholeFiles> {
    let in_ram = match &report.verdict {
        Verdict::Fits(plan) => plan
            .estimate
            .memory(Home::Ram)
            .map_or(Bytes::ZERO, |memory| {
                memory.terms.get(Term::Weights) + memory.terms.get(Term::QuantizationStatistics)
            }),
        // What GPUs could not hold if they held nothing else.
        Verdict::DoesNotFit(_) => {
            let estimate = &report.estimate;
            let weights =
                estimate.total(Term::Weights) + estimate.total(Term::QuantizationStatistics);
            let gpus = report.request.budgets.gpus.values();
            gpus.fold(weights, |rest, &budget| rest.saturating_sub(budget))
        }
    };
    let cuts = report.model.files.cuts().iter();
    cuts.map(|files| WholeFiles {
        n_files: files.len(),
        largest: files.iter().copied().max().unwrap_or(Bytes::ZERO),
        peak: whole_shards_peak(files, in_ram),
    })
    .collect()
}

/// Peak memory of both, in words.
pub(super) fn text(report: &PlanReport<'_>) -> String {
    let mut text = String::new();
    let ram = report.request.budgets.ram;
    let fits = report.verdict.plan();
    if let Some(plan) = fits {
        let memories = plan.estimate.memories().iter();
        let computing = memories.filter(|memory| memory.home != Home::Disk);
        let peaks = computing.map(|m| format!("{} of {}", m.peak_at_load(), m.home));
        text += &format!(
            "Loading takes {} at most: of each tensor only a piece is on its way at a time.\n",
            peaks.collect::<Vec<_>>().join(" and ")
        );
    }
    let is_guess = matches!(report.model.files, CheckpointFiles::Expected { .. });
    for whole in whole_files(report) {
        let cut = match (is_guess, whole.n_files) {
            (true, 1) => format!("if the checkpoint is one file of {}", short(whole.largest)),
            (true, n) => format!(
                "if it is cut into {n} files of up to {}",
                short(whole.largest)
            ),
            (false, 1) => format!("for the checkpoint's one file of {}", short(whole.largest)),
            (false, n) => format!(
                "for the checkpoint's {n} files of up to {}",
                short(whole.largest)
            ),
        };
        let least = if fits.is_some() { "" } else { "at least " };
        let verdict = match (whole.peak > ram, fits.is_some()) {
            (true, _) => {
                let missing = short(whole.peak.saturating_sub(ram));
                format!("{missing} more than its budget: there it fails")
            }
            (false, true) => "within its budget: there it works".to_owned(),
            (false, false) => "within its budget".to_owned(),
        };
        text += &format!(
            "A reader that holds whole files needs {least}{} of RAM {cut}, {verdict}.\n",
            whole.peak
        );
    }
    text
}
