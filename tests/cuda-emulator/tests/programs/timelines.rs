//! Virtual time: what runs side by side, what waits, and that no seed changes it.

use std::sync::Arc;

use cuda_emulator::harness::{self, Machine};
use cuda_emulator::pace::Pace;
use cuda_emulator::report::TimelineReport;
use cudarc::driver::{CudaSlice, CudaStream};

use crate::lab::{Arg, BASICS, Lab, at};

/// Copies of [`LEN`] values take as long as a kernel.
const PACE: Pace = Pace {
    launch: 1000,
    to_device: 4_000_000_000,
    to_host: 2_000_000_000,
};
const LEN: usize = 1000;

/// A device with two streams.
struct Bench {
    lab: Lab,
    other: Arc<CudaStream>,
    x: CudaSlice<f32>,
    y: CudaSlice<f32>,
}

impl Bench {
    fn compute(&self) {
        let args = [at(&self.x), Arg::Int(1)];
        self.lab.launch("add_one", 1, 32, &args).expect("a launch");
    }

    fn bring(&mut self, stream: &Arc<CudaStream>) {
        let values = vec![0f32; LEN];
        let brought = stream.memcpy_htod(&values, &mut self.y);
        brought.expect("an upload");
    }
}

/// What is expected of a body: kernels, uploads, downloads, and all, in microseconds.
fn check(expected: [u64; 4], body: impl Fn(&mut Bench)) {
    for seed in 0..4 {
        Machine::new().pace(PACE).seed(seed).inside(|| {
            let lab = Lab::new(BASICS);
            let mut bench = Bench {
                other: lab.context.new_stream().expect("a stream"),
                x: lab.put(&[0f32; LEN]),
                y: lab.put(&[0f32; LEN]),
                lab,
            };
            bench.lab.stream.synchronize().expect("the copies");
            let before = timeline();
            body(&mut bench);
            bench.lab.context.synchronize().expect("all work");
            let found = timeline().since(&before);
            let TimelineReport {
                compute,
                to_device,
                to_host,
                ..
            } = found;
            let found = [compute, to_device, to_host, found.makespan()];
            assert_eq!(found, expected.map(|n| 1000 * n), "seed {seed}");
        });
    }
}

fn timeline() -> TimelineReport {
    let report = harness::report().expect("an emulated driver");
    report.timelines[0].clone()
}

#[test]
fn two_streams_run_side_by_side() {
    check([10, 10, 0, 10], |bench| {
        let other = bench.other.clone();
        for _ in 0..10 {
            bench.compute();
            bench.bring(&other);
        }
    });
}

#[test]
fn one_stream_does_one_thing_after_the_other() {
    check([10, 10, 0, 20], |bench| {
        let stream = bench.lab.stream.clone();
        for _ in 0..10 {
            bench.compute();
            bench.bring(&stream);
        }
    });
}

#[test]
fn an_engine_does_one_thing_at_a_time() {
    check([0, 4, 0, 4], |bench| {
        let (one, other) = (bench.lab.stream.clone(), bench.other.clone());
        for stream in [&one, &other, &one, &other] {
            bench.bring(stream);
        }
    });
}

/// As weights come in turns: each kernel waits for what is brought before it, which waits for nothing.
#[test]
fn what_waits_for_an_event_begins_after_it() {
    check([10, 10, 0, 11], |bench| {
        let other = bench.other.clone();
        for _ in 0..10 {
            bench.bring(&other);
            let brought = other.record_event(None).expect("an event");
            bench.lab.stream.wait(&brought).expect("a wait");
            bench.compute();
        }
    });
    // With one place to bring to, each upload waits for the last use.
    check([10, 10, 0, 20], |bench| {
        let other = bench.other.clone();
        for _ in 0..10 {
            bench.bring(&other);
            let brought = other.record_event(None).expect("an event");
            bench.lab.stream.wait(&brought).expect("a wait");
            bench.compute();
            let used = bench.lab.stream.record_event(None).expect("an event");
            other.wait(&used).expect("a wait");
        }
    });
}

#[test]
fn a_graph_takes_the_time_of_its_kernels() {
    check([4, 4, 0, 4], |bench| {
        let args = [at(&bench.x), Arg::Int(1)];
        let kernel: (&str, &[Arg]) = ("add_one", &args);
        let graph = bench.lab.graph(&[kernel; 4], true);
        bench.lab.launch_graph(graph);
        let other = bench.other.clone();
        for _ in 0..4 {
            bench.bring(&other);
        }
    });
}

#[test]
fn what_the_host_has_not_asked_for_yet_does_not_begin() {
    check([1, 1, 2, 4], |bench| {
        bench.compute();
        // A download of twice the cost, which the host waits for.
        assert_eq!(bench.lab.get(&bench.x)[0], 1.0);
        let other = bench.other.clone();
        bench.bring(&other);
    });
}

#[test]
fn overlap_is_the_share_of_the_less_that_is_hidden() {
    let report = |compute, copies, all: u64| TimelineReport {
        compute,
        to_device: copies,
        to_host: 0,
        begin: 5,
        end: 5 + all,
    };
    for (compute, copies, all, expected) in [
        (10, 10, 10, 1.0),
        (10, 10, 20, 0.0),
        (10, 10, 11, 0.9),
        (10, 4, 10, 1.0),
        (4, 10, 12, 0.5),
        (10, 0, 10, 1.0),
        (10, 10, 30, -1.0),
    ] {
        let found = report(compute, copies, all).overlap();
        assert!((found - expected).abs() < 1e-9, "{compute} {copies} {all}");
    }
}
