//! Reading a file over and over, in large pieces and past the page cache.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use llm_tensor::PageBuf;
use rustix::fs::{Advice, OFlags, fadvise};

use crate::CheckpointError;
use crate::file_state::FileState;
use crate::map::SharedBytes;

/// A checkpoint's file, kept open to be read in large pieces straight from the device: what is read once a token must
/// not push everything else out of memory.
///
/// On a file system with `O_DIRECT` the bytes go from the device into the buffer. Elsewhere they come through the
/// page cache, which is told to forget them.
pub struct DirectFile {
    path: PathBuf,
    backing: Backing,
    len: u64,
    /// Of what can change.
    state: Option<FileState>,
}

enum Backing {
    File {
        file: File,
        /// The same file, opened past the page cache; not used any more once the file system has refused a read.
        direct: Option<(File, AtomicBool)>,
    },
    /// A file's bytes that were in memory already.
    Memory(SharedBytes),
}

impl DirectFile {
    /// Alignment of offsets, lengths and addresses of [`DirectFile::read_pages`]: as large as any device's sectors.
    pub const PAGE: usize = PageBuf::PAGE;

    pub(crate) fn of_file(path: &Path, file: &File, state: FileState) -> io::Result<Self> {
        // By its descriptor: another file may have taken the path meanwhile.
        let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::DIRECT.bits().cast_signed();
        let direct = File::options()
            .read(true)
            .custom_flags(flags)
            .open(itself)
            .ok();
        let file = file.try_clone()?;
        Ok(DirectFile {
            path: path.to_owned(),
            state: Some(state),
            backing: Backing::File {
                file,
                direct: direct.map(|direct| (direct, AtomicBool::new(true))),
            },
            len: state.bytes,
        })
    }

    pub(crate) fn of_memory(path: &Path, bytes: SharedBytes, len: u64) -> Self {
        DirectFile {
            path: path.to_owned(),
            backing: Backing::Memory(bytes),
            len,
            state: None,
        }
    }

    /// Path at which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that it had when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True if it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// True if nobody has written to it since it was opened, as far as its length and its time of change tell.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn is_as_opened(&self) -> Result<bool, CheckpointError> {
        let (Backing::File { file, .. }, Some(then)) = (&self.backing, self.state) else {
            return Ok(true);
        };
        let now = file.metadata().map_err(|source| self.io_error(source))?;
        Ok(!FileState::of(&now).is_written_since(then))
    }

    /// True if it is read past the page cache.
    pub fn is_direct(&self) -> bool {
        match &self.backing {
            Backing::File { direct, .. } => direct
                .as_ref()
                .is_some_and(|(_, is_taken)| is_taken.load(Ordering::Relaxed)),
            Backing::Memory(_) => false,
        }
    }

    /// Fills `pages` with what is at `offset`, up to the file's end; what is beyond it stays as it is.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], also when the file has become shorter.
    ///
    /// # Panics
    /// When the offset, the length or the address of `pages` is no multiple of [`DirectFile::PAGE`].
    pub fn read_pages(&self, offset: u64, pages: &mut [u8]) -> Result<(), CheckpointError> {
        let is_whole = |n: u64| n.is_multiple_of(Self::PAGE as u64);
        assert!(
            is_whole(offset) && is_whole(pages.len() as u64) && is_whole(pages.as_ptr() as u64),
            "{} bytes from {offset} on into {:p} are not whole pages",
            pages.len(),
            pages.as_ptr()
        );
        let there = self.len.saturating_sub(offset).min(pages.len() as u64) as usize;
        if let Backing::File {
            direct: Some((direct, is_taken)),
            ..
        } = &self.backing
            && is_taken.load(Ordering::Relaxed)
        {
            match read_to_end(direct, offset, pages, there) {
                Ok(()) => return Ok(()),
                // Some file systems take the flag and refuse the read.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    is_taken.store(false, Ordering::Relaxed);
                }
                Err(error) => return Err(self.io_error(error)),
            }
        }
        self.read_at(offset, &mut pages[..there])?;
        if let Backing::File { file, .. } = &self.backing {
            // Advice that is not taken costs memory that the kernel can take back.
            let len = std::num::NonZeroU64::new(pages.len() as u64);
            let _ = fadvise(file, offset, len, Advice::DontNeed);
        }
        Ok(())
    }

    /// Fills `buf` with what is at `offset`, by way of the page cache.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], also when the file does not reach that far.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), CheckpointError> {
        let read = match &self.backing {
            Backing::File { file, .. } => file.read_exact_at(buf, offset),
            Backing::Memory(bytes) => copy_at((**bytes).as_ref(), offset, buf),
        };
        read.map_err(|source| self.io_error(source))
    }

    fn io_error(&self, source: io::Error) -> CheckpointError {
        CheckpointError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

impl fmt::Debug for DirectFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirectFile({}, {} bytes)", self.path.display(), self.len)
    }
}

/// Reads `pages` from `offset` on until `wanted` bytes are there; a direct read of a file's end comes out short.
fn read_to_end(file: &File, offset: u64, pages: &mut [u8], wanted: usize) -> io::Result<()> {
    let mut n_read = 0;
    while n_read < wanted {
        match file.read_at(&mut pages[n_read..], offset + n_read as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => n_read += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills `buf` with what `bytes` has at `offset`.
pub(crate) fn copy_at(bytes: &[u8], offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let from = usize::try_from(offset).ok();
    let rest = from.and_then(|from| bytes.get(from..));
    match rest.and_then(|rest| rest.get(..buf.len())) {
        Some(found) => {
            buf.copy_from_slice(found);
            Ok(())
        }
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use llm_tensor::HostBytes;

    use super::*;
    use crate::source::SourceFile;

    const PAGE: usize = DirectFile::PAGE;

    fn contents(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    fn on_disk(len: usize) -> (tempfile::NamedTempFile, DirectFile) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&contents(len)).unwrap();
        let direct = SourceFile::open(file.path(), None)
            .unwrap()
            .direct()
            .unwrap();
        (file, direct)
    }

    #[test]
    fn pages_are_read_up_to_the_end() {
        let len = 3 * PAGE + 17;
        let (_file, on_disk) = on_disk(len);
        let in_memory = SourceFile::in_memory(Path::new("x"), HostBytes::new(contents(len)));
        for file in [on_disk, in_memory.direct().unwrap()] {
            for (first, n_pages) in [(0, 1), (1, 3), (3, 1), (0, 4)] {
                let mut buf = PageBuf::zeroed(n_pages * PAGE).unwrap();
                file.read_pages((first * PAGE) as u64, &mut buf).unwrap();
                let there = (len - first * PAGE).min(n_pages * PAGE);
                assert!(buf[..there] == contents(len)[first * PAGE..][..there]);
            }
            let mut few = [0; 5];
            file.read_at(4094, &mut few).unwrap();
            assert_eq!(few, contents(len)[4094..4099]);
        }
    }

    #[test]
    fn a_file_that_became_shorter_is_an_error() {
        let (file, direct) = on_disk(2 * PAGE);
        file.as_file().set_len(PAGE as u64).unwrap();
        let mut buf = PageBuf::zeroed(2 * PAGE).unwrap();
        let error = direct.read_pages(0, &mut buf).unwrap_err();
        let CheckpointError::Io { path, source } = error else {
            panic!("{error}")
        };
        assert_eq!(source.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(path, file.path());
        assert!(direct.read_at(PAGE as u64, &mut [0]).is_err());
        assert!(!direct.is_as_opened().unwrap());
    }

    #[test]
    fn writing_to_a_file_is_noticed() {
        let (file, direct) = on_disk(PAGE);
        assert!(direct.is_as_opened().unwrap());
        let at = std::time::SystemTime::UNIX_EPOCH;
        file.as_file().set_modified(at).unwrap();
        assert!(!direct.is_as_opened().unwrap());
    }

    /// Another file under the same name is not the one that was opened.
    #[test]
    fn the_opened_file_is_read_whatever_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&path, contents(PAGE)).unwrap();
        std::fs::write(&other, vec![1; PAGE]).unwrap();
        let source = SourceFile::open(&path, None).unwrap();
        std::fs::rename(&other, &path).unwrap();
        let mut buf = PageBuf::zeroed(PAGE).unwrap();
        source.direct().unwrap().read_pages(0, &mut buf).unwrap();
        assert!(*buf == *contents(PAGE));
    }
}
