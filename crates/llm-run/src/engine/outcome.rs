//! Errors of one prompt, told from errors of the session.

use anyhow::{Error, Result};
use llm_runtime::RuntimeError;

/// Outcome of one prompt: an error inside leaves all others as they are.
///
/// # Errors
/// When the error is of more than this prompt.
pub(crate) fn of_prompt<T>(outcome: Result<T>) -> Result<Result<T>> {
    match outcome {
        Err(error) if !is_of_prompt(&error) => Err(error),
        outcome => Ok(outcome),
    }
}

fn is_of_prompt(error: &Error) -> bool {
    let cause = error.downcast_ref::<RuntimeError>();
    matches!(
        cause,
        Some(RuntimeError::NotFinite { .. } | RuntimeError::NoTokenLeft)
    )
}
