//! Files whose bytes lie elsewhere, such as on a hub, and are brought where a header is read.

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Files whose bytes lie elsewhere. In their place, at their paths, are files of the same lengths, whose bytes nobody reads.
pub trait Elsewhere: Debug {
    /// The bytes of the file at `path`; `None` where they lie there.
    fn file(&self, path: &Path) -> Option<Arc<dyn RangeFile>>;
}

/// Bytes of a file that are brought range by range.
pub trait RangeFile: Send + Sync {
    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// When they cannot be brought, or the file ends before.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Takes note that these ranges are read next, one after the other: they may be brought at a time.
    fn expect(&self, _ranges: &[Range<u64>]) {}
}

/// Where files have their bytes: at their paths, or elsewhere.
pub(crate) type Origin<'a> = Option<&'a dyn Elsewhere>;
