//! Launches: blocks over threads of the host.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::{Driver, KernelCall};
use crate::block::{Block, Launch};
use crate::device::{Stored, Traffic, View};
use crate::exec::Row;
use crate::fault::{Kind, Located};

impl Driver {
    pub(super) fn run_kernel(&mut self, device: usize, call: &KernelCall) -> Result<(), Located> {
        self.check_arguments(call)?;
        let (traffic, stored) = (Traffic::default(), Stored::default());
        let checks_stores = call.program.has_read_only_loads && self.settings.races;
        let launch = Launch {
            program: &call.program,
            grid: call.grid,
            threads: call.threads,
            dynamic_shared: call.dynamic_shared,
            params: &call.params,
            traffic: self.settings.counts.then_some(&traffic),
            stored: checks_stores.then_some(&stored),
            races: self.settings.races,
            unwritten: self.settings.unwritten,
            seed: self.settings.seed,
        };
        let view = self.memory.view(device);
        let begun = Instant::now();
        let result = run_blocks(&launch, &view, self.settings.n_threads);
        let seconds = begun.elapsed().as_secs_f64();
        let name = call.program.name.clone();
        let kernel = self.report.kernels.entry(name).or_default();
        kernel.launches += 1;
        kernel.seconds += seconds;
        kernel.instructions += traffic.instructions.load(Relaxed);
        kernel.lane_instructions += traffic.lane_instructions.load(Relaxed);
        let [read, written] = traffic.reports();
        kernel.read.add(&read);
        kernel.written.add(&written);
        result
    }

    /// Arguments that the kernel takes for addresses must be some: an argument of another size than the parameter shows here.
    fn check_arguments(&self, call: &KernelCall) -> Result<(), Located> {
        for (at, param) in call.program.params.iter().enumerate() {
            if !param.is_pointer {
                continue;
            }
            let bytes = &call.params[param.offset..param.offset + 8];
            let address = bytes
                .iter()
                .rev()
                .fold(0u64, |value, byte| value << 8 | u64::from(*byte));
            // The end of an allocation is where an empty range lies.
            let is_known = address == 0
                || self.memory.find(address, 0).is_some()
                || self.memory.find(address - 1, 1).is_some();
            if !is_known {
                return Err(Located {
                    kind: Kind::Address,
                    text: format!(
                        "kernel {}: argument {at} is taken for an address, and {}",
                        call.program.name,
                        self.memory.describe(address)
                    ),
                });
            }
        }
        Ok(())
    }
}

/// Runs all blocks. The first ones tell whether it pays to start threads.
fn run_blocks(launch: &Launch<'_>, view: &View, n_threads: usize) -> Result<(), Located> {
    let [nx, ny, nz] = launch.grid.map(u64::from);
    let n_blocks = nx * ny * nz;
    let stride = stride_of(launch.seed, n_blocks);
    let index_of = |step: u64| {
        let at = (u128::from(step) * u128::from(stride) + u128::from(launch.seed % n_blocks))
            % u128::from(n_blocks);
        let at = at as u64;
        [
            (at % nx) as u32,
            (at / nx % ny) as u32,
            (at / nx / ny) as u32,
        ]
    };
    let begun = Instant::now();
    let mut rows: Vec<Vec<Row>> = Vec::new();
    let mut done = 0;
    while done < n_blocks && (n_threads == 1 || begun.elapsed() < ALONE) {
        Block::run(launch, index_of(done), view.clone(), &mut rows)?;
        done += 1;
    }
    if done == n_blocks {
        return Ok(());
    }
    let next = AtomicU64::new(done);
    let has_failed = AtomicBool::new(false);
    let failure: Mutex<Option<(u64, Located)>> = Mutex::new(None);
    let work = |mut rows: Vec<Vec<Row>>| {
        while !has_failed.load(Relaxed) {
            let at = next.fetch_add(1, Relaxed);
            if at >= n_blocks {
                return;
            }
            if let Err(fault) = Block::run(launch, index_of(at), view.clone(), &mut rows) {
                has_failed.store(true, Relaxed);
                let mut failure = failure.lock().unwrap_or_else(|lock| lock.into_inner());
                // Of several faults the one of the first block is told.
                if failure.as_ref().is_none_or(|(other, _)| at < *other) {
                    *failure = Some((at, fault));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..n_threads {
            scope.spawn(|| work(Vec::new()));
        }
        work(rows);
    });
    let failure = failure
        .into_inner()
        .unwrap_or_else(|lock| lock.into_inner());
    failure.map_or(Ok(()), |(_, fault)| Err(fault))
}

/// Steps between blocks that run one after the other: each block has its turn once. 1 for the seed 0.
fn stride_of(seed: u64, n_blocks: u64) -> u64 {
    let has_common = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a != 1
    };
    let mut stride = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) % n_blocks + 1;
    while has_common(stride, n_blocks) {
        stride += 1;
    }
    stride
}

/// Time of work that is not worth the start of a thread.
const ALONE: Duration = Duration::from_micros(200);
