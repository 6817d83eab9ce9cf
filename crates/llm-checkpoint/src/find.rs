//! Search of a folder for its checkpoint's files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::elsewhere::Origin;
use crate::error::CheckpointError;
use crate::format::Format;
use crate::notice::Notice;
use crate::part_name::{PartName, SetName};
use crate::shard::STAGING;
use crate::source::SourceFile;
use crate::{adapter, foreign, index, torch};

/// Checkpoint to be opened.
pub(crate) struct Located {
    pub(crate) place: Place,
    pub(crate) notices: Vec<Notice>,
    /// Weights in another format, of the same model or of another.
    pub(crate) rivals: Vec<Place>,
}

/// Location of a checkpoint.
#[derive(Clone)]
pub(crate) enum Place {
    /// In a file.
    File(PathBuf),
    /// In the shards that an index names.
    Index(PathBuf, Format),
    /// In these shards.
    Shards(Vec<PathBuf>, Format),
}

impl Place {
    /// Path to open it by.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Place::File(path) | Place::Index(path, _) => path,
            Place::Shards(paths, _) => &paths[0],
        }
    }
}

/// Looks into a folder. What transformers would take comes first, then what is the only one of its kind.
pub(crate) fn in_folder(path: &Path, origin: Origin<'_>) -> Result<Located, CheckpointError> {
    let folder = Folder {
        path,
        origin,
        names: names_in(path)?,
    };
    let (usual, others): (Vec<&Kind>, Vec<&Kind>) =
        KINDS.iter().partition(|kind| folder.has_usual(kind));
    let mut kinds = Vec::new();
    for kind in usual.into_iter().chain(others) {
        match folder.find(kind) {
            Ok(Some(found)) => kinds.push(found),
            Ok(None) => {}
            // What comes after a checkpoint need not be in order.
            Err(_) if !kinds.is_empty() => {}
            Err(error) => return Err(error),
        }
    }
    let mut kinds = kinds.into_iter();
    let Some((place, mut notices)) = kinds.next() else {
        return Err(folder.lacks_weights());
    };
    if folder.has(adapter::CONFIG) {
        notices.push(Notice::Adapter {
            path: path.join(adapter::CONFIG),
        });
    }
    let rivals = kinds.map(|(place, _)| place).collect();
    Ok(Located {
        place,
        notices,
        rivals,
    })
}

/// The files of a checkpoint in a format.
struct Kind {
    format: Format,
    /// A single file and an index, in this order, of those that transformers looks for.
    usual: Option<(&'static str, &'static str)>,
    suffixes: &'static [&'static str],
}

/// In the order in which they are preferred.
const KINDS: [Kind; 3] = [
    Kind {
        format: Format::Safetensors,
        usual: Some(("model.safetensors", "model.safetensors.index.json")),
        suffixes: &[".safetensors"],
    },
    Kind {
        format: Format::Torch,
        usual: Some(("pytorch_model.bin", "pytorch_model.bin.index.json")),
        suffixes: &TORCH_SUFFIXES,
    },
    Kind {
        format: Format::Gguf,
        usual: None,
        suffixes: &[".gguf"],
    },
];

/// The suffixes that PyTorch files have by custom; other files have them as well.
pub(crate) const TORCH_SUFFIXES: [&str; 3] = [".bin", ".pt", ".pth"];

/// A folder that is looked into.
struct Folder<'a> {
    path: &'a Path,
    origin: Origin<'a>,
    /// Sorted.
    names: Vec<String>,
}

impl Folder<'_> {
    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|n| n == name)
    }

    /// Presence of a file that transformers looks for.
    fn has_usual(&self, kind: &Kind) -> bool {
        let usual = kind.usual;
        usual.is_some_and(|(single, index)| self.has(single) || self.has(index))
    }

    fn find(&self, kind: &Kind) -> Result<Option<(Place, Vec<Notice>)>, CheckpointError> {
        let Some((single, index)) = kind.usual else {
            return self.only(kind);
        };
        let index_path = self.path.join(index);
        match (self.has(single), self.has(index)) {
            (true, false) => Ok(Some((Place::File(self.path.join(single)), Vec::new()))),
            (true, true) => {
                let is_same = index::names_only(&index_path, single)?;
                let notice = Notice::PassedOver {
                    folder: self.path.to_owned(),
                    taken: single.to_owned(),
                    others: vec![index.to_owned()],
                    why: "as transformers does",
                };
                let notices = if is_same { Vec::new() } else { vec![notice] };
                Ok(Some((Place::File(self.path.join(single)), notices)))
            }
            (false, true) => Ok(Some((Place::Index(index_path, kind.format), Vec::new()))),
            (false, false) => self.only(kind),
        }
    }

    /// The only file of a format, or the only shards.
    fn only(&self, kind: &Kind) -> Result<Option<(Place, Vec<Notice>)>, CheckpointError> {
        let is_it = |name: &&String| {
            let has_suffix = kind.suffixes.iter().any(|suffix| name.ends_with(suffix));
            let is_adapters = name.starts_with(adapter::WEIGHTS);
            has_suffix && !is_adapters && self.is_model(kind.format, name)
        };
        let mut names: Vec<&String> = self.names.iter().filter(is_it).collect();
        // Mistral's own names for what the folder holds under the usual ones as well.
        let is_own = |name: &&String| name.starts_with("consolidated");
        if !names.iter().all(is_own) {
            names.retain(|name| !is_own(name));
        }
        let mut sets: BTreeMap<SetName<'_>, BTreeSet<u64>> = BTreeMap::new();
        let mut singles = Vec::new();
        for name in names {
            let mut suffixes = kind.suffixes.iter();
            match suffixes.find_map(|suffix| PartName::parse(name, suffix)) {
                Some(part) => _ = sets.entry(part.set).or_default().insert(part.number),
                None => singles.push(name.clone()),
            }
        }
        // Shards of the usual name are the model; what lies beside them is not.
        let mut passed = Vec::new();
        let usual = kind.usual.and_then(|(single, _)| single.rsplit_once('.'));
        if let Some((stem, _)) = usual
            && sets.keys().filter(|set| set.is_of(stem)).count() == 1
        {
            passed.append(&mut singles);
            sets.retain(|set, numbers| {
                let is_usual = set.is_of(stem);
                let first = numbers.first().filter(|_| !is_usual);
                passed.extend(first.map(|number| set.part(*number)));
                is_usual
            });
            passed.sort_unstable();
        }
        if sets.len() + singles.len() > 1 {
            let firsts = sets
                .iter()
                .filter_map(|(set, numbers)| Some(set.part(*numbers.first()?)));
            let mut names: Vec<String> = singles.into_iter().chain(firsts).collect();
            names.sort_unstable();
            return Err(CheckpointError::SeveralCheckpoints {
                folder: self.path.to_owned(),
                names,
            });
        }
        if let Some((set, numbers)) = sets.pop_first() {
            let paths = complete(self.path, set, &numbers)?;
            let notice = Notice::NoIndex {
                folder: self.path.to_owned(),
                n_shards: paths.len(),
            };
            // GGUF's parts say themselves that they belong together.
            let is_told = kind.format != Format::Gguf && paths.len() > 1;
            let mut notices = if is_told { vec![notice] } else { Vec::new() };
            if !passed.is_empty() {
                notices.push(Notice::PassedOver {
                    folder: self.path.to_owned(),
                    taken: set.part(1),
                    others: passed,
                    why: "with the shards that belong to it, by their usual name",
                });
            }
            return Ok(Some((Place::Shards(paths, kind.format), notices)));
        }
        Ok(singles
            .pop()
            .map(|name| (Place::File(self.path.join(name)), Vec::new())))
    }

    /// True if a file with a suffix of a format may be a model. One that cannot be read may: opening it says why not.
    fn is_model(&self, format: Format, name: &str) -> bool {
        /// Prefixes of the files in which trainers hold their own state.
        const NO_MODELS: [&str; 5] = [
            "training_args",
            "optimizer",
            "scheduler",
            "scaler",
            "rng_state",
        ];
        if format != Format::Torch {
            return true;
        }
        if NO_MODELS.iter().any(|prefix| name.starts_with(prefix)) {
            return false;
        }
        let may_be = |file: SourceFile| Ok(torch::is_torch(&file)? || file.foreign()?.is_some());
        match SourceFile::open(&self.path.join(name), self.origin).and_then(may_be) {
            Ok(may_be) => may_be,
            Err(CheckpointError::NotAFile { .. }) => false,
            Err(_) => true,
        }
    }

    /// Error of a folder without weights.
    fn lacks_weights(&self) -> CheckpointError {
        let folder = self.path.to_owned();
        if self.has(STAGING) {
            return CheckpointError::Unfinished { path: folder };
        }
        if self.has(adapter::CONFIG) {
            return adapter::error(self.path);
        }
        let found = self.names.iter().find_map(|name| foreign::by_name(name));
        CheckpointError::NoWeights { folder, found }
    }
}

/// The files of a set in order.
///
/// # Errors
/// [`CheckpointError::MissingParts`].
pub(crate) fn complete(
    folder: &Path,
    set: SetName<'_>,
    numbers: &BTreeSet<u64>,
) -> Result<Vec<PathBuf>, CheckpointError> {
    /// Missing parts that a message names.
    const SHOWN: usize = 8;
    let n_missing = set.n_parts() - numbers.len() as u64;
    if n_missing > 0 {
        let missing = (1..=set.n_parts()).filter(|number| !numbers.contains(number));
        return Err(CheckpointError::MissingParts {
            folder: folder.to_owned(),
            names: missing.take(SHOWN).map(|number| set.part(number)).collect(),
            n_missing,
            n_parts: set.n_parts(),
        });
    }
    Ok(numbers.iter().map(|n| folder.join(set.part(*n))).collect())
}

/// The numbers of a set's parts that lie in a folder.
pub(crate) fn present(
    folder: &Path,
    set: SetName<'_>,
    suffix: &str,
) -> Result<BTreeSet<u64>, CheckpointError> {
    let names = names_in(folder)?;
    let parts = names
        .iter()
        .filter_map(|name| PartName::parse(name, suffix))
        .filter(|part| part.set == set);
    Ok(parts.map(|part| part.number).collect())
}

/// The names of what is in a folder, sorted.
fn names_in(folder: &Path) -> Result<Vec<String>, CheckpointError> {
    let mut names = fs::read_dir(folder)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<Vec<String>>>()
        })
        .map_err(|source| CheckpointError::Io {
            path: folder.to_owned(),
            source,
        })?;
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests;
