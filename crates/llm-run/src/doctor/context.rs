//! Memory that a process takes of a GPU before it allocates anything: what a second process takes, as the first one sees it.

use std::env;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::Result;
use llm_cuda::Cuda;
use llm_tensor::Bytes;

use crate::output;

/// Bytes that a process takes with all kernels loaded; nothing where the driver does not tell one process of another.
///
/// # Errors
/// Reason why it could not be measured.
pub(super) fn measure(gpu: &Cuda, number: u32) -> Result<Option<Bytes>, String> {
    let free = || match gpu.memory() {
        Ok((free, _)) => Ok(free),
        Err(error) => Err(error.to_string()),
    };
    let before = free()?;
    let mut other = OtherProcess::start(number).map_err(|error| error.to_string())?;
    other.wait_until_ready()?;
    let taken = before.saturating_sub(free()?);
    other.end();
    Ok((taken > Bytes::ZERO).then_some(taken))
}

/// Takes of a GPU what a context and all kernels take, says so in a line, and keeps it until its input ends.
///
/// # Errors
/// When there is no such GPU, or the driver fails.
pub(super) fn hold(number: u32) -> Result<ExitCode> {
    let gpu = Cuda::new(number as usize)?;
    gpu.load_all_kernels()?;
    output::print(&format!("{READY}\n"))?;
    // However it ends.
    let _ = io::stdin().lock().read_to_end(&mut Vec::new());
    Ok(ExitCode::SUCCESS)
}

/// This program once more.
struct OtherProcess(Child);

impl OtherProcess {
    fn start(number: u32) -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["doctor", "--hold-gpu", &number.to_string()]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command.spawn().map(OtherProcess)
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let mut line = String::new();
        let read = self.0.stdout.take().map(|output| {
            let mut output = BufReader::new(output).take(READY.len() as u64 + 1);
            output.read_line(&mut line)
        });
        match (read, line.trim_end()) {
            (Some(Ok(_)), READY) => Ok(()),
            _ => Err("a second process could not open it".to_owned()),
        }
    }

    /// Ends it by the end of its input.
    fn end(mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Nothing is left running where measuring fails.
impl Drop for OtherProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const READY: &str = "ready";
