//! Standard output and standard error.

use std::fmt::Display;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use llm_arch::ModelSpec;
use llm_tensor::Bytes;
use serde::Serialize;

use self::words::printable;
use crate::resident::ResidentSet;

pub(crate) mod table;
pub(crate) mod usage;
pub(crate) mod words;

/// Writes to standard output at once: text is read while it is made.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.context("cannot write to standard output")
}

/// An object as JSON, on a line.
pub(crate) fn json(object: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string(object)? + "\n")
}

/// `note: …` on standard error, a line for each: what was chosen or left out, though the command goes on.
pub(crate) fn notes(notices: &[impl Display]) {
    for notice in notices {
        eprintln!("note: {}", printable(&notice.to_string()));
    }
}

/// `n` per second; zero when no time has passed.
pub(crate) fn rate(n: usize, time: Duration) -> f64 {
    if time.is_zero() {
        0.0
    } else {
        n as f64 / time.as_secs_f64()
    }
}

/// Notice that an answer ended with the context, and what would help.
pub(crate) fn context_is_full(spec: &ModelSpec, context: usize) -> String {
    match spec.context {
        most if context < most => format!(
            "the context of {context} positions is full; --context gives more, up to the {most} that the model has"
        ),
        _ => format!("the context of {context} positions, all that the model has, is full"),
    }
}

/// `12 tokens at 34.5 tokens/s`.
pub(crate) fn tokens(n: usize, time: Duration) -> String {
    let plural = if n == 1 { "" } else { "s" };
    match n {
        0 => "0 tokens".to_owned(),
        _ => format!("{n} token{plural} at {:.1} tokens/s", rate(n, time)),
    }
}

/// `peak memory 312.4 MB (297.9 MiB)`; nothing where the system does not tell.
pub(crate) fn peak_memory() -> Option<String> {
    let peak = ResidentSet::now().peak_resident_bytes;
    (peak > 0).then(|| format!("peak memory {}", Bytes::new(peak)))
}

/// A progress bar over bytes on standard error, where someone can see it.
pub(crate) fn bar(doing: &str, total: Bytes) -> Result<ProgressBar> {
    let template = "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}";
    let style = ProgressStyle::with_template(template).context("the progress bar's template")?;
    let bar = ProgressBar::new(total.get()).with_style(style);
    Ok(bar.with_message(doing.to_owned()))
}

/// The closing line on standard error.
pub(crate) fn closing_line(parts: impl IntoIterator<Item = String>) {
    eprintln!(
        "{}",
        parts
            .into_iter()
            .chain(peak_memory())
            .collect::<Vec<_>>()
            .join(" · ")
    );
}
