use std::io;

use crate::Isa;

/// Reason for which a [`Cpu`](crate::Cpu) cannot be had as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// A name that is no instruction set of ours.
    #[error("unknown instruction set `{name}`; known are {known}", known = Isa::names())]
    UnknownIsa {
        /// The name as given.
        name: String,
    },
    /// An instruction set that this machine lacks.
    #[error("this machine cannot run {isa} kernels; its best is {best}")]
    MissingIsa {
        /// Instruction set that was asked for.
        isa: Isa,
        /// Instruction set that [`Isa::detect`] finds.
        best: Isa,
    },
    /// More threads than could work together on this machine.
    #[error(
        "{n_threads} threads are too many: this machine runs {n_processors} at a time, and up to {most} are started"
    )]
    TooManyThreads {
        /// Number of threads asked for.
        n_threads: usize,
        /// Processors that may be used.
        n_processors: usize,
        /// Largest number of threads.
        most: usize,
    },
    /// The operating system refuses another thread.
    #[error("cannot start thread {thread} of {n_threads}; ask for fewer threads")]
    Spawn {
        /// Number of the thread, counted from 1.
        thread: usize,
        /// Number of threads asked for.
        n_threads: usize,
        /// Error of the system.
        source: io::Error,
    },
}
