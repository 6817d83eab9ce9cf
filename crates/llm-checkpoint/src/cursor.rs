use std::ops::Range;

use crate::error::{CheckpointError, HeaderFlaw};
use crate::source::SourceFile;

/// Bytes that a header may have: an order of magnitude more than it takes to hold a vocabulary of 256k tokens or
/// the pickle of 100k tensors.
const MAX_HEADER: u64 = 256 << 20;

/// Bytes that are read from the file at a time.
const WINDOW: usize = 64 << 10;

/// Reads a header from front to back. What it claims is held against what the file has left before anything is
/// allocated.
pub(crate) struct Cursor<'f> {
    file: &'f SourceFile,
    /// Bytes read ahead; those before `used` are consumed.
    window: Vec<u8>,
    used: usize,
    /// End of the window in the file.
    window_end: u64,
    /// End of the header's range.
    end: u64,
    /// End of the longest header allowed.
    limit: u64,
}

impl<'f> Cursor<'f> {
    /// A header that begins where `file` does.
    pub(crate) fn new(file: &'f SourceFile) -> Self {
        Cursor::over(file, 0..file.len())
    }

    /// A header in bytes `range` of `file`.
    pub(crate) fn over(file: &'f SourceFile, range: Range<u64>) -> Self {
        Cursor {
            file,
            window: Vec::new(),
            used: 0,
            window_end: range.start,
            end: range.end,
            limit: range.start.saturating_add(MAX_HEADER),
        }
    }

    pub(crate) fn file(&self) -> &'f SourceFile {
        self.file
    }

    pub(crate) fn error(&self, flaw: HeaderFlaw) -> CheckpointError {
        self.file.header_error(flaw)
    }

    /// Offset of the next byte in the file.
    pub(crate) fn position(&self) -> u64 {
        self.window_end - (self.window.len() - self.used) as u64
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CheckpointError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, CheckpointError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, CheckpointError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, CheckpointError> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let mut bytes = [0; N];
        self.expect(N as u64)?;
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// The next `len` bytes.
    pub(crate) fn bytes(&mut self, len: u64) -> Result<Vec<u8>, CheckpointError> {
        self.expect(len)?;
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// The next `len` bytes, as text.
    pub(crate) fn text(&mut self, len: u64) -> Result<String, CheckpointError> {
        let at = self.position();
        String::from_utf8(self.bytes(len)?).map_err(|_| self.error(HeaderFlaw::NotText { at }))
    }

    /// Passes over `len` bytes.
    pub(crate) fn skip(&mut self, len: u64) -> Result<(), CheckpointError> {
        self.expect(len)?;
        let ahead = (self.window.len() - self.used) as u64;
        if len <= ahead {
            self.used += len as usize;
        } else {
            self.window.clear();
            self.used = 0;
            self.window_end += len - ahead;
        }
        Ok(())
    }

    /// Checks for `n` records, of at least `min_bytes` each.
    pub(crate) fn expect_records(&self, n: u64, min_bytes: u64) -> Result<(), CheckpointError> {
        self.expect(n.saturating_mul(min_bytes))
    }

    /// Checks for `needed` bytes.
    pub(crate) fn expect(&self, needed: u64) -> Result<(), CheckpointError> {
        let at = self.position();
        let left = self.end - at;
        if needed > left {
            return Err(self.error(HeaderFlaw::CutOff { at, needed, left }));
        }
        if needed > self.limit.saturating_sub(at) {
            return Err(self.error(HeaderFlaw::TooLong { limit: MAX_HEADER }));
        }
        Ok(())
    }

    /// Consumes as many bytes as `out` holds. They are known to follow.
    fn fill(&mut self, mut out: &mut [u8]) -> Result<(), CheckpointError> {
        while !out.is_empty() {
            if self.used == self.window.len() {
                self.refill()?;
            }
            let n = out.len().min(self.window.len() - self.used);
            let (now, later) = out.split_at_mut(n);
            now.copy_from_slice(&self.window[self.used..self.used + n]);
            self.used += n;
            out = later;
        }
        Ok(())
    }

    fn refill(&mut self) -> Result<(), CheckpointError> {
        let len = (WINDOW as u64).min(self.end - self.window_end);
        self.window.resize(len as usize, 0);
        self.file.read_at(self.window_end, &mut self.window)?;
        self.window_end += len;
        self.used = 0;
        Ok(())
    }
}
