use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use llm_tensor::{DType, HostBytes};

use crate::direct::DirectFile;
use crate::elsewhere::{Elsewhere, Origin};
use crate::error::CheckpointError;
use crate::file_state::FileState;
use crate::find::{self, Place, TORCH_SUFFIXES};
use crate::format::Format;
use crate::gguf::parts;
use crate::index::ReadHeader;
use crate::metadata::Metadata;
use crate::notice::Notice;
use crate::read::read_elements;
use crate::shard::STAGING;
use crate::source::SourceFile;
use crate::tensor::{Encoding, Layout, TensorInfo};
use crate::{adapter, gguf, index, safetensors, torch};

/// An opened checkpoint: every header validated, no tensor bytes held.
///
/// ```
/// use llm_checkpoint::Checkpoint;
/// use llm_tensor::DType;
///
/// # let model = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models/llama");
/// let checkpoint = Checkpoint::open(&model)?;
/// let norm = checkpoint.get("model.norm.weight").expect("a Llama's norm");
/// let n_elements = norm.shape.n_elements();
///
/// let mut bytes = vec![0; n_elements as usize * DType::F32.size()];
/// checkpoint.read_into(&norm.name, 0..n_elements, DType::F32, &mut bytes)?;
/// # Ok::<(), llm_checkpoint::CheckpointError>(())
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    format: Format,
    files: Vec<SourceFile>,
    /// Sorted by name.
    tensors: Vec<TensorInfo>,
    metadata: Metadata,
    notices: Vec<Notice>,
}

impl Checkpoint {
    /// Opens a safetensors, PyTorch or GGUF file, the `.index.json` of a sharded checkpoint, or a folder.
    ///
    /// A file is what its suffix `.safetensors` or `.gguf` says, else what it begins like. In a folder
    /// `model.safetensors` comes before `model.safetensors.index.json`, then the only `.safetensors` file or set of
    /// shards, `pytorch_model.bin`, `pytorch_model.bin.index.json`, the only PyTorch file or set that is called `.bin`,
    /// `.pt` or `.pth` and not as trainers call their own state, and the only `.gguf` file or set.
    ///
    /// # Errors
    /// Every variant of [`CheckpointError`] but [`CheckpointError::NoSuchTensor`].
    pub fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
        Self::open_with(path, None)
    }

    /// Opens one of whose files `origin` may have the bytes: only headers are brought of these, and no weights loaded.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_with(
        path: &Path,
        origin: Option<&dyn Elsewhere>,
    ) -> Result<Checkpoint, CheckpointError> {
        let metadata = path.metadata().map_err(|source| CheckpointError::Io {
            path: path.to_owned(),
            source,
        })?;
        if path.file_name().is_some_and(|name| name == STAGING) {
            return Err(CheckpointError::Unfinished {
                path: path.to_owned(),
            });
        }
        if !metadata.is_dir() {
            return Self::open_place(file_place(path.to_owned()), origin);
        }
        let found = find::in_folder(path, origin)?;
        let mut checkpoint = Self::open_place(found.place, origin)?;
        checkpoint.notices.splice(0..0, found.notices);
        checkpoint.tell_of(found.rivals, path, origin);
        Ok(checkpoint)
    }

    /// Error of a folder without a model's configuration that holds an adapter.
    pub fn adapter_in(folder: &Path) -> Option<CheckpointError> {
        let is_adapter = folder.join(adapter::CONFIG).exists();
        is_adapter.then(|| adapter::error(folder))
    }

    fn open_place(place: Place, origin: Origin<'_>) -> Result<Checkpoint, CheckpointError> {
        let path = place.path().to_owned();
        let (format, (files, contents, notices)) = match place {
            Place::Index(path, format) => {
                let read_header = format.header_reader();
                (format, index::open_sharded(&path, read_header, origin)?)
            }
            Place::Shards(paths, format) => {
                let read_header = format.header_reader();
                let read_part = |file: &SourceFile, idx| {
                    let contents = read_header(file, idx)?;
                    if format == Format::Gguf {
                        parts::check_part(file, &contents.metadata, idx, paths.len())?;
                    }
                    Ok(contents)
                };
                let (files, contents) = index::open_shards(&paths, &path, &read_part, origin)?;
                if format == Format::Gguf {
                    parts::check_whole(&files[0], &contents)?;
                }
                (format, (files, contents, Vec::new()))
            }
            Place::File(path) => {
                let file = SourceFile::open(&path, origin)?;
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let Some(format) = format_of(&file, &name)? else {
                    return Err(file.told(CheckpointError::NotACheckpoint { path }));
                };
                return Checkpoint::of_file(file, format, origin);
            }
        };
        Ok(Checkpoint {
            path,
            format,
            files,
            tensors: contents.tensors,
            metadata: contents.metadata,
            notices,
        })
    }

    /// Opens the bytes of a file that are in memory already, as what they begin like; `origin` stands for its path
    /// in messages.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(origin: &Path, bytes: HostBytes) -> Result<Checkpoint, CheckpointError> {
        let file = SourceFile::in_memory(origin, bytes);
        let format = format_by_content(&file)?.unwrap_or(Format::Safetensors);
        Checkpoint::of_file(file, format, None)
    }

    fn of_file(
        file: SourceFile,
        format: Format,
        origin: Origin<'_>,
    ) -> Result<Checkpoint, CheckpointError> {
        let contents = format.header_reader()(&file, 0).map_err(|error| file.told(error))?;
        if format == Format::Gguf
            && let Some(parts) = parts::all_parts(&file, &contents.metadata)?
        {
            return Self::open_place(Place::Shards(parts, Format::Gguf), origin);
        }
        Ok(Checkpoint {
            path: file.path().to_owned(),
            format,
            files: vec![file],
            tensors: contents.tensors,
            metadata: contents.metadata,
            notices: Vec::new(),
        })
    }

    /// Says which weights of other formats the folder holds, unless they are the same model's by their headers.
    fn tell_of(&mut self, rivals: Vec<Place>, folder: &Path, origin: Origin<'_>) {
        let is_other = |rival: &Place| match rival {
            Place::Shards(_, Format::Gguf) => true,
            Place::File(path) if path.extension().is_some_and(|ext| ext == "gguf") => true,
            // One that does not open is no choice that anyone could have meant.
            _ => {
                let opened = Self::open_place(rival.clone(), origin);
                opened.is_ok_and(|other| !self.has_tensors_of(&other))
            }
        };
        let name = |path: &Path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        let others = rivals.iter().filter(|rival| is_other(rival));
        let others: Vec<String> = others.map(|rival| name(rival.path())).collect();
        let is_before =
            |other: &String| self.format == Format::Torch && other.ends_with(".safetensors");
        let why = if others.iter().any(is_before) {
            "as transformers does"
        } else {
            "safetensors come before PyTorch's files, and these before GGUF"
        };
        if !others.is_empty() {
            self.notices.push(Notice::PassedOver {
                folder: folder.to_owned(),
                taken: name(&self.path),
                others,
                why,
            });
        }
    }

    /// True if every tensor of `other` is here in the same shape, or shares its bytes with one that is.
    fn has_tensors_of(&self, other: &Checkpoint) -> bool {
        let has = |tensor: &TensorInfo| {
            let own = self.get(&tensor.name);
            own.is_some_and(|own| own.shape == tensor.shape)
        };
        let places: HashSet<_> = other
            .tensors()
            .filter(|tensor| has(tensor))
            .map(|tensor| (tensor.file_idx, tensor.bytes.start))
            .collect();
        other
            .tensors()
            .all(|tensor| places.contains(&(tensor.file_idx, tensor.bytes.start)))
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

    pub(crate) fn sources(&self) -> &[SourceFile] {
        &self.files
    }

    /// A file of the tensors', [`TensorInfo::file_idx`] being its number, to be read in large pieces.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    ///
    /// # Panics
    /// When there is no such file.
    pub fn direct_file(&self, file_idx: usize) -> Result<DirectFile, CheckpointError> {
        self.files[file_idx].direct()
    }

    /// These files as they were when they were opened; `None` for bytes that were in memory.
    pub fn file_states(&self) -> impl ExactSizeIterator<Item = Option<FileState>> {
        self.files.iter().map(SourceFile::state)
    }

    /// A file that has been written to since it was opened: what was read of it may be neither old nor new.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn changed_file(&self) -> Result<Option<&Path>, CheckpointError> {
        for file in &self.files {
            if file.is_changed()? {
                return Ok(Some(file.path()));
            }
        }
        Ok(None)
    }

    /// A file that was shortened, or could not be read, while its mapped bytes were in use: zeros were read in their place, and
    /// what was computed with them is worth nothing.
    pub fn cut_file(&self) -> Option<&Path> {
        let cut = self.files.iter().find(|file| file.is_cut());
        cut.map(SourceFile::path)
    }

    /// True if a file's bytes lie elsewhere: nothing but headers is to be read of it.
    pub fn is_elsewhere(&self) -> bool {
        self.files.iter().any(SourceFile::is_elsewhere)
    }

    /// Every tensor, sorted by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> + Clone {
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

    /// Metadata that the checkpoint holds.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Notices for whoever uses it, in the order of importance.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// Reads elements `range` (row-major) of tensor `name` into `out`, as little-endian `dtype`.
    ///
    /// Quantized blocks are decoded, floats converted, anything else only read as it is stored. The range may
    /// begin and end inside a block. Elements that are stored as `dtype`, one after the other, go straight from the
    /// file into `out`; else Rayon's threads convert pieces, each with less than 512 KiB of scratch (2.5 MiB for
    /// [`Layout::Strided`]), whatever the tensor's size.
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
        self.read_tensor(self.require(name)?, range, dtype, out)
    }

    /// The same of `tensor`, one of this checkpoint's or a part of one ([`TensorInfo::of_stack`]).
    ///
    /// # Errors
    /// As [`Checkpoint::read_into`].
    ///
    /// # Panics
    /// As [`Checkpoint::read_into`].
    pub fn read_tensor(
        &self,
        tensor: &TensorInfo,
        range: Range<u64>,
        dtype: DType,
        out: &mut [u8],
    ) -> Result<(), CheckpointError> {
        let (name, n_elements) = (&tensor.name, tensor.shape.n_elements());
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

    /// Reads stored bytes `range` of tensor `name` into `out`, whatever they mean: elements or blocks one after the other,
    /// row-major. Of [`Layout::Strided`] the range must be of whole elements.
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchTensor`], [`CheckpointError::Io`].
    ///
    /// # Panics
    /// When the range leaves the tensor, or `out` is not exactly as long.
    pub fn read_stored(
        &self,
        name: &str,
        range: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), CheckpointError> {
        self.read_stored_tensor(self.require(name)?, range, out)
    }

    /// The same of `tensor`, one of this checkpoint's or a part of one ([`TensorInfo::of_stack`]).
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    ///
    /// # Panics
    /// As [`Checkpoint::read_stored`].
    pub fn read_stored_tensor(
        &self,
        tensor: &TensorInfo,
        range: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), CheckpointError> {
        let name = &tensor.name;
        if let (Layout::Strided(_), Encoding::Plain(dtype)) = (&tensor.layout, tensor.encoding) {
            let size = dtype.size() as u64;
            return self.read_tensor(tensor, range.start / size..range.end / size, dtype, out);
        }
        assert!(
            range.start <= range.end && range.end <= tensor.bytes.end - tensor.bytes.start,
            "range {range:?} leaves the bytes of tensor `{name}`"
        );
        assert_eq!(out.len() as u64, range.end - range.start, "tensor `{name}`");
        let offset = tensor.bytes.start + range.start;
        self.files[tensor.file_idx].read_at(offset, out)
    }

    /// The bytes of tensor `name` where they lie in the mapped file, if it is unquantized, without gaps and begins
    /// at an address that suits its elements; nothing is read before it is touched.
    ///
    /// The crate's documentation says what happens to these bytes when the file changes.
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchTensor`], [`CheckpointError::Io`].
    pub fn view(&self, name: &str) -> Result<Option<HostBytes>, CheckpointError> {
        self.view_tensor(self.require(name)?)
    }

    /// The same of `tensor`, one of this checkpoint's or a part of one ([`TensorInfo::of_stack`]).
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn view_tensor(&self, tensor: &TensorInfo) -> Result<Option<HostBytes>, CheckpointError> {
        match tensor.encoding {
            Encoding::Plain(_) => self.view_stored(tensor),
            Encoding::Block(_) | Encoding::Opaque(_) => Ok(None),
        }
    }

    /// The same of `tensor` as it is stored: blocks, too, which suit any address.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn view_stored(&self, tensor: &TensorInfo) -> Result<Option<HostBytes>, CheckpointError> {
        let align = match (tensor.encoding, &tensor.layout) {
            (Encoding::Plain(dtype), Layout::RowMajor) => dtype.size(),
            // Their numbers are read byte by byte.
            (Encoding::Block(_), Layout::RowMajor) => 1,
            (Encoding::Opaque(_), _) | (_, Layout::Strided(_)) => return Ok(None),
        };
        let map = self.files[tensor.file_idx].mapped()?;
        // The whole file is mapped, so its offsets fit `usize`.
        let range = tensor.bytes.start as usize..tensor.bytes.end as usize;
        let bytes = HostBytes::of_shared(map, range);
        let aligned = (bytes.as_ptr() as usize).is_multiple_of(align);
        Ok(aligned.then_some(bytes))
    }

    /// One of them.
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchTensor`].
    pub fn require(&self, name: &str) -> Result<&TensorInfo, CheckpointError> {
        self.get(name).ok_or_else(|| CheckpointError::NoSuchTensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
        })
    }
}

impl Format {
    fn header_reader(self) -> ReadHeader {
        match self {
            Format::Safetensors => safetensors::read_header,
            Format::Gguf => gguf::read_header,
            Format::Torch => torch::read_header,
        }
    }
}

/// Suffixes of indices' names, and formats of their shards.
const INDEX_SUFFIXES: [(&str, Format); 2] = [
    (".safetensors.index.json", Format::Safetensors),
    (".bin.index.json", Format::Torch),
];

/// The format of a file called `name`.
fn format_of(file: &SourceFile, name: &str) -> Result<Option<Format>, CheckpointError> {
    if name.ends_with(".safetensors") {
        return Ok(Some(Format::Safetensors));
    }
    if name.ends_with(".gguf") {
        return Ok(Some(Format::Gguf));
    }
    let found = format_by_content(file)?;
    let is_torch = TORCH_SUFFIXES.iter().any(|suffix| name.ends_with(suffix));
    Ok(found.or(is_torch.then_some(Format::Torch)))
}

/// The format of a file that begins like none of the others.
fn format_by_content(file: &SourceFile) -> Result<Option<Format>, CheckpointError> {
    Ok(if gguf::is_gguf(file)? {
        Some(Format::Gguf)
    } else if torch::is_torch(file)? {
        Some(Format::Torch)
    } else {
        safetensors::is_safetensors(file)?.then_some(Format::Safetensors)
    })
}

/// Place of a named file.
fn file_place(path: PathBuf) -> Place {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match INDEX_SUFFIXES
        .iter()
        .find(|(suffix, _)| name.ends_with(suffix))
    {
        Some((_, format)) => Place::Index(path, *format),
        None => Place::File(path),
    }
}

#[cfg(test)]
pub(crate) mod tests;
