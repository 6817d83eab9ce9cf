//! A plan as a picture: a bar for each memory, made of groups of units and of what passes take beside them.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use llm_arch::ModelSpec;
use llm_plan::{Home, Term};
use llm_tensor::Bytes;

use super::bars::{Bar, bars};
use super::units::{UnitGroup, groups};
use crate::failure::UserError;
use crate::output::words::short;
use crate::plan::report::PlanReport;

pub(in crate::plan) fn draw(report: &PlanReport<'_>) -> String {
    let bars = bars(report);
    let groups = match report.verdict.plan() {
        Some(plan) => groups(spec(report), plan.estimate.units()),
        None => Vec::new(),
    };
    picture(&report.model.name, &report.sentence(), &bars, &groups)
}

/// Writes a picture.
///
/// # Errors
/// When the file cannot be written.
pub(in crate::plan) fn write(path: &Path, picture: &str) -> Result<()> {
    let error = |e| UserError(format!("cannot write {}: {e}", path.display()));
    Ok(std::fs::write(path, picture).map_err(error)?)
}

/// A bar for each memory, in pieces by group.
pub(super) fn picture(name: &str, verdict: &str, bars: &[Bar], groups: &[UnitGroup]) -> String {
    let height = TOP + bars.len() as u64 * ROW + LEGEND;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>{title}</title>\n<desc>{verdict}</desc>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"28\" font-size=\"17\" font-weight=\"bold\">{title}</text>\n",
        title = escaped(name),
        verdict = escaped(verdict),
    );
    for (i, bar) in bars.iter().enumerate() {
        let y = TOP + i as u64 * ROW;
        svg += &memory(bar, groups, y);
    }
    svg + &legend(bars, height - LEGEND) + "</svg>\n"
}

fn spec<'a>(report: &'a PlanReport<'_>) -> &'a ModelSpec {
    &report.model.skeleton.spec
}

/// A memory's bar with its figures above it.
fn memory(bar: &Bar, groups: &[UnitGroup], y: u64) -> String {
    let scale = bar.scale().get().max(1) as f64;
    let x = |bytes: Bytes| LEFT as f64 + BAR as f64 * bytes.get() as f64 / scale;
    let bar_y = y + 20;
    let mut svg = format!(
        "<text x=\"{LEFT}\" y=\"{}\">{}: {}</text>\n\
         <rect x=\"{LEFT}\" y=\"{bar_y}\" width=\"{BAR}\" height=\"{THICK}\" fill=\"#eeeeee\"/>\n",
        y + 14,
        escaped(&bar.home.to_string()),
        escaped(&bar.figures()),
    );
    let mut at = Bytes::ZERO;
    let mut piece = |bytes: Bytes, fill: &str, what: String| {
        let (from, to) = (x(at), x(at + bytes));
        at += bytes;
        let _ = writeln!(
            svg,
            "<rect x=\"{from:.2}\" y=\"{bar_y}\" width=\"{:.2}\" height=\"{THICK}\" fill=\"{fill}\" \
             stroke=\"#ffffff\" stroke-width=\"0.5\"><title>{}</title></rect>",
            to - from,
            escaped(&what),
        );
    };
    for group in groups
        .iter()
        .filter(|group| group.placement.home == bar.home)
    {
        if group.in_place > Bytes::ZERO {
            let bytes = short(group.in_place);
            let what = format!("{}: {bytes} of weights {READ_IN_PLACE}", group.full_name);
            piece(group.in_place, IN_PLACE, what);
        }
    }
    let of_groups: Bytes = groups.iter().map(|group| group.in_place).sum();
    let rest = bar.in_place.saturating_sub(of_groups);
    if rest > Bytes::ZERO {
        let what = format!("{}: {} of weights {READ_IN_PLACE}", bar.home, short(rest));
        piece(rest, IN_PLACE, what);
    }
    for &(term, bytes) in &bar.parts {
        let what = |name: &str, bytes| format!("{name}: {} of {term}", short(bytes));
        let mut of_units = Bytes::ZERO;
        for group in groups {
            let own = own_bytes(group, bar.home, term);
            if own > Bytes::ZERO {
                of_units += own;
                piece(own, colour(term), what(&group.full_name, own));
            }
        }
        let shared = bytes.saturating_sub(of_units);
        if shared > Bytes::ZERO {
            piece(shared, colour(term), what(&bar.home.to_string(), shared));
        }
    }
    if bar.needed > bar.budget {
        let limit = x(bar.limit());
        let _ = writeln!(
            svg,
            "<line x1=\"{limit:.2}\" y1=\"{}\" x2=\"{limit:.2}\" y2=\"{}\" stroke=\"#000000\" stroke-width=\"2\" \
             stroke-dasharray=\"4 3\"/>",
            bar_y - 4,
            bar_y + THICK + 4,
        );
    }
    svg
}

/// Bytes of a group in a memory for one term; of a disk those that are written there.
fn own_bytes(group: &UnitGroup, home: Home, term: Term) -> Bytes {
    let (memory, bytes) = match term {
        // There all that is written is drawn as weights.
        Term::Weights if home == Home::Disk => {
            let all = group.weights + group.statistics;
            (group.placement.home, all.saturating_sub(group.in_place))
        }
        Term::Weights => (group.placement.home, group.weights),
        Term::QuantizationStatistics => (group.placement.home, group.statistics),
        Term::KvCache => (group.placement.run_on.memory(), group.kv_cache),
        Term::Activations
        | Term::Workspace
        | Term::Staging
        | Term::LoadTransient
        | Term::GpuContext
        | Term::Program => return Bytes::ZERO,
    };
    if memory == home { bytes } else { Bytes::ZERO }
}

/// The colours of the terms that are there.
fn legend(bars: &[Bar], y: u64) -> String {
    let is_there = |term: &Term| {
        let mut parts = bars.iter().flat_map(|bar| &bar.parts);
        parts.any(|(t, _)| t == term)
    };
    let terms = Term::ALL.into_iter().filter(is_there);
    let mut entries: Vec<_> = terms.map(|term| (colour(term), term.to_string())).collect();
    if bars.iter().any(|bar| bar.in_place > Bytes::ZERO) {
        entries.push((IN_PLACE, format!("weights {READ_IN_PLACE}")));
    }
    let entry = |(i, (fill, name)): (usize, (&str, String))| {
        let (x, y) = (
            LEFT + i as u64 % COLUMNS * COLUMN,
            y + i as u64 / COLUMNS * 22,
        );
        format!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{fill}\"/>\n\
             <text x=\"{}\" y=\"{}\">{name}</text>\n",
            x + 18,
            y + 11,
        )
    };
    entries.into_iter().enumerate().map(entry).collect()
}

/// Colours that stay apart for the colour-blind.
fn colour(term: Term) -> &'static str {
    match term {
        Term::Weights => "#0072b2",
        Term::QuantizationStatistics => "#56b4e9",
        Term::KvCache => "#e69f00",
        Term::Activations => "#009e73",
        Term::Workspace => "#f0e442",
        Term::Staging => "#cc79a7",
        Term::LoadTransient => "#d55e00",
        Term::GpuContext => "#999999",
        Term::Program => "#555555",
    }
}

/// Text as XML has it; characters that it does not have become U+FFFD.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\u{fffe}' | '\u{ffff}' => escaped.push(char::REPLACEMENT_CHARACTER),
            c if c.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The colour of weights that a disk holds already, a lighter one than that of those that are written.
const IN_PLACE: &str = "#9cc3de";
const READ_IN_PLACE: &str = "read in place";

/// In pixels, as all below.
const WIDTH: u64 = 900;
const LEFT: u64 = 24;
const BAR: u64 = WIDTH - 2 * LEFT;
const THICK: u64 = 30;
const TOP: u64 = 44;
/// A bar with what stands above it.
const ROW: u64 = 68;
const LEGEND: u64 = 78;
/// Entries of the legend side by side, and how wide they are.
const COLUMNS: u64 = 4;
const COLUMN: u64 = BAR / COLUMNS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_be_taken_for_markup() {
        assert_eq!(
            escaped("<a href=\"x\">&\u{7}\u{ffff}ä"),
            "&lt;a href=&quot;x&quot;&gt;&amp;\u{fffd}\u{fffd}ä"
        );
    }
}
