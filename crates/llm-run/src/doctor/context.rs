//! Memory that a process takes of a GPU before it allocates anything: what a second process takes, as the first one sees it.

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};

use anyhow::Result;
use llm_cuda::Cuda;
use llm_tensor::Bytes;

use crate::output;

/// Bytes that a process takes.
pub(super) struct Taken {
    /// With all kernels loaded; nothing where the driver does not tell one process of another.
    pub(super) context: Option<Bytes>,
    /// By cuBLAS; nothing where it is not there.
    pub(super) cublas: Option<Bytes>,
}

/// Bytes that a process takes, by what for.
///
/// # Errors
/// Reason why it could not be measured.
pub(super) fn measure(gpu: &Cuda, number: u32) -> Result<Taken, String> {
    let free = || match gpu.memory() {
        Ok((free, _)) => Ok(free),
        Err(error) => Err(error.to_string()),
    };
    let before = free()?;
    let mut other = OtherProcess::start(number).map_err(|error| error.to_string())?;
    other.wait_until_ready()?;
    let with_kernels = free()?;
    other.go_on().map_err(|error| error.to_string())?;
    other.wait_until_ready()?;
    let with_cublas = free()?;
    other.end();
    let taken = |before: Bytes, after: Bytes| {
        let taken = before.saturating_sub(after);
        (taken > Bytes::ZERO).then_some(taken)
    };
    Ok(Taken {
        context: taken(before, with_kernels),
        cublas: taken(with_kernels, with_cublas),
    })
}

/// Takes of a GPU what a context and all kernels take, says so in a line, and when it is told to, in a line, what cuBLAS takes, and keeps it
/// until its input ends.
///
/// # Errors
/// When there is no such GPU, or the driver fails.
pub(super) fn hold(number: u32) -> Result<ExitCode> {
    let gpu = Cuda::new(number as usize)?;
    gpu.load_all_kernels()?;
    output::print(&format!("{READY}\n"))?;
    io::stdin().lock().read_line(&mut String::new())?;
    // What does not start takes nothing.
    let _kept = gpu.load_cublas();
    output::print(&format!("{READY}\n"))?;
    // However it ends.
    let _ = io::stdin().lock().read_to_end(&mut Vec::new());
    Ok(ExitCode::SUCCESS)
}

/// This program once more, and what it says.
struct OtherProcess {
    child: Child,
    output: Option<BufReader<ChildStdout>>,
}

impl OtherProcess {
    fn start(number: u32) -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["doctor", "--hold-gpu", &number.to_string()]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn()?;
        let output = child.stdout.take().map(BufReader::new);
        Ok(OtherProcess { child, output })
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let mut line = String::new();
        let output = self.output.as_mut();
        let read = output.map(|output| output.take(READY.len() as u64 + 1).read_line(&mut line));
        match (read, line.trim_end()) {
            (Some(Ok(_)), READY) => Ok(()),
            _ => Err("a second process could not open it".to_owned()),
        }
    }

    /// Tells it to load what comes next.
    fn go_on(&mut self) -> io::Result<()> {
        let input = self.child.stdin.as_mut();
        input.map_or(Ok(()), |input| input.write_all(b"\n"))
    }

    /// Ends it by the end of its input.
    fn end(mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Nothing is left running where measuring fails.
impl Drop for OtherProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const READY: &str = "ready";
