use crate::torch::{PickleFlaw, ZipFlaw};

/// Flaw of a file's header as a whole.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderFlaw {
    /// Git LFS pointer in the place of a large file.
    #[error("this is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")]
    LfsPointer,
    /// Nothing at all.
    #[error("the file is empty; it was not downloaded, or the disk was full")]
    Empty,
    /// Not even the length of a safetensors header.
    #[error(
        "{len} bytes are too few for a safetensors file, which begins with the 8-byte length of its header"
    )]
    NoLength {
        /// Bytes of the file.
        len: u64,
    },
    /// A header beyond what any model needs.
    #[error("the header is longer than the {limit} bytes that are allowed")]
    TooLong {
        /// Bytes allowed.
        limit: u64,
    },
    /// The file ends inside its header.
    #[error(
        "the header claims {needed} bytes at offset {at}, but only {left} are left; the file is damaged or was not downloaded completely"
    )]
    CutOff {
        /// File offset.
        at: u64,
        /// Bytes that something there takes by the header's word.
        needed: u64,
        /// Bytes that the file has from there on.
        left: u64,
    },
    /// A safetensors header that is not the JSON it should be.
    #[error("the header is not valid: {reason}")]
    Json {
        /// The parser's words.
        reason: String,
    },
    /// Bytes of a safetensors file that belong to no tensor.
    #[error(
        "bytes {start}..{end} of the tensor data belong to no tensor, but the format allows no gaps"
    )]
    Gap {
        /// First such byte, counted from the end of the header.
        start: u64,
        /// The byte after the last.
        end: u64,
    },
    /// A GGUF file that does not begin with `GGUF`.
    #[error("the file does not begin with `GGUF`")]
    NotGguf,
    /// GGUF of a big-endian machine.
    #[error(
        "the file is big-endian; convert it to little-endian with `gguf-convert-endian` of the gguf Python package"
    )]
    BigEndian,
    /// A version of GGUF that we do not know.
    #[error("GGUF version {found} is not supported, only 2 and 3 are")]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// One part of a GGUF file that was split, with a name that does not say where the others are.
    #[error(
        "the file is part {number} of {n_parts} of a split model; for the others to be found its name must end in `-{number:05}-of-{n_parts:05}.gguf`"
    )]
    PartName {
        /// Its number, counted from 1.
        number: u64,
        /// Parts in all.
        n_parts: u64,
    },
    /// A part of a split GGUF file that does not belong to the others.
    #[error(
        "metadata key `{key}` is {found}, expected {expected} by the names of the model's parts"
    )]
    Part {
        /// The key.
        key: &'static str,
        /// Value expected.
        expected: u64,
        /// Value found.
        found: String,
    },
    /// A split GGUF file whose parts hold another number of tensors than the first one says.
    #[error(
        "the model's parts hold {found} tensors together, but `split.tensors.count` is {expected}"
    )]
    PartsTensors {
        /// The number in the metadata.
        expected: u64,
        /// Tensors that are there.
        found: u64,
    },
    /// A metadata key, tensor name or string that is not UTF-8.
    #[error("the text at offset {at} is not UTF-8")]
    NotText {
        /// Offset at which it begins.
        at: u64,
    },
    /// A metadata key that is there twice.
    #[error("metadata key `{key}` appears twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A metadata value of a type that GGUF does not define.
    #[error("metadata key `{key}` has the unknown value type {found}")]
    ValueType {
        /// The key.
        key: String,
        /// The type's number.
        found: u32,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("metadata key `{key}` has the boolean {found}, expected 0 or 1")]
    NotABool {
        /// The key.
        key: String,
        /// The byte found.
        found: u8,
    },
    /// Arrays in arrays in arrays.
    #[error("metadata key `{key}` nests arrays more than {limit} deep")]
    Nesting {
        /// The key.
        key: String,
        /// Levels allowed.
        limit: u32,
    },
    /// A metadata value of another type than its key demands.
    #[error("metadata key `{key}` is not a {expected}")]
    WrongType {
        /// The key.
        key: &'static str,
        /// The type that it should have.
        expected: &'static str,
    },
    /// A zip archive that is not what PyTorch writes.
    #[error(transparent)]
    Zip(#[from] ZipFlaw),
    /// A pickle that is not what PyTorch writes.
    #[error("the pickle at offset {at}: {flaw}")]
    Pickle {
        /// The instruction's place in the file.
        at: u64,
        /// Defect found.
        flaw: PickleFlaw,
    },
    /// A file that does not begin as PyTorch's do.
    #[error("the file is neither a zip archive nor one of PyTorch's older files")]
    NotTorch,
    /// A PyTorch file of a big-endian machine, or one that does not say.
    #[error("the file does not say that it is little-endian, as it must be")]
    ByteOrder,
    /// The older PyTorch format in another version.
    #[error("the file is not of version {expected} of PyTorch's older format")]
    LegacyVersion {
        /// The version that exists.
        expected: i128,
    },
    /// A list of storages that is not the list of those that tensors use.
    #[error("the list of storages is not valid: {reason}")]
    StorageList {
        /// Defect of the list.
        reason: &'static str,
    },
    /// A storage of another length than the tensors say.
    #[error("storage `{}` has {found} bytes, expected {expected}", key.escape_debug())]
    StorageLength {
        /// The storage's key.
        key: String,
        /// Bytes by the description of its tensors.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// A PyTorch file of something else.
    #[error("the file holds {found}, not a state dict")]
    NotAStateDict {
        /// Its content.
        found: &'static str,
    },
    /// A PyTorch file without weights.
    #[error("the file holds no tensors, neither directly nor under {keys}")]
    NoTensors {
        /// Keys that were searched.
        keys: String,
    },
    /// An impossible `general.alignment`.
    #[error("metadata key `general.alignment` is {found}, expected a power of two")]
    Alignment {
        /// The value found.
        found: u32,
    },
}
