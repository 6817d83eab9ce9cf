//! Two GPUs: rows go from the memory of one to that of the other, in the order of both GPUs' work and without the host.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails where it meets the unexpected"
)]

use std::sync::Arc;

use cuda_emulator::harness::{Machine, report};
use llm_backend::{Backend, Ops, Queue};
use llm_conformance::check_devices;
use llm_cuda::Cuda;
use llm_tensor::WorkspaceShape;

/// Two GPUs that load unlike kernels.
fn machine() -> Machine {
    Machine::new().devices(2).computes(&[75, 80])
}

fn both() -> [Arc<Cuda>; 2] {
    [0, 1].map(|number| Arc::new(Cuda::new(number).unwrap()))
}

#[test]
fn no_order_of_streams_changes_what_is_copied() {
    for seed in 0..20 {
        let report = machine().seed(seed).inside(|| {
            let [one, other] = both();
            check_devices(&one, &other);
        });
        if let Some(report) = report {
            assert!(report.bytes_between_devices > 0);
            assert!(report.devices.iter().all(|device| device.allocated == 0));
        }
    }
}

#[test]
fn copies_are_straight_where_the_hardware_allows_it_and_the_host_waits_for_none() {
    const N: usize = 256;
    for peers in [true, false] {
        let report = machine().peers(peers).inside(|| {
            let gpus = both();
            let shape = WorkspaceShape {
                n_tokens: 1,
                cols: N,
                rows: N,
                context: 1,
                n_heads: 1,
                n_kv_heads: 1,
                head_dim: 1,
                n_selecting: 0,
            };
            let mut queues = gpus.each_ref().map(|gpu| gpu.queue(Some(&shape)).unwrap());
            let mut rows = gpus.each_ref().map(|gpu| gpu.alloc(N).unwrap());
            let ones = gpus.each_ref().map(|gpu| gpu.alloc(N).unwrap());
            let [a, b] = &mut queues;
            let ([x, y], mut ones) = (&mut rows, ones);
            a.upload(&[1.0; N], &mut ones[0]).unwrap();
            b.upload(&[1.0; N], &mut ones[1]).unwrap();
            let n_waits = || report().unwrap().host_synchronizations;
            let before = n_waits();
            for _ in 0..10 {
                a.add(&ones[0], x, N, 1).unwrap();
                b.copy_from(a, x, y, N).unwrap();
                b.add(&ones[1], y, N, 1).unwrap();
                a.copy_from(b, y, x, N).unwrap();
            }
            assert_eq!(n_waits(), before);
            let mut found = [0.0; N];
            a.download(x, &mut found).unwrap();
            assert_eq!(found, [20.0; N]);
        });
        if let Some(report) = report {
            let all = (20 * N * size_of::<f32>()) as u64;
            assert_eq!(report.bytes_between_devices, all);
            assert_eq!(report.bytes_staged, if peers { 0 } else { all });
        }
    }
}

#[test]
fn more_than_a_buffer_has_is_refused() {
    machine().inside(|| {
        let [one, other] = both();
        let (mut a, mut b) = (one.queue(None).unwrap(), other.queue(None).unwrap());
        let (x, mut y) = (one.alloc(4).unwrap(), other.alloc(8).unwrap());
        let copied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            b.copy_from(&mut a, &x, &mut y, 5).unwrap();
        }));
        assert!(copied.is_err());
        b.copy_from(&mut a, &x, &mut y, 0).unwrap();
    });
}
