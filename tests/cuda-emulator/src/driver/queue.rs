//! Streams as queues of work that runs when something must wait for it, in an order that the seed chooses among those that
//! streams and events allow.

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use super::{Code, Driver, Task, Work, default_stream};

/// A point in a stream: done when so many of its tasks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) stream: usize,
    pub(crate) n_tasks: u64,
}

pub(crate) struct Stream {
    pub(crate) device: usize,
    /// Whether it keeps the order of the default stream.
    pub(crate) is_blocking: bool,
    queue: VecDeque<Task>,
    n_queued: u64,
    n_done: u64,
    /// Ends when its work is done.
    is_destroyed: bool,
    /// While the stream is captured: what was put into it.
    pub(crate) capture: Option<Capture>,
}

/// Work that is recorded instead of queued.
#[derive(Default)]
pub(crate) struct Capture {
    pub(crate) work: Vec<Work>,
    /// Whether something was asked for that no graph can hold.
    pub(crate) is_invalid: bool,
}

impl Stream {
    pub(crate) fn new(device: usize, is_blocking: bool) -> Self {
        Self {
            device,
            is_blocking,
            queue: VecDeque::new(),
            n_queued: 0,
            n_done: 0,
            is_destroyed: false,
            capture: None,
        }
    }

    /// Forgets what is queued, as after a fault.
    pub(super) fn drop_queue(&mut self) {
        self.n_done = self.n_queued;
        self.queue.clear();
    }
}

#[derive(Default)]
pub(crate) struct Event {
    pub(crate) device: usize,
    /// Where it was recorded last.
    pub(crate) point: Option<Point>,
    pub(crate) time: Option<Instant>,
    pub(crate) has_time: bool,
}

impl Driver {
    /// End of a stream as it is now.
    fn end_of(&self, stream: usize) -> Point {
        Point {
            stream,
            n_tasks: self
                .streams
                .get(&stream)
                .map_or(0, |stream| stream.n_queued),
        }
    }

    /// Queues work; returns the point at which it is done.
    pub(crate) fn enqueue(
        &mut self,
        stream: usize,
        mut after: Vec<Point>,
        work: Work,
    ) -> Result<Point, Code> {
        let state = self
            .streams
            .get_mut(&stream)
            .filter(|stream| !stream.is_destroyed)
            .ok_or(Code::INVALID_HANDLE)?;
        let device = state.device;
        if let Some(capture) = &mut state.capture {
            capture.work.push(work);
            return Ok(self.end_of(stream));
        }
        // The default stream waits for all that block, and they for it.
        let default = default_stream(device);
        if stream == default {
            let others: Vec<usize> = self
                .streams
                .iter()
                .filter(|(_, other)| other.device == device && other.is_blocking)
                .map(|(handle, _)| *handle)
                .filter(|handle| *handle != stream)
                .collect();
            after.extend(others.into_iter().map(|other| self.end_of(other)));
        } else if self.streams[&stream].is_blocking {
            after.push(self.end_of(default));
        }
        if let Some(timeline) = &mut self.timeline {
            timeline.ask(&self.memory, (stream, device), &after, &work);
        }
        after.retain(|point| !self.is_done(*point));
        let stream_of = self.streams.get_mut(&stream).ok_or(Code::INVALID_HANDLE)?;
        stream_of.queue.push_back(Task { after, work });
        stream_of.n_queued += 1;
        Ok(self.end_of(stream))
    }

    pub(crate) fn is_done(&self, point: Point) -> bool {
        self.streams
            .get(&point.stream)
            .is_none_or(|stream| stream.n_done >= point.n_tasks)
    }

    fn is_ready(&self, stream: usize) -> bool {
        self.streams
            .get(&stream)
            .and_then(|stream| stream.queue.front())
            .is_some_and(|task| task.after.iter().all(|point| self.is_done(*point)))
    }

    /// Does the first task of a stream.
    fn step(&mut self, handle: usize) {
        let Some(stream) = self.streams.get_mut(&handle) else {
            return;
        };
        let device = stream.device;
        let Some(task) = stream.queue.pop_front() else {
            return;
        };
        self.perform(device, task.work);
        if let Some(stream) = self.streams.get_mut(&handle) {
            stream.n_done = (stream.n_done + 1).min(stream.n_queued);
            if stream.is_destroyed && stream.queue.is_empty() {
                self.streams.remove(&handle);
            }
        }
    }

    /// Has the host wait until all points are done: runs what they need, and what else the seed lets go before.
    pub(crate) fn run_until(&mut self, points: &[Point]) {
        if let Some(timeline) = &mut self.timeline {
            timeline.wait(points);
        }
        while let Some(goal) = points.iter().find(|point| !self.is_done(**point)) {
            let mut stream = self.needed(*goal);
            if self.settings.seed != 0 {
                let mut ready: Vec<usize> = self
                    .streams
                    .keys()
                    .copied()
                    .filter(|handle| self.is_ready(*handle))
                    .collect();
                // Keys come in no order; the choice must be the seed's.
                ready.sort_unstable();
                if self.choose(2) == 1 {
                    let at = self.choose(ready.len());
                    stream = ready[at];
                }
            }
            self.step(stream);
        }
    }

    /// A stream whose first task can run and must before `goal` is done.
    fn needed(&self, goal: Point) -> usize {
        let mut stream = goal.stream;
        let mut seen = HashSet::new();
        while seen.insert(stream) {
            let blocker = self
                .streams
                .get(&stream)
                .and_then(|stream| stream.queue.front())
                .and_then(|task| task.after.iter().find(|point| !self.is_done(**point)));
            match blocker {
                Some(point) => stream = point.stream,
                None => return stream,
            }
        }
        stream
    }

    /// Runs one task, if there is any that can: what time would do while the host asks again and again.
    pub(crate) fn run_one(&mut self) {
        let mut ready: Vec<usize> = self
            .streams
            .keys()
            .copied()
            .filter(|handle| self.is_ready(*handle))
            .collect();
        ready.sort_unstable();
        if !ready.is_empty() {
            let at = self.choose(ready.len());
            self.step(ready[at]);
        }
    }

    /// Waits for a stream.
    pub(crate) fn synchronize(&mut self, stream: usize) -> Result<(), Code> {
        let state = self.streams.get_mut(&stream).ok_or(Code::INVALID_HANDLE)?;
        if let Some(capture) = &mut state.capture {
            capture.is_invalid = true;
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
        }
        let device = state.device;
        let end = self.end_of(stream);
        let mut points = vec![end];
        if stream == default_stream(device) {
            points.extend(
                self.streams
                    .iter()
                    .filter(|(_, other)| other.device == device && other.is_blocking)
                    .map(|(handle, _)| self.end_of(*handle)),
            );
        }
        self.run_until(&points);
        self.check(device)
    }

    /// Waits for all streams of a device.
    pub(crate) fn synchronize_device(&mut self, device: usize) -> Result<(), Code> {
        let points: Vec<Point> = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.device == device)
            .map(|(handle, _)| self.end_of(*handle))
            .collect();
        self.run_until(&points);
        self.check(device)
    }

    /// Whether all of a stream's work is done.
    pub(crate) fn is_idle(&self, stream: usize) -> Result<bool, Code> {
        let stream = self.streams.get(&stream).ok_or(Code::INVALID_HANDLE)?;
        Ok(stream.n_done == stream.n_queued)
    }

    /// Ends a stream once its work is done.
    pub(crate) fn destroy_stream(&mut self, handle: usize) -> Result<(), Code> {
        let stream = self.streams.get_mut(&handle).ok_or(Code::INVALID_HANDLE)?;
        stream.is_destroyed = true;
        if stream.queue.is_empty() {
            self.streams.remove(&handle);
        }
        Ok(())
    }
}
