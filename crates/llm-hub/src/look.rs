//! A look at a model before its download: configurations, and of its weights what is asked for.
//!
//! ```text
//! FOLDER/snapshots/COMMIT/config.json          as it is on the hub
//! FOLDER/snapshots/COMMIT/model.safetensors    of its length, and empty: its bytes are brought range by range
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tempfile::TempDir;

use crate::cache::{RepoFolder, create_parent};
use crate::choose::Kind;
use crate::download::{Download, is_whole};
use crate::error::HubError;
use crate::event::Event;
use crate::http::Http;
use crate::listing::{Known, Listing};
use crate::name::{Commit, FileName, RepoName};
use crate::settings::Settings;

/// A model on a hub: a folder that ends with its value, in which configurations are and weights only seem to be.
pub struct Looked {
    path: PathBuf,
    commit: Commit,
    files: Vec<(FileName, u64)>,
    missing: u64,
    /// Those whose bytes are on the hub, by their paths.
    ranged: BTreeMap<PathBuf, Arc<RangedFile>>,
    _folder: TempDir,
}

/// A file on a hub, of which parts are brought and kept.
pub struct RangedFile {
    hub: Arc<Hub>,
    file: FileName,
    known: Known,
    location: Mutex<Option<String>>,
    parts: Mutex<Parts>,
}

/// What all files of a model have in common.
struct Hub {
    http: Http<'static>,
    name: RepoName,
    listing: Listing,
    folder: RepoFolder,
    events: &'static (dyn Fn(Event<'_>) + Sync),
}

/// Looks at a model: brings what its weights are understood by, and the first bytes of these.
///
/// # Errors
/// When the hub has no such model or does not show it, the choice among its files is the user's, or a file does not come
/// whole and right.
pub fn look(
    settings: &Settings,
    name: &RepoName,
    events: &'static (dyn Fn(Event<'_>) + Sync),
) -> Result<Looked, HubError> {
    let http = Http::new(settings, name, events);
    let listing = Listing::fetch(&http, name)?;
    let chosen = listing.choose(name)?;
    let folder = TempDir::with_prefix("llm-run-").map_err(HubError::io(std::env::temp_dir()))?;
    let hub = Arc::new(Hub {
        folder: RepoFolder::new(folder.path(), &name.id),
        name: name.clone(),
        http,
        listing,
        events,
    });
    let snapshot = hub.folder.snapshot(&hub.listing.commit);
    let cache = RepoFolder::new(&settings.cache, &name.id);
    let mut looked = Looked {
        path: chosen.path(&snapshot),
        commit: hub.listing.commit.clone(),
        files: Vec::new(),
        missing: 0,
        ranged: BTreeMap::new(),
        _folder: folder,
    };
    for file in chosen.files {
        let known = hub.listing.describe(&hub.http, name, &file)?;
        let (path, blob) = (file.in_folder(&snapshot), cache.blob(&known.sum));
        create_parent(&path)?;
        looked.files.push((file.clone(), known.size));
        if is_whole(&blob, known.size) {
            symlink(&blob, &path).map_err(HubError::io(&path))?;
            continue;
        }
        looked.missing = looked.missing.saturating_add(known.size);
        let is_weights = Kind::of_file(&file).is_some();
        if !is_weights && !is_of_text(&file) {
            hub.download(&file, &known, &Mutex::default()).bring()?;
            hub.folder.link(&hub.listing.commit, &file, &known.sum)?;
            continue;
        }
        let seeming = File::create(&path).and_then(|seeming| seeming.set_len(known.size));
        seeming.map_err(HubError::io(&path))?;
        if is_weights {
            let hub = Arc::clone(&hub);
            let (location, parts) = (Mutex::default(), Mutex::default());
            let ranged = RangedFile {
                hub,
                file,
                known,
                location,
                parts,
            };
            looked.ranged.insert(path, Arc::new(ranged));
        }
    }
    looked.begin(settings.connections)?;
    Ok(looked)
}

/// True for what only texts are read and written with.
fn is_of_text(file: &FileName) -> bool {
    let name = file.as_str();
    let is_json = name.ends_with(".json");
    let fronts = ["tokenizer", "vocab", "special_tokens", "added_tokens"];
    !is_json || fronts.iter().any(|front| name.starts_with(front))
}

impl Looked {
    /// The folder of the files, or the one that was asked for.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The commit that all of them are of.
    pub fn commit(&self) -> &Commit {
        &self.commit
    }

    /// Files that a download would bring, and their bytes.
    pub fn files(&self) -> &[(FileName, u64)] {
        &self.files
    }

    /// Bytes of those that are not in the cache.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// The file at a path, where its bytes are on the hub.
    pub fn file(&self, path: &Path) -> Option<&Arc<RangedFile>> {
        self.ranged.get(path)
    }

    /// Brings the first bytes of all files, over some connections at a time.
    fn begin(&self, n_connections: usize) -> Result<(), HubError> {
        let files: Vec<&Arc<RangedFile>> = self.ranged.values().collect();
        let first = |idx: usize| files[idx].bring(0, FIRST);
        in_parallel(files.len(), n_connections, &first)
    }
}

impl fmt::Debug for Looked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n_files = self.files.len();
        write!(f, "Looked({}, {n_files} files)", self.commit.as_str())
    }
}

impl Hub {
    fn download<'a>(
        &'a self,
        file: &'a FileName,
        known: &'a Known,
        location: &'a Mutex<Option<String>>,
    ) -> Download<'a> {
        Download {
            url: self.listing.url(&self.http, &self.name, file),
            http: &self.http,
            listing: &self.listing,
            folder: &self.folder,
            file,
            known,
            events: self.events,
            location,
        }
    }
}

/// Parts of a file that are here, by their begins; they do not touch each other's bytes.
#[derive(Default)]
struct Parts {
    parts: BTreeMap<u64, Vec<u8>>,
    /// End of the last one that was brought,
    end: u64,
    /// and the bytes that were brought at least: whoever reads on reads much.
    ahead: u64,
    n_bytes: u64,
}

impl RangedFile {
    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// When they do not come, or the file ends before.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), HubError> {
        let mut n_done = 0;
        while n_done < buf.len() {
            let at = offset.saturating_add(n_done as u64);
            let left = &mut buf[n_done..];
            let n_copied = self.parts().copy(at, left);
            if n_copied == 0 {
                if at >= self.known.size {
                    let source = std::io::ErrorKind::UnexpectedEof.into();
                    return Err(HubError::io(self.file.as_str())(source));
                }
                let n_needed = left.len() as u64;
                let n_bytes = self.parts().plan(at, n_needed);
                self.bring(at, n_bytes)?;
            }
            n_done += n_copied;
        }
        Ok(())
    }

    /// Brings ranges that are read next, several at a time. What does not come is told by whoever reads it.
    pub fn expect(&self, ranges: &[Range<u64>]) {
        let mut ranges = ranges.to_vec();
        ranges.sort_unstable_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            match joined.last_mut() {
                Some(last) if range.start <= last.end.saturating_add(NEAR) => {
                    last.end = last.end.max(range.end);
                }
                Some(_) | None => joined.push(range),
            }
        }
        let n_connections = self.hub.http.settings.connections;
        // Each brings it, or is asked for again.
        let _ = in_parallel(joined.len(), n_connections, &|idx| {
            let range = &joined[idx];
            let n_bytes = (range.end - range.start).min(MOST_AHEAD);
            self.bring(range.start, n_bytes)
        });
    }

    /// Brings `n_bytes` from `begin` on, or as many as the file has up to what is here.
    fn bring(&self, begin: u64, n_bytes: u64) -> Result<(), HubError> {
        let end = begin.saturating_add(n_bytes).min(self.known.size);
        let end = self.parts().gap(begin, end);
        if end <= begin {
            return Ok(());
        }
        let download = self.hub.download(&self.file, &self.known, &self.location);
        let bytes = download.range(begin, end)?;
        self.parts().put(begin, bytes);
        Ok(())
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parts {
    /// Copies what is here from `at` on; the number of bytes.
    fn copy(&self, at: u64, out: &mut [u8]) -> usize {
        let Some((begin, part)) = self.parts.range(..=at).next_back() else {
            return 0;
        };
        let skip = usize::try_from(at - begin).unwrap_or(usize::MAX);
        let found = part.get(skip..).unwrap_or_default();
        let n = found.len().min(out.len());
        out[..n].copy_from_slice(&found[..n]);
        n
    }

    /// Bytes to bring for a reader of `n_needed` at `at`.
    fn plan(&mut self, at: u64, n_needed: u64) -> u64 {
        self.ahead = match at == self.end {
            true => (2 * self.ahead).clamp(FIRST, MOST_AHEAD),
            false => LEAST,
        };
        n_needed.clamp(self.ahead, MOST_AHEAD.max(self.ahead))
    }

    /// End of what is not here between `begin` and `end`; `begin` where it is.
    fn gap(&self, begin: u64, end: u64) -> u64 {
        let before = self.parts.range(..=begin).next_back();
        if before.is_some_and(|(start, part)| start + part.len() as u64 > begin) {
            return begin;
        }
        let next = self.parts.range(begin..end).next();
        next.map_or(end, |(&start, _)| start)
    }

    fn put(&mut self, begin: u64, bytes: Vec<u8>) {
        let n_bytes = bytes.len() as u64;
        if self.n_bytes.saturating_add(n_bytes) > MOST_KEPT {
            (self.parts, self.n_bytes) = (BTreeMap::new(), 0);
        }
        self.end = begin.saturating_add(n_bytes);
        // Two who brought the same at a time brought the same.
        if self.gap(begin, self.end) == self.end {
            self.parts.insert(begin, bytes);
            self.n_bytes += n_bytes;
        }
    }
}

/// Does `work` with each number below `n`, over some threads; the first error.
fn in_parallel(
    n: usize,
    n_threads: usize,
    work: &(dyn Fn(usize) -> Result<(), HubError> + Sync),
) -> Result<(), HubError> {
    let next = AtomicUsize::new(0);
    let run = || {
        loop {
            match next.fetch_add(1, Ordering::Relaxed) {
                idx if idx < n => work(idx)?,
                _ => return Ok(()),
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads.min(n)).map(|_| scope.spawn(run)).collect();
        let ended = threads.into_iter().map(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|fault| std::panic::resume_unwind(fault))
        });
        // All come to their ends.
        let ended: Vec<Result<(), HubError>> = ended.collect();
        ended.into_iter().collect()
    })
}

/// Bytes of each file that are brought first: the header of a shard of some hundred tensors.
const FIRST: u64 = 32 << 10;
/// Bytes that are brought at a time, at least where something else than the next bytes is read,
const LEAST: u64 = 4 << 10;
/// and at most.
const MOST_AHEAD: u64 = 4 << 20;
/// Bytes of a file that are kept: headers are read once, from front to back.
const MOST_KEPT: u64 = 256 << 20;
/// Ranges that are so near to each other are brought as one.
const NEAR: u64 = 16 << 10;
