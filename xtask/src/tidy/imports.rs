//! Imports between files, which must not lead in a circle.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use anyhow::Result;

use self::drawing::Drawing;
use self::resolve::{Modules, Of};
use super::{Problem, layers};

mod drawing;
mod layout;
mod resolve;
mod source;

/// Imports between the files of one crate, and of other crates.
///
/// An arrow leads to the file that defines what is used, through whatever re-exports, so that a file that only declares
/// and passes on has none. A module is one room with those below it: what these use of it is no arrow, what it uses of
/// them is.
pub(super) struct Imports {
    /// The crate's folder.
    pub(super) name: PathBuf,
    /// Relative to the crate's `src`.
    pub(super) files: Vec<PathBuf>,
    /// By the files' indices; each with the first place that says so.
    pub(super) arrows: BTreeMap<(usize, usize), Place>,
    /// First names of paths that lead out of the crate.
    pub(super) outside: BTreeSet<String>,
}

/// A path in a file.
pub(super) struct Place {
    path: String,
    line: usize,
}

impl Imports {
    /// Imports of every crate, whose root is among `files`; packages of tests are not looked at.
    pub(super) fn read(root: &Path, files: &[PathBuf]) -> Result<Vec<Self>> {
        let crates = files.iter().filter_map(|path| {
            let src = path.parent().filter(|folder| folder.ends_with("src"))?;
            let name = src.parent()?;
            let is_root = path.ends_with("lib.rs") || path.ends_with("main.rs");
            let is_ours = name.starts_with("crates") || name.starts_with("xtask");
            (is_root && is_ours).then_some((name, src, path))
        });
        crates
            .map(|(name, src, path)| {
                let modules = Modules::read(&root.join(src), path.strip_prefix(src)?)?;
                Ok(Imports::of(name, modules))
            })
            .collect()
    }

    fn of(name: &Path, modules: Modules) -> Self {
        let mut imports = Imports {
            name: name.to_owned(),
            arrows: BTreeMap::new(),
            outside: BTreeSet::new(),
            files: Vec::new(),
        };
        for used in modules.uses() {
            match used.of {
                Of::Outside(name) => {
                    imports.outside.insert(name);
                }
                Of::File(of) if is_below(&modules.files[used.file], &modules.files[of]) => {}
                Of::File(of) => {
                    let place = Place {
                        path: used.path.names.join("::"),
                        line: used.path.line,
                    };
                    imports.arrows.entry((used.file, of)).or_insert(place);
                }
            }
        }
        imports.files = modules.files;
        imports
    }

    /// Sets of files of which each leads to each, sorted.
    pub(super) fn circles(&self) -> Vec<Vec<usize>> {
        let reached: Vec<_> = (0..self.files.len()).map(|file| self.ways(file)).collect();
        let mut circles: Vec<Vec<usize>> = Vec::new();
        for (file, ways) in reached.iter().enumerate() {
            let is_new = !circles.iter().any(|circle| circle.contains(&file));
            if is_new && ways.contains_key(&file) {
                let others = ways
                    .keys()
                    .filter(|other| reached[**other].contains_key(&file));
                circles.push(others.copied().collect());
            }
        }
        circles
    }

    /// Files that one leads to, itself in a circle, each with the file before it on the shortest way.
    fn ways(&self, from: usize) -> BTreeMap<usize, usize> {
        let mut ways = BTreeMap::new();
        let mut ends = VecDeque::from([from]);
        while let Some(end) = ends.pop_front() {
            for ((_, of), _) in self.arrows.range((end, 0)..(end + 1, 0)) {
                if !ways.contains_key(of) {
                    ways.insert(*of, end);
                    ends.push_back(*of);
                }
            }
        }
        ways
    }

    /// A shortest circle through one file of a set, drawn in a line.
    fn drawn(&self, circle: &[usize]) -> Problem {
        let through = |file: usize| {
            let ways = self.ways(file);
            let mut way = vec![file];
            let mut at = ways[&file];
            while at != file {
                way.push(at);
                at = ways[&at];
            }
            way.push(file);
            way.reverse();
            way
        };
        let ways = circle.iter().map(|file| through(*file));
        let way = ways.min_by_key(Vec::len).expect("no circle is empty");
        let src = self.name.join("src");
        let mut text = format!("{} files lead in a circle: ", circle.len());
        for step in way.windows(2) {
            let Place { path, line } = &self.arrows[&(step[0], step[1])];
            text += &format!("{}:{line} `{path}` → ", self.files[step[0]].display());
        }
        text += &self.files[way[0]].display().to_string();
        let line = self.arrows[&(way[0], way[1])].line;
        Problem::new(src.join(&self.files[way[0]]), line, text)
    }
}

/// True of a file whose module lies in another's.
fn is_below(file: &Path, other: &Path) -> bool {
    let is_root = other == "lib.rs" || other == "main.rs";
    is_root || file.starts_with(other.with_extension(""))
}

/// A picture of all imports, as SVG, and the arrows in it that run back up.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn draw(root: &Path, files: &[PathBuf]) -> Result<(String, Vec<String>)> {
    let mut crates = Imports::read(root, files)?;
    crates.sort_by_key(|imports| std::cmp::Reverse(layers::rank(&imports.name)));
    let drawing = Drawing::of(&crates);
    Ok((drawing.svg, drawing.back))
}

/// Circles of files.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn check(root: &Path, files: &[PathBuf]) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for imports in Imports::read(root, files)? {
        let circles = imports.circles();
        problems.extend(circles.iter().map(|circle| imports.drawn(circle)));
    }
    Ok(problems)
}

#[cfg(test)]
mod tests;
