use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use llm_tensor::HostBytes;

use crate::direct::{DirectFile, copy_at};
use crate::elsewhere::{Origin, RangeFile};
use crate::error::{CheckpointError, HeaderFlaw, TensorFlaw};
use crate::file_state::FileState;
use crate::foreign;
use crate::map::{Mapped, SharedBytes};

/// A file of a checkpoint: read at given offsets, by any number of threads, or mapped as a whole.
pub(crate) struct SourceFile {
    path: PathBuf,
    backing: Backing,
    len: u64,
}

enum Backing {
    /// As it was when it was opened; mapped on first use.
    File(File, FileState, OnceLock<Arc<Mapped>>),
    /// A file's bytes that were in memory already.
    Memory(SharedBytes),
    /// Bytes that are brought as they are read.
    Elsewhere(Arc<dyn RangeFile>),
}

impl SourceFile {
    pub(crate) fn open(path: &Path, origin: Origin<'_>) -> Result<Self, CheckpointError> {
        let io_error = |source| CheckpointError::Io {
            path: path.to_owned(),
            source,
        };
        let file = open_regular(path).map_err(|error| match error {
            NotOpened::Special(what) => CheckpointError::NotAFile {
                path: path.to_owned(),
                what,
            },
            NotOpened::Io(source) => io_error(source),
        })?;
        let state = FileState::of(&file.metadata().map_err(io_error)?);
        let len = state.bytes;
        let file = SourceFile {
            path: path.to_owned(),
            backing: match origin.and_then(|origin| origin.file(path)) {
                Some(bytes) => Backing::Elsewhere(bytes),
                None => Backing::File(file, state, OnceLock::new()),
            },
            len,
        };
        let mut front = [0; LFS_POINTER.len()];
        if len >= front.len() as u64 {
            file.read_at(0, &mut front)?;
        }
        if front == *LFS_POINTER {
            return Err(file.header_error(HeaderFlaw::LfsPointer));
        }
        Ok(file)
    }

    /// Error that names the file's kind, if that is known to be another; else `error`, in which reading it ended.
    pub(crate) fn told(&self, error: CheckpointError) -> CheckpointError {
        match self.foreign() {
            Ok(Some(what)) => CheckpointError::Foreign {
                path: self.path.clone(),
                what,
            },
            Ok(None) if self.len == 0 => self.header_error(HeaderFlaw::Empty),
            Ok(None) | Err(_) => error,
        }
    }

    /// Kind of the file by its first bytes, if it is known to be no checkpoint.
    pub(crate) fn foreign(&self) -> Result<Option<&'static str>, CheckpointError> {
        let mut front = [0; foreign::FRONT];
        let len = self.len.min(front.len() as u64) as usize;
        self.read_at(0, &mut front[..len])?;
        Ok(foreign::by_content(&front[..len]))
    }

    /// The bytes of a file; `origin` stands for its path in messages.
    pub(crate) fn in_memory(origin: &Path, bytes: HostBytes) -> Self {
        SourceFile {
            path: origin.to_owned(),
            len: bytes.len() as u64,
            backing: Backing::Memory(Arc::new(bytes)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that the file had when it was opened.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// As it was when it was opened; `None` for bytes in memory or elsewhere.
    pub(crate) fn state(&self) -> Option<FileState> {
        match &self.backing {
            Backing::File(_, state, _) => Some(*state),
            Backing::Memory(_) | Backing::Elsewhere(_) => None,
        }
    }

    /// True once bytes of its mapping were read that it does not have any more.
    pub(crate) fn is_cut(&self) -> bool {
        match &self.backing {
            Backing::File(_, _, mapping) => mapping.get().is_some_and(|mapped| mapped.is_cut()),
            Backing::Memory(_) | Backing::Elsewhere(_) => false,
        }
    }

    /// True if its bytes are brought from elsewhere.
    pub(crate) fn is_elsewhere(&self) -> bool {
        matches!(self.backing, Backing::Elsewhere(_))
    }

    /// Takes note of ranges that are read next, one after the other.
    pub(crate) fn expect(&self, ranges: &[Range<u64>]) {
        match &self.backing {
            Backing::Elsewhere(bytes) => bytes.expect(ranges),
            Backing::File(..) | Backing::Memory(_) => {}
        }
    }

    /// True if it has been written to since it was opened. One that was renamed over or removed has not.
    pub(crate) fn is_changed(&self) -> Result<bool, CheckpointError> {
        match &self.backing {
            Backing::File(file, state, _) => {
                let metadata = file.metadata().map_err(|source| self.io_error(source))?;
                Ok(FileState::of(&metadata).is_written_since(*state))
            }
            Backing::Memory(_) | Backing::Elsewhere(_) => Ok(false),
        }
    }

    /// Fills `buf` with the bytes from `offset` on.
    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), CheckpointError> {
        let read = match &self.backing {
            Backing::File(file, ..) => file.read_exact_at(buf, offset),
            Backing::Memory(bytes) => copy_at((**bytes).as_ref(), offset, buf),
            Backing::Elsewhere(bytes) => bytes.read_at(offset, buf),
        };
        read.map_err(|source| self.io_error(source))
    }

    /// The whole file, mapped on first use.
    pub(crate) fn mapped(&self) -> Result<SharedBytes, CheckpointError> {
        match &self.backing {
            Backing::Memory(bytes) => Ok(Arc::clone(bytes)),
            Backing::Elsewhere(_) => Err(self.io_error(not_here())),
            Backing::File(file, _, mapping) => {
                if let Some(mapped) = mapping.get() {
                    return Ok(Arc::<Mapped>::clone(mapped));
                }
                let new = Mapped::new(file, self.len).map_err(|source| self.io_error(source))?;
                // When two threads come here at once, one mapping is kept and the other dropped, untouched.
                Ok(Arc::<Mapped>::clone(mapping.get_or_init(|| Arc::new(new))))
            }
        }
    }

    /// The same file, to be read in large pieces.
    pub(crate) fn direct(&self) -> Result<DirectFile, CheckpointError> {
        match &self.backing {
            Backing::File(file, state, _) => DirectFile::of_file(&self.path, file, *state)
                .map_err(|source| self.io_error(source)),
            Backing::Memory(bytes) => {
                let bytes = Arc::clone(bytes);
                Ok(DirectFile::of_memory(&self.path, bytes, self.len))
            }
            Backing::Elsewhere(_) => Err(self.io_error(not_here())),
        }
    }

    pub(crate) fn header_error(&self, flaw: HeaderFlaw) -> CheckpointError {
        CheckpointError::Header {
            path: self.path.clone(),
            flaw,
        }
    }

    pub(crate) fn tensor_error(
        &self,
        tensor: &str,
        flaw: impl Into<TensorFlaw>,
    ) -> CheckpointError {
        CheckpointError::Tensor {
            path: self.path.clone(),
            tensor: tensor.to_owned(),
            flaw: flaw.into(),
        }
    }

    fn io_error(&self, source: io::Error) -> CheckpointError {
        CheckpointError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

impl fmt::Debug for SourceFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceFile({}, {} bytes)", self.path.display(), self.len)
    }
}

/// Error of weights that are to be loaded from a file of which only headers are brought.
fn not_here() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "its bytes lie elsewhere")
}

/// Bytes that a configuration may have, for [`read_small`]: those of sparsely quantized models list every tensor.
pub const MAX_CONFIG: u64 = 64 << 20;

/// The bytes of the file at `path`, which is to have at most `limit`. A pipe, a device or a folder is not waited for.
///
/// # Errors
/// What the operating system answers; [`io::ErrorKind::InvalidInput`] for what is no file, and
/// [`io::ErrorKind::FileTooLarge`].
pub fn read_small(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open_regular(path).map_err(|error| match error {
        NotOpened::Special(what) => io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("it is {what}, not a file"),
        ),
        NotOpened::Io(source) => source,
    })?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let message = format!("it is longer than the {limit} bytes that are allowed");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

enum NotOpened {
    /// Neither a file nor a link to one, but what these words say.
    Special(&'static str),
    Io(io::Error),
}

/// Opens a file, and nothing that would have to be waited for.
fn open_regular(path: &Path) -> Result<File, NotOpened> {
    // Looked at before it is opened: opening a pipe would wait for a writer.
    let kind = path.metadata().map_err(NotOpened::Io)?.file_type();
    if !kind.is_file() {
        return Err(NotOpened::Special(if kind.is_fifo() {
            "a pipe"
        } else if kind.is_socket() {
            "a socket"
        } else if kind.is_dir() {
            "a folder"
        } else {
            "a device"
        }));
    }
    File::open(path).map_err(NotOpened::Io)
}

/// Prefix of the Git LFS pointer in the place of a large file that was not fetched.
const LFS_POINTER: &[u8; 23] = b"version https://git-lfs";
