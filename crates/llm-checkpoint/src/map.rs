//! The only `unsafe` of this crate: mapping a file into memory.
#![expect(
    unsafe_code,
    reason = "the operating system cannot promise that nobody else changes a mapped file"
)]

use std::fs::File;
use std::io;
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions};

/// Bytes of a whole file, mapped or in memory.
pub(crate) type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Maps the first `len` bytes of `file`, read-only. Nothing is read before it is touched.
///
/// # Errors
/// What the operating system answers, and when the file has fewer than `len` bytes by now.
pub(crate) fn map(file: &File, len: u64) -> io::Result<Mmap> {
    let now = file.metadata()?.len();
    if now < len {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("the file had {len} bytes when it was opened and has {now} now"),
        ));
    }
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
    // SAFETY: the mapping is read-only, `len` bytes lie inside the file (just checked), and every bit pattern is
    // a valid `u8`. That another process changes or shortens the file meanwhile is outside what we can prevent;
    // the crate's documentation says what happens then.
    unsafe { MmapOptions::new().len(len).map(file) }
}
