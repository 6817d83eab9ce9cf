//! A GPU whose operations are counted, one by one.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails where it meets the unexpected, and says what it skips"
)]

use std::env;
use std::sync::Arc;

use cuda_emulator::harness::{self, Machine};
use cuda_emulator::report::KernelReport;
use llm_backend::{Backend, Queue, Result, Rows, StateBatch};
use llm_cuda::{Compute, Cuda, CudaQueue, CudaWeight, probe};
use llm_quant::{Scheme, StoredWeight};
use llm_tensor::{HostBytes, WorkspaceShape};

use crate::seldom::{self, ENDS as ENDS_OF_SELDOM};

type Buffer = <Cuda as Backend>::Buffer;
type Index = <Cuda as Backend>::Index;

/// Compute capabilities, times ten, whose PTX differs.
const TARGETS: [u32; 2] = [80, 75];

/// What may be moved beyond what must be.
const BOUND: f64 = 1.1;

/// Share of fetched and written sectors that must be asked for, in allocations that have a tenth of what a launch moves. What
/// the first cache of a block still has of its loads is not fetched again.
const EFFICIENCY: f64 = 0.9;

/// Bytes of sectors at the ends of a launch's lists.
const ENDS: u64 = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Written,
}

/// Kernels that fill their sectors less, by the beginning of their names: what they reach, and why. The same is in `docs/gpu.md`.
const LESS: [(&str, Direction, f64, &str); 8] = [
    (
        "delta_rule_256",
        Direction::Read,
        0.45,
        "a warp has four columns of a state, in halves of sectors",
    ),
    (
        "delta_rule_256",
        Direction::Written,
        0.45,
        "a warp has four columns of a state, in halves of sectors",
    ),
    (
        "delta_rule_channels_256",
        Direction::Read,
        0.45,
        "a warp has four columns of a state, in halves of sectors",
    ),
    (
        "delta_rule_channels_256",
        Direction::Written,
        0.45,
        "a warp has four columns of a state, in halves of sectors",
    ),
    (
        "four_bit_rows_4",
        Direction::Written,
        0.25,
        "a warp writes the results of two rows of the weight",
    ),
    (
        "packed_split",
        Direction::Written,
        0.6,
        "sums of columns lie beside those of seven other rows, which other blocks write",
    ),
    (
        "gemm_four_bit_2_16",
        Direction::Read,
        0.88,
        "blocks share columns, and rows of 4128 begin and end within sectors",
    ),
    (
        "routing_",
        Direction::Written,
        0.15,
        "an expert's block writes a few words of each list",
    ),
];

/// Share of sectors that a kernel must fill, where it is less than usual.
fn least(name: &str, direction: Direction) -> Option<f64> {
    let mut less = LESS.iter();
    let found = less.find(|(start, of, ..)| name.starts_with(start) && *of == direction);
    found.map(|(_, _, least, _)| *least)
}

pub(crate) struct Bench {
    pub(crate) cuda: Arc<Cuda>,
    pub(crate) queue: CudaQueue,
    pub(crate) target: u32,
    pub(crate) compute: Compute,
    flaws: Vec<String>,
}

/// An operation, and what it must move.
pub(crate) struct Needs<'a> {
    pub(crate) what: &'a str,
    pub(crate) n_bytes: usize,
    /// How much more it may move.
    pub(crate) bound: f64,
    /// Share of sectors that what it reads must fill.
    pub(crate) filled: f64,
}

impl<'a> Needs<'a> {
    /// That many bytes, and a tenth more at most.
    pub(crate) fn bytes(what: &'a str, n_bytes: usize) -> Self {
        Needs {
            what,
            n_bytes,
            bound: BOUND,
            filled: EFFICIENCY,
        }
    }

    /// A looser bound, which `docs/gpu.md` gives the reason of.
    pub(crate) fn at_most(self, bound: f64) -> Self {
        Needs { bound, ..self }
    }

    /// A looser share, likewise.
    pub(crate) fn filling(self, filled: f64) -> Self {
        Needs { filled, ..self }
    }
}

/// Names of all kernels.
pub(crate) fn kernels() -> impl Iterator<Item = &'static str> {
    let lines = include_str!("../../ptx/kernels.txt").lines();
    let lines = lines.filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split(' ').next())
}

/// True of a name that begins with a pattern, and ends as it does behind a `*`. Of patterns without an end, names of seldom
/// kernels are left out.
fn is_of(name: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => name.starts_with(start) && name.ends_with(end),
        None => {
            let is_seldom = ENDS_OF_SELDOM.iter().any(|end| name.ends_with(end));
            name.starts_with(pattern) && (!is_seldom || seldom::KERNELS.contains(&pattern))
        }
    }
}

/// Runs `body` on emulated GPUs of each target. All kernels whose names are of `patterns` must have been launched on one of
/// them. Where [`ON_CARD`] is set it runs on the first GPU instead, and nothing is counted.
pub(crate) fn on_each_target(patterns: &[&str], body: impl Fn(&mut Bench)) {
    if env::var_os(ON_CARD).is_some() {
        match probe() {
            Ok(_) => body(&mut Bench::new()),
            Err(none) if env::var_os("LLM_RUN_REQUIRE_GPU").is_some() => panic!("{none}"),
            Err(none) => eprintln!("skipped: {none}"),
        }
        return;
    }
    let reports = TARGETS.map(|target| {
        Machine::new().compute(target).inside(|| {
            let mut bench = Bench::new();
            body(&mut bench);
            bench.queue.finish().unwrap();
            assert!(bench.flaws.is_empty(), "\n{}", bench.flaws.join("\n"));
        })
    });
    let [Some(one), Some(other)] = reports else {
        return;
    };
    for pattern in patterns {
        let names: Vec<_> = kernels().filter(|name| is_of(name, pattern)).collect();
        assert!(!names.is_empty(), "no kernel is of {pattern}");
        for name in names {
            let is_launched = [&one, &other]
                .iter()
                .any(|report| report.kernels.contains_key(name));
            assert!(is_launched, "{name} was not launched");
        }
    }
}

/// Variable of the environment that has a real GPU compute.
pub(crate) const ON_CARD: &str = "LLM_RUN_ON_CARD";

impl Bench {
    fn new() -> Self {
        let compute = Compute::default();
        let (cuda, queue) = Self::open(compute);
        let (major, minor) = cuda.facts().compute_capability;
        Bench {
            queue,
            cuda,
            target: 10 * major + minor,
            compute,
            flaws: Vec::new(),
        }
    }

    /// Has products be of that exactness from now on.
    pub(crate) fn compute_in(&mut self, compute: Compute) {
        (self.cuda, self.queue) = Self::open(compute);
        self.compute = compute;
    }

    fn open(compute: Compute) -> (Arc<Cuda>, CudaQueue) {
        let cuda = Arc::new(Cuda::computing_in(0, compute).unwrap());
        let largest = WorkspaceShape {
            n_tokens: 64,
            cols: 4096,
            rows: 4096,
            context: 4096,
            n_heads: 32,
            n_kv_heads: 8,
            head_dim: 128,
            n_selecting: 64,
        };
        let queue = cuda.queue(Some(&largest)).unwrap();
        (cuda, queue)
    }

    /// Holds what an operation moves, with all that it launches, to what it needs.
    pub(crate) fn check(
        &mut self,
        needs: &Needs<'_>,
        act: impl FnOnce(&mut CudaQueue) -> Result<()>,
    ) {
        self.queue.finish().unwrap();
        let before = harness::report();
        act(&mut self.queue).unwrap();
        self.queue.finish().unwrap();
        let Some(before) = before else {
            return;
        };
        let ran = harness::report().unwrap().kernels_since(&before);
        assert!(!ran.is_empty(), "{} launches nothing", needs.what);
        let moved = |kernel: &KernelReport| kernel.read.moved + kernel.written.moved;
        let all: u64 = ran.values().map(moved).sum();
        let n_launches: u64 = ran.values().map(|kernel| kernel.launches).sum();
        let Needs {
            what,
            n_bytes,
            bound,
            filled,
        } = *needs;
        let ratio = all.saturating_sub(ENDS * n_launches) as f64 / n_bytes as f64;
        if ratio > bound {
            let of = |(name, kernel): (&String, &KernelReport)| {
                format!("{name} {} and {}", kernel.read.moved, kernel.written.moved)
            };
            let kernels: Vec<_> = ran.iter().map(of).collect();
            self.flaws.push(format!(
                "{what}: {ratio:.3} of {n_bytes} bytes, which may be {bound}: {}",
                kernels.join(", ")
            ));
        }
        // What is a tenth of an operation and less is not what it takes time for.
        for (name, kernel) in ran.iter().filter(|(_, kernel)| moved(kernel) * 10 > all) {
            for (direction, traffic, usual) in [
                (Direction::Read, &kernel.read, filled),
                (Direction::Written, &kernel.written, EFFICIENCY),
            ] {
                let share = traffic.large_sector_efficiency();
                let least = least(name, direction).map_or(usual, |least| least.min(usual));
                if share < least {
                    self.flaws.push(format!(
                        "{what}: {name}, {direction:?}: {share:.3} of sectors, which must be {least}"
                    ));
                }
            }
        }
    }

    /// A buffer with finite numbers.
    pub(crate) fn buffer(&mut self, n: usize) -> Buffer {
        let mut buffer = self.cuda.alloc(n).unwrap();
        let values: Vec<f32> = (0..n).map(|i| (i % 97) as f32 / 64.0 - 0.7).collect();
        self.queue.upload(&values, &mut buffer).unwrap();
        buffer
    }

    /// Two sequences of so many rows each, which go on from states in two of three slots.
    pub(crate) fn two_sequences(&mut self, n_tokens: usize) -> TwoSequences {
        let rows = [0, 1].map(|i| Rows {
            first: i * n_tokens,
            n_tokens,
            start: 5,
            n_positions: 5 + n_tokens,
        });
        TwoSequences {
            rows_index: self.index(&rows.map(|rows| rows.words()).concat()),
            slots: self.index(&[2, 0]),
            rows,
        }
    }

    pub(crate) fn index(&mut self, values: &[u32]) -> Index {
        let mut index = self.cuda.alloc_index(values.len()).unwrap();
        self.queue.upload_index(values, &mut index).unwrap();
        index
    }

    /// A weight of zeros, and its bytes.
    pub(crate) fn weight(
        &self,
        scheme: Scheme,
        (rows, cols): (usize, usize),
    ) -> (CudaWeight, usize) {
        let parts = scheme.parts(rows as u64, cols as u64);
        let parts = parts.map(|_, info| HostBytes::new(vec![0; info.bytes as usize]));
        let stored = StoredWeight {
            scheme,
            rows,
            cols,
            parts,
        };
        let n_bytes = stored.stored_bytes().total().get() as usize;
        (self.cuda.load(stored).unwrap(), n_bytes)
    }
}

/// Sequences with states, and what a device is told of them.
pub(crate) struct TwoSequences {
    rows: [Rows; 2],
    rows_index: Index,
    slots: Index,
}

impl TwoSequences {
    pub(crate) fn batch(&self) -> StateBatch<'_, Cuda> {
        StateBatch {
            rows: &self.rows,
            rows_index: &self.rows_index,
            slots: &self.slots,
        }
    }
}
