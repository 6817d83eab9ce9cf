//! A picture of the table: what was planned as bars, what was measured as a line across each.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;

use super::row::Row;

/// Parts of a bar, and their colours.
const PARTS: [(&str, RGBColor); 4] = [
    ("the process itself", RGBColor(160, 160, 160)),
    ("weights", RGBColor(70, 120, 180)),
    ("KV cache", RGBColor(230, 150, 60)),
    ("activations and workspace", RGBColor(110, 170, 100)),
];

/// Draws the rows, the first on top.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn draw(path: &Path, rows: &[Row]) -> Result<()> {
    let n = rows.len() as i32;
    let size = (1200, 120 + 26 * n as u32);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    let peak = |row: &Row| row.measured_peak().max(row.planned_parts().iter().sum());
    let most = rows.iter().map(peak).max().unwrap_or(1);
    let names: Vec<String> = rows
        .iter()
        .map(|row| format!("{} {}", row.model, row.precision))
        .collect();

    let mut chart = ChartBuilder::on(&root)
        .caption(
            "Peak memory in generation: planned, and measured (black)",
            ("sans-serif", 20),
        )
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(400)
        .build_cartesian_2d(0.0..gb(most) * 1.05, (0..n).into_segmented())?;
    let name = |segment: &SegmentValue<i32>| match *segment {
        SegmentValue::CenterOf(i) if (0..n).contains(&i) => names[(n - 1 - i) as usize].clone(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(rows.len())
        .y_label_formatter(&name)
        .x_desc("GB")
        .draw()?;
    for (idx, (label, colour)) in PARTS.iter().enumerate() {
        let bars = rows.iter().zip(0..).map(|(row, i)| {
            let parts = row.planned_parts();
            let start: u64 = parts[..idx].iter().sum();
            bar((gb(start), gb(start + parts[idx])), n - 1 - i, *colour)
        });
        let colour = *colour;
        chart
            .draw_series(bars)?
            .label(*label)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 16, y + 5)], colour.filled()));
    }
    chart.draw_series(rows.iter().zip(0..).map(|(row, i)| {
        let (x, at) = (gb(row.measured_peak()), n - 1 - i);
        let ends = vec![
            (x, SegmentValue::Exact(at)),
            (x, SegmentValue::Exact(at + 1)),
        ];
        PathElement::new(ends, BLACK.stroke_width(3))
    }))?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}

type Bar = Rectangle<(f64, SegmentValue<i32>)>;

fn bar((from, to): (f64, f64), at: i32, colour: RGBColor) -> Bar {
    let corners = [
        (from, SegmentValue::Exact(at)),
        (to, SegmentValue::Exact(at + 1)),
    ];
    let mut bar = Rectangle::new(corners, colour.filled());
    bar.set_margin(4, 4, 0, 0);
    bar
}

fn gb(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}
