//! Opens model checkpoints: safetensors and PyTorch's own files, single or sharded, and GGUF.
//!
//! [`Checkpoint::open`] reads and validates every header and keeps no tensor bytes. What it accepts it can read:
//! each tensor has a length that fits its shape and a place inside its file, which only PyTorch's tensors may share, and
//! an encoding that is known or, if it is [`Encoding::Opaque`], can be copied. [`Checkpoint::read_into`] then reads any range of elements of any tensor, converted to the wanted
//! element type, in bounded memory and from many threads at once; [`Checkpoint::view`] hands out the bytes of an
//! unquantized tensor where they lie in the mapped file, so that a local model costs no copy. [`DirectFile`] reads a
//! file over and over past the page cache, for weights that memory has no room for.
//!
//! Files are read by position (`pread`), so the crate needs a Unix.
//!
//! Checkpoints are hostile input. Nothing is allocated on a header's word: every count and length is held against
//! the bytes that the file really has, headers are capped, and names of shards cannot leave the folder.
//!
//! # Sharded safetensors
//!
//! The shards' own headers are the truth, as they are for the Python libraries, which take from the index only
//! which files to open. A tensor that a shard holds and the index forgot is therefore there like any other. Where
//! the index names a tensor's shard wrongly, or a tensor that is in none, [`Checkpoint::notices`] says so; a tensor that
//! lies in two shards is an error. The index's `total_size` is not looked at; published
//! checkpoints disagree about what it counts. The shards' `__metadata__` are merged, the first shard in order of
//! names wins. Without an index shards are found by their names, `model-00001-of-00003.safetensors`, if all are there.
//!
//! # GGUF
//!
//! Versions 2 and 3, little-endian, in one file or split into several, of which any is given. Extents are turned around to outermost first. The types F64,
//! F32, F16, BF16 and I8 to I64 are plain; the blocks of [`GgmlType`](llm_quant::GgmlType) are decoded when read. A file that contains
//! any other type does not open.
//!
//! # PyTorch
//!
//! Files of `torch.save`: zip archives, and the format before version 1.6. The pickle in them is a program for a
//! stack machine, and unpickling it in Python runs whatever code it names. Here an interpreter without functions reads
//! it: the few names that describe tensors become data, any other name is an error that says which.
//!
//! The state dict may be the file's only object, or lie in that of a training checkpoint under `state_dict`,
//! `model_state_dict`, `model` or `module`; what else lies there is passed over. Parameters and views are read, with
//! [`Layout::Strided`] where their elements do not lie one after the other, and tied tensors have the same bytes.
//! Quantized and sparse tensors, and expanded ones with more elements than their storage, do not open.
//!
//! # Files that change
//!
//! [`Checkpoint::read_into`] reports a file that someone shortened after it was opened as an error. Bytes handed
//! out by [`Checkpoint::view`] are the file's own pages: if the file is overwritten, they change; if it is
//! shortened, what is gone reads as zeros, and [`Checkpoint::cut_file`] names it from then on. For that the crate has a handler
//! of `SIGBUS` from the first mapping on; signals of other addresses go to the handler before it. Replacing a file by renaming another one over
//! it, as download tools do, is harmless.

mod adapter;
mod checkpoint;
mod crc;
mod cursor;
mod direct;
mod elsewhere;
mod error;
mod file_state;
mod find;
mod finite;
mod foreign;
mod format;
mod gguf;
mod index;
mod manifest;
mod map;
mod metadata;
mod notice;
mod opaque;
mod pairs;
mod part_name;
mod read;
mod safetensors;
mod shard;
mod source;
mod strided;
mod tensor;
#[cfg(test)]
mod testing;
mod torch;
mod write;

pub use checkpoint::Checkpoint;
pub use crc::{Checksums, Damage};
pub use direct::DirectFile;
pub use elsewhere::{Elsewhere, RangeFile};
pub use error::{CheckpointError, HeaderFlaw, IndexFlaw, TensorFlaw};
pub use file_state::FileState;
pub use finite::NotFinite;
pub use format::Format;
pub use gguf::REFUSED_TYPES as REFUSED_GGUF_TYPES;
pub use manifest::{Difference, MANIFEST, Manifest};
pub use metadata::{Array, Metadata, Value};
pub use notice::Notice;
pub use opaque::Opaque;
pub use shard::{Existing, Shard, ShardPlan, ShardWriter};
pub use source::{MAX_CONFIG, read_small};
pub use tensor::{Encoding, Layout, TensorInfo};
pub use torch::{PickleFlaw, ZipFlaw};
pub use write::{NewTensor, SafetensorsWriter, header as safetensors_header};
