use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{fs, io};

use llm_tensor::{DType, HostBytes};

use crate::error::CheckpointError;
use crate::metadata::Metadata;
use crate::read::read_elements;
use crate::source::SourceFile;
use crate::tensor::{Contents, Encoding, TensorInfo};
use crate::{gguf, safetensors};

/// An opened checkpoint: every header validated, no tensor bytes held.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    format: Format,
    files: Vec<SourceFile>,
    /// Sorted by name.
    tensors: Vec<TensorInfo>,
    metadata: Metadata,
}

/// The file format of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Hugging Face safetensors, single or sharded.
    Safetensors,
    /// GGML's single-file format.
    Gguf,
}

impl Checkpoint {
    /// Opens a `.safetensors` or `.gguf` file, the `.safetensors.index.json` of a sharded checkpoint, or a folder.
    ///
    /// In a folder `model.safetensors.index.json` comes before `model.safetensors`, then the only `.safetensors`
    /// file, then the only `.gguf` file.
    ///
    /// # Errors
    /// Every variant of [`CheckpointError`] but [`CheckpointError::NoSuchTensor`].
    pub fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
        let metadata = path.metadata().map_err(|source| CheckpointError::Io {
            path: path.to_owned(),
            source,
        })?;
        let path = if metadata.is_dir() {
            find_in_folder(path)?
        } else {
            path.to_owned()
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(INDEX_SUFFIX) {
            let (files, contents) = safetensors::open_sharded(&path)?;
            Ok(Checkpoint::new(path, Format::Safetensors, files, contents))
        } else if name.ends_with(SAFETENSORS_SUFFIX) {
            let file = SourceFile::open(&path)?;
            let contents = safetensors::read_header(&file, 0)?;
            let format = Format::Safetensors;
            Ok(Checkpoint::new(path, format, vec![file], contents))
        } else if name.ends_with(GGUF_SUFFIX) {
            let file = SourceFile::open(&path)?;
            let contents = gguf::read_header(&file)?;
            Ok(Checkpoint::new(path, Format::Gguf, vec![file], contents))
        } else {
            Err(CheckpointError::NotACheckpoint { path })
        }
    }

    /// Opens the bytes of a safetensors file that are in memory already; `origin` stands for its path in messages.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(origin: &Path, bytes: HostBytes) -> Result<Checkpoint, CheckpointError> {
        let file = SourceFile::in_memory(origin, bytes);
        let contents = safetensors::read_header(&file, 0)?;
        let format = Format::Safetensors;
        Ok(Checkpoint::new(
            origin.to_owned(),
            format,
            vec![file],
            contents,
        ))
    }

    fn new(path: PathBuf, format: Format, files: Vec<SourceFile>, contents: Contents) -> Self {
        Checkpoint {
            path,
            format,
            files,
            tensors: contents.tensors,
            metadata: contents.metadata,
        }
    }

    /// The file that was opened: the one given, or the one found in the given folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of that file, where `config.json` and `tokenizer.json` would be.
    pub fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        }
    }

    /// The file format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The files that hold the tensors; [`TensorInfo::file_idx`] counts in this order.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(SourceFile::path)
    }

    /// Every tensor, sorted by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter()
    }

    /// The tensor `name`, if there is one.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        let idx = self
            .tensors
            .binary_search_by(|t| t.name.as_str().cmp(name))
            .ok()?;
        Some(&self.tensors[idx])
    }

    /// What the checkpoint says about itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Reads elements `range` (row-major) of tensor `name` into `out`, as little-endian `dtype`.
    ///
    /// Quantized blocks are decoded, floats converted, anything else only read as it is stored. The range may
    /// begin and end inside a block. Elements that are stored as `dtype` go straight from the file into `out`;
    /// else Rayon's threads convert pieces, each with less than 512 KiB of scratch, whatever the tensor's size.
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchTensor`], [`CheckpointError::Tensor`] when the elements cannot be converted to
    /// `dtype`, [`CheckpointError::Io`].
    ///
    /// # Panics
    /// When the range leaves the tensor, or `out` is not exactly as long as the range's elements.
    pub fn read_into(
        &self,
        name: &str,
        range: Range<u64>,
        dtype: DType,
        out: &mut [u8],
    ) -> Result<(), CheckpointError> {
        let tensor = self.require(name)?;
        let n_elements = tensor.shape.n_elements();
        assert!(
            range.start <= range.end && range.end <= n_elements,
            "range {range:?} leaves the {n_elements} elements of tensor `{name}`"
        );
        assert_eq!(
            Some(out.len() as u64),
            (range.end - range.start).checked_mul(dtype.size() as u64),
            "buffer for elements {range:?} of tensor `{name}` as {dtype}"
        );
        read_elements(&self.files[tensor.file_idx], tensor, range, dtype, out)
    }

    /// The bytes of tensor `name` where they lie in the mapped file, if it is unquantized and begins at an
    /// address that suits its elements; nothing is read before it is touched.
    ///
    /// The crate's documentation says what happens to these bytes when the file changes.
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchTensor`], [`CheckpointError::Io`].
    pub fn view(&self, name: &str) -> Result<Option<HostBytes>, CheckpointError> {
        let tensor = self.require(name)?;
        let Encoding::Plain(dtype) = tensor.encoding else {
            return Ok(None);
        };
        let map = self.files[tensor.file_idx].mapped()?;
        // The whole file is mapped, so its offsets fit `usize`.
        let range = tensor.bytes.start as usize..tensor.bytes.end as usize;
        let bytes = HostBytes::of_shared(map, range);
        let aligned = (bytes.as_ptr() as usize).is_multiple_of(dtype.size());
        Ok(aligned.then_some(bytes))
    }

    fn require(&self, name: &str) -> Result<&TensorInfo, CheckpointError> {
        self.get(name).ok_or_else(|| CheckpointError::NoSuchTensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
        })
    }
}

const INDEX_SUFFIX: &str = ".safetensors.index.json";
const SAFETENSORS_SUFFIX: &str = ".safetensors";
const GGUF_SUFFIX: &str = ".gguf";

fn find_in_folder(folder: &Path) -> Result<PathBuf, CheckpointError> {
    let io_error = |source| CheckpointError::Io {
        path: folder.to_owned(),
        source,
    };
    let mut names = fs::read_dir(folder)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<Vec<String>>>()
        })
        .map_err(io_error)?;
    names.sort_unstable();
    for preferred in ["model.safetensors.index.json", "model.safetensors"] {
        if names.iter().any(|name| name == preferred) {
            return Ok(folder.join(preferred));
        }
    }
    for suffix in [SAFETENSORS_SUFFIX, GGUF_SUFFIX] {
        let mut found: Vec<String> = names
            .iter()
            .filter(|n| n.ends_with(suffix))
            .cloned()
            .collect();
        if found.len() > 1 {
            return Err(CheckpointError::SeveralCheckpoints {
                folder: folder.to_owned(),
                names: found,
            });
        }
        if let Some(only) = found.pop() {
            return Ok(folder.join(only));
        }
    }
    Err(CheckpointError::NoWeights {
        folder: folder.to_owned(),
    })
}

#[cfg(test)]
mod tests;
