//! The directory of a zip archive whose entries are stored as they are.
//!
//! *Source*: PKWARE's APPNOTE.TXT, 4.3 and 4.5.3 (zip64).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use super::flaw::ZipFlaw;
use crate::cursor::Cursor;
use crate::error::{CheckpointError, HeaderFlaw};
use crate::source::SourceFile;

/// Signature of an entry, and so of the archive.
pub(super) const ENTRY: &[u8; 4] = b"PK\x03\x04";

/// The entries of an archive. All lie in the file, and apart.
pub(super) struct Archive {
    entries: BTreeMap<String, Content>,
}

/// Content of an entry.
struct Content {
    /// Range in the file.
    range: Range<u64>,
    /// True if it is stored as it is, neither compressed nor encrypted.
    is_stored: bool,
    /// By the directory's word.
    crc32: u32,
}

/// An entry that is stored as it is, with the checksum that the archive has of it.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) range: Range<u64>,
    pub(crate) crc32: u32,
}

impl Archive {
    /// Reads the directory, and the header of every entry.
    pub(super) fn open(file: &SourceFile) -> Result<Self, CheckpointError> {
        let directory = Directory::find(file)?;
        let mut cursor = Cursor::over(file, directory.range.clone());
        cursor.expect_records(directory.n_entries, DirectoryEntry::MIN_BYTES)?;
        let mut listed = Vec::new();
        for _ in 0..directory.n_entries {
            listed.push(DirectoryEntry::read(&mut cursor)?);
        }
        let headers: Vec<_> = listed.iter().map(DirectoryEntry::header_range).collect();
        file.expect(&headers);
        let mut entries = BTreeMap::new();
        // From header to the end of the content, to see whether any two overlap.
        let mut places = Vec::new();
        for entry in listed {
            let range = entry.locate(file, directory.range.start)?;
            places.push((entry.header..range.end, entry.name.clone()));
            let (is_stored, crc32) = (entry.is_stored, entry.crc32);
            match entries.entry(entry.name) {
                Entry::Vacant(vacant) => {
                    _ = vacant.insert(Content {
                        range,
                        is_stored,
                        crc32,
                    })
                }
                Entry::Occupied(occupied) => {
                    let name = occupied.key().clone();
                    return Err(file.header_error(ZipFlaw::Duplicate { name }.into()));
                }
            }
        }
        if cursor.position() != directory.range.end {
            return Err(file.header_error(HeaderFlaw::Zip(ZipFlaw::DirectoryLength {
                n_entries: directory.n_entries,
                expected: cursor.position() - directory.range.start,
                found: directory.range.end - directory.range.start,
            })));
        }
        places.sort_unstable_by_key(|(place, _)| (place.start, place.end));
        match places.windows(2).find(|p| p[1].0.start < p[0].0.end) {
            None => Ok(Archive { entries }),
            Some(pair) => Err(file.header_error(HeaderFlaw::Zip(ZipFlaw::Overlap {
                first: pair[0].1.clone(),
                second: pair[1].1.clone(),
            }))),
        }
    }

    /// Range of the content of entry `name`, if there is one.
    ///
    /// # Errors
    /// [`ZipFlaw::Compressed`].
    pub(super) fn entry(&self, name: &str) -> Result<Option<Range<u64>>, HeaderFlaw> {
        match self.entries.get(name) {
            None => Ok(None),
            Some(content) if content.is_stored => Ok(Some(content.range.clone())),
            Some(_) => Err(HeaderFlaw::Zip(ZipFlaw::Compressed {
                name: name.to_owned(),
            })),
        }
    }

    /// Entries stored as they are; none where the archive has no checksums. PyTorch writes zeros for all of them when
    /// it is told not to compute any.
    pub(super) fn stored(self) -> Vec<Stored> {
        if self.entries.values().all(|content| content.crc32 == 0) {
            return Vec::new();
        }
        let stored = self.entries.into_iter().filter(|(_, c)| c.is_stored);
        let stored = stored.map(|(name, content)| Stored {
            name,
            range: content.range,
            crc32: content.crc32,
        });
        stored.collect()
    }

    /// The folder in the archive that PyTorch put everything into, which it names after the file.
    pub(super) fn prefix(&self) -> Result<&str, HeaderFlaw> {
        let mut prefixes = self
            .entries
            .keys()
            .filter_map(|name| name.strip_suffix("/data.pkl"))
            .filter(|prefix| !prefix.contains('/'));
        let (Some(prefix), 0) = (prefixes.next(), prefixes.clone().count()) else {
            let found = self.entries.keys().filter(|n| n.ends_with("/data.pkl"));
            return Err(HeaderFlaw::Zip(ZipFlaw::NoPickle {
                found: found.count(),
            }));
        };
        if self
            .entries
            .contains_key(&format!("{prefix}/constants.pkl"))
        {
            return Err(HeaderFlaw::Zip(ZipFlaw::TorchScript));
        }
        Ok(prefix)
    }
}

/// Extent of the directory, by the records at the end of the archive.
struct Directory {
    range: Range<u64>,
    n_entries: u64,
}

impl Directory {
    fn find(file: &SourceFile) -> Result<Self, CheckpointError> {
        let wrong = |flaw: ZipFlaw| file.header_error(flaw.into());
        let end = find_end(file)?;
        let mut cursor = Cursor::over(file, end..file.len());
        cursor.skip(4)?;
        let (disk, directory_disk) = (cursor.u16()?, cursor.u16()?);
        let (n_here, n_entries) = (cursor.u16()?, cursor.u16()?);
        let (len, start) = (cursor.u32()?, cursor.u32()?);
        let mut directory = Directory {
            range: start.into()..u64::from(start) + u64::from(len),
            n_entries: n_entries.into(),
        };
        let mut is_whole = (disk, directory_disk, n_here) == (0, 0, n_entries);
        let mut limit = end;
        if let Some(record) = find_zip64(file, end)? {
            let mut cursor = Cursor::over(file, record..end);
            if cursor.array()? != *b"PK\x06\x06" {
                return Err(wrong(ZipFlaw::Missing {
                    expected: "zip64 end record",
                    at: record,
                }));
            }
            cursor.skip(8 + 2 + 2)?;
            let (disk, directory_disk) = (cursor.u32()?, cursor.u32()?);
            let (n_here, n_entries) = (cursor.u64()?, cursor.u64()?);
            let (len, start) = (cursor.u64()?, cursor.u64()?);
            is_whole = (disk, directory_disk, n_here) == (0, 0, n_entries);
            directory = Directory {
                range: start..start.saturating_add(len),
                n_entries,
            };
            limit = record;
        }
        if !is_whole {
            return Err(wrong(ZipFlaw::SeveralParts));
        }
        if directory.range.end > limit {
            return Err(file.header_error(HeaderFlaw::CutOff {
                at: directory.range.start,
                needed: directory.range.end - directory.range.start,
                left: limit.saturating_sub(directory.range.start),
            }));
        }
        Ok(directory)
    }
}

/// Offset of the end record. A comment may follow it.
fn find_end(file: &SourceFile) -> Result<u64, CheckpointError> {
    const LEN: usize = 22;
    const MAX_COMMENT: usize = u16::MAX as usize;
    let len = file.len().min((LEN + MAX_COMMENT) as u64);
    let start = file.len() - len;
    let mut tail = vec![0; len as usize];
    file.read_at(start, &mut tail)?;
    let found = (0..(tail.len() + 1).saturating_sub(LEN)).rev().find(|&at| {
        let record = &tail[at..];
        let comment = u16::from_le_bytes([record[20], record[21]]);
        record.starts_with(b"PK\x05\x06") && usize::from(comment) == record.len() - LEN
    });
    match found {
        Some(at) => Ok(start + at as u64),
        None => Err(file.header_error(ZipFlaw::NoEnd.into())),
    }
}

/// Offset of the end record of zip64, if the archive has one: its locator stands before the end record at `end`.
fn find_zip64(file: &SourceFile, end: u64) -> Result<Option<u64>, CheckpointError> {
    const LOCATOR: u64 = 20;
    let Some(at) = end.checked_sub(LOCATOR) else {
        return Ok(None);
    };
    let mut cursor = Cursor::over(file, at..end);
    if cursor.array()? != *b"PK\x06\x07" {
        return Ok(None);
    }
    cursor.skip(4)?;
    let record = cursor.u64()?;
    if record > at {
        return Err(file.header_error(HeaderFlaw::Zip(ZipFlaw::Missing {
            expected: "zip64 end record",
            at: record,
        })));
    }
    Ok(Some(record))
}

/// Record of one entry in the directory.
struct DirectoryEntry {
    name: String,
    /// Bytes of the content as it is in the file.
    len: u64,
    is_stored: bool,
    crc32: u32,
    /// Compression method.
    method: u16,
    /// Offset of its own header in the file.
    header: u64,
}

impl DirectoryEntry {
    /// An entry without a name.
    const MIN_BYTES: u64 = 46;

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, CheckpointError> {
        let at = cursor.position();
        if cursor.array()? != *b"PK\x01\x02" {
            return Err(cursor.error(HeaderFlaw::Zip(ZipFlaw::Missing {
                expected: "directory entry",
                at,
            })));
        }
        cursor.skip(2 + 2)?;
        let (flags, method) = (cursor.u16()?, cursor.u16()?);
        cursor.skip(2 + 2)?;
        let crc32 = cursor.u32()?;
        let (compressed, len) = (cursor.u32()?, cursor.u32()?);
        let (name_len, extra_len, comment_len) = (cursor.u16()?, cursor.u16()?, cursor.u16()?);
        cursor.skip(2 + 2 + 4)?;
        let header = cursor.u32()?;
        let name = cursor.text(name_len.into())?;
        let extra = cursor.bytes(extra_len.into())?;
        cursor.skip(comment_len.into())?;

        let mut wide = zip64_numbers(&extra);
        // Each number that does not fit is all ones, and the next one of the extra field in its place.
        let mut widen = |narrow: u32| match narrow {
            u32::MAX => wide.next().unwrap_or(narrow.into()),
            _ => narrow.into(),
        };
        let (len, compressed, header) = (widen(len), widen(compressed), widen(header));
        Ok(DirectoryEntry {
            name,
            len: compressed,
            is_stored: method == STORED && flags & ENCRYPTED == 0 && compressed == len,
            crc32,
            method,
            header,
        })
    }

    /// Range of the entry's own header, up to its name.
    fn header_range(&self) -> Range<u64> {
        const HEADER: u64 = 30;
        let end = HEADER + self.name.len() as u64;
        self.header..self.header.saturating_add(end)
    }

    /// Range of the content, by the entry's own header, which must say the same as the directory. `limit` is
    /// the offset of the directory.
    fn locate(&self, file: &SourceFile, limit: u64) -> Result<Range<u64>, CheckpointError> {
        let wrong = |flaw: ZipFlaw| file.header_error(flaw.into());
        let disagreement = |what| {
            wrong(ZipFlaw::Disagreement {
                name: self.name.clone(),
                what,
            })
        };
        let past_end = |end| {
            wrong(ZipFlaw::PastEnd {
                name: self.name.clone(),
                end,
                limit,
            })
        };
        let after_header = self.header_range().end;
        if after_header > limit {
            return Err(past_end(after_header));
        }
        let mut header = vec![0; (after_header - self.header) as usize];
        file.read_at(self.header, &mut header)?;
        let u16_at = |at| u16::from_le_bytes([header[at], header[at + 1]]);
        if !header.starts_with(ENTRY) {
            return Err(wrong(ZipFlaw::Missing {
                expected: "entry",
                at: self.header,
            }));
        }
        if u16_at(8) != self.method {
            return Err(disagreement("compression"));
        }
        if usize::from(u16_at(26)) != self.name.len() || header[30..] != *self.name.as_bytes() {
            return Err(disagreement("name"));
        }
        let len = u32::from_le_bytes([header[18], header[19], header[20], header[21]]);
        // Written as a stream the length is not known yet; with zip64 it stands elsewhere.
        let is_known = u16_at(6) & LENGTH_FOLLOWS == 0 && len != u32::MAX;
        if is_known && u64::from(len) != self.len {
            return Err(disagreement("length"));
        }
        let start = after_header + u64::from(u16_at(28));
        let end = start.saturating_add(self.len);
        if end > limit {
            return Err(past_end(end));
        }
        Ok(start..end)
    }
}

/// The numbers of the zip64 field among the extra fields of an entry.
fn zip64_numbers(mut extra: &[u8]) -> impl Iterator<Item = u64> {
    const ZIP64: u16 = 1;
    let mut numbers: &[u8] = &[];
    while let Some((&[id_low, id_high, len_low, len_high], rest)) = extra.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes([len_low, len_high]));
        let Some((field, rest)) = rest.split_at_checked(len) else {
            break;
        };
        if u16::from_le_bytes([id_low, id_high]) == ZIP64 {
            numbers = field;
            break;
        }
        extra = rest;
    }
    numbers
        .as_chunks()
        .0
        .iter()
        .copied()
        .map(u64::from_le_bytes)
}

/// The method of entries that are not compressed.
const STORED: u16 = 0;

/// Flag of an entry that is encrypted.
const ENCRYPTED: u16 = 1;

/// Flag of an entry whose length and checksum follow its content.
const LENGTH_FOLLOWS: u16 = 1 << 3;
