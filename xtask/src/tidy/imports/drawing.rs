//! A picture of the imports: crates as rooms above each other, files in them, and what runs back up in red.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::Imports;
use super::layout::{Arrow, Layout};

/// A picture, and what is to be said of it.
pub(super) struct Drawing {
    pub(super) svg: String,
    /// Arrows that run back up, `a → b`, between crates or within one.
    pub(super) back: Vec<String>,
}

impl Drawing {
    /// Draws `crates`, which are to use only those behind them.
    pub(super) fn of(crates: &[Imports]) -> Self {
        let rooms: Vec<Room<'_>> = crates.iter().map(Room::new).collect();
        let width = rooms.iter().map(|room| room.width).max().unwrap_or(0);
        let mut back = Vec::new();
        let (mut boxes, mut tops) = (String::new(), Vec::new());
        let mut top = MARGIN;
        for room in &rooms {
            boxes += &room.svg(top, width);
            back.extend(room.back());
            tops.push(top);
            top += room.height + GAP;
        }
        let bottoms = rooms.iter().zip(&tops).map(|(room, top)| top + room.height);
        let sides: Vec<_> = tops.iter().copied().zip(bottoms).collect();
        let between = between(crates);
        for (a, b) in between.iter().filter(|(a, b)| b <= a) {
            back.push(format!("{} → {}", name(&crates[*a]), name(&crates[*b])));
        }
        let (lanes, [left, right]) = lanes(&between, &sides, width);
        let n_within: usize = rooms.iter().map(|room| room.arrows.len()).sum();
        let mut text = format!(
            "A file stands above those that it uses. What a file uses of the one whose folder it lies in is not drawn.\n\
             {} arrows between crates, {n_within} between files; {} run back up",
            between.len(),
            back.len(),
        );
        for line in &back {
            write!(text, "\n{line}").expect("strings take everything");
        }
        let (mut lines, mut y) = (String::new(), top + LINE);
        for line in text.lines() {
            lines += &format!("<text class=\"said\" x=\"{MARGIN}\" y=\"{y}\">{line}</text>\n");
            y += LINE;
        }
        let (all_width, height) = (left + width + right, y + MARGIN);
        let svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{all_width}\" height=\"{height}\" \
             viewBox=\"0 0 {all_width} {height}\">\n{STYLE}\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <g transform=\"translate({left} 0)\">\n{boxes}{lanes}</g>\n{lines}</svg>\n"
        );
        Drawing { svg, back }
    }
}

/// A crate and the places of its files.
struct Room<'a> {
    imports: &'a Imports,
    layout: Layout,
    arrows: BTreeSet<Arrow>,
    width: usize,
    height: usize,
}

impl<'a> Room<'a> {
    fn new(imports: &'a Imports) -> Self {
        let arrows: BTreeSet<Arrow> = imports.arrows.keys().copied().collect();
        let layout = Layout::of(imports.files.len(), &arrows);
        let widths = layout.rows.iter().map(|row| {
            let boxes = row
                .iter()
                .map(|file| box_width(&label(imports, *file)) + BETWEEN);
            boxes.sum::<usize>()
        });
        Room {
            imports,
            width: widths.max().unwrap_or(0) + 2 * MARGIN,
            height: HEAD + layout.rows.len() * ROW,
            layout,
            arrows,
        }
    }

    /// The arrows that run back up, in words.
    fn back(&self) -> impl Iterator<Item = String> {
        self.layout.back.iter().map(|(a, b)| {
            let name = name(self.imports);
            format!(
                "{name}: {} → {}",
                label(self.imports, *a),
                label(self.imports, *b)
            )
        })
    }

    fn svg(&self, top: usize, width: usize) -> String {
        let name = name(self.imports);
        let places = self.places(top, width);
        let mut svg = format!(
            "<rect class=\"room\" x=\"0\" y=\"{top}\" width=\"{width}\" height=\"{}\" rx=\"8\"/>\n\
             <text class=\"name\" x=\"{MARGIN}\" y=\"{}\">{name}</text>\n",
            self.height,
            top + HEAD - BOX,
        );
        for file in places.keys() {
            svg += &format!("<g id=\"{name}-{file}\">\n");
            for arrow in self.arrows.range((*file, 0)..(file + 1, 0)) {
                svg += &self.arrow(*arrow, &places);
            }
            svg += "</g>\n";
        }
        // A file's arrows stand out where the pointer is on it.
        for (file, Place { x, y, width }) in &places {
            svg += &format!(
                "<g class=\"file\"><use href=\"#{name}-{file}\"/>\
                 <rect class=\"box\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{BOX}\" rx=\"3\"/>\
                 <text x=\"{}\" y=\"{}\">{}</text></g>\n",
                x + 5,
                y + BOX - 5,
                label(self.imports, *file),
            );
        }
        svg
    }

    /// Boxes of files, in a room of this top and width.
    fn places(&self, top: usize, width: usize) -> BTreeMap<usize, Place> {
        let mut places = BTreeMap::new();
        for (idx, row) in self.layout.rows.iter().enumerate() {
            let boxes = row
                .iter()
                .map(|file| box_width(&label(self.imports, *file)));
            let taken: usize = boxes.clone().sum();
            let between = ((width - taken) / (row.len() + 1)).min(MAX_BETWEEN);
            let mut x = (width - taken - (row.len() - 1) * between) / 2;
            for (file, width) in row.iter().zip(boxes) {
                let y = top + HEAD + idx * ROW;
                places.insert(*file, Place { x, y, width });
                x += width + between;
            }
        }
        places
    }

    fn arrow(&self, arrow: Arrow, places: &BTreeMap<usize, Place>) -> String {
        let (from, to) = (&places[&arrow.0], &places[&arrow.1]);
        let middle = |place: &Place| place.x + place.width / 2;
        let is_back = self.layout.back.contains(&arrow);
        let (class, y0, y1) = match is_back {
            true => ("back", from.y, to.y + BOX),
            false if self.is_implied(arrow) => ("implied", from.y + BOX, to.y),
            false => ("down", from.y + BOX, to.y),
        };
        let half = y0.midpoint(y1);
        let (x0, x1) = (middle(from), middle(to));
        format!(
            "<path class=\"{class}\" d=\"M{x0} {y0}C{x0} {half} {x1} {half} {x1} {y1}\">\
             <title>{} → {}</title></path>\n",
            label(self.imports, arrow.0),
            label(self.imports, arrow.1)
        )
    }

    /// True of an arrow beside which there is a longer way.
    fn is_implied(&self, (from, to): Arrow) -> bool {
        let nexts = self.arrows.range((from, 0)..(from + 1, 0));
        let mut ways = nexts.filter(|arrow| arrow.1 != to && !self.layout.back.contains(arrow));
        ways.any(|(_, next)| self.imports.ways(*next).contains_key(&to))
    }
}

/// The left upper corner of a box, and its width.
struct Place {
    x: usize,
    y: usize,
    width: usize,
}

/// The arrows between crates, by their indices.
fn between(crates: &[Imports]) -> BTreeSet<Arrow> {
    let mut between = BTreeSet::new();
    for (a, imports) in crates.iter().enumerate() {
        for (b, other) in crates.iter().enumerate() {
            if a != b && imports.outside.contains(&name(other).replace('-', "_")) {
                between.insert((a, b));
            }
        }
    }
    between
}

/// The arrows between rooms, whose tops and bottoms are `sides`: down on the left, up on the right, each in a lane of its
/// own. Also how wide both margins are.
fn lanes(arrows: &BTreeSet<Arrow>, sides: &[(usize, usize)], width: usize) -> (String, [usize; 2]) {
    let mut svg = String::new();
    let mut margins = [MARGIN; 2];
    let port = |room: usize, arrow: &Arrow| {
        let here = arrows.iter().filter(|(a, b)| *a == room || *b == room);
        let idx = here.clone().position(|other| other == arrow).unwrap_or(0);
        let (top, bottom) = sides[room];
        top + (idx + 1) * (bottom - top) / (here.count() + 1)
    };
    // The longest outside.
    let mut by_length: Vec<_> = arrows.iter().collect();
    by_length.sort_by_key(|(a, b)| a.abs_diff(*b));
    for arrow in by_length {
        let (y0, y1) = (port(arrow.0, arrow), port(arrow.1, arrow));
        let is_back = arrow.1 < arrow.0;
        let out = margins[usize::from(is_back)] as i64;
        let (class, edge, x) = match is_back {
            false => ("down", 0, -out),
            true => ("back", width, width as i64 + out),
        };
        margins[usize::from(is_back)] += LANE;
        writeln!(
            svg,
            "<path class=\"{class} crate\" d=\"M{edge} {y0}H{x}V{y1}H{edge}\"/>"
        )
        .expect("strings take everything");
    }
    (svg, margins.map(|margin| margin + MARGIN))
}

fn name(imports: &Imports) -> &str {
    let name = imports.name.file_name().unwrap_or_default();
    name.to_str().unwrap_or_default()
}

/// A file without its ending.
fn label(imports: &Imports, file: usize) -> String {
    imports.files[file].with_extension("").display().to_string()
}

/// Letters are of one width.
fn box_width(label: &str) -> usize {
    label.len() * 6 + 10
}

const MARGIN: usize = 16;
/// Between rooms.
const GAP: usize = 24;
/// Between boxes, at least and at most.
const BETWEEN: usize = 10;
const MAX_BETWEEN: usize = 100;
/// A room's name.
const HEAD: usize = 36;
const ROW: usize = 46;
const BOX: usize = 18;
const LANE: usize = 6;
const LINE: usize = 16;

const STYLE: &str = r##"<defs>
<marker id="head" markerWidth="6" markerHeight="6" refX="5" refY="3" orient="auto"><path d="M0 0L6 3L0 6Z" fill="#57a"/></marker>
<marker id="red" markerWidth="6" markerHeight="6" refX="5" refY="3" orient="auto"><path d="M0 0L6 3L0 6Z" fill="#d00"/></marker>
</defs>
<style>
text { font: 10px monospace; fill: #222; pointer-events: none }
.name { font: bold 15px sans-serif }
.said { font: 13px sans-serif }
.room { fill: #f6f7f9; stroke: #99a }
.box { fill: white; stroke: #667 }
path.down, path.implied { fill: none; stroke: #57a; marker-end: url(#head) }
path.implied { opacity: 0.4 }
path.back { fill: none; stroke: #d00; stroke-width: 2; marker-end: url(#red) }
path:hover, use { stroke-width: 3 }
use { visibility: hidden }
.file:hover use { visibility: visible }
.file:hover .box { fill: #ffd }
</style>
"##;
