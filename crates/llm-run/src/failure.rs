//! Message and exit code of a failed command: 2 for what the user can mend, 1 for the rest.

use std::io::ErrorKind;
use std::process::ExitCode;

use anyhow::Error;
use llm_checkpoint::CheckpointError;
use llm_cpu::CpuError;
use llm_engine::EngineError;
use llm_hub::HubError;
use llm_plan::PlanError;
use llm_runtime::RuntimeError;
use llm_text::TextError;

use crate::signals;

/// Something that the user asked for and cannot have, or gave and cannot be used.
#[derive(Debug)]
pub(crate) struct UserError(pub(crate) String);

impl std::fmt::Display for UserError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UserError {}

/// The error of a user whose wish cannot be met.
pub(crate) fn refuse<T>(message: impl Into<String>) -> Result<T, Error> {
    Err(UserError(message.into()).into())
}

/// The error with its causes on one line; nothing when the reader of our output has gone away.
pub(crate) fn message(error: &Error) -> Option<String> {
    if is_broken_pipe(error) {
        return None;
    }
    Some(format!("{error:#}").replace('\n', " "))
}

/// An error of reading what the user named: theirs, unless the machine is at fault.
pub(crate) fn unreadable(what: impl std::fmt::Display, error: std::io::Error) -> Error {
    match is_users_fault(&error) {
        true => UserError(format!("cannot read {what}: {error}")).into(),
        false => Error::from(error).context(format!("cannot read {what}")),
    }
}

/// 2 for the user's mistakes: what was asked for, and files that are not as they should be. 128 and the signal's number
/// after one, as shells have it. 1 for the rest: a disk that fails or is full, too little memory, faults of our own.
pub(crate) fn exit_code(error: &Error) -> ExitCode {
    let is_interrupt = |cause: &(dyn std::error::Error + 'static)| {
        matches!(of_runtime(cause), Some(RuntimeError::Interrupted))
    };
    if is_broken_pipe(error) {
        ExitCode::SUCCESS
    } else if error.chain().any(is_interrupt) {
        ExitCode::from(signals::exit_code())
    } else if error.chain().any(is_machines) {
        ExitCode::FAILURE
    } else if error.chain().any(is_users) {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}

fn is_users(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<UserError>()
        || cause.is::<TextError>()
        || cause.is::<CpuError>()
        || cause.is::<CheckpointError>()
        || cause.is::<PlanError>()
        || of_runtime(cause).is_some_and(RuntimeError::is_users)
        || cause
            .downcast_ref::<HubError>()
            .is_some_and(HubError::is_users)
        || cause
            .downcast_ref::<EngineError>()
            .is_some_and(|error| error.of_runtime().is_none())
}

/// The session's error that a cause is, by itself or as an answer's.
fn of_runtime<'e>(cause: &'e (dyn std::error::Error + 'static)) -> Option<&'e RuntimeError> {
    let of_answer = || {
        cause
            .downcast_ref::<EngineError>()
            .and_then(EngineError::of_runtime)
    };
    cause.downcast_ref::<RuntimeError>().or_else(of_answer)
}

/// True where the machine failed, whatever was asked for.
fn is_machines(cause: &(dyn std::error::Error + 'static)) -> bool {
    let io_error = cause.downcast_ref::<std::io::Error>();
    let cpu_error = cause.downcast_ref::<CpuError>();
    io_error.is_some_and(|error| !is_users_fault(error))
        || matches!(cpu_error, Some(CpuError::Spawn { .. }))
}

/// True where another path, or other rights, would do: not so if a disk fails or is full.
fn is_users_fault(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::AlreadyExists
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::DirectoryNotEmpty
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidData
            | ErrorKind::InvalidFilename
            | ErrorKind::FileTooLarge
            | ErrorKind::UnexpectedEof
            | ErrorKind::TooManyLinks
            | ErrorKind::NotSeekable
            | ErrorKind::Unsupported
    )
}

fn is_broken_pipe(error: &Error) -> bool {
    let io_error = |cause: &&(dyn std::error::Error + 'static)| cause.is::<std::io::Error>();
    let cause = error
        .chain()
        .find(io_error)
        .and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| cause.kind() == ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn code(error: impl Into<Error>) -> String {
        format!("{:?}", exit_code(&error.into()))
    }

    #[test]
    fn the_code_says_whose_fault_it_is() {
        let read = |kind: ErrorKind| CheckpointError::Io {
            path: "model.safetensors".into(),
            source: kind.into(),
        };
        let eio = io::Error::from_raw_os_error(5);
        let disk = CheckpointError::Io {
            path: "model.safetensors".into(),
            source: io::Error::from_raw_os_error(5),
        };
        let spawn = CpuError::Spawn {
            thread: 3,
            n_threads: 4,
            source: ErrorKind::WouldBlock.into(),
        };
        let of = |code: u8| format!("{:?}", ExitCode::from(code));
        let cases = [
            (code(UserError("x".to_owned())), of(2)),
            (code(read(ErrorKind::NotFound)), of(2)),
            (code(read(ErrorKind::PermissionDenied)), of(2)),
            (
                code(RuntimeError::from(read(ErrorKind::IsADirectory))),
                of(2),
            ),
            (code(read(ErrorKind::StorageFull)), of(1)),
            (code(disk), of(1)),
            (code(unreadable("x", eio)), of(1)),
            (code(unreadable("x", ErrorKind::NotFound.into())), of(2)),
            (code(spawn), of(1)),
            (code(RuntimeError::EmptyPrompt), of(2)),
            (code(RuntimeError::Interrupted), of(130)),
            (code(EngineError::from(RuntimeError::Interrupted)), of(130)),
            (code(io::Error::from(ErrorKind::BrokenPipe)), of(0)),
            (code(anyhow::anyhow!("a fault of ours")), of(1)),
        ];
        for (i, (found, expected)) in cases.into_iter().enumerate() {
            assert_eq!(found, expected, "case {i}");
        }
    }
}
