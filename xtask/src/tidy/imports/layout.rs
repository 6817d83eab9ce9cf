//! Rows for files, so that arrows run down where they can.

use std::collections::{BTreeMap, BTreeSet};

/// An arrow from a file to one that it uses, by their indices.
pub(super) type Arrow = (usize, usize);

/// The files of one crate in rows.
pub(super) struct Layout {
    /// From the top; each from left to right.
    pub(super) rows: Vec<Vec<usize>>,
    /// Arrows that run back up. Without these there is no circle.
    pub(super) back: BTreeSet<Arrow>,
}

impl Layout {
    pub(super) fn of(n_files: usize, arrows: &BTreeSet<Arrow>) -> Self {
        let mut walk = Walk {
            arrows,
            marks: vec![Mark::New; n_files],
            back: BTreeSet::new(),
        };
        // Those that nobody uses first, so that a circle is cut where it is entered.
        let is_used = |file: &usize| arrows.iter().any(|(_, of)| of == file);
        let (used, unused): (Vec<_>, Vec<_>) = (0..n_files).partition(is_used);
        for file in unused.into_iter().chain(used) {
            walk.visit(file);
        }
        let mut by_height: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let n_rows = walk.marks.iter().map(|mark| mark.height()).max();
        for (file, mark) in walk.marks.iter().enumerate() {
            let is_alone = !arrows.iter().any(|(a, b)| [a, b].contains(&&file));
            let height = if is_alone {
                n_rows.unwrap_or(0)
            } else {
                mark.height()
            };
            by_height.entry(height).or_default().push(file);
        }
        // Files of one height do not use each other.
        let rows = by_height.into_values().rev();
        let rows = rows.flat_map(|row| {
            let n_parts = row.len().div_ceil(MAX_ROW);
            let parts = row.chunks(row.len().div_ceil(n_parts)).map(<[_]>::to_vec);
            parts.collect::<Vec<_>>()
        });
        let mut layout = Layout {
            rows: rows.collect(),
            back: walk.back,
        };
        for _ in 0..SWEEPS {
            layout.order(arrows);
        }
        layout
    }

    /// Moves each file towards the middle of those that it uses or is used by.
    fn order(&mut self, arrows: &BTreeSet<Arrow>) {
        let mut places = BTreeMap::new();
        for row in &self.rows {
            for (idx, file) in row.iter().enumerate() {
                places.insert(*file, (idx as f64 + 0.5) / row.len() as f64);
            }
        }
        for row in &mut self.rows {
            let middle = |file: &usize| {
                let near = arrows
                    .iter()
                    .filter_map(|(a, b)| match (a == file, b == file) {
                        (true, _) => Some(places[b]),
                        (_, true) => Some(places[a]),
                        (false, false) => None,
                    });
                let near: Vec<f64> = near.collect();
                match near.len() {
                    0 => places[file],
                    n => near.iter().sum::<f64>() / n as f64,
                }
            };
            row.sort_by(|a, b| middle(a).total_cmp(&middle(b)));
            for (idx, file) in row.iter().enumerate() {
                places.insert(*file, (idx as f64 + 0.5) / row.len() as f64);
            }
        }
    }
}

/// A walk along all arrows, in depth first.
struct Walk<'a> {
    arrows: &'a BTreeSet<Arrow>,
    marks: Vec<Mark>,
    back: BTreeSet<Arrow>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mark {
    New,
    /// On the way to where the walk is.
    Open,
    /// Left, with the length of the longest way down from here.
    Done {
        height: usize,
    },
}

impl Mark {
    fn height(self) -> usize {
        match self {
            Mark::Done { height } => height,
            Mark::New | Mark::Open => 0,
        }
    }
}

impl Walk<'_> {
    fn visit(&mut self, file: usize) {
        if self.marks[file] != Mark::New {
            return;
        }
        self.marks[file] = Mark::Open;
        let mut height = 0;
        let arrows = self.arrows;
        for arrow in arrows.range((file, 0)..(file + 1, 0)) {
            self.visit(arrow.1);
            match self.marks[arrow.1] {
                Mark::Done { height: below } => height = height.max(below + 1),
                Mark::New | Mark::Open => _ = self.back.insert(*arrow),
            }
        }
        self.marks[file] = Mark::Done { height };
    }
}

/// Files that a row has at most.
const MAX_ROW: usize = 12;

/// Times that rows are put in order; more change little.
const SWEEPS: usize = 12;
