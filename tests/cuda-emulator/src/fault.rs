//! What a kernel may do wrong, with where it did so.

use std::fmt;

/// Kind of a fault, which decides the error that the driver reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An access outside of what the kernel may touch.
    Address,
    Misaligned,
    /// A read of bytes that nothing wrote.
    Uninitialized,
    /// Two threads at one byte of shared memory with no barrier between them.
    Race,
    /// Threads that wait for threads that do not come.
    Barrier,
    /// Whatever else ends a kernel: a trap, an operand that the instruction forbids.
    Failed,
}

impl Kind {
    /// Error code of the driver API.
    pub(crate) fn code(self) -> i32 {
        match self {
            Self::Address => 700,
            Self::Misaligned => 716,
            Self::Uninitialized | Self::Race | Self::Barrier | Self::Failed => 719,
        }
    }
}

/// A fault inside a warp, not yet located.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    /// Lane that did it, where one did.
    pub(crate) lane: Option<u32>,
    /// Index of another instruction that takes part, as in a race.
    pub(crate) other: Option<u32>,
}

impl Fault {
    pub(crate) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            lane: None,
            other: None,
        }
    }

    pub(crate) fn at_lane(kind: Kind, lane: usize, text: impl Into<String>) -> Self {
        Self {
            lane: Some(lane as u32),
            ..Self::new(kind, text)
        }
    }
}

/// A fault with its kernel, block, thread and line.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
