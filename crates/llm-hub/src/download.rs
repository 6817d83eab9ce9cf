//! Download of one file: ranges in parallel, joined in order, so that what lies on disk is always a beginning of the file.
//!
//! ```text
//! connections ──► pieces in RAM ── in order ──► sum, SUM.incomplete ── whole and right ──► SUM
//! ```
//!
//! The length of the incomplete file is all that is known of an earlier run: it may end at any time.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::mem::discriminant;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::cache::{RepoFolder, create_parent};
use crate::error::{AnswerFlaw, HubError};
use crate::event::Event;
use crate::http::{Answer, Http, Method, flaw};
use crate::listing::{Known, Listing, sum_of};
use crate::name::FileName;
use crate::sum::{Hasher, Sum};

/// A file that is downloaded.
pub(crate) struct Download<'a> {
    pub(crate) http: &'a Http<'a>,
    pub(crate) listing: &'a Listing,
    pub(crate) folder: &'a RepoFolder,
    pub(crate) file: &'a FileName,
    pub(crate) known: &'a Known,
    /// Address of it on the hub.
    pub(crate) url: String,
    pub(crate) events: &'a (dyn Fn(Event<'_>) + Sync),
    /// Where the hub led to last: it is asked seldom, as hubs count.
    pub(crate) location: &'a Mutex<Option<String>>,
}

impl Download<'_> {
    /// Brings the blob, if it is not there.
    pub(crate) fn bring(&self) -> Result<(), HubError> {
        let blob = self.folder.blob(&self.known.sum);
        let waits = || (self.events)(Event::Waiting { file: self.file });
        let _lock = self.folder.lock(&self.known.sum, waits)?;
        if is_whole(&blob, self.known.size) {
            self.received(self.known.size);
            return Ok(());
        }
        create_parent(&blob)?;
        let path = self.folder.incomplete(&self.known.sum);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(HubError::io(&path))?;
        let begun = file.metadata().map_err(HubError::io(&path))?.len();
        let begun = if begun <= self.known.size { begun } else { 0 };
        let mut found = self.fill(&mut file, &path, begun)?;
        if found != self.known.sum && begun > 0 {
            // The beginning may be at fault: a machine that lost power, or another program.
            self.lost(self.known.size);
            found = self.fill(&mut file, &path, 0)?;
        }
        if found != self.known.sum {
            drop(file);
            fs::remove_file(&path).map_err(HubError::io(&path))?;
            return Err(HubError::Sum {
                file: self.file.to_string(),
                expected: self.known.sum.as_str().to_owned(),
                found: found.as_str().to_owned(),
            });
        }
        // Whoever finds the blob takes it for right, after a loss of power, too.
        file.sync_all().map_err(HubError::io(&path))?;
        fs::rename(&path, &blob).map_err(HubError::io(&blob))
    }

    /// Bytes `begin..end` of the file alone.
    pub(crate) fn range(&self, begin: u64, end: u64) -> Result<Vec<u8>, HubError> {
        match self.fetch(Piece { begin, end })? {
            Fetched::Piece(bytes) => Ok(bytes),
            Fetched::NoRanges => Err(flaw(&self.url, AnswerFlaw::NoRanges)),
        }
    }

    /// Goes on with a file that has its first `begun` bytes, and sums all of it.
    fn fill(&self, file: &mut File, path: &Path, begun: u64) -> Result<Sum, HubError> {
        let mut hasher = Hasher::like(&self.known.sum, self.known.size);
        file.set_len(begun).map_err(HubError::io(path))?;
        file.seek(SeekFrom::Start(0)).map_err(HubError::io(path))?;
        let mut buffer = vec![0; 1 << 16];
        let mut read = 0;
        while read < begun {
            let n = file.read(&mut buffer).map_err(HubError::io(path))?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            read += n as u64;
        }
        self.received(read);
        let mut out = Out {
            file,
            path,
            hasher,
            written: read,
        };
        let first = Piece::at(read, self.http.settings.piece, self.known.size);
        let Some(first) = first else {
            return Ok(out.hasher.finish());
        };
        match self.fetch(first)? {
            Fetched::Piece(bytes) => {
                out.write(&bytes)?;
                self.parallel(&mut out)?;
            }
            Fetched::NoRanges => self.in_one(&mut out)?,
        }
        Ok(out.hasher.finish())
    }

    /// Fetches what is left in several ranges at a time.
    fn parallel(&self, out: &mut Out<'_>) -> Result<(), HubError> {
        let (settings, size) = (&self.http.settings, self.known.size);
        let left = size - out.written;
        let n_pieces = left.div_ceil(settings.piece);
        let n_connections = (settings.connections as u64).min(n_pieces);
        let pieces = Pieces {
            state: Mutex::new(State {
                next: out.written,
                written: out.written,
                ..State::default()
            }),
            changed: Condvar::new(),
        };
        // So much may be in RAM at a time.
        let window = settings.piece.saturating_mul(settings.connections as u64);
        thread::scope(|scope| {
            for _ in 0..n_connections {
                scope.spawn(|| {
                    while let Some(piece) = pieces.take(settings.piece, size, window) {
                        let fetched = match self.fetch(piece) {
                            Ok(Fetched::Piece(bytes)) => Ok(bytes),
                            Ok(Fetched::NoRanges) => Err(flaw(
                                &self.url,
                                AnswerFlaw::Length {
                                    expected: piece.length(),
                                    found: size,
                                },
                            )),
                            Err(error) => Err(error),
                        };
                        pieces.put(piece, fetched);
                    }
                });
            }
            while out.written < size {
                let written = pieces.wait(out.written).and_then(|bytes| out.write(&bytes));
                if let Err(error) = written {
                    pieces.stop();
                    return Err(error);
                }
                pieces.advance(out.written);
            }
            Ok(())
        })
    }

    /// Fetches a piece. What came of it before a connection broke is kept.
    fn fetch(&self, piece: Piece) -> Result<Fetched, HubError> {
        let length = usize::try_from(piece.length()).unwrap_or(usize::MAX);
        let mut bytes = Vec::with_capacity(length);
        let mut n_failed = 0;
        loop {
            let begin = piece.begin + bytes.len() as u64;
            let answer = self.answer(begin, piece.end)?;
            if answer.status != 206 {
                self.lost(bytes.len() as u64);
                return Ok(Fetched::NoRanges);
            }
            self.expect_range(&answer, begin, piece.end)?;
            let before = bytes.len();
            let left = (length - before) as u64;
            let reason = self.read(answer, left, &mut |part| {
                bytes.extend_from_slice(part);
                Ok(())
            })?;
            if bytes.len() == length {
                return Ok(Fetched::Piece(bytes));
            }
            n_failed = if bytes.len() > before {
                0
            } else {
                n_failed + 1
            };
            self.again(n_failed, reason)?;
        }
    }

    /// Fetches a file from a hub that sends no ranges: after each broken connection what is there already comes once more.
    fn in_one(&self, out: &mut Out<'_>) -> Result<(), HubError> {
        let size = self.known.size;
        let mut n_failed = 0;
        loop {
            let answer = self.answer_of(None)?;
            if let Some(found) = answer.length().filter(|found| *found != size) {
                return Err(flaw(
                    &self.url,
                    AnswerFlaw::Length {
                        expected: size,
                        found,
                    },
                ));
            }
            let (before, mut passed) = (out.written, 0);
            self.lost(before);
            let reason = self.read(answer, size, &mut |part| {
                let skip = (before - passed).min(part.len() as u64);
                passed += skip;
                // It is no longer than the part.
                out.write(&part[usize::try_from(skip).unwrap_or(0)..])
            })?;
            if out.written == size {
                return Ok(());
            }
            n_failed = if out.written > before {
                0
            } else {
                n_failed + 1
            };
            self.again(n_failed, reason)?;
        }
    }

    /// Reads an answer's body up to `most` bytes. Says why no more came; a body that is longer is an error.
    fn read(
        &self,
        answer: Answer,
        most: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<(), HubError>,
    ) -> Result<String, HubError> {
        let mut body = answer.body.into_reader();
        let mut buffer = vec![0; 1 << 16];
        let mut n_read = 0;
        loop {
            match body.read(&mut buffer) {
                Ok(0) => return Ok("the connection ended early".to_owned()),
                Ok(n) if n as u64 > most - n_read => {
                    let (expected, found) = (most, n_read + n as u64);
                    return Err(flaw(&self.url, AnswerFlaw::Length { expected, found }));
                }
                Ok(n) => {
                    take(&buffer[..n])?;
                    n_read += n as u64;
                    self.received(n as u64);
                    if n_read == most && most < self.known.size {
                        // So that the connection is used again.
                        let _ = body.read(&mut buffer);
                        return Ok(String::new());
                    }
                }
                Err(error) => return Ok(error.to_string()),
            }
        }
    }

    fn again(&self, n_failed: u32, reason: String) -> Result<(), HubError> {
        if n_failed >= self.http.settings.tries {
            return Err(HubError::Unreachable {
                url: self.url.clone(),
                reason,
            });
        }
        let wait = self.http.pause(n_failed.max(1));
        (self.events)(Event::Retry { why: &reason, wait });
        thread::sleep(wait);
        Ok(())
    }

    fn answer(&self, begin: u64, end: u64) -> Result<Answer, HubError> {
        self.answer_of(Some((begin, end)))
    }

    /// Asks where the hub led to last, and the hub itself where that fails.
    fn answer_of(&self, range: Option<(u64, u64)>) -> Result<Answer, HubError> {
        let location = || self.location.lock().unwrap_or_else(PoisonError::into_inner);
        let known = location().clone();
        if let Some(url) = known {
            match self.http.ask(Method::Get, &url, range) {
                Ok(answer) => return Ok(answer),
                // Such addresses are good for an hour.
                Err(_) => *location() = None,
            }
        }
        let answer = self.http.ask(Method::Get, &self.url, range)?;
        self.listing.expect_commit(&answer, &self.url)?;
        // A tag of another kind may be a mirror's own.
        let is_other = |found: &Sum| {
            *found != self.known.sum && discriminant(found) == discriminant(&self.known.sum)
        };
        if let Some(found) = sum_of(&answer).filter(is_other) {
            let (expected, found) = (&self.known.sum, found.as_str().to_owned());
            let expected = expected.as_str().to_owned();
            return Err(flaw(&self.url, AnswerFlaw::ChangedFile { expected, found }));
        }
        if answer.url != self.url {
            *location() = Some(answer.url.clone());
        }
        Ok(answer)
    }

    /// Holds an answer against the range that was asked for: it may end earlier.
    fn expect_range(&self, answer: &Answer, begin: u64, end: u64) -> Result<(), HubError> {
        let text = answer
            .headers
            .get("content-range")
            .and_then(|text| text.to_str().ok());
        let text = text.unwrap_or_default();
        let parse = || {
            let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
            let (first, last) = range.split_once('-')?;
            Some((
                first.parse::<u64>().ok()?,
                last.parse::<u64>().ok()?,
                size.parse::<u64>().ok()?,
            ))
        };
        match parse() {
            Some((_, _, found)) if found != self.known.size => {
                let expected = self.known.size;
                Err(flaw(&self.url, AnswerFlaw::Length { expected, found }))
            }
            Some((first, last, _)) if first == begin && (begin..end).contains(&last) => Ok(()),
            _ => Err(flaw(&self.url, AnswerFlaw::Range(text.to_owned()))),
        }
    }

    fn received(&self, bytes: u64) {
        (self.events)(Event::Received {
            file: self.file,
            bytes,
        });
    }

    fn lost(&self, bytes: u64) {
        (self.events)(Event::Lost {
            file: self.file,
            bytes,
        });
    }
}

/// True where a file of this length is there. Its name says the rest.
pub(crate) fn is_whole(path: &Path, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
}

enum Fetched {
    Piece(Vec<u8>),
    NoRanges,
}

/// A range of a file.
#[derive(Debug, Clone, Copy)]
struct Piece {
    begin: u64,
    end: u64,
}

impl Piece {
    /// The range at a place; `None` at the end.
    fn at(begin: u64, length: u64, size: u64) -> Option<Self> {
        let end = begin.saturating_add(length.max(1)).min(size);
        (begin < end).then_some(Piece { begin, end })
    }

    fn length(self) -> u64 {
        self.end - self.begin
    }
}

/// The incomplete file.
struct Out<'a> {
    file: &'a mut File,
    path: &'a Path,
    hasher: Hasher,
    written: u64,
}

impl Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file
            .write_all(bytes)
            .map_err(HubError::io(self.path))?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// Pieces on their way from connections to the file.
struct Pieces {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Begin of the piece that is fetched next.
    next: u64,
    written: u64,
    ready: BTreeMap<u64, Vec<u8>>,
    error: Option<HubError>,
    is_over: bool,
}

impl Pieces {
    /// The next piece to fetch, once there is room for it.
    fn take(&self, length: u64, size: u64, window: u64) -> Option<Piece> {
        let mut state = self.lock();
        loop {
            if state.is_over {
                return None;
            }
            let piece = Piece::at(state.next, length, size)?;
            if piece.begin < state.written.saturating_add(window) {
                state.next = piece.end;
                return Some(piece);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn put(&self, piece: Piece, fetched: Result<Vec<u8>, HubError>) {
        let mut state = self.lock();
        match fetched {
            Ok(bytes) => {
                state.ready.insert(piece.begin, bytes);
            }
            Err(error) => {
                state.is_over = true;
                state.error.get_or_insert(error);
            }
        }
        self.changed.notify_all();
    }

    /// The piece at a place, once it is there.
    fn wait(&self, begin: u64) -> Result<Vec<u8>, HubError> {
        let mut state = self.lock();
        loop {
            if let Some(bytes) = state.ready.remove(&begin) {
                return Ok(bytes);
            }
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn advance(&self, written: u64) {
        self.lock().written = written;
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
