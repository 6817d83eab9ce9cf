//! Calls of cargo.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

/// A call of cargo in the workspace, its arguments separated by blanks.
pub(crate) fn cargo(root: &Path, arguments: &str) -> Command {
    // Cargo tells what it runs which cargo it is.
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(arguments.split_whitespace())
        .current_dir(root)
        .stdin(Stdio::null());
    cargo
}
