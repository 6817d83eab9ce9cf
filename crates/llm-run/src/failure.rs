//! What a failed command says, and with which code it exits: 2 for what the user can mend, 1 for the rest.

use std::io::ErrorKind;
use std::process::ExitCode;

use anyhow::Error;
use llm_checkpoint::CheckpointError;
use llm_cpu::CpuError;
use llm_plan::PlanError;
use llm_runtime::RuntimeError;
use llm_text::TextError;

/// Something that the user asked for and cannot have, or gave and cannot be used.
#[derive(Debug)]
pub(crate) struct UserError(pub(crate) String);

impl std::fmt::Display for UserError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UserError {}

/// The error with its causes on one line; nothing when the reader of our output has gone away.
pub(crate) fn message(error: &Error) -> Option<String> {
    if is_broken_pipe(error) {
        return None;
    }
    Some(format!("{error:#}").replace('\n', " "))
}

/// 2 for what the user can mend, 130 after an interrupt as shells have it, 1 for the rest.
pub(crate) fn exit_code(error: &Error) -> ExitCode {
    let is_users = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<UserError>()
            || cause.is::<TextError>()
            || cause.is::<CpuError>()
            || cause.is::<CheckpointError>()
            || cause.is::<PlanError>()
            || cause
                .downcast_ref::<RuntimeError>()
                .is_some_and(RuntimeError::is_users)
    };
    let is_interrupt = |cause: &(dyn std::error::Error + 'static)| {
        matches!(
            cause.downcast_ref::<RuntimeError>(),
            Some(RuntimeError::Interrupted)
        )
    };
    if is_broken_pipe(error) {
        ExitCode::SUCCESS
    } else if error.chain().any(is_interrupt) {
        ExitCode::from(INTERRUPTED)
    } else if error.chain().any(is_users) {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

/// 128 + SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

fn is_broken_pipe(error: &Error) -> bool {
    let io_error = |cause: &&(dyn std::error::Error + 'static)| cause.is::<std::io::Error>();
    let cause = error
        .chain()
        .find(io_error)
        .and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| cause.kind() == ErrorKind::BrokenPipe)
}
