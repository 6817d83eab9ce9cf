//! Input of the user: texts of files and standard input, lines, conversations.

use std::io::Read;
use std::path::Path;

use anyhow::Result;

use crate::failure::unreadable;

pub(crate) mod lines;
pub(crate) mod template;

/// The text of a file, `-` being standard input.
pub(crate) fn read_file(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        return read_stdin();
    }
    std::fs::read_to_string(path).map_err(|error| unreadable(path.display(), error))
}

pub(crate) fn read_stdin() -> Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|error| unreadable("standard input", error))?;
    Ok(text)
}
