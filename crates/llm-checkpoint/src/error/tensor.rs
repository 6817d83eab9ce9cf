use llm_tensor::{Shape, TensorError};

/// Flaw of one tensor.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorFlaw {
    /// An entry of a safetensors header that is not the JSON it should be.
    #[error("its entry in the header is not valid: {reason}")]
    Json {
        /// The parser's words.
        reason: String,
    },
    /// A name that is there twice in one file.
    #[error("the header lists it twice")]
    Duplicate,
    /// A tensor that is to be written under the name that safetensors keeps for metadata.
    #[error("safetensors reserves this name for metadata")]
    ReservedName,
    /// The name of a safetensors element type that cannot be one.
    #[error("no element type `{found}`, known are {known}")]
    UnknownDType {
        /// The type's name in the header.
        found: String,
        /// The names that there are.
        known: String,
    },
    /// A GGUF type that we cannot decode.
    #[error("type {name} (number {code}) is not supported; supported are {known}")]
    UnsupportedType {
        /// The type's number in the file.
        code: u32,
        /// The name that GGML gives it.
        name: &'static str,
        /// The names of those that can be decoded.
        known: String,
    },
    /// A tensor of PyTorch that is more than elements in memory.
    #[error("it is {kind}, which is not supported; save it as a plain tensor")]
    UnsupportedKind {
        /// Kind found.
        kind: &'static str,
    },
    /// Elements of PyTorch that we cannot read.
    #[error("elements of type {found} are not supported")]
    UnsupportedElements {
        /// PyTorch's name for them.
        found: &'static str,
    },
    /// A description of a tensor that describes none.
    #[error("its {what} is not valid")]
    Description {
        /// The part that is wrong.
        what: &'static str,
    },
    /// A tensor whose bytes are not there.
    #[error("its storage `{}` is not in the file", key.escape_debug())]
    NoStorage {
        /// The storage's key.
        key: String,
    },
    /// A view that leaves what it is a view of.
    #[error("its elements reach beyond the {len} of its storage")]
    PastStorage {
        /// Elements of the storage.
        len: u64,
    },
    /// An expanded view: it would take more memory than it takes in the file.
    #[error(
        "its {n_elements} elements are repetitions of the {len} in its storage; save it after `.contiguous()`"
    )]
    Repeated {
        /// Elements of the tensor.
        n_elements: u64,
        /// Elements of the storage.
        len: u64,
    },
    /// A tensor with too many dimensions.
    #[error("it has {found} dimensions, at most {limit} are allowed")]
    Rank {
        /// Dimensions found.
        found: u32,
        /// Dimensions allowed.
        limit: u32,
    },
    /// Rows that do not end where a block ends.
    #[error(
        "its rows have {row} elements, expected a multiple of the {block} in a block of {encoding}"
    )]
    PartialBlock {
        /// Elements of a row.
        row: u64,
        /// Elements of a block.
        block: u64,
        /// Its encoding.
        encoding: String,
    },
    /// Elements of less than a byte that do not fill their last one.
    #[error("{shape} elements of {name} do not end where a byte ends")]
    PartialByte {
        /// The shape in the header.
        shape: Shape,
        /// The element type.
        name: String,
    },
    /// Elements that nothing here computes with.
    #[error("elements of {name} are listed and copied, but nothing here computes with them")]
    NotComputable {
        /// The element type.
        name: String,
    },
    /// Elements that cannot be written to a safetensors file.
    #[error("safetensors has no element type for its {name}")]
    NoSafetensorsType {
        /// The element type.
        name: String,
    },
    /// A byte range of the wrong length.
    #[error("{shape} elements of {encoding} take {expected} bytes, found {found}")]
    Length {
        /// The shape in the header.
        shape: Shape,
        /// Its encoding.
        encoding: Box<str>,
        /// Bytes that such a tensor takes.
        expected: u64,
        /// Bytes that the header gives it.
        found: u64,
    },
    /// A byte range that ends before it begins.
    #[error("its bytes begin at {start} and end at {end}")]
    Backwards {
        /// The claimed begin.
        start: u64,
        /// The claimed end.
        end: u64,
    },
    /// A byte range that leaves the file.
    #[error(
        "its bytes end at {end}, but the tensor data has {len} bytes; the file is damaged or was not downloaded completely"
    )]
    PastEnd {
        /// The claimed end, counted from the begin of the tensor data.
        end: u64,
        /// Bytes of tensor data in the file.
        len: u64,
    },
    /// Two tensors claim the same bytes.
    #[error("its bytes overlap those of tensor `{other}`")]
    Overlap {
        /// The other tensor.
        other: String,
    },
    /// A GGUF tensor that does not begin where the file's alignment wants it.
    #[error("it begins at {offset}, expected a multiple of the file's alignment {alignment}")]
    Misaligned {
        /// The claimed begin.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A shape or size that 64 bits cannot count, or elements that cannot be converted.
    #[error(transparent)]
    Value(#[from] TensorError),
}
