use std::path::PathBuf;

use llm_arch::{ArchError, Unit};
use llm_backend::BackendError;
use llm_checkpoint::CheckpointError;
use llm_plan::{PlanError, RunOn};
use llm_quant::{QuantError, Scheme};
use llm_tensor::{Bytes, DType};

use crate::{Misfit, NotFinite};

/// Errors between a model's files and its tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The checkpoint cannot be opened or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A device map that no stages can be cut from.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A device that the map names and that is not there.
    #[error(
        "the device map has units compute on {run_on}, which is not among the devices to load to"
    )]
    NoDevice {
        /// The device.
        run_on: RunOn,
    },
    /// A sequence of an encoder-decoder model that has no prompt.
    #[error("sequence {sequence} has no prompt that the encoder has read")]
    NotEncoded {
        /// The sequence.
        sequence: usize,
    },
    /// Positions that a sequence cannot go back to.
    #[error(
        "sequence {sequence} cannot go back from {n_taken} positions to {len}: windows or states that the next position needs are written over; only a mark keeps them"
    )]
    PositionsGone {
        /// The sequence.
        sequence: usize,
        /// Positions asked for.
        len: usize,
        /// Positions that it has.
        n_taken: usize,
    },
    /// A mark that is to be kept where another sequence is.
    #[error("sequence {keeper} cannot keep a mark: it has {n_taken} positions of its own")]
    KeeperTaken {
        /// The sequence.
        keeper: usize,
        /// Positions that it has.
        n_taken: usize,
    },
    /// A configuration that cannot be read.
    #[error("cannot read {path}")]
    ReadConfig {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// A configuration that is no JSON object.
    #[error("{path} is not a JSON object: {reason}")]
    ConfigSyntax {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        reason: String,
    },
    /// A configuration that does not describe a model that we know.
    #[error("{path}: {flaw}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Flaw of the configuration.
        flaw: Box<ArchError>,
    },
    /// The checkpoint does not hold the tensors that the configuration asks for.
    #[error(transparent)]
    Misfit(#[from] Box<Misfit>),
    /// Two tables of tokens where the model is to have one.
    #[error(
        "{path}: `{second}` differs from `{table}`; models with a table of tokens for each side are not supported"
    )]
    SecondTable {
        /// The checkpoint.
        path: PathBuf,
        /// The table.
        table: String,
        /// The other one.
        second: String,
    },
    /// A configuration whose `quantization_config` is not understood, or a wish for a quantization.
    #[error("{path}: quantization_config: {flaw}")]
    QuantConfig {
        /// The file.
        path: PathBuf,
        /// Flaw of the quantization.
        flaw: Box<QuantError>,
    },
    /// A quantized matrix that is not what it should be.
    #[error("{path}: tensor `{tensor}`: {flaw}")]
    Quantized {
        /// The checkpoint.
        path: PathBuf,
        /// The matrix, or the part of it that is at fault.
        tensor: String,
        /// Flaw of the tensor.
        flaw: Box<QuantError>,
    },
    /// A part of a quantized matrix that is missing or misshapen.
    #[error("{path}: tensor `{tensor}` of a quantized matrix: expected {expected}, found {found}")]
    QuantizedPart {
        /// The checkpoint.
        path: PathBuf,
        /// The part's name.
        tensor: String,
        /// Expected form.
        expected: String,
        /// Form found.
        found: String,
    },
    /// A quantization is asked for, of weights that are quantized already.
    #[error(
        "the weights in {path} are quantized already, as {scheme}; leave out what asks for a quantization"
    )]
    AlreadyQuantized {
        /// The checkpoint.
        path: PathBuf,
        /// The scheme's name.
        scheme: String,
    },
    /// A weight that is to be kept as nothing encodes it.
    #[error("{path}: tensor `{tensor}` cannot be kept in {scheme}: nothing encodes weights so")]
    NotEncodable {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The encoding.
        scheme: Scheme,
    },
    /// A table of experts that names one which is not there.
    #[error("{path}: tensor `{tensor}` names expert {number}, and the layer has {n_experts}")]
    NoSuchExpert {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The number.
        number: i64,
        /// Experts of the layer.
        n_experts: usize,
    },
    /// A table of experts that sends a token to one twice.
    #[error("{path}: tensor `{tensor}` names expert {expert} twice for token {token}")]
    SameExpert {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The token.
        token: usize,
        /// The expert's number.
        expert: usize,
    },
    /// Weights that no quantization can represent.
    #[error("{path}: tensor `{tensor}` cannot be quantized: {}", unquantizable(*value))]
    NotQuantizable {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The element at fault: no finite number, or none in f16.
        value: f32,
    },
    /// A weight element type that nothing computes with.
    #[error("weights cannot be kept as {dtype}; choose f32, f16 or bf16")]
    WeightDType {
        /// The element type asked for.
        dtype: DType,
    },
    /// A folder that cannot be used for weights that are streamed.
    #[error("cannot use the offload folder {folder}; --offload-folder names another")]
    OffloadFolder {
        /// The folder.
        folder: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// Weights that cannot be written anew for streaming.
    #[error(
        "cannot write {unit} to the offload folder {folder}, where {missing} were still to come; --offload-folder names another, and `llm-run cache` shows and clears what is there"
    )]
    OffloadWrite {
        /// The folder.
        folder: PathBuf,
        /// Whose weights.
        unit: Unit,
        /// Size of them and of all that was to be written after them.
        missing: Bytes,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// A file of an offload folder whose bytes have changed.
    #[error("{path} is damaged: its bytes sum to {found:016x}, its name says {expected:016x}; {}", mending(*is_removed))]
    OffloadDamaged {
        /// The file.
        path: PathBuf,
        /// Checksum in its name.
        expected: u64,
        /// Checksum of its bytes.
        found: u64,
        /// True if it could be removed.
        is_removed: bool,
    },
    /// A file in the place of one of an offload folder's.
    #[error(
        "{path} does not hold the weights that it is named for; remove it, and the next run writes them anew"
    )]
    OffloadForeign {
        /// The file.
        path: PathBuf,
    },
    /// An entry of an offload folder that cannot be removed, since a process uses it.
    #[error("{folder} is in use by a running process")]
    OffloadInUse {
        /// The entry's folder.
        folder: PathBuf,
    },
    /// A file of a checkpoint that was written to while its weights were read.
    #[error("{path} was changed while it was read; run again when nothing writes to it")]
    SourceChanged {
        /// The file.
        path: PathBuf,
    },
    /// A file of a checkpoint that was shortened, or that its disk could not read, while its weights were in use.
    #[error(
        "{path} was shortened while its weights were in use, or its disk could not read it; what was computed with it is of no use: \
         start again with a whole file"
    )]
    SourceCut {
        /// The file.
        path: PathBuf,
    },
    /// A device refused.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Nothing to feed.
    #[error("the prompt is empty: there is no token to continue from")]
    EmptyPrompt,
    /// A token id that the model does not know.
    #[error("token id {id} is out of range: the model's vocabulary has {vocab} entries")]
    IdOutOfRange {
        /// The id.
        id: u32,
        /// Entries.
        vocab: usize,
    },
    /// More tokens than the context holds.
    #[error("{n_tokens} tokens do not fit the context of {context}{hint}", hint = context_hint(*context, *model_context))]
    ContextFull {
        /// Positions that are taken and asked for, together.
        n_tokens: usize,
        /// Positions of the session.
        context: usize,
        /// Positions the model was made for.
        model_context: usize,
    },
    /// A token is to be chosen and none may be.
    #[error(
        "no token may follow: every one is suppressed, a bad word, a repetition, or not the one that is forced"
    )]
    NoTokenLeft,
    /// There is no memory for the staging buffers of offloaded weights.
    #[error("cannot take {bytes} of memory for weights that rest on disk")]
    Staging {
        /// Size of the staging buffer.
        bytes: Bytes,
        /// Error of the system.
        source: std::io::Error,
    },
    /// The system refuses the thread that reads offloaded weights.
    #[error("cannot start a thread")]
    Spawn {
        /// Error of the system.
        source: std::io::Error,
    },
    /// The caller's interrupt was raised.
    #[error("interrupted")]
    Interrupted,
    /// Logits that are no numbers.
    #[error("the model's logits are not finite numbers: {cause}")]
    NotFinite {
        /// Cause of that.
        cause: Box<NotFinite>,
    },
}

impl RuntimeError {
    /// True if the input is at fault (a file, a prompt, an option) rather than the machine.
    pub fn is_users(&self) -> bool {
        match self {
            RuntimeError::Backend(_)
            | RuntimeError::Staging { .. }
            | RuntimeError::Spawn { .. }
            | RuntimeError::Interrupted
            | RuntimeError::OffloadDamaged { .. } => false,
            RuntimeError::NotFinite { cause } => match **cause {
                NotFinite::Stored { .. } => true,
                NotFinite::TooLarge { .. } | NotFinite::Made { .. } => false,
            },
            RuntimeError::Checkpoint(_)
            | RuntimeError::ReadConfig { .. }
            | RuntimeError::ConfigSyntax { .. }
            | RuntimeError::Config { .. }
            | RuntimeError::Misfit(_)
            | RuntimeError::SecondTable { .. }
            | RuntimeError::QuantConfig { .. }
            | RuntimeError::Quantized { .. }
            | RuntimeError::QuantizedPart { .. }
            | RuntimeError::AlreadyQuantized { .. }
            | RuntimeError::NotEncodable { .. }
            | RuntimeError::NoSuchExpert { .. }
            | RuntimeError::SameExpert { .. }
            | RuntimeError::NotQuantizable { .. }
            | RuntimeError::WeightDType { .. }
            | RuntimeError::OffloadFolder { .. }
            | RuntimeError::OffloadWrite { .. }
            | RuntimeError::OffloadForeign { .. }
            | RuntimeError::OffloadInUse { .. }
            | RuntimeError::SourceChanged { .. }
            | RuntimeError::SourceCut { .. }
            | RuntimeError::Plan(_)
            | RuntimeError::NoDevice { .. }
            | RuntimeError::EmptyPrompt
            | RuntimeError::NoTokenLeft
            | RuntimeError::IdOutOfRange { .. }
            | RuntimeError::ContextFull { .. }
            | RuntimeError::NotEncoded { .. }
            | RuntimeError::PositionsGone { .. }
            | RuntimeError::KeeperTaken { .. } => true,
        }
    }
}

fn unquantizable(value: f32) -> String {
    if value.is_finite() {
        format!("it holds {value:e}, and 8-bit codes are made through f16, which ends at 65504")
    } else {
        format!("it holds {value}")
    }
}

fn mending(is_removed: bool) -> &'static str {
    if is_removed {
        "it was removed, and the next run writes it anew"
    } else {
        "remove it, and the next run writes it anew"
    }
}

fn context_hint(context: usize, model_context: usize) -> String {
    if context < model_context {
        format!("; --context gives more, up to the {model_context} that the model has")
    } else {
        " that the model has".to_owned()
    }
}
