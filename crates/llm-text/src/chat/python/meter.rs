//! Bounds on what a template may take: memory and time.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use minijinja::Error;

use super::broken;

/// Resource limits of a template.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of all values that it makes, whether they still live or not.
    pub(crate) bytes: usize,
    /// Time from beginning to end.
    pub(crate) time: Duration,
    /// Instructions of the engine.
    pub(crate) instructions: u64,
}

/// Resources used by a template.
pub(crate) struct Meter {
    limits: Limits,
    deadline: Instant,
    used: AtomicUsize,
    steps: AtomicU64,
    next_look: AtomicU64,
}

impl Meter {
    pub(super) fn new(limits: Limits) -> Meter {
        Meter {
            limits,
            deadline: Instant::now() + limits.time,
            used: AtomicUsize::new(0),
            steps: AtomicU64::new(0),
            next_look: AtomicU64::new(0),
        }
    }

    /// Counts bytes that are about to be taken.
    pub(super) fn charge(&self, bytes: usize) -> Result<(), Error> {
        self.has_room(bytes)?;
        self.used.fetch_add(bytes, Ordering::Relaxed);
        self.step(1 + bytes / BYTES_PER_STEP)
    }

    /// Fails if so many bytes more would be too many.
    pub(super) fn has_room(&self, bytes: usize) -> Result<(), Error> {
        let limit = self.limits.bytes;
        if bytes > limit.saturating_sub(self.used.load(Ordering::Relaxed)) {
            return broken(format!("it takes more than {} MiB", limit >> 20));
        }
        Ok(())
    }

    /// Counts work, and looks at the clock now and then.
    pub(super) fn step(&self, n: usize) -> Result<(), Error> {
        let steps = self.steps.fetch_add(n as u64, Ordering::Relaxed) + n as u64;
        if steps >= self.next_look.load(Ordering::Relaxed) {
            self.next_look
                .store(steps + STEPS_PER_LOOK, Ordering::Relaxed);
            if Instant::now() > self.deadline {
                let seconds = self.limits.time.as_secs_f64();
                return broken(format!("it takes longer than {seconds} s"));
            }
        }
        Ok(())
    }

    /// Counts the work of going through a text.
    pub(super) fn read(&self, text: &str) -> Result<(), Error> {
        self.step(1 + text.len() / BYTES_PER_STEP)
    }
}

/// A text that is being written, within the bounds.
pub(super) struct Buffer<'m> {
    text: String,
    meter: &'m Meter,
}

impl<'m> Buffer<'m> {
    pub(super) fn new(meter: &'m Meter) -> Self {
        Buffer {
            text: String::new(),
            meter,
        }
    }

    pub(super) fn push(&mut self, text: &str) -> Result<(), Error> {
        self.meter.charge(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    pub(super) fn push_char(&mut self, c: char) -> Result<(), Error> {
        self.meter.charge(c.len_utf8())?;
        self.text.push(c);
        Ok(())
    }

    /// A text over and over.
    pub(super) fn repeat(&mut self, text: &str, n: usize) -> Result<(), Error> {
        self.meter.charge(text.len().saturating_mul(n))?;
        self.text.extend(std::iter::repeat_n(text, n));
        Ok(())
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

const STEPS_PER_LOOK: u64 = 10_000;
const BYTES_PER_STEP: usize = 16;
