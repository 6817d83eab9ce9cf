//! Aligned columns of text that came from a file and may be anything.

use super::words::printable;

/// A column's title, and the side at which its cells are aligned.
pub(crate) enum Column<'t> {
    Left(&'t str),
    Right(&'t str),
}

/// A blank line, the titles, the rows; nothing when there are no rows.
pub(crate) fn table<R: AsRef<[String]>>(
    head: &[Column<'_>],
    rows: impl IntoIterator<Item = R>,
) -> String {
    let row = |row: R| row.as_ref().iter().map(|cell| printable(cell)).collect();
    let rows: Vec<Vec<String>> = rows.into_iter().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    let titles = head.iter().map(|column| match column {
        Column::Left(title) | Column::Right(title) => (*title).to_owned(),
    });
    let mut lines: Vec<Vec<String>> = vec![titles.collect()];
    lines.extend(rows);
    let mut widths = vec![0; head.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in &lines {
        let cells =
            line.iter()
                .zip(&widths)
                .zip(head)
                .map(|((cell, &width), column)| match column {
                    Column::Left(_) => format!("{cell:width$}"),
                    Column::Right(_) => format!("{cell:>width$}"),
                });
        text += "\n";
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
    }
    format!("\n{}\n", text.trim_start_matches('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let head = [Column::Left("name"), Column::Right("n")];
        let rows = vec![
            ["long name".to_owned(), "1".to_owned()],
            ["ä\u{1b}[2J".to_owned(), "1000".to_owned()],
        ];
        let expected = "\nname           n\nlong name      1\nä\\u{1b}[2J  1000\n";
        assert_eq!(table(&head, rows), expected);
        assert_eq!(table::<[String; 1]>(&[Column::Left("x")], []), "");
    }
}
