//! Checkpoints that can be looked at, but not run: of families and quantizations that this version does not know.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Error;
use llm_checkpoint::{Checkpoint, Elsewhere};
use llm_runtime::RuntimeError;

use super::checkpoint::checkpoint;
use crate::failure::{self, UserError};

/// The checkpoint at `path` that `error` says cannot be run, where that is for want of knowledge: its configuration is
/// missing or not understood, or it is quantized in a way that is not. Damaged files and configurations are none.
pub(crate) fn unknown_checkpoint(
    path: &Path,
    origin: Option<&dyn Elsewhere>,
    error: &Error,
) -> Option<Checkpoint> {
    let error = error.downcast_ref::<RuntimeError>()?;
    let found = || checkpoint(path, origin).ok();
    match error {
        RuntimeError::Config { .. } | RuntimeError::QuantConfig { .. } => found(),
        RuntimeError::ReadConfig { source, .. } if source.kind() == ErrorKind::NotFound => found(),
        // What is missing may be there in another form, and what is there be of a variant that is not known.
        RuntimeError::Misfit(_) | RuntimeError::QuantizedPart { .. } => {
            found().filter(is_quantized_otherwise)
        }
        _ => None,
    }
}

/// The error of a model at `path` that cannot be run; where it can be looked at, that is said.
pub(super) fn with_plan_hint(path: &Path, origin: Option<&dyn Elsewhere>, error: Error) -> Error {
    let unknown = unknown_checkpoint(path, origin, &error);
    match (unknown, failure::message(&error)) {
        (Some(_), Some(message)) => UserError(format!(
            "{message}; `llm-run plan` and `llm-run inspect` show what it takes"
        ))
        .into(),
        (None, _) | (_, None) => error,
    }
}

/// Names of tensors as quantizations other than bitsandbytes' have them.
fn is_quantized_otherwise(checkpoint: &Checkpoint) -> bool {
    let is_mark = |name: &str| {
        let last = name.rsplit('.').next().unwrap_or(name);
        MARKS.contains(&last) || ENDS.iter().any(|end| last.ends_with(end))
    };
    checkpoint.tensors().any(|tensor| is_mark(&tensor.name))
}

/// Last words of names that GPTQ, AWQ, compressed-tensors, HQQ, AQLM and others use.
const MARKS: [&str; 10] = [
    "qweight",
    "qzeros",
    "g_idx",
    "W_q",
    "codebooks",
    "weight_packed",
    "weight_scale",
    "weight_scale_inv",
    "weight_zero_point",
    "input_scale",
];
/// Ends of such, of matrices of several experts.
const ENDS: [&str; 3] = ["_blocks", "_scales", "_scale_inv"];
