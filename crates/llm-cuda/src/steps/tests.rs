//! Steps that come again.

use std::sync::Arc;

use cuda_emulator::harness::{Machine, report};
use llm_backend::{Backend, Ops, Queue};

use crate::{Buffer, Cuda, CudaQueue};

/// `n` sums into one of two buffers, read back.
fn pass(queue: &mut CudaQueue, y: &Buffer, x: &mut Buffer, n: usize) -> f32 {
    for _ in 0..n {
        queue.add(y, x, 4, 1).unwrap();
    }
    let mut sum = [0.0; 4];
    queue.download(x, &mut sum).unwrap();
    sum[3]
}

fn with_queue(check: impl FnOnce(&Arc<Cuda>, &mut CudaQueue, &Buffer)) {
    let cuda = Arc::new(Cuda::new(0).unwrap());
    let mut queue = cuda.queue(None).unwrap();
    let mut y = cuda.alloc(4).unwrap();
    queue.upload(&[1.0; 4], &mut y).unwrap();
    check(&cuda, &mut queue, &y);
}

#[test]
fn passes_that_come_again_are_one_launch_each() {
    Machine::new().inside(|| {
        with_queue(|cuda, queue, y| {
            let mut x = [cuda.alloc(4).unwrap(), cuda.alloc(4).unwrap()];
            // Two kinds of passes in turn, as of a model that swaps two buffers.
            for turn in 0..10 {
                let sum = pass(queue, y, &mut x[turn % 2], 20);
                assert_eq!(sum, 20.0 * (turn / 2 + 1) as f32);
            }
            assert_eq!(queue.n_replays(), 6);
            // Another number of tokens: as far as the passes are alike nothing is lost.
            for n in [21, 19, 8, 20, 1, 21, 21] {
                pass(queue, y, &mut x[0], n);
            }
            let sum = pass(queue, y, &mut x[0], 0);
            assert_eq!(sum, 100.0 + 111.0);
            assert_eq!(queue.n_replays(), 8);
        });
    });
}

/// What is held back when its memory is dropped still has it.
#[test]
fn memory_of_a_step_that_is_held_back_is_kept() {
    let after = Machine::new().inside(|| {
        with_queue(|cuda, queue, y| {
            let mut x = cuda.alloc(4).unwrap();
            for _ in 0..3 {
                pass(queue, y, &mut x, 10);
            }
            // The next is held back; all it reads is dropped.
            let z = cuda.alloc(4).unwrap();
            for _ in 0..5 {
                queue.add(y, &mut x, 4, 1).unwrap();
            }
            drop(x);
            drop(z);
            let before = report().unwrap().devices[0].allocated;
            queue.finish().unwrap();
            assert!(report().unwrap().devices[0].allocated < before);
            assert_eq!(queue.n_replays(), 1);
        });
    });
    if let Some(report) = after {
        assert_eq!(
            (report.devices[0].allocated, &report.faults[..]),
            (0, &[][..])
        );
    }
}

/// A queue that is dropped has done what was put there, and another sees it behind an event.
#[test]
fn an_event_comes_behind_what_was_held_back() {
    Machine::new().seed(3).inside(|| {
        with_queue(|cuda, queue, y| {
            let mut other = cuda.queue(None).unwrap();
            let mut x = cuda.alloc(4).unwrap();
            for turn in 1..6 {
                for _ in 0..10 {
                    queue.add(y, &mut x, 4, 1).unwrap();
                }
                let done = queue.record().unwrap();
                other.wait(&done).unwrap();
                let mut sum = [0.0; 4];
                other.download(&x, &mut sum).unwrap();
                assert_eq!(sum, [10.0 * turn as f32; 4]);
            }
            assert!(queue.n_replays() >= 3);
        });
    });
}
