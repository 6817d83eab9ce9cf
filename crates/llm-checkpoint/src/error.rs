use std::io;
use std::path::PathBuf;

use llm_tensor::{Shape, TensorError};

use crate::torch::{self, PickleFlaw, ZipFlaw};
use crate::{Encoding, GgmlType, safetensors};

/// Why a checkpoint cannot be opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("cannot read {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it answered.
        source: io::Error,
    },
    /// The operating system refused to take a new file, or a part of it.
    #[error("cannot write {path}")]
    Write {
        /// The file that was to be.
        path: PathBuf,
        /// What it answered.
        source: io::Error,
    },
    /// A file that would have to be overwritten to write a checkpoint.
    #[error("{path} exists already")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A folder into which another process is writing a checkpoint.
    #[error("another process is writing a checkpoint to {folder}")]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// The manifest of a checkpoint is not what it should be.
    #[error("{path} is no valid manifest: {reason}")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// The parser's words.
        reason: String,
    },
    /// A file of none of the formats.
    #[error(
        "{path} is no checkpoint; give a folder, a .safetensors, .gguf or PyTorch .bin file, or an .index.json"
    )]
    NotACheckpoint {
        /// The path as given.
        path: PathBuf,
    },
    /// Something that is no file and has the name of one.
    #[error("{path} is {what}, not a file")]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A file that is something else.
    #[error("{path} is {what}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is, and what can be done.
        what: &'static str,
    },
    /// A folder without weights.
    #[error("{folder} contains no .safetensors, no PyTorch .bin and no .gguf file{}", also(found.as_deref()))]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// A file that is there and holds weights of another program, with what can be done.
        found: Option<String>,
    },
    /// A folder with an adapter and no model.
    #[error(
        "{folder} holds an adapter (LoRA) of {}, not a model; adapters are not applied here: merge it in Python with peft's `merge_and_unload` and `save_pretrained`, and give that folder",
        base_name(base.as_deref())
    )]
    Adapter {
        /// The folder.
        folder: PathBuf,
        /// The model that it is for, by the adapter's word.
        base: Option<String>,
    },
    /// A folder into which a checkpoint was being written when the process ended.
    #[error(
        "{path}: writing a checkpoint here was begun and did not end, so that there is none; write it again with --force"
    )]
    Unfinished {
        /// The folder, or its index.
        path: PathBuf,
    },
    /// A set of files, cut from one checkpoint, that is not all there.
    #[error(
        "{folder} lacks {n_missing} of the {n_parts} parts of its checkpoint: {}; download them as well",
        some(names, *n_missing)
    )]
    MissingParts {
        /// The folder.
        folder: PathBuf,
        /// The names of the first few that are missing.
        names: Vec<String>,
        /// How many are missing.
        n_missing: u64,
        /// How many there should be.
        n_parts: u64,
    },
    /// A folder with several checkpoints and nothing that says which is meant.
    #[error(
        "{folder} contains several checkpoints, name one of them: {names}",
        names = names.join(", ")
    )]
    SeveralCheckpoints {
        /// The folder.
        folder: PathBuf,
        /// The names of the files, sorted.
        names: Vec<String>,
    },
    /// A file's header is wrong.
    #[error("{path}: {flaw}")]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        flaw: HeaderFlaw,
    },
    /// One tensor is wrong, or cannot be read as asked.
    #[error("{path}: tensor `{tensor}`: {flaw}")]
    Tensor {
        /// The file that holds it.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// What is wrong.
        flaw: TensorFlaw,
    },
    /// The index of a sharded checkpoint is wrong, or disagrees with the shards.
    #[error("{path}: {flaw}")]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong.
        flaw: IndexFlaw,
    },
    /// The checkpoint has no tensor of that name.
    #[error("{path} has no tensor `{tensor}`")]
    NoSuchTensor {
        /// What was opened.
        path: PathBuf,
        /// The name asked for.
        tensor: String,
    },
}

/// What can be wrong with a file's header as a whole.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderFlaw {
    /// What Git leaves in the place of a large file.
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
        /// Where in the file.
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
        /// What it should be.
        expected: u64,
        /// What it is.
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
        /// Where in the file it begins.
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
        /// What is wrong.
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
        /// What is wrong with it.
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
        /// What it holds.
        found: &'static str,
    },
    /// A PyTorch file without weights.
    #[error("the file holds no tensors, neither directly nor under {keys}", keys = torch::nesting_keys())]
    NoTensors,
    /// An impossible `general.alignment`.
    #[error("metadata key `general.alignment` is {found}, expected a power of two")]
    Alignment {
        /// The value found.
        found: u32,
    },
}

/// What can be wrong with one tensor.
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
    #[error("no element type `{found}`, known are {known}", known = safetensors::known_dtypes())]
    UnknownDType {
        /// The type's name in the header.
        found: String,
    },
    /// A GGUF type that we cannot decode.
    #[error("type {name} (number {code}) is not supported; supported are {known}", known = GgmlType::known())]
    UnsupportedType {
        /// The type's number in the file.
        code: u32,
        /// The name that GGML gives it.
        name: &'static str,
    },
    /// A tensor of PyTorch that is more than elements in memory.
    #[error("it is {kind}, which is not supported; save it as a plain tensor")]
    UnsupportedKind {
        /// What it is.
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
        /// How it is stored.
        encoding: Encoding,
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
        /// How it is stored.
        encoding: Box<Encoding>,
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

/// What can be wrong with the index of a sharded checkpoint.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexFlaw {
    /// An index beyond what any model needs.
    #[error("the index has {len} bytes, more than the {limit} that are allowed")]
    TooLong {
        /// Bytes of the file.
        len: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// Not the JSON it should be.
    #[error("the index is not valid: {reason}")]
    Json {
        /// The parser's words.
        reason: String,
    },
    /// No tensor at all.
    #[error("the index lists no tensors")]
    Empty,
    /// A tensor that is listed twice.
    #[error("the index lists tensor `{tensor}` twice")]
    DuplicateEntry {
        /// The tensor.
        tensor: String,
    },
    /// A shard whose name could lead out of the folder.
    #[error("shard `{shard}` of tensor `{tensor}` is not a plain file name")]
    ShardName {
        /// The shard as named.
        shard: String,
        /// A tensor that is said to lie there.
        tensor: String,
    },
    /// A shard that is not there.
    #[error(
        "shard `{shard}` is missing, which holds tensor `{tensor}`; {n_present} of {n_shards} shards are there: download the others as well"
    )]
    MissingShard {
        /// The first one missing.
        shard: String,
        /// A tensor that lies in it.
        tensor: String,
        /// Shards that are there.
        n_present: usize,
        /// Shards that the index names.
        n_shards: usize,
    },
    /// A tensor that is in two shards.
    #[error("tensor `{tensor}` is both in shard `{first}` and in shard `{second}`")]
    TwoShards {
        /// The tensor.
        tensor: String,
        /// One shard.
        first: String,
        /// Another one.
        second: String,
    },
}

fn also(found: Option<&str>) -> String {
    found.map_or_else(String::new, |found| format!("; {found}"))
}

fn base_name(base: Option<&str>) -> String {
    base.map_or_else(
        || "some model".to_owned(),
        |base| format!("`{}`", base.escape_debug()),
    )
}

/// Some names of `n`.
fn some(names: &[String], n: u64) -> String {
    let more = match n - names.len() as u64 {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    names.join(", ") + &more
}
