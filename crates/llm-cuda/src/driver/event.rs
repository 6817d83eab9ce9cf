//! Events: points in a stream.

use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys;

use super::{Context, Failure, answer};

/// A point that a stream can record and others wait for.
#[derive(Debug)]
pub(crate) struct Event {
    context: Arc<Context>,
    pub(super) raw: sys::CUevent,
}

// SAFETY: the driver's events may be used by any thread, several at once.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

/// Use of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timing {
    /// It orders work; cheaper.
    None,
    /// The time between it and others is asked for.
    Kept,
}

impl Event {
    pub(crate) fn new(context: &Arc<Context>, timing: Timing) -> Result<Self, Failure> {
        let flags = match timing {
            Timing::None => sys::CUevent_flags::CU_EVENT_DISABLE_TIMING,
            Timing::Kept => sys::CUevent_flags::CU_EVENT_DEFAULT,
        };
        context.bind()?;
        let mut raw = ptr::null_mut();
        // SAFETY: the thread has a context; the driver writes a handle, given back when this is dropped.
        let code = unsafe { sys::cuEventCreate(&raw mut raw, flags as u32) };
        answer(code, || "making an event".to_owned())?;
        Ok(Event {
            context: Arc::clone(context),
            raw,
        })
    }

    /// Waits on the host until it is reached.
    pub(crate) fn synchronize(&self) -> Result<(), Failure> {
        self.context.bind()?;
        // SAFETY: the event is there while this lives.
        let code = unsafe { sys::cuEventSynchronize(self.raw) };
        answer(code, || "waiting for an event".to_owned())
    }

    /// Time from `start` to this; both are reached.
    pub(crate) fn since(&self, start: &Event) -> Result<Duration, Failure> {
        self.context.bind()?;
        let mut milliseconds = 0.0;
        // SAFETY: both are there while these live; the driver writes a number.
        let code = unsafe { sys::cuEventElapsedTime(&raw mut milliseconds, start.raw, self.raw) };
        answer(code, || "asking for the time between events".to_owned())?;
        Ok(Duration::from_secs_f64(
            f64::from(milliseconds.max(0.0)) / 1e3,
        ))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is this one's; the driver keeps it for the work that still needs it.
        let _ = unsafe { sys::cuEventDestroy_v2(self.raw) };
    }
}
