//! The cache, laid out as the Python library `huggingface_hub` has it, which reads what is written here and the reverse.
//!
//! ```text
//! models--org--name/blobs/SUM              a file, by the sum of its bytes
//! models--org--name/blobs/SUM.incomplete   the beginning of one
//! models--org--name/snapshots/COMMIT/PATH  a relative link to a blob
//! models--org--name/refs/REVISION          the commit that a branch or tag was
//! .locks/models--org--name/SUM.lock        locked while the blob is written
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::HubError;
use crate::name::{Commit, FileName, RepoId, Revision};
use crate::sum::Sum;

/// A repository's part of the cache.
pub(crate) struct RepoFolder {
    root: PathBuf,
    locks: PathBuf,
}

impl RepoFolder {
    pub(crate) fn new(cache: &Path, id: &RepoId) -> Self {
        RepoFolder {
            root: cache.join(id.folder()),
            locks: cache.join(LOCKS).join(id.folder()),
        }
    }

    pub(crate) fn blob(&self, sum: &Sum) -> PathBuf {
        self.root.join("blobs").join(sum.as_str())
    }

    pub(crate) fn incomplete(&self, sum: &Sum) -> PathBuf {
        self.root
            .join("blobs")
            .join(format!("{}{INCOMPLETE}", sum.as_str()))
    }

    pub(crate) fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.root.join("snapshots").join(commit.as_str())
    }

    /// The commit that a revision was when it was last asked for.
    pub(crate) fn commit(&self, revision: &Revision) -> Option<Commit> {
        if let Some(commit) = Commit::parse(revision.as_str()) {
            return Some(commit);
        }
        let text = fs::read_to_string(self.root.join("refs").join(revision.as_str())).ok()?;
        Commit::parse(text.trim())
    }

    /// Notes the commit that a revision is.
    pub(crate) fn note(&self, revision: &Revision, commit: &Commit) -> Result<(), HubError> {
        if revision.as_str() == commit.as_str() || self.commit(revision).as_ref() == Some(commit) {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision.as_str());
        create_parent(&path)?;
        let new = beside(&path);
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(commit.as_str().as_bytes())?;
            file.sync_all()
        });
        let written = written.and_then(|()| fs::rename(&new, &path));
        written.map_err(|error| {
            let _ = fs::remove_file(&new);
            HubError::io(&path)(error)
        })
    }

    /// Puts a blob into a snapshot under its name, if it is not there.
    pub(crate) fn link(&self, commit: &Commit, file: &FileName, sum: &Sum) -> Result<(), HubError> {
        let path = file.in_folder(&self.snapshot(commit));
        let target = format!("{}../../blobs/{}", "../".repeat(file.depth()), sum.as_str());
        if fs::read_link(&path).is_ok_and(|found| found == Path::new(&target)) {
            return Ok(());
        }
        create_parent(&path)?;
        let new = beside(&path);
        let linked = symlink(&target, &new).and_then(|()| fs::rename(&new, &path));
        linked.map_err(|error| {
            let _ = fs::remove_file(&new);
            HubError::io(&path)(error)
        })
    }

    /// Locks a blob against other processes, the Python library's among them. `waits` is called once if it is taken.
    pub(crate) fn lock(&self, sum: &Sum, waits: impl FnOnce()) -> Result<BlobLock, HubError> {
        let path = self.locks.join(format!("{}.lock", sum.as_str()));
        let mut waits = Some(waits);
        loop {
            create_parent(&path)?;
            // As the Python library opens it.
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false);
            let file = file.open(&path).map_err(HubError::io(&path))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Who removes a repository removes its locks: one that has no name any more excludes nobody.
                Ok(()) if is_at(&file, &path) => return Ok(BlobLock { _file: file }),
                Ok(()) => {}
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    if let Some(waits) = waits.take() {
                        waits();
                    }
                    thread::sleep(LOCK_PAUSE);
                }
                Err(error) => return Err(HubError::io(&path)(error.into())),
            }
        }
    }

    /// True where a process writes a blob.
    fn is_in_use(&self) -> Result<bool, HubError> {
        for path in entries(&self.locks)? {
            let file = File::open(&path).map_err(HubError::io(&path))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(true),
                Err(error) => return Err(HubError::io(&path)(error.into())),
            }
        }
        Ok(false)
    }
}

/// A lock that ends with its value, or with the process.
pub(crate) struct BlobLock {
    _file: File,
}

fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(opened), Ok(there)) => (opened.dev(), opened.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// A model in the cache.
#[derive(Debug)]
pub struct CachedRepo {
    /// Owner and name.
    pub id: RepoId,
    /// Its folder.
    pub folder: PathBuf,
    /// Bytes of whole files.
    pub bytes: u64,
    /// Bytes of files that are not whole yet.
    pub incomplete: u64,
    /// Commits of which files are there.
    pub n_commits: usize,
    /// Branches and tags that it was asked for by.
    pub revisions: Vec<String>,
}

/// Models in a cache, by name.
///
/// # Errors
/// When a folder cannot be read.
pub fn list(cache: &Path) -> Result<Vec<CachedRepo>, HubError> {
    let mut repos = Vec::new();
    for folder in entries(cache)? {
        let id = folder
            .file_name()
            .and_then(|name| RepoId::of_folder(name.to_str()?));
        if let Some(id) = id.filter(|_| folder.is_dir()) {
            repos.push(describe(id, folder)?);
        }
    }
    repos.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(repos)
}

/// A model in a cache, if it is there.
///
/// # Errors
/// When a folder cannot be read.
pub fn find(cache: &Path, id: &RepoId) -> Result<Option<CachedRepo>, HubError> {
    let folder = cache.join(id.folder());
    match folder.is_dir() {
        true => describe(id.clone(), folder).map(Some),
        false => Ok(None),
    }
}

/// Removes a model from a cache.
///
/// # Errors
/// [`HubError::InUse`] while a process downloads files of it, or when a file cannot be removed.
pub fn remove(cache: &Path, repo: &CachedRepo) -> Result<(), HubError> {
    let folder = RepoFolder::new(cache, &repo.id);
    if folder.is_in_use()? {
        return Err(HubError::InUse {
            name: repo.id.to_string(),
        });
    }
    // First out of everybody's sight: half of a model is never found.
    let gone = beside(&folder.root);
    fs::rename(&folder.root, &gone).map_err(HubError::io(&folder.root))?;
    fs::remove_dir_all(&gone).map_err(HubError::io(&gone))?;
    match fs::remove_dir_all(&folder.locks) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(HubError::io(&folder.locks)(error))
        }
        _ => Ok(()),
    }
}

fn describe(id: RepoId, folder: PathBuf) -> Result<CachedRepo, HubError> {
    let (mut bytes, mut incomplete) = (0, 0);
    for blob in entries(&folder.join("blobs"))? {
        // One that is gone by now is no error.
        let size = fs::metadata(&blob).map_or(0, |metadata| metadata.len());
        match blob.to_string_lossy().ends_with(INCOMPLETE) {
            true => incomplete += size,
            false => bytes += size,
        }
    }
    let refs = folder.join("refs");
    let mut revisions: Vec<String> = files_below(&refs, 0)?
        .iter()
        .filter_map(|path| Some(path.strip_prefix(&refs).ok()?.to_str()?.to_owned()))
        .filter(|revision| !revision.ends_with(NEW))
        .collect();
    revisions.sort();
    Ok(CachedRepo {
        n_commits: entries(&folder.join("snapshots"))?.len(),
        id,
        folder,
        bytes,
        incomplete,
        revisions,
    })
}

/// Names of the files that a snapshot has whole.
pub(crate) fn files_of(snapshot: &Path) -> Result<Vec<FileName>, HubError> {
    let files = files_below(snapshot, 0)?.into_iter().filter_map(|path| {
        // A link whose blob is missing is no file.
        path.metadata().ok()?;
        FileName::parse(path.strip_prefix(snapshot).ok()?.to_str()?).ok()
    });
    Ok(files.collect())
}

fn files_below(folder: &Path, depth: usize) -> Result<Vec<PathBuf>, HubError> {
    let mut files = Vec::new();
    for path in entries(folder)? {
        let is_folder = path
            .symlink_metadata()
            .is_ok_and(|metadata| metadata.is_dir());
        match is_folder {
            true if depth < MAX_DEPTH => files.extend(files_below(&path, depth + 1)?),
            true => {}
            false => files.push(path),
        }
    }
    Ok(files)
}

/// Paths in a folder; none if it does not exist.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, HubError> {
    let read = match fs::read_dir(folder) {
        Ok(read) => read,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(HubError::io(folder)(error)),
    };
    let paths: Result<Vec<_>, io::Error> = read.map(|entry| Ok(entry?.path())).collect();
    paths.map_err(HubError::io(folder))
}

pub(crate) fn create_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(HubError::io(parent))
}

/// A path beside another that no other process uses: what is written there takes the other's place whole.
fn beside(path: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{count}{NEW}", std::process::id()));
    path.with_file_name(name)
}

/// Marks the cache as one that backups may pass over, as the Python library does.
pub(crate) fn tag(cache: &Path) -> Result<(), HubError> {
    let path = cache.join("CACHEDIR.TAG");
    if path.exists() {
        return Ok(());
    }
    create_parent(&path)?;
    fs::write(&path, "Signature: 8a477f597d28d172789f06886806bc55\n").map_err(HubError::io(&path))
}

const LOCKS: &str = ".locks";
const INCOMPLETE: &str = ".incomplete";
/// End of names of what is about to take another's place.
const NEW: &str = ".tmp";
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// Folders in folders that are looked into.
const MAX_DEPTH: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::RepoName;

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_locked_blob_waits_and_keeps_its_repository() {
        let cache = tempfile::tempdir().unwrap();
        let name: RepoName = "a/b@refs/pr/1".parse().unwrap();
        let folder = RepoFolder::new(cache.path(), &name.id);
        let (sum, commit) = (Sum::parse(SHA).unwrap(), Commit::parse(SHA).unwrap());
        folder.note(&name.revision, &commit).unwrap();
        assert_eq!(folder.commit(&name.revision), Some(commit));
        let lock = folder.lock(&sum, || panic!("nobody has it")).unwrap();
        let repo = find(cache.path(), &name.id).unwrap().unwrap();
        assert_eq!(repo.revisions, ["refs/pr/1"]);
        assert!(matches!(
            remove(cache.path(), &repo),
            Err(HubError::InUse { .. })
        ));
        thread::scope(|scope| {
            let (said, heard) = std::sync::mpsc::channel();
            let folder = &folder;
            let other = scope
                .spawn(move || folder.lock(&Sum::parse(SHA).unwrap(), || said.send(()).unwrap()));
            heard.recv().unwrap();
            drop(lock);
            drop(other.join().unwrap().unwrap());
        });
        remove(cache.path(), &repo).unwrap();
        assert!(list(cache.path()).unwrap().is_empty());
        let left: Vec<_> = entries(cache.path()).unwrap();
        assert_eq!(left, [cache.path().join(LOCKS)]);
    }
}
