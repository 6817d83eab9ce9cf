use crate::error::{CheckpointError, HeaderFlaw};
use crate::source::SourceFile;

/// Bytes that a header may have: an order of magnitude more than it takes to hold a vocabulary of 256k tokens.
const MAX_HEADER: u64 = 256 << 20;

/// Bytes that are read from the file at a time.
const WINDOW: usize = 64 << 10;

/// Reads a header from front to back. What it claims is held against what the file has left before anything is
/// allocated.
pub(super) struct Cursor<'f> {
    file: &'f SourceFile,
    /// Bytes read ahead; those before `used` are consumed.
    window: Vec<u8>,
    used: usize,
    /// Where in the file the window ends.
    window_end: u64,
}

impl<'f> Cursor<'f> {
    pub(super) fn new(file: &'f SourceFile) -> Self {
        Cursor {
            file,
            window: Vec::new(),
            used: 0,
            window_end: 0,
        }
    }

    pub(super) fn file(&self) -> &'f SourceFile {
        self.file
    }

    pub(super) fn error(&self, flaw: HeaderFlaw) -> CheckpointError {
        self.file.header_error(flaw)
    }

    /// Bytes consumed so far.
    pub(super) fn position(&self) -> u64 {
        self.window_end - (self.window.len() - self.used) as u64
    }

    pub(super) fn u32(&mut self) -> Result<u32, CheckpointError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, CheckpointError> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let mut bytes = [0; N];
        self.expect(N as u64)?;
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// A string: its length, then its bytes.
    pub(super) fn text(&mut self) -> Result<String, CheckpointError> {
        let len = self.u64()?;
        let at = self.position();
        self.expect(len)?;
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| self.error(HeaderFlaw::NotText { at }))
    }

    /// That `n` records, of at least `min_bytes` each, can follow.
    pub(super) fn expect_records(&self, n: u64, min_bytes: u64) -> Result<(), CheckpointError> {
        self.expect(n.saturating_mul(min_bytes))
    }

    /// That `needed` bytes follow.
    fn expect(&self, needed: u64) -> Result<(), CheckpointError> {
        let at = self.position();
        let left = self.file.len() - at;
        if needed > left {
            return Err(self.error(HeaderFlaw::CutOff { at, needed, left }));
        }
        if needed > MAX_HEADER.saturating_sub(at) {
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
        let len = (WINDOW as u64).min(self.file.len() - self.window_end);
        self.window.resize(len as usize, 0);
        self.file.read_at(self.window_end, &mut self.window)?;
        self.window_end += len;
        self.used = 0;
        Ok(())
    }
}
