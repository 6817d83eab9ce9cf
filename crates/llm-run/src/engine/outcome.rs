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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_is_of_all_prompts_and_a_choice_of_one() {
        let outcome = |error: RuntimeError| of_prompt::<()>(Err(error.into()));
        assert!(outcome(RuntimeError::NoTokenLeft).is_ok_and(|of_one| of_one.is_err()));
        assert!(outcome(RuntimeError::Interrupted).is_err());
        assert!(of_prompt(Ok(())).is_ok_and(|of_one| of_one.is_ok()));
    }
}
