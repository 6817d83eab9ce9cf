//! Weights that are streamed from disk and that the checkpoint does not hold as they are computed with: encoded once, into
//! a folder in which later runs find them.
//!
//! ```text
//! <root>/<key>/offload.json                              what the entry is about, for people
//!              decoder-3-0123456789abcdef.safetensors    a unit's tensors, and the file's checksum
//!              use.lock, writing.lock
//! ```
//!
//! The key is made of what the bytes depend on, so that an entry is never wrong, only unused. A file takes its name when
//! all of it is on the disk, and the name has its checksum ([`crate::sum`]): there is no moment at which a
//! crash leaves a file that passes for another. A file that is not there, or not whole, is written; those that are
//! stay, so that a run which was killed is taken up where it was.
//!
//! Opening a file compares its structure alone. Whoever streams it compares the checksum of what is read.

mod about;
mod file;
mod folder;
mod lock;
mod names;
mod unit;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use llm_arch::Unit;
use llm_checkpoint::CheckpointError;
use llm_plan::{Encodings, RunOn};
use llm_quant::Encoder;
use llm_tensor::Bytes;

use self::file::{Place, partial_file, publish};
use self::lock::{Lock, Mode};
use self::unit::{Encode, UnitTensors};
use crate::progress::{Event, Progress};
use crate::{BoundModel, Result, RuntimeError};

pub use self::about::{OffloadAbout, OffloadSource};
pub(crate) use self::file::{UnitFile, damaged};
pub use self::folder::{OffloadDamage, OffloadEntry, OffloadFolder};

/// The units whose tensors are in files of their own, and the entry in use for as long as this lives.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// Units all of whose tensors the checkpoint holds as they are computed with have none.
    pub(crate) files: BTreeMap<Unit, UnitFile>,
    /// Keeps the entry from being cleared.
    _in_use: Option<Lock>,
}

/// Makes sure that every unit of `units` which needs one has a file below `root`: those that are missing, or not whole,
/// are written. `events` may end it by an error; complete files stay.
///
/// # Errors
/// When a weight cannot be read or quantized, [`RuntimeError::OffloadFolder`], [`RuntimeError::OffloadWrite`],
/// [`RuntimeError::SourceChanged`], and what `events` answers.
pub(crate) fn prepare(
    model: &BoundModel,
    encodings: &Encodings<'_>,
    encoder: &dyn Encoder,
    run_on: RunOn,
    root: &Path,
    units: &[Unit],
    events: &mut dyn FnMut(Event) -> Result<()>,
) -> Result<Prepared> {
    let encode = Encode {
        model,
        encodings,
        encoder,
        run_on,
    };
    let mut wanted = encode.units()?;
    let schemes = wanted.values().flat_map(UnitTensors::schemes);
    let schemes: BTreeSet<String> = schemes.map(|scheme| scheme.to_string()).collect();
    let units: HashSet<_> = units.iter().collect();
    wanted.retain(|unit, _| units.contains(unit));
    if wanted.is_empty() {
        return Ok(Prepared::default());
    }
    let about = OffloadAbout::new(model, Vec::from_iter(schemes).join(", "))?;
    let key = about.key(model, encodings, run_on)?;
    let entry = Entry {
        folder: root.join(&key),
        key,
    };
    let in_use = entry.lock_use(events)?;
    let mut files = entry.find(&wanted)?;
    if files.len() < wanted.len() {
        let _writing = entry.lock_writing(events)?;
        files = entry.complete(&encode, &about, &wanted, events)?;
    }
    Ok(Prepared {
        files,
        _in_use: in_use,
    })
}

/// The folder of a key.
struct Entry {
    folder: PathBuf,
    key: String,
}

impl Entry {
    /// Makes the folder and takes it into use; `None` where it can only be read, and nobody can clear it.
    fn lock_use(&self, events: &mut dyn FnMut(Event) -> Result<()>) -> Result<Option<Lock>> {
        let path = self.folder.join(names::USE_LOCK);
        loop {
            fs::create_dir_all(&self.folder).map_err(|source| self.unusable(source))?;
            match Lock::try_new(&path, Mode::Shared) {
                Ok(Some(lock)) => return Ok(Some(lock)),
                Ok(None) => wait(events)?,
                // It was just cleared, unless somebody has put a link to nowhere there.
                Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => {
                    wait(events)?
                }
                Err(error) if is_read_only(&error) => return Ok(None),
                Err(error) => return Err(self.unusable(error)),
            }
        }
    }

    fn lock_writing(&self, events: &mut dyn FnMut(Event) -> Result<()>) -> Result<Lock> {
        let path = self.folder.join(names::WRITE_LOCK);
        loop {
            match Lock::try_new(&path, Mode::Exclusive) {
                Ok(Some(lock)) => return Ok(lock),
                Ok(None) => wait(events)?,
                Err(error) => return Err(self.unusable(error)),
            }
        }
    }

    /// The files that are there, and whole.
    ///
    /// # Errors
    /// When the system refuses to open one, which is then no reason to write it anew.
    fn find(&self, wanted: &BTreeMap<Unit, UnitTensors<'_>>) -> Result<BTreeMap<Unit, UnitFile>> {
        let mut named = BTreeMap::<Unit, Vec<(PathBuf, u64)>>::new();
        for (path, unit, sum) in unit_files(&self.folder) {
            named.entry(unit).or_default().push((path, sum));
        }
        let mut found = BTreeMap::new();
        for (unit, files) in named {
            // Of several with different sums, which is right?
            let (Some(tensors), Ok([(path, sum)])) = (wanted.get(&unit), <[_; 1]>::try_from(files))
            else {
                continue;
            };
            match UnitFile::open(path, sum, tensors, &self.key) {
                Ok(file) => {
                    found.insert(unit, file);
                }
                Err(error) if is_refusal(&error) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(found)
    }

    /// Writes what is missing, as the only one who does: what another process has written meanwhile is there.
    fn complete(
        &self,
        encode: &Encode<'_>,
        about: &OffloadAbout,
        wanted: &BTreeMap<Unit, UnitTensors<'_>>,
        events: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<BTreeMap<Unit, UnitFile>> {
        let mut files = self.find(wanted)?;
        let missing = wanted.values();
        let missing = missing.filter(|tensors| !files.contains_key(&tensors.unit));
        let missing: Vec<_> = missing.collect();
        self.tidy(&missing)?;
        if OffloadAbout::read(&self.folder.join(names::ABOUT)).is_none() {
            self.describe(about)?;
        }
        let total: Bytes = missing.iter().map(|tensors| tensors.bytes()).sum();
        let (mut done, total_units) = (Bytes::ZERO, missing.len());
        for (idx, tensors) in missing.into_iter().enumerate() {
            let place = Place {
                folder: &self.folder,
                key: &self.key,
                missing: total.saturating_sub(done),
            };
            let file = place.write(encode, tensors, &mut |bytes| {
                done += bytes;
                events(Event::Offloading(Progress {
                    done,
                    total,
                    unit: tensors.unit,
                    n_units: idx + 1,
                    total_units,
                }))
            })?;
            files.insert(tensors.unit, file);
        }
        Ok(files)
    }

    /// Removes what killed processes have left half-written, and what stands in the place of `missing` files.
    fn tidy(&self, missing: &[&UnitTensors<'_>]) -> Result<()> {
        let left = files_in(&self.folder).into_iter();
        let left = left.filter(|name| names::is_partial(name));
        let left = left.map(|name| self.folder.join(name));
        let is_missing = |unit: Unit| missing.iter().any(|tensors| tensors.unit == unit);
        let bad = unit_files(&self.folder).into_iter();
        let bad = bad.filter_map(|(path, unit, _)| is_missing(unit).then_some(path));
        for path in left.chain(bad) {
            remove(&path).map_err(|source| self.unusable(source))?;
        }
        Ok(())
    }

    fn describe(&self, about: &OffloadAbout) -> Result<()> {
        let mut file = partial_file(&self.folder, names::ABOUT)?;
        let json = serde_json::to_string_pretty(about).expect("text and numbers have a JSON");
        file.write_all(json.as_bytes())
            .and_then(|()| publish(file, &self.folder.join(names::ABOUT)))
            .map_err(|source| self.unusable(source))
    }

    fn unusable(&self, source: io::Error) -> RuntimeError {
        RuntimeError::OffloadFolder {
            folder: self.folder.clone(),
            source,
        }
    }
}

fn wait(events: &mut dyn FnMut(Event) -> Result<()>) -> Result<()> {
    events(Event::Waiting)?;
    sleep(WAIT);
    Ok(())
}

fn is_read_only(error: &io::Error) -> bool {
    let kinds = [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem];
    kinds.contains(&error.kind())
}

/// True if a file was not opened for a reason that is not in it: a limit, a permission, a disk that does not answer.
fn is_refusal(error: &RuntimeError) -> bool {
    let RuntimeError::Checkpoint(CheckpointError::Io { source, .. }) = error else {
        return false;
    };
    !matches!(
        source.kind(),
        ErrorKind::NotFound | ErrorKind::UnexpectedEof
    )
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The names of what is in a folder that are text, as ours all are, sorted; none where it cannot be read.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

/// The same without folders: we make none, and they are somebody else's.
fn files_in(folder: &Path) -> Vec<String> {
    let mut names = names_in(folder);
    names.retain(|name| fs::symlink_metadata(folder.join(name)).is_ok_and(|it| !it.is_dir()));
    names
}

/// Files that are named as units' files are, each with its unit and checksum.
fn unit_files(folder: &Path) -> Vec<(PathBuf, Unit, u64)> {
    let files = files_in(folder).into_iter().filter_map(|name| {
        let (unit, sum) = names::parse_file_name(&name)?;
        Some((folder.join(name), unit, sum))
    });
    files.collect()
}

/// Between two looks at a lock: short for people, long for the processor.
const WAIT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
