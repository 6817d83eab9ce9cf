//! Zip archives as PyTorch writes them: stored entries whose content begins at a multiple of 64, with the checksum
//! behind it.

use std::io::{self, Write};

use crc32fast::Hasher;

pub(super) struct ZipWriter<W> {
    out: W,
    /// Bytes written so far.
    at: u64,
    prefix: String,
    /// The last one may not be complete.
    entries: Vec<Entry>,
    checksum: Hasher,
}

struct Entry {
    name: String,
    len: u64,
    /// Offset of its header.
    header: u64,
    checksum: u32,
}

impl<W: Write> ZipWriter<W> {
    /// An archive whose entries all lie in folder `prefix`.
    pub(super) fn new(out: W, prefix: &str) -> Self {
        ZipWriter {
            out,
            at: 0,
            prefix: prefix.to_owned(),
            entries: Vec::new(),
            checksum: Hasher::new(),
        }
    }

    /// Writes a whole entry.
    pub(super) fn entry(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.begin(name, content.len() as u64)?;
        self.write(content)?;
        self.end()
    }

    /// Begins an entry of `len` bytes.
    pub(super) fn begin(&mut self, name: &str, len: u64) -> io::Result<()> {
        let entry = Entry {
            name: format!("{}/{name}", self.prefix),
            len,
            header: self.at,
            checksum: 0,
        };
        let mut extra = Vec::new();
        // The length and the checksum stand behind the content; with zip64 the header must say that they are long.
        let narrow_len = if entry.is_wide() {
            extra.extend(ZIP64);
            extra.extend(16u16.to_le_bytes());
            extra.extend([0; 16]);
            u32::MAX
        } else {
            0
        };
        let unpadded = self.at + 30 + entry.name.len() as u64 + extra.len() as u64 + 4;
        let padding = unpadded.next_multiple_of(ALIGNMENT) - unpadded;
        extra.extend(b"FB");
        extra.extend((padding as u16).to_le_bytes());
        extra.resize(extra.len() + padding as usize, b'Z');

        let mut header = b"PK\x03\x04\0\0".to_vec();
        header.extend(FLAGS);
        // Stored; no time; no checksum yet.
        header.extend([0; 10]);
        header.extend([narrow_len, narrow_len].map(u32::to_le_bytes).concat());
        header.extend((entry.name.len() as u16).to_le_bytes());
        header.extend((extra.len() as u16).to_le_bytes());
        header.extend(entry.name.bytes());
        header.extend(extra);
        self.put(&header)?;
        self.entries.push(entry);
        self.checksum = Hasher::new();
        Ok(())
    }

    /// Appends to the entry that was begun.
    pub(super) fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.checksum.update(content);
        self.put(content)
    }

    /// Ends the entry that was begun.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let entry = self.entries.last_mut().expect("an entry was begun");
        entry.checksum = self.checksum.clone().finalize();
        let mut descriptor = b"PK\x07\x08".to_vec();
        descriptor.extend(entry.checksum.to_le_bytes());
        match entry.is_wide() {
            true => descriptor.extend([entry.len, entry.len].map(u64::to_le_bytes).concat()),
            false => descriptor.extend([entry.len as u32; 2].map(u32::to_le_bytes).concat()),
        }
        self.put(&descriptor)
    }

    /// Writes the directory, with the records of zip64 whether needed or not, as PyTorch does.
    pub(super) fn finish(mut self) -> io::Result<W> {
        let start = self.at;
        let entries = std::mem::take(&mut self.entries);
        for entry in &entries {
            self.put(&entry.in_directory())?;
        }
        let (len, n_entries) = (self.at - start, entries.len() as u64);
        let record = self.at;
        let mut end = b"PK\x06\x06".to_vec();
        end.extend(44u64.to_le_bytes());
        end.extend(b"\x1E\x03\x2D\0\0\0\0\0\0\0\0\0");
        end.extend(
            [n_entries, n_entries, len, start]
                .map(u64::to_le_bytes)
                .concat(),
        );
        end.extend(b"PK\x06\x07\0\0\0\0");
        end.extend(record.to_le_bytes());
        end.extend(1u32.to_le_bytes());
        end.extend(b"PK\x05\x06\0\0\0\0");
        let n_entries = u16::try_from(n_entries).unwrap_or(u16::MAX);
        end.extend([n_entries, n_entries].map(u16::to_le_bytes).concat());
        end.extend([narrow(len), narrow(start)].map(u32::to_le_bytes).concat());
        end.extend([0; 2]);
        self.put(&end)?;
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

impl Entry {
    /// True if 32 bits cannot hold its length.
    fn is_wide(&self) -> bool {
        narrow(self.len) == u32::MAX
    }

    fn in_directory(&self) -> Vec<u8> {
        let mut wide = Vec::new();
        if self.is_wide() {
            wide.extend([self.len, self.len].map(u64::to_le_bytes).concat());
        }
        if narrow(self.header) == u32::MAX {
            wide.extend(self.header.to_le_bytes());
        }
        let mut extra = Vec::new();
        if !wide.is_empty() {
            extra.extend(ZIP64);
            extra.extend((wide.len() as u16).to_le_bytes());
            extra.extend(wide);
        }
        let mut entry = b"PK\x01\x02\0\0\0\0".to_vec();
        entry.extend(FLAGS);
        entry.extend([0; 6]);
        entry.extend(self.checksum.to_le_bytes());
        entry.extend([narrow(self.len); 2].map(u32::to_le_bytes).concat());
        entry.extend((self.name.len() as u16).to_le_bytes());
        entry.extend((extra.len() as u16).to_le_bytes());
        entry.extend([0; 10]);
        entry.extend(narrow(self.header).to_le_bytes());
        entry.extend(self.name.bytes());
        entry.extend(extra);
        entry
    }
}

/// All ones where 32 bits cannot hold it: then it stands in the field of zip64.
fn narrow(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Alignment of the content of an entry.
const ALIGNMENT: u64 = 64;

/// Names are UTF-8, and length and checksum follow the content.
const FLAGS: [u8; 2] = [0x08, 0x08];

/// The number of zip64's extra field.
const ZIP64: [u8; 2] = [1, 0];
