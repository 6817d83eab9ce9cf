//! Checks what the compiler and clippy do not.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use anyhow::{Context, Result, bail};
use ignore::WalkBuilder;

mod checksums;
mod imports;
mod layers;
mod sources;

pub(crate) use checksums::update as update_checksums;

/// Runs every check on the workspace at `root`.
///
/// # Errors
/// When anything is wrong, after it was printed as `file:line: message`.
pub(crate) fn run(root: &Path) -> Result<()> {
    let problems = check(root)?;
    for problem in &problems {
        eprintln!("{problem}");
    }
    match problems.len() {
        0 => Ok(()),
        n => bail!("tidy found {n} problems"),
    }
}

/// Draws the imports of all files to `out`.
///
/// # Errors
/// When a file cannot be read or written.
pub(crate) fn graph(root: &Path, out: &Path) -> Result<()> {
    let (svg, back) = imports::draw(root, &files(root)?)?;
    fs::write(out, svg).with_context(|| format!("cannot write {}", out.display()))?;
    for arrow in &back {
        println!("{arrow}");
    }
    println!("wrote {}; {} arrows run back up", out.display(), back.len());
    Ok(())
}

fn check(root: &Path) -> Result<Vec<Problem>> {
    let files = files(root)?;
    let mut problems = layers::check(root)?;
    problems.extend(sources::check(root, &files)?);
    problems.extend(imports::check(root, &files)?);
    problems.extend(checksums::check(root, &files)?);
    for name in ["LICENSE-APACHE", "LICENSE-MIT"] {
        if !root.join(name).is_file() {
            problems.push(Problem::new(name, 1, "the file is missing"));
        }
    }
    problems.sort();
    Ok(problems)
}

/// Something to mend.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    /// Relative to the root.
    path: PathBuf,
    line: usize,
    message: String,
}

impl Problem {
    fn new(path: impl AsRef<Path>, line: usize, message: impl Into<String>) -> Self {
        Problem {
            path: path.as_ref().to_owned(),
            line,
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.message)
    }
}

/// Every file that git does not ignore, relative to `root`, sorted. Git itself is not asked: a copy of the tree
/// need not be a repository.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let walk = WalkBuilder::new(root)
        .standard_filters(false)
        .git_ignore(true)
        .require_git(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .build();
    for entry in walk {
        let entry = entry?;
        if entry.file_type().is_some_and(|kind| kind.is_file()) {
            files.push(entry.path().strip_prefix(root)?.to_owned());
        }
    }
    files.sort();
    Ok(files)
}

fn read(root: &Path, path: &Path) -> Result<Vec<u8>> {
    fs::read(root.join(path)).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests;
