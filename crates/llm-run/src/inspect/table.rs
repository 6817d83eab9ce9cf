//! Aligned columns of text that came from a file and may be anything.

/// A column's title, and the side at which its cells are aligned.
pub(crate) enum Column<'t> {
    Left(&'t str),
    Right(&'t str),
}

/// A blank line, the titles, the rows; nothing when there are no rows.
pub(super) fn table<const N: usize>(head: [Column<'_>; N], rows: Vec<[String; N]>) -> String {
    table_of(&head, rows.into_iter().map(Vec::from).collect())
}

/// The same with as many columns as `head` has.
pub(crate) fn table_of(head: &[Column<'_>], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let titles = head.iter().map(|column| match column {
        Column::Left(title) | Column::Right(title) => (*title).to_owned(),
    });
    let mut lines: Vec<Vec<String>> = vec![titles.collect()];
    lines.extend(
        rows.iter()
            .map(|row| row.iter().map(|cell| printable(cell)).collect()),
    );
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
