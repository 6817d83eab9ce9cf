//! Points in queues.

use std::sync::{Arc, Mutex, PoisonError};

use llm_backend::Result;

use crate::card::Card;
use crate::driver::{self, Failure, Stream, Timing};

/// A point in a queue.
#[derive(Debug, Clone)]
pub struct CudaEvent(Arc<Recorded>);

/// Events that were used and can be again; recording one makes it another, whatever still waits for what it was.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events(Arc<Mutex<Vec<driver::Event>>>);

#[derive(Debug)]
struct Recorded {
    /// There until this is dropped.
    event: Option<driver::Event>,
    events: Events,
    card: Arc<Card>,
}

impl Events {
    /// An event that is reached when the work of `stream` so far is done.
    pub(crate) fn record(&self, stream: &Stream) -> std::result::Result<driver::Event, Failure> {
        let event = self.take(stream)?;
        stream.record(&event)?;
        Ok(event)
    }

    /// An event of the stream's device, to be recorded.
    pub(crate) fn take(&self, stream: &Stream) -> std::result::Result<driver::Event, Failure> {
        let used = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        used.map_or_else(|| driver::Event::new(stream.context(), Timing::None), Ok)
    }
}

impl CudaEvent {
    /// Of an event that was recorded, which is used again when nobody asks about it any more.
    pub(crate) fn new(card: &Arc<Card>, events: Events, event: driver::Event) -> Self {
        CudaEvent(Arc::new(Recorded {
            event: Some(event),
            events,
            card: Arc::clone(card),
        }))
    }

    pub(crate) fn raw(&self) -> &driver::Event {
        self.0
            .event
            .as_ref()
            .expect("an event is there until it is dropped")
    }
}

impl llm_backend::Event for CudaEvent {
    fn finish(&self) -> Result<()> {
        let reached = self.raw().synchronize();
        reached.map_err(|failure| self.0.card.failed(failure))
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let mut used = self.events.0.lock().unwrap_or_else(PoisonError::into_inner);
        used.extend(self.event.take());
    }
}
