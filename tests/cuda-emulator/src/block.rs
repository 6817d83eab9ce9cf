//! A block of threads: its memory, its warps in turn, and its barriers.

mod warp;

use std::sync::Arc;

use warp::{Arrival, Pause};
pub(crate) use warp::{MASKS_MAY_DIFFER, Warp};

use crate::device::{FirstCache, Known, Stored, Touched, Traffic, View};
use crate::exec::Row;
use crate::fault::{Fault, Kind, Located};
use crate::program::{Program, Vote};
use crate::shared::{By, Shared};

/// What all blocks of a launch have in common.
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a Program,
    pub(crate) grid: [u32; 3],
    pub(crate) threads: [u32; 3],
    pub(crate) dynamic_shared: usize,
    pub(crate) params: &'a [u8],
    pub(crate) traffic: Option<&'a Traffic>,
    /// Where stores are noted, for a kernel that has loads which may miss them.
    pub(crate) stored: Option<&'a Stored>,
    /// Whether accesses to shared memory are held against each other.
    pub(crate) races: bool,
    /// Whether reads of bytes that nothing wrote are faults.
    pub(crate) unwritten: bool,
    /// Chooses the order of warps; 0 takes them as they are numbered.
    pub(crate) seed: u64,
}

impl Launch<'_> {
    pub(crate) fn n_threads(&self) -> usize {
        self.threads.iter().map(|n| *n as usize).product()
    }
}

/// State of one block that its warps share.
pub(crate) struct Block<'a> {
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) index: [u32; 3],
    pub(crate) view: View,
    pub(crate) shared: Shared,
    /// Local memory of all threads, one after the other.
    pub(crate) local: Vec<u8>,
    pub(crate) known: Known,
    /// Sectors of the regions that the block has come to.
    pub(crate) touched: Vec<Arc<Touched>>,
    pub(crate) first_cache: Option<FirstCache>,
}

impl<'a> Block<'a> {
    /// Runs a block to its end. `rows` are registers of earlier warps, to be used again.
    pub(crate) fn run(
        launch: &'a Launch<'a>,
        index: [u32; 3],
        view: View,
        rows: &mut Vec<Vec<Row>>,
    ) -> Result<(), Located> {
        let n_threads = launch.n_threads();
        let n_warps = n_threads.div_ceil(32);
        let shared = launch.program.shared_bytes + launch.dynamic_shared;
        let mut block = Block {
            launch,
            index,
            view,
            shared: Shared::new(shared, n_warps, launch.races),
            local: vec![0xff; launch.program.local_bytes * n_threads],
            known: Known::default(),
            touched: Vec::new(),
            first_cache: launch.traffic.map(|_| FirstCache::of_threads(n_threads)),
        };
        let mut warps: Vec<Warp> = (0..n_warps)
            .map(|warp| Warp::new(&block, warp, rows.pop().unwrap_or_default()))
            .collect();
        let result = block.take_turns(&mut warps);
        if let Some(traffic) = launch.traffic {
            use std::sync::atomic::Ordering::Relaxed;
            for warp in &warps {
                traffic.instructions.fetch_add(warp.n_instructions, Relaxed);
                traffic
                    .lane_instructions
                    .fetch_add(warp.n_lane_instructions, Relaxed);
            }
        }
        rows.extend(warps.into_iter().map(Warp::into_rows));
        result
    }

    fn take_turns(&mut self, warps: &mut [Warp]) -> Result<(), Located> {
        let mut barriers = [Barrier::NEW; N_BARRIERS];
        let mut is_done = vec![false; warps.len()];
        // Warps that stand at a barrier, by barrier.
        let mut waits: Vec<Option<usize>> = vec![None; warps.len()];
        let [x, y, z] = self.index.map(u64::from);
        let first = self.launch.seed.wrapping_mul(x + 3 * y + 7 * z + 1) as usize % warps.len();
        loop {
            let mut moved = false;
            for step in 0..warps.len() {
                let at = (first + step) % warps.len();
                if is_done[at] || waits[at].is_some() {
                    continue;
                }
                moved = true;
                let pause = warps[at]
                    .run(self)
                    .map_err(|(fault, pc)| self.locate(&fault, at, pc))?;
                match pause {
                    Pause::Turn => {}
                    Pause::Done => is_done[at] = true,
                    Pause::Barrier(arrival) => {
                        let id = self
                            .arrive(&mut barriers, at, &arrival)
                            .map_err(|fault| self.locate(&fault, at, arrival.pc))?;
                        if arrival.waits {
                            waits[at] = Some(id);
                        }
                    }
                }
                self.release(&mut barriers, warps, &is_done, &mut waits);
            }
            if is_done.iter().all(|done| *done) {
                return Ok(());
            }
            if !moved {
                let at = waits.iter().position(Option::is_some).unwrap_or(0);
                let pc = warps[at].pc();
                let fault = Fault::new(
                    Kind::Barrier,
                    "waits at a barrier that other threads do not come to",
                );
                return Err(self.locate(&fault, at, pc));
            }
        }
    }

    fn arrive(
        &self,
        barriers: &mut [Barrier],
        warp: usize,
        arrival: &Arrival,
    ) -> Result<usize, Fault> {
        let id = arrival.id as usize;
        let Some(barrier) = barriers.get_mut(id) else {
            return Err(Fault::new(
                Kind::Failed,
                format!("barrier {id} of {N_BARRIERS}"),
            ));
        };
        if barrier.warps == 0 {
            barrier.pc = arrival.pc;
            barrier.n_threads = arrival.n_threads;
        } else if barrier.n_threads != arrival.n_threads {
            return Err(Fault::new(
                Kind::Barrier,
                format!("barrier {id} for different numbers of threads"),
            ));
        } else if arrival.n_threads.is_none() && barrier.pc != arrival.pc {
            return Err(Fault {
                other: Some(barrier.pc),
                ..Fault::new(
                    Kind::Barrier,
                    "warps of the block stand at different barriers",
                )
            });
        }
        barrier.warps |= 1 << warp;
        barrier.n_arrived += 32;
        barrier.n_true += arrival.truths.count_ones();
        barrier.n_lanes += arrival.lanes;
        if arrival.waits {
            barrier.waiting |= 1 << warp;
        }
        Ok(id)
    }

    /// Lets the warps of each barrier go on that is complete.
    fn release(
        &mut self,
        barriers: &mut [Barrier],
        warps: &mut [Warp],
        is_done: &[bool],
        waits: &mut [Option<usize>],
    ) {
        for barrier in barriers {
            if barrier.warps == 0 {
                continue;
            }
            // Threads that have ended are waited for by nobody.
            let is_complete = match barrier.n_threads {
                Some(n) => barrier.n_arrived >= n,
                None => (0..warps.len()).all(|at| is_done[at] || barrier.warps >> at & 1 == 1),
            };
            if !is_complete {
                continue;
            }
            self.shared.block_barrier(barrier.warps);
            for at in (0..warps.len()).filter(|at| barrier.waiting >> at & 1 == 1) {
                waits[at] = None;
                warps[at].pass_barrier(|vote| match vote {
                    Vote::Count => barrier.n_true,
                    Vote::All => u32::from(barrier.n_true == barrier.n_lanes),
                    Vote::Any => u32::from(barrier.n_true > 0),
                });
            }
            *barrier = Barrier::NEW;
        }
    }

    /// A fault with its kernel, block, thread and line.
    fn locate(&self, fault: &Fault, warp: usize, pc: u32) -> Located {
        let program = self.launch.program;
        let [x, y, z] = self.index;
        let thread = match fault.lane {
            Some(lane) => {
                let thread = warp * 32 + lane as usize;
                let [nx, ny, _] = self.launch.threads.map(|n| n as usize);
                format!(
                    "thread ({}, {}, {})",
                    thread % nx,
                    thread / nx % ny,
                    thread / nx / ny
                )
            }
            None => format!("warp {warp}"),
        };
        let other = fault.other.map_or(String::new(), |other| {
            format!("; the other is {}", program.describe(other))
        });
        Located {
            kind: fault.kind,
            text: format!(
                "kernel {}, block ({x}, {y}, {z}), {thread}: {}: {}{other}",
                program.name,
                program.describe(pc),
                fault.text,
            ),
        }
    }

    /// The thread of a lane, for the tracker of shared memory.
    #[inline(always)]
    pub(crate) fn by(&self, warp: &Warp, lane: usize) -> By {
        By {
            thread: warp.index * 32 + lane,
            pc: warp.running,
        }
    }
}

/// A barrier that some warps have come to.
#[derive(Clone, Copy)]
struct Barrier {
    warps: u32,
    /// Those of `warps` that wait until it is complete.
    waiting: u32,
    n_arrived: u32,
    n_threads: Option<u32>,
    n_true: u32,
    n_lanes: u32,
    pc: u32,
}

impl Barrier {
    const NEW: Self = Self {
        warps: 0,
        waiting: 0,
        n_arrived: 0,
        n_threads: None,
        n_true: 0,
        n_lanes: 0,
        pc: 0,
    };
}

const N_BARRIERS: usize = 16;
