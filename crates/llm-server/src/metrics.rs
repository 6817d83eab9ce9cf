//! Counts for Prometheus.

use std::fmt::Write;

use llm_engine::{EndReason, Stats};

/// Counts in Prometheus' text format.
pub(crate) fn text(stats: &Stats) -> String {
    let mut text = String::new();
    let mut add = |name: &str, kind: &str, help: &str, values: &[(String, u64)]| {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "# HELP llm_run_{name} {help}\n# TYPE llm_run_{name} {kind}"
        );
        for (labels, value) in values {
            let _ = writeln!(text, "llm_run_{name}{labels} {value}");
        }
    };
    let one = |value: u64| [(String::new(), value)];
    let gauges = [
        (
            "requests_running",
            "Answers that are being made.",
            stats.n_running,
        ),
        (
            "requests_waiting",
            "Requests that wait for a sequence.",
            stats.n_waiting,
        ),
        (
            "sequences",
            "Answers that are made at a time at most.",
            stats.n_sequences,
        ),
        (
            "kv_positions_held",
            "Positions whose keys and values are held.",
            stats.n_held,
        ),
        (
            "kv_positions",
            "Positions that could be held.",
            stats.n_positions,
        ),
    ];
    for (name, help, value) in gauges {
        add(name, "gauge", help, &one(value as u64));
    }
    let counters = [
        ("passes_total", "Passes over the weights.", stats.n_passes),
        (
            "prompt_tokens_total",
            "Tokens of prompts that were answered.",
            stats.n_prompt_tokens,
        ),
        (
            "prompt_tokens_cached_total",
            "Those of them that were not computed again.",
            stats.n_shared_tokens,
        ),
        (
            "generated_tokens_total",
            "Tokens of answers.",
            stats.n_generated_tokens,
        ),
        (
            "requests_failed_total",
            "Requests that failed.",
            stats.n_failed,
        ),
        (
            "requests_cancelled_total",
            "Requests whose client went away.",
            stats.n_cancelled,
        ),
    ];
    for (name, help, value) in counters {
        add(name, "counter", help, &one(value));
    }
    let ended = stats
        .n_ended
        .map(|(end, n)| (format!("{{reason=\"{}\"}}", label(end)), n));
    add(
        "requests_total",
        "counter",
        "Answers by the reason of their end.",
        &ended,
    );
    text
}

fn label(end: EndReason) -> &'static str {
    match end {
        EndReason::Eos => "eos",
        EndReason::Stop => "stop",
        EndReason::Length => "length",
        EndReason::Context => "context",
        EndReason::Time => "time",
        EndReason::Interrupted => "interrupted",
    }
}
