//! Lines of a file, or of standard input as they come.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result};
use llm_runtime::{Interrupt, RuntimeError};

use crate::failure::{UserError, unreadable};

/// A line that is not blank.
pub(crate) struct Line {
    /// Counted from 1, blank ones included.
    pub(crate) number: usize,
    /// Its text, or why that cannot be read.
    pub(crate) text: Result<String, String>,
}

/// Source of lines.
pub(crate) enum Lines {
    /// A file, whose end is known.
    All(std::vec::IntoIter<Line>),
    /// A pipe or a terminal: some may still be written.
    Coming {
        lines: Receiver<Result<Line>>,
        /// The first line, which was waited for before all else.
        first: Option<Line>,
    },
}

/// Patience with a line that is not there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    Wait,
    Ask,
}

impl Lines {
    /// Opens a file, `-` being standard input; of what may still be written, waits for the first line.
    ///
    /// # Errors
    /// When it cannot be read, or holds nothing.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let is_stdin = path == Path::new("-");
        let name = match is_stdin {
            true => "standard input".to_owned(),
            false => path.display().to_string(),
        };
        let failed = |error| unreadable(&name, error);
        let file = match is_stdin {
            true => File::from(
                std::io::stdin()
                    .as_fd()
                    .try_clone_to_owned()
                    .map_err(failed)?,
            ),
            false => File::open(path).map_err(failed)?,
        };
        let is_file = file.metadata().map_err(failed)?.is_file();
        let mut reader = Reader {
            lines: BufReader::new(file),
            n_lines: 0,
        };
        let nothing = || UserError(format!("there are no prompts in {name}; give one a line"));
        if is_file {
            let mut lines = Vec::new();
            while let Some(line) = reader.next().map_err(failed)? {
                lines.push(line);
            }
            return match lines.is_empty() {
                true => Err(nothing().into()),
                false => Ok(Lines::All(lines.into_iter())),
            };
        }
        let (sender, lines) = sync_channel(LINES_AHEAD);
        let read = move || {
            loop {
                let line = match reader.next() {
                    Ok(Some(line)) => Ok(line),
                    Ok(None) => return,
                    Err(error) => Err(unreadable("standard input", error)),
                };
                let is_last = line.is_err();
                // Nobody listens any more when the command ends early.
                if sender.send(line).is_err() || is_last {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("prompts".to_owned());
        thread.spawn(read).context("cannot start a thread")?;
        let first = lines.recv().map_err(|_| nothing())??;
        Ok(Lines::Coming {
            lines,
            first: Some(first),
        })
    }

    /// The next line; none at the end, or where none is there yet and nobody waits.
    ///
    /// # Errors
    /// When there is one and it cannot be read, or `interrupt` is raised meanwhile.
    pub(crate) fn next(
        &mut self,
        patience: Patience,
        interrupt: &Interrupt,
    ) -> Result<Option<Line>> {
        let (lines, first) = match self {
            Lines::All(lines) => return Ok(lines.next()),
            Lines::Coming { lines, first } => (lines, first),
        };
        if let Some(first) = first.take() {
            return Ok(Some(first));
        }
        if patience == Patience::Ask {
            return match lines.try_recv() {
                Ok(line) => Ok(Some(line?)),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => Ok(None),
            };
        }
        loop {
            match lines.recv_timeout(LOOK_UP) {
                Ok(line) => return Ok(Some(line?)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if interrupt.is_raised() => {
                    return Err(RuntimeError::Interrupted.into());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// Time until an interrupt is noticed where nothing comes.
const LOOK_UP: Duration = Duration::from_millis(50);

/// Bytes of the longest line that is read: what is longer is no prompt, and may have no end.
const LONGEST: u64 = 16 << 20;

/// Lines that are read before somebody asks for them.
const LINES_AHEAD: usize = 8;

struct Reader<R> {
    lines: R,
    n_lines: usize,
}

impl<R: BufRead> Reader<R> {
    /// The next line that is not blank.
    fn next(&mut self) -> std::io::Result<Option<Line>> {
        loop {
            let mut bytes = Vec::new();
            let mut rest = std::io::Read::take(&mut self.lines, LONGEST);
            if rest.read_until(b'\n', &mut bytes)? == 0 {
                return Ok(None);
            }
            self.n_lines += 1;
            let text = match bytes.len() as u64 == LONGEST && bytes.last() != Some(&b'\n') {
                true => {
                    self.skip_line()?;
                    Err(format!("the line is longer than {LONGEST} bytes"))
                }
                false => String::from_utf8(bytes).map_err(|error| {
                    let place = error.utf8_error().valid_up_to() + 1;
                    format!("the line is not UTF-8: byte {place} begins no character")
                }),
            };
            // Some editors begin every file with a byte order mark.
            let text = text.map(|text| match text.strip_prefix('\u{feff}') {
                Some(rest) if self.n_lines == 1 => rest.to_owned(),
                _ => text,
            });
            if text.as_ref().is_ok_and(|text| text.trim().is_empty()) {
                continue;
            }
            let number = self.n_lines;
            return Ok(Some(Line { number, text }));
        }
    }

    /// Passes over the rest of a line without keeping it.
    fn skip_line(&mut self) -> std::io::Result<()> {
        loop {
            let buffer = self.lines.fill_buf()?;
            let (n, is_end) = match buffer.iter().position(|&byte| byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            };
            self.lines.consume(n);
            if is_end {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_numbers_and_their_faults() {
        let bytes = b"\xef\xbb\xbfone\r\n\n  \nbad \xff\nlast";
        let mut reader = Reader {
            lines: &bytes[..],
            n_lines: 0,
        };
        let mut lines = Vec::new();
        while let Some(line) = reader.next().unwrap() {
            lines.push((line.number, line.text));
        }
        let fault = "the line is not UTF-8: byte 5 begins no character".to_owned();
        let expected = [
            (1, Ok("one\r\n".to_owned())),
            (4, Err(fault)),
            (5, Ok("last".to_owned())),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_line_without_end_is_passed_over() {
        let long = vec![b'x'; LONGEST as usize + 10];
        let bytes = [&long[..], b"\nnext\n"].concat();
        let mut reader = Reader {
            lines: &bytes[..],
            n_lines: 0,
        };
        assert!(reader.next().unwrap().unwrap().text.is_err());
        let next = reader.next().unwrap().unwrap();
        assert_eq!((next.number, next.text), (2, Ok("next\n".to_owned())));
        assert!(reader.next().unwrap().is_none());
    }
}
