//! Writing safetensors, as a stream.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use llm_tensor::{Bytes, DType, Shape};
use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use crate::error::{CheckpointError, HeaderFlaw, TensorFlaw};
use crate::opaque::Opaques;
use crate::safetensors::{MAX_HEADER, dtype_name};

/// A tensor that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTensor {
    /// Its name, unique in the file.
    pub name: String,
    /// The type of its elements.
    pub dtype: DType,
    /// The extents, outermost first.
    pub shape: Shape,
}

impl NewTensor {
    /// Its size.
    ///
    /// # Panics
    /// When 64 bits cannot count it.
    pub fn bytes(&self) -> Bytes {
        let bytes = self.shape.bytes(self.dtype);
        bytes.expect("a tensor to be written has a size that 64 bits can count")
    }
}

/// Writes one safetensors file without holding it: first the header, then the tensors' bytes as they come.
///
/// The bytes go to a temporary file in the same folder that takes the place of `path` when [`finish`] has seen all
/// of them. Until then whatever is at `path` stays as it is; dropped before that, the writer leaves nothing behind.
///
/// [`finish`]: SafetensorsWriter::finish
#[derive(Debug)]
pub struct SafetensorsWriter {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
    /// Bytes of tensors that have not come yet.
    missing: u64,
}

impl SafetensorsWriter {
    /// Writes the header of a file that is to hold `tensors`, in this order and without gaps. `metadata` becomes
    /// the header's `__metadata__`; empty, it is left out.
    ///
    /// The tensors' bytes begin at a multiple of 8. Tensors of several element types should therefore come widest
    /// first, so that each begins where its elements can be read in place.
    ///
    /// # Errors
    /// [`CheckpointError::Tensor`] when a name appears twice or means metadata, or when 64 bits cannot count
    /// its bytes, [`CheckpointError::Header`] when the header becomes longer than readers accept,
    /// [`CheckpointError::Write`].
    ///
    /// # Panics
    /// When 64 bits cannot count the bytes of all tensors together.
    pub fn create(
        path: &Path,
        tensors: &[NewTensor],
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self, CheckpointError> {
        let (header, missing) = header(path, tensors, metadata)?;
        let start = || {
            let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
            let file = tempfile::Builder::new()
                .prefix(&format!(".{}.", name.to_string_lossy()))
                .suffix(".partial")
                // As for any new file: what the process's umask leaves of it.
                .permissions(Permissions::from_mode(0o666))
                .tempfile_in(folder_of(path))?;
            let mut file = BufWriter::new(file);
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(&header)?;
            Ok(file)
        };
        match start() {
            Ok(file) => Ok(SafetensorsWriter {
                path: path.to_owned(),
                file,
                missing: missing.get(),
            }),
            Err(source) => Err(write_error(path, source)),
        }
    }

    /// Appends little-endian elements. A call may end inside a tensor, or begin in one and end in the next.
    ///
    /// # Errors
    /// [`CheckpointError::Write`].
    ///
    /// # Panics
    /// When these are more bytes than the tensors have left.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        let n_bytes = bytes.len() as u64;
        assert!(
            n_bytes <= self.missing,
            "{n_bytes} bytes for {}, whose tensors have only {} left",
            self.path.display(),
            self.missing
        );
        self.missing -= n_bytes;
        self.file
            .write_all(bytes)
            .map_err(|source| write_error(&self.path, source))
    }

    /// Makes the file durable and puts it in its place.
    ///
    /// # Errors
    /// [`CheckpointError::Write`].
    ///
    /// # Panics
    /// When bytes of the tensors are missing.
    pub fn finish(self) -> Result<(), CheckpointError> {
        let SafetensorsWriter {
            path,
            file,
            missing,
        } = self;
        assert_eq!(missing, 0, "bytes that {} still lacks", path.display());
        let place = || {
            let file = file.into_inner().map_err(|error| error.into_error())?;
            // Before the rename: else a crash could leave the name with a file that is not all there.
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            File::open(folder_of(&path))?.sync_all()
        };
        place().map_err(|source| write_error(&path, source))
    }
}

/// The header of a safetensors file that is to hold `tensors` in this order, padded with blanks to a multiple of 8, and
/// the number of the tensors' bytes that follow it. In the file, its length stands before it as 8 little-endian bytes;
/// readers do not mind more blanks. `path` is what messages call the file.
///
/// # Errors
/// [`CheckpointError::Tensor`] when a name appears twice or means metadata, or when 64 bits cannot count its bytes,
/// [`CheckpointError::Header`] when the header becomes longer than readers accept.
///
/// # Panics
/// When 64 bits cannot count the bytes of all tensors together.
pub fn header(
    path: &Path,
    tensors: &[NewTensor],
    metadata: &BTreeMap<String, String>,
) -> Result<(Vec<u8>, Bytes), CheckpointError> {
    header_of(path, tensors, &Opaques::new(), metadata)
}

/// As [`header`], with the types and shapes of tensors that `tensors` has as bytes.
pub(crate) fn header_of(
    path: &Path,
    tensors: &[NewTensor],
    opaque: &Opaques,
    metadata: &BTreeMap<String, String>,
) -> Result<(Vec<u8>, Bytes), CheckpointError> {
    let mut entries = Map::new();
    if !metadata.is_empty() {
        entries.insert(METADATA_KEY.to_owned(), json!(metadata));
    }
    let mut len = Bytes::ZERO;
    for tensor in tensors {
        len = add_entry(&mut entries, tensor, opaque, len).map_err(|flaw| {
            CheckpointError::Tensor {
                path: path.to_owned(),
                tensor: tensor.name.clone(),
                flaw,
            }
        })?;
    }
    let mut header = Value::Object(entries).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(HEADER_ALIGNMENT), b' ');
    if header.len() as u64 > MAX_HEADER {
        return Err(CheckpointError::Header {
            path: path.to_owned(),
            flaw: HeaderFlaw::TooLong { limit: MAX_HEADER },
        });
    }
    Ok((header, len))
}

/// Adds the entry of a tensor whose bytes begin at `start` of the tensor data; returns where they end.
fn add_entry(
    entries: &mut Map<String, Value>,
    tensor: &NewTensor,
    opaque: &Opaques,
    start: Bytes,
) -> Result<Bytes, TensorFlaw> {
    if tensor.name == METADATA_KEY {
        return Err(TensorFlaw::ReservedName);
    }
    let NewTensor { name, dtype, shape } = tensor;
    let end = start + shape.bytes(*dtype)?;
    let (dtype, shape) = match opaque.get(name) {
        Some((opaque, shape)) => (opaque.name(), shape),
        None => (dtype_name(*dtype), shape),
    };
    let entry = json!({
        "dtype": dtype,
        "shape": shape.to_vec(),
        "data_offsets": [start.get(), end.get()],
    });
    match entries.insert(name.clone(), entry) {
        None => Ok(end),
        Some(_) => Err(TensorFlaw::Duplicate),
    }
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

pub(crate) fn write_error(path: &Path, source: io::Error) -> CheckpointError {
    CheckpointError::Write {
        path: path.to_owned(),
        source,
    }
}

/// The key of a header under which there is no tensor.
pub(crate) const METADATA_KEY: &str = "__metadata__";

/// Alignment of the tensors' bytes: the widest element, so that a mapped file can be used in place.
const HEADER_ALIGNMENT: usize = 8;

#[cfg(test)]
mod tests;
