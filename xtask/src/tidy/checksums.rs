//! The checksums of fixtures: a fixture that changes must change them, too, and so be seen in review.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Problem, files, read};
use crate::sha256;

const FIXTURES: &str = "tests/fixtures";

/// The file that lists a folder's checksums, as `sha256sum` prints and checks them.
const SUMS: &str = "SHA256SUMS";

pub(super) fn check(root: &Path, files: &[PathBuf]) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (sums_path, mut expected) in expected_sums(root, files)? {
        let sums = match fs::read_to_string(root.join(&sums_path)) {
            Ok(sums) => sums,
            Err(error) => {
                problems.push(Problem::new(&sums_path, 1, error.to_string()));
                continue;
            }
        };
        for (idx, line) in sums.lines().enumerate() {
            let mut add = |message| problems.push(Problem::new(&sums_path, idx + 1, message));
            let Some((sum, name)) = line.split_once("  ") else {
                add("not a checksum, two blanks and a name".to_owned());
                continue;
            };
            match expected.remove(Path::new(name)) {
                Some(expected) if expected == sum => {}
                Some(expected) => add(format!("`{name}` has the checksum {expected}")),
                None => add(format!(
                    "`{name}` is not there, was listed before, or has a nearer {SUMS}"
                )),
            }
        }
        for name in expected.keys() {
            let path = sums_path.with_file_name(name);
            problems.push(Problem::new(path, 1, format!("not listed in {SUMS}")));
        }
    }
    Ok(problems)
}

/// Rewrites every list of checksums under `root`, with what should be in it.
///
/// # Errors
/// When a file cannot be read or written.
pub(crate) fn update(root: &Path) -> Result<()> {
    for (sums_path, sums) in expected_sums(root, &files(root)?)? {
        let mut text = String::new();
        for (name, sum) in sums {
            writeln!(text, "{sum}  {}", name.display())?;
        }
        fs::write(root.join(&sums_path), text)
            .with_context(|| format!("cannot write {}", sums_path.display()))?;
    }
    Ok(())
}

/// A file's name, relative to the list that it belongs to, and its checksum.
type Sums = BTreeMap<PathBuf, String>;

/// Expected content of each list of checksums. A file belongs to the nearest list in its folder or above; the one
/// of all fixtures must exist if anything belongs to it.
fn expected_sums(root: &Path, files: &[PathBuf]) -> Result<BTreeMap<PathBuf, Sums>> {
    let fixtures = files.iter().filter(|path| path.starts_with(FIXTURES));
    let (lists, fixtures): (Vec<_>, Vec<_>) = fixtures.partition(|path| path.ends_with(SUMS));
    let mut expected: BTreeMap<PathBuf, Sums> = lists
        .into_iter()
        .map(|list| (list.clone(), Sums::new()))
        .collect();
    for path in fixtures {
        let folder = path
            .ancestors()
            .skip(1)
            .find(|folder| expected.contains_key(&folder.join(SUMS)))
            .unwrap_or(Path::new(FIXTURES));
        let name = path.strip_prefix(folder)?.to_owned();
        let sum = sha256(&read(root, path)?);
        expected
            .entry(folder.join(SUMS))
            .or_default()
            .insert(name, sum);
    }
    Ok(expected)
}
