//! Being asked to stop: Ctrl-C, a service manager's SIGTERM, a terminal that is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use anyhow::{Context, Result};
use llm_runtime::RuntimeError;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The signal that came first; 0 before. Signals are the process's, hence so is this.
static FIRST: AtomicI32 = AtomicI32::new(0);

/// Calls `stop` with the first signal, so that what was begun is brought to an end in order. A second one ends the
/// program as it is.
pub(crate) fn watch(stop: impl Fn(i32) + Send + 'static) -> Result<()> {
    let has_come = AtomicBool::new(false);
    watch_each(move |signal| {
        if has_come.swap(true, Ordering::Relaxed) {
            std::process::exit(exit_code().into());
        }
        stop(signal);
    })
}

/// The signal that Ctrl-C sends.
pub(crate) const INTERRUPT: i32 = SIGINT;

/// Calls `on` with every signal that asks the program to stop: it decides what ends.
pub(crate) fn watch_each(on: impl Fn(i32) + Send + 'static) -> Result<()> {
    let mut signals = Signals::new(asking()).context("cannot watch for signals")?;
    let watch = move || {
        for signal in signals.forever() {
            let _ = FIRST.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
            on(signal);
        }
    };
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(watch).context("cannot watch for signals")?;
    Ok(())
}

/// Signals that ask a program to stop.
fn asking() -> Vec<i32> {
    let mut signals = vec![SIGINT, SIGTERM];
    // Whoever starts a program with nohup wants it to outlive the terminal.
    if !is_ignored(SIGHUP) {
        signals.push(SIGHUP);
    }
    signals
}

/// 128 and the signal's number, as shells have it; as after Ctrl-C where there was none.
pub(crate) fn exit_code() -> u8 {
    code_after(match FIRST.load(Ordering::Relaxed) {
        0 => SIGINT,
        signal => signal,
    })
}

/// The same after such a signal.
pub(crate) fn code_after(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Flag that the first signal raises: work ends in order where it is checked. The second signal does not ask.
#[derive(Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn on_signal() -> Result<Self> {
        let stop = Stop::default();
        let raised = Arc::clone(&stop.0);
        watch(move |_| raised.store(true, Ordering::Relaxed))?;
        Ok(stop)
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(RuntimeError::Interrupted.into());
        }
        Ok(())
    }
}

/// True where the process was started with the signal ignored; where the system does not tell, it was not.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}
