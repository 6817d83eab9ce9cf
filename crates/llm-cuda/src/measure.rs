//! Bandwidths of a GPU's memory and of the way to it, and what starting kernels and waiting for them takes, measured.

use std::time::{Duration, Instant};

use llm_backend::{Backend, Ops, Queue, Result};
use llm_tensor::PageBuf;

use crate::driver::{DeviceMemory, Event, Failure, HostMemory, Stream, Timing};
use crate::{Cuda, CudaQueue};

/// Bytes a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GpuRates {
    /// Of a copy inside the GPU's memory, what is read and what is written counted both.
    pub copy: f64,
    /// To the GPU.
    pub to_gpu: HostRates,
    /// From the GPU.
    pub from_gpu: HostRates,
}

/// Seconds of what a pass does beside moving bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GpuTimes {
    /// A kernel that is started by itself, among others.
    pub launch: f64,
    /// One of a graph.
    pub launch_in_graph: f64,
    /// Rows of no length handed over, to the GPU or from it: half of the way to it, through a kernel, and back, for which the
    /// host waits.
    pub hand_over: f64,
}

/// Bytes a second between the host's memory and a GPU's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HostRates {
    /// Pinned pages of the host: they stay in place, so that the GPU copies them by itself.
    pub pinned: f64,
    /// Any other pages: the driver copies them first.
    pub pageable: f64,
}

/// The way from one GPU to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GpuLink {
    /// Bytes a second.
    pub rate: f64,
    /// Seconds of a row of next to no bytes, with what has either GPU wait for the other.
    pub hand_over: f64,
    /// True where copies go straight to the other's memory, false where through the host's.
    pub is_straight: bool,
}

/// Amount that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeasureExtent {
    /// Bytes that are copied inside the GPU at a time; twice as many are allocated there.
    pub on_gpu: usize,
    /// Bytes that are copied between host and GPU at a time; twice as many are allocated on the host.
    pub on_host: usize,
    /// Copies of each kind, of which the median counts.
    pub n_rounds: usize,
    /// Kernels that are started at a time.
    pub n_launches: usize,
}

impl Cuda {
    /// Measures copies, one after the other.
    ///
    /// # Errors
    /// When the GPU or the host has no room for them, or the driver fails.
    ///
    /// # Panics
    /// When there is nothing to copy.
    pub fn measure(&self, extent: MeasureExtent) -> Result<GpuRates> {
        let MeasureExtent {
            on_gpu,
            on_host,
            n_rounds,
            n_launches: _,
        } = extent;
        assert!(
            on_gpu.min(on_host).min(n_rounds) > 0,
            "something to measure"
        );
        let rates = self.rates((on_gpu, on_host), n_rounds);
        let purpose = "measuring bandwidths";
        rates.map_err(|failure| self.card().refused(failure, purpose, 2 * on_gpu))
    }

    /// Measures copies of `n_bytes` to another GPU's memory, one after the other.
    ///
    /// # Errors
    /// When a GPU has no room for them, or the driver fails.
    ///
    /// # Panics
    /// When there is nothing to copy.
    pub fn measure_link(&self, other: &Cuda, n_bytes: usize, n_rounds: usize) -> Result<GpuLink> {
        assert!(n_bytes.min(n_rounds) > 0, "something to measure");
        let is_straight = self.card().reach(other.card())?;
        other.card().reach(self.card())?;
        let measure = || {
            let contexts = [self, other].map(|gpu| &gpu.card().context);
            let [own, others] = [Stream::new(contexts[0])?, Stream::new(contexts[1])?];
            let from = DeviceMemory::new(contexts[0], n_bytes)?;
            let to = DeviceMemory::new(contexts[1], n_bytes)?;
            own.zero(&from)?;
            let done = Event::new(contexts[0], Timing::None)?;
            own.push(&from, (&to, &others), n_bytes, &done)?;
            let seconds = median(n_rounds, || {
                let start = Event::new(contexts[0], Timing::Kept)?;
                let end = Event::new(contexts[0], Timing::Kept)?;
                own.record(&start)?;
                own.push(&from, (&to, &others), n_bytes, &done)?;
                own.record(&end)?;
                end.synchronize()?;
                end.since(&start)
            })?;
            // There and back, again and again.
            let back = Event::new(contexts[1], Timing::None)?;
            let n_small = n_bytes.min(ROW);
            let crossings = median(n_rounds, || {
                timed(|| {
                    for _ in 0..N_CROSSINGS / 2 {
                        own.push(&from, (&to, &others), n_small, &done)?;
                        others.push(&to, (&from, &own), n_small, &back)?;
                    }
                    own.synchronize()
                })
            })?;
            Ok((seconds, crossings / N_CROSSINGS as f64))
        };
        let purpose = "measuring copies between GPUs";
        let (seconds, hand_over) =
            measure().map_err(|failure| self.card().refused(failure, purpose, n_bytes))?;
        Ok(GpuLink {
            rate: n_bytes as f64 / seconds,
            hand_over,
            is_straight,
        })
    }

    /// Measures launches of a kernel that does next to nothing.
    ///
    /// # Errors
    /// When the driver fails.
    ///
    /// # Panics
    /// When nothing is to be started.
    pub fn measure_launches(&self, extent: MeasureExtent) -> Result<GpuTimes> {
        let MeasureExtent {
            n_rounds,
            n_launches,
            ..
        } = extent;
        assert!(n_rounds.min(n_launches) > 0, "something to measure");
        let mut queue = CudaQueue::new(self.card(), &self.events, None)?;
        let most = n_rounds + 2;
        let (from, mut to) = (self.alloc(most)?, self.alloc(most)?);
        let mut launches = |width: usize, n: usize| {
            let start = Instant::now();
            for _ in 0..n {
                queue.add(&from, &mut to, width, 1)?;
            }
            queue.finish()?;
            Ok(start.elapsed())
        };
        // Other arguments each time, so that the queue knows none again.
        let mut width = 0;
        let alone = median(n_rounds, || {
            width += 1;
            launches(width, n_launches)
        })?;
        // What comes for the third time is a graph.
        for _ in 0..2 {
            launches(most, n_launches)?;
        }
        let in_graph = median(n_rounds, || launches(most, n_launches))?;
        let mut element = [0.0];
        let hand_over = median(n_rounds, || {
            let start = Instant::now();
            queue.upload(&element, &mut to)?;
            queue.add(&from, &mut to, 1, 1)?;
            queue.download(&to, &mut element)?;
            Ok(start.elapsed())
        })?;
        Ok(GpuTimes {
            launch: alone / n_launches as f64,
            launch_in_graph: in_graph / n_launches as f64,
            hand_over: hand_over / 2.0,
        })
    }

    fn rates(
        &self,
        (on_gpu, on_host): (usize, usize),
        n_rounds: usize,
    ) -> std::result::Result<GpuRates, Failure> {
        let context = &self.card().context;
        let stream = Stream::new(context)?;
        let copy = {
            let memory = [
                DeviceMemory::new(context, on_gpu)?,
                DeviceMemory::new(context, on_gpu)?,
            ];
            let [from, to] = &memory;
            stream.zero(from)?;
            stream.copy((from, 0), (to, 0), on_gpu)?;
            let seconds = median(n_rounds, || {
                let start = Event::new(context, Timing::Kept)?;
                let end = Event::new(context, Timing::Kept)?;
                stream.record(&start)?;
                stream.copy((from, 0), (to, 0), on_gpu)?;
                stream.record(&end)?;
                end.synchronize()?;
                end.since(&start)
            })?;
            2.0 * on_gpu as f64 / seconds
        };
        let memory = DeviceMemory::new(context, on_host)?;
        let mut pinned = HostMemory::new(context, on_host, PageBuf::PAGE)?;
        // Touched, so that its pages are there.
        let mut pageable = vec![1; on_host];
        let rate = |seconds: f64| on_host as f64 / seconds;
        let to_gpu = HostRates {
            pinned: rate(median(n_rounds, || {
                timed(|| {
                    stream.bring((&pinned, 0), (&memory, 0), on_host)?;
                    stream.synchronize()
                })
            })?),
            pageable: rate(median(n_rounds, || {
                timed(|| stream.write(&pageable, &memory, 0))
            })?),
        };
        let from_gpu = HostRates {
            pinned: rate(median(n_rounds, || {
                timed(|| stream.read(&memory, 0, pinned.bytes_mut()))
            })?),
            pageable: rate(median(n_rounds, || {
                timed(|| stream.read(&memory, 0, &mut pageable))
            })?),
        };
        Ok(GpuRates {
            copy,
            to_gpu,
            from_gpu,
        })
    }
}

/// Bytes of a row that says nothing of its length, and how often it crosses.
const ROW: usize = 16;
const N_CROSSINGS: usize = 32;

fn timed(
    work: impl FnOnce() -> std::result::Result<(), Failure>,
) -> std::result::Result<Duration, Failure> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

/// The median seconds of some rounds, after one that does not count.
fn median<E>(
    n_rounds: usize,
    mut round: impl FnMut() -> std::result::Result<Duration, E>,
) -> std::result::Result<f64, E> {
    round()?;
    let rounds = (0..n_rounds).map(|_| round());
    let mut rounds = rounds.collect::<std::result::Result<Vec<_>, E>>()?;
    rounds.sort();
    // A clock that stands still measures nothing.
    let shortest = Duration::from_nanos(1);
    Ok(rounds[n_rounds / 2].max(shortest).as_secs_f64())
}
