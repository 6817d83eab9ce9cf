//! Configuration files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Reads a small file whole.
///
/// # Errors
/// When it cannot be read, is no regular file, or longer than any configuration.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // Before it is opened: opening a pipe waits for who writes to it.
    if !std::fs::metadata(path)?.is_file() {
        let message = "it is not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let mut text = Vec::new();
    let file = File::open(path)?;
    file.take(MAX_LEN + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_LEN {
        let message = format!("it has more than {MAX_LEN} bytes, and so is no configuration");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(text)
}

/// A thousand times what the longest have.
const MAX_LEN: u64 = 64 << 20;
