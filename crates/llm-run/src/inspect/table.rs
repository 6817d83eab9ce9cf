//! Aligned columns of text that came from a file and may be anything.

/// A column's title, and the side at which its cells are aligned.
pub(super) enum Column<'t> {
    Left(&'t str),
    Right(&'t str),
}

/// A blank line, the titles, the rows; nothing when there are no rows.
pub(super) fn table<const N: usize>(head: [Column<'_>; N], rows: Vec<[String; N]>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let titles = head.each_ref().map(|column| match column {
        Column::Left(title) | Column::Right(title) => (*title).to_owned(),
    });
    let rows: Vec<[String; N]> = rows
        .iter()
        .map(|row| row.each_ref().map(|cell| printable(cell)))
        .collect();
    let mut widths = [0; N];
    for row in rows.iter().chain([&titles]) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in [&titles].into_iter().chain(&rows) {
        let cells =
            row.iter()
                .zip(&widths)
                .zip(&head)
                .map(|((cell, &width), column)| match column {
                    Column::Left(_) => format!("{cell:width$}"),
                    Column::Right(_) => format!("{cell:>width$}"),
                });
        text += "\n";
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
    }
    format!("\n{}\n", text.trim_start_matches('\n'))
}

/// The text without characters that a terminal obeys.
pub(crate) fn printable(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    let escape = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escape).collect()
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
        assert_eq!(table(head, rows), expected);
        assert_eq!(table([Column::Left("x")], vec![]), "");
    }
}
