//! A virtual clock: when work would run on devices with one engine for kernels and one for copies each way.
//!
//! Work begins when what stands before it in its stream and what it waits for have ended, its engine is free, and the host
//! has asked for it; of work that could begin, what can first does. The host takes no time but for its waits. All that
//! follows from the order in which the host asks, and not from that in which the emulator runs things. Threads of the host have a
//! time each, so that one that waits holds up none that does not.

use std::collections::{HashMap, VecDeque};
use std::thread::{self, ThreadId};

use super::{From, Point, To, Work};
use crate::device::{Home, Memory};
use crate::pace::Pace;
use crate::report::TimelineReport;

pub(crate) struct Timeline {
    pace: Pace,
    /// Nanoseconds that threads of the host have come to.
    hosts: HashMap<ThreadId, u64>,
    streams: HashMap<usize, Lane>,
    devices: Vec<Engines>,
    n_asked: u64,
}

/// A stream's work.
#[derive(Default)]
struct Lane {
    /// Ends of its tasks that have their time.
    ends: Vec<u64>,
    waiting: VecDeque<Piece>,
}

/// A task that has no time yet.
struct Piece {
    device: usize,
    /// Order in which the host asked.
    number: u64,
    /// Time at which it did.
    asked: u64,
    after: Vec<Point>,
    /// What it takes, one after the other.
    costs: Vec<(Engine, u64)>,
}

/// The first task of a stream; among several the least begins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Next {
    start: u64,
    number: u64,
    stream: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Compute,
    ToDevice,
    ToHost,
}

/// Engines of a device.
#[derive(Clone, Default)]
struct Engines {
    /// Times from which on they are free.
    free: [u64; 3],
    busy: [u64; 3],
    /// Of the first work and the last, if there was any.
    span: Option<(u64, u64)>,
}

impl Timeline {
    pub(crate) fn new(pace: Pace, n_devices: usize) -> Self {
        Self {
            pace,
            hosts: HashMap::new(),
            streams: HashMap::new(),
            devices: vec![Engines::default(); n_devices],
            n_asked: 0,
        }
    }

    /// Takes note of a task at the end of a stream.
    pub(super) fn ask(
        &mut self,
        memory: &Memory,
        (stream, device): (usize, usize),
        after: &[Point],
        work: &Work,
    ) {
        let mut costs = Vec::new();
        self.add_costs(memory, device, work, &mut costs);
        let asked = self.host();
        self.n_asked += 1;
        let number = self.n_asked;
        let lane = self.streams.entry(stream).or_default();
        lane.waiting.push_back(Piece {
            device,
            number,
            asked,
            after: after.to_vec(),
            costs,
        });
    }

    fn add_costs(
        &self,
        memory: &Memory,
        device: usize,
        work: &Work,
        costs: &mut Vec<(Engine, u64)>,
    ) {
        let (engine, cost) = match work {
            Work::Kernel(_) | Work::Gemm(_) | Work::Fill { .. } => {
                (Engine::Compute, self.pace.launch)
            }
            Work::Copy { to, from, n } => self.copy(memory, device, (from, to), *n),
            // In one of the orders that it allows.
            Work::Graph(graph) => {
                for node in &graph.nodes {
                    self.add_costs(memory, device, &node.work, costs);
                }
                return;
            }
            Work::Record { .. } | Work::Free(_) | Work::Call(..) | Work::Wait => return,
        };
        match costs.last_mut() {
            Some((last, sum)) if *last == engine => *sum += cost,
            _ => costs.push((engine, cost)),
        }
    }

    fn copy(
        &self,
        memory: &Memory,
        device: usize,
        (from, to): (&From, &To),
        n: u64,
    ) -> (Engine, u64) {
        let home = |address: u64| {
            memory
                .find(address, n)
                .map_or(Home::Host, |found| found.home)
        };
        let from = match from {
            From::Region(address) => home(*address),
            From::Bytes(_) => Home::Host,
        };
        let to = match to {
            To::Region(address) => home(*address),
            To::Host(_) => Home::Host,
        };
        if from == to && to == Home::Device(device) {
            return (Engine::Compute, self.pace.launch);
        }
        let (engine, rate) = match to == Home::Device(device) {
            true => (Engine::ToDevice, self.pace.to_device),
            false => (Engine::ToHost, self.pace.to_host),
        };
        let cost = (u128::from(n) * 1_000_000_000).div_ceil(u128::from(rate));
        (engine, cost as u64)
    }

    /// Has the host's thread wait for all of some points.
    pub(super) fn wait(&mut self, points: &[Point]) {
        let is_open = |timeline: &Self| points.iter().any(|point| timeline.end(point).is_none());
        while is_open(self) {
            let Some(next) = self.next() else {
                break;
            };
            self.place(next);
        }
        let end = points.iter().filter_map(|point| self.end(point)).max();
        let now = self.host().max(end.unwrap_or(0));
        self.hosts.insert(thread::current().id(), now);
        // Nothing that is asked for from now on can come before these.
        while let Some(next) = self.next()
            && next.start < now
        {
            self.place(next);
        }
    }

    /// Gives a time to all that was asked for.
    pub(crate) fn finish(&mut self) {
        while let Some(next) = self.next() {
            self.place(next);
        }
    }

    fn host(&self) -> u64 {
        let now = self.hosts.get(&thread::current().id());
        now.copied().unwrap_or(0)
    }

    /// Time of a point, if it has one.
    fn end(&self, point: &Point) -> Option<u64> {
        let Some(last) = (point.n_tasks as usize).checked_sub(1) else {
            return Some(0);
        };
        self.streams.get(&point.stream)?.ends.get(last).copied()
    }

    /// The task that begins next.
    fn next(&self) -> Option<Next> {
        let of = |(stream, lane): (&usize, &Lane)| {
            let piece = lane.waiting.front()?;
            let mut start = piece.asked.max(lane.ends.last().copied().unwrap_or(0));
            for point in &piece.after {
                start = start.max(self.end(point)?);
            }
            if let Some((engine, _)) = piece.costs.first() {
                start = start.max(self.devices[piece.device].free[*engine as usize]);
            }
            Some(Next {
                start,
                number: piece.number,
                stream: *stream,
            })
        };
        self.streams.iter().filter_map(of).min()
    }

    /// Gives the first task of a stream its time, which nothing can change any more.
    fn place(&mut self, Next { start, stream, .. }: Next) {
        let Some(lane) = self.streams.get_mut(&stream) else {
            return;
        };
        let Some(piece) = lane.waiting.pop_front() else {
            return;
        };
        let engines = &mut self.devices[piece.device];
        let mut now = start;
        for (engine, cost) in piece.costs {
            let begun = now.max(engines.free[engine as usize]);
            now = begun + cost;
            engines.free[engine as usize] = now;
            engines.busy[engine as usize] += cost;
            let (first, last) = engines.span.unwrap_or((begun, now));
            engines.span = Some((first.min(begun), last.max(now)));
        }
        lane.ends.push(now);
    }

    pub(super) fn report(&self) -> Vec<TimelineReport> {
        let of = |engines: &Engines| {
            let [compute, to_device, to_host] = engines.busy;
            let (begin, end) = engines.span.unwrap_or_default();
            TimelineReport {
                compute,
                to_device,
                to_host,
                begin,
                end,
            }
        };
        self.devices.iter().map(of).collect()
    }
}
