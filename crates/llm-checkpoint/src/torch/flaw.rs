//! Flaws of a PyTorch file, for [`HeaderFlaw`](crate::HeaderFlaw) to carry.

use super::pickle::opcode_name;

/// Flaw of a zip archive.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ZipFlaw {
    /// The record at the end of every zip archive is not there.
    #[error(
        "the zip archive has no end record; the file is damaged or was not downloaded completely"
    )]
    NoEnd,
    /// The archive continues in other files.
    #[error("the zip archive has several parts, which is not supported")]
    SeveralParts,
    /// A record that does not begin with its signature.
    #[error("there is no {expected} at offset {at}, where the zip archive says it is")]
    Missing {
        /// The record.
        expected: &'static str,
        /// Its expected offset.
        at: u64,
    },
    /// The list of entries is not as long as its entries are.
    #[error(
        "the zip archive's directory claims {found} bytes, but its {n_entries} entries take {expected}"
    )]
    DirectoryLength {
        /// Entries of the directory.
        n_entries: u64,
        /// Bytes that they take.
        expected: u64,
        /// Bytes claimed.
        found: u64,
    },
    /// Two entries of one name.
    #[error("the zip archive has two entries `{name}`")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// An entry that is not stored as it is.
    #[error(
        "entry `{name}` of the zip archive is compressed or encrypted; PyTorch stores its entries as they are"
    )]
    Compressed {
        /// The entry's name.
        name: String,
    },
    /// An entry whose own header says something else than the directory.
    #[error(
        "the zip archive's directory and the header of entry `{name}` disagree about its {what}"
    )]
    Disagreement {
        /// The entry's name in the directory.
        name: String,
        /// Property in dispute.
        what: &'static str,
    },
    /// An entry that leaves the part of the file where entries lie.
    #[error(
        "entry `{name}` of the zip archive ends at {end}, but the entries' part of the file at {limit}"
    )]
    PastEnd {
        /// The entry's name.
        name: String,
        /// The claimed end.
        end: u64,
        /// Offset of the directory.
        limit: u64,
    },
    /// Two entries claim the same bytes.
    #[error("entries `{first}` and `{second}` of the zip archive overlap")]
    Overlap {
        /// The entry that begins first.
        first: String,
        /// The one that begins inside it.
        second: String,
    },
    /// A zip archive of something else.
    #[error(
        "the zip archive has {found} entries `<name>/data.pkl`, expected one; it was not written by `torch.save`"
    )]
    NoPickle {
        /// Such entries.
        found: usize,
    },
    /// Archive of `torch.jit.save`.
    #[error("this is a TorchScript program, not a state dict")]
    TorchScript,
}

/// Flaw of a pickle. Whatever it says, none of it is executed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PickleFlaw {
    /// Python code, or a class, that no state dict of tensors needs.
    #[error(
        "refused: {}.{}; a checkpoint may name only what describes tensors, and no code of it is ever run",
        module.escape_debug(),
        name.escape_debug()
    )]
    Refused {
        /// The Python module.
        module: String,
        /// The function or class in it.
        name: String,
    },
    /// A pickle protocol that we do not know.
    #[error("pickle protocol {found} is not supported, only those up to 5 are")]
    Protocol {
        /// The protocol's number.
        found: u8,
    },
    /// An instruction that PyTorch does not write.
    #[error("refused: opcode {opcode:#04x}, which PyTorch does not write")]
    UnknownOpcode {
        /// The instruction.
        opcode: u8,
    },
    /// An instruction that needs more values than there are.
    #[error("opcode {} takes more values than there are", opcode_name(*opcode))]
    Underflow {
        /// The instruction.
        opcode: u8,
    },
    /// An instruction that finds a value of the wrong kind.
    #[error("opcode {} finds a value that is no {expected}", opcode_name(*opcode))]
    Operand {
        /// The instruction.
        opcode: u8,
        /// Kind needed.
        expected: &'static str,
    },
    /// A value that was never memorized.
    #[error("nothing was stored in the memo under {key}")]
    Memo {
        /// The number asked for.
        key: u32,
    },
    /// A number or name that takes more than a line of reasonable length.
    #[error("a line is longer than the {limit} bytes that are allowed")]
    Line {
        /// Bytes allowed.
        limit: usize,
    },
    /// A number that is none.
    #[error("`{}` is not an integer", text.escape_debug())]
    NotAnInteger {
        /// Text found there.
        text: String,
    },
    /// More instructions than any state dict needs.
    #[error("there are more than the {limit} instructions that are allowed")]
    TooManyInstructions {
        /// Instructions allowed.
        limit: u64,
    },
    /// One storage described in two ways.
    #[error("storage `{}` is described in two ways that differ", key.escape_debug())]
    StorageConflict {
        /// The storage's key.
        key: String,
    },
}
