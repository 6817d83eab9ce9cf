//! Launches that never reach the driver.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cuda_emulator::harness::{Machine, report};
use llm_backend::{Backend, Queue};

use super::Launch;
use crate::module::{Kernel, kernel};
use crate::{Buffer, Cuda, CudaQueue};

/// A sum of `n` elements.
fn add<'a>(queue: &'a CudaQueue, x: &Buffer, n: usize) -> Launch<'a> {
    let launch = queue
        .launch(kernel!("add"))
        .pointer(x.first(n))
        .pointer(x.first(n));
    launch.int(n)
}

struct Case {
    name: &'static str,
    launch: fn(&CudaQueue, &Buffer),
    says: &'static str,
}

const CASES: [Case; 14] = [
    Case {
        // Where it is looked up at run time; a constant does not compile.
        name: "no such kernel",
        launch: |queue, _| drop(queue.launch(Kernel::named("add_f8"))),
        says: "no kernel has this name",
    },
    Case {
        name: "too few arguments",
        launch: |queue, x| {
            queue
                .launch(kernel!("add"))
                .pointer(x.first(4))
                .run()
                .unwrap()
        },
        says: "arguments of add",
    },
    Case {
        name: "too many arguments",
        launch: |queue, x| drop(add(queue, x, 4).int(1)),
        says: "and not None",
    },
    Case {
        name: "a number for an address",
        launch: |queue, _| drop(queue.launch(kernel!("add")).int(4)),
        says: "add: argument 0 is Int, and not Some(Word)",
    },
    Case {
        name: "a structure for an address",
        launch: |queue, _| drop(queue.launch(kernel!("add")).structure(&[0u64; 3])),
        says: "argument 0 is Structure(24)",
    },
    Case {
        name: "a number beyond 31 bits",
        launch: |queue, x| {
            let launch = queue.launch(kernel!("routing_gather")).pointer(x.first(4));
            drop(launch.pointer(x.first(4)).int(1 << 31));
        },
        says: "routing_gather: 2147483648 is not below 2^31",
    },
    Case {
        name: "memory that is too short",
        launch: |_, x| {
            x.first(9);
        },
        says: "bytes 0..36 of 32 for activations",
    },
    Case {
        name: "elements that cannot be counted",
        launch: |_, x| {
            x.first(usize::MAX / 2);
        },
        says: "elements of activations can be counted",
    },
    Case {
        name: "memory off its border",
        launch: |_, x| {
            x.first(8).part(4..32).aligned(16);
        },
        says: "for reads of 16 bytes",
    },
    Case {
        name: "too many blocks",
        launch: |queue, _| drop(queue.launch(kernel!("add")).grid([1, 1 << 16, 1])),
        says: "add: [1, 65536, 1] blocks",
    },
    Case {
        name: "too many threads",
        launch: |queue, _| drop(queue.launch(kernel!("add")).threads(257)),
        says: "add: [257, 1, 1] threads, of which it may have 256",
    },
    Case {
        name: "too much shared memory",
        launch: |queue, _| drop(queue.launch(kernel!("add")).shared(1 << 20)),
        says: "add: 1048576 bytes of shared memory beside 0",
    },
    Case {
        name: "shared memory for a kernel that has none but its own",
        launch: |queue, _| drop(queue.launch(kernel!("add")).shared(16)),
        says: "add: 16 bytes of shared memory beside 0, of which it may have 0",
    },
    Case {
        name: "more shared memory than a block may have",
        launch: |queue, _| drop(queue.launch(kernel!("four_bit_rows_1")).shared(150 << 10)),
        says: "four_bit_rows_1: 153600 bytes of shared memory beside 32896",
    },
];

#[test]
fn a_wrong_launch_is_refused_before_the_driver_is_asked() {
    let after = Machine::new().inside(|| {
        let cuda = Arc::new(Cuda::new(0).unwrap());
        let queue = cuda.queue(None).unwrap();
        let x = cuda.alloc(8).unwrap();
        for Case { name, launch, says } in CASES {
            let refused = catch_unwind(AssertUnwindSafe(|| launch(&queue, &x)));
            let message = refused.expect_err(name);
            let message = message.downcast_ref::<String>().map_or_else(
                || (*message.downcast_ref::<&str>().unwrap()).to_owned(),
                String::clone,
            );
            assert!(message.contains(says), "{name}: {message}");
        }
        assert!(report().unwrap().kernels.is_empty());
    });
    if let Some(report) = after {
        assert!(report.kernels.is_empty(), "{:?}", report.kernels);
    }
}

/// No block is nothing to do, and no mistake: an expert without rows, a list without elements.
#[test]
fn a_launch_without_blocks_is_none() {
    let after = Machine::new().inside(|| {
        let cuda = Arc::new(Cuda::new(0).unwrap());
        let mut queue = cuda.queue(None).unwrap();
        let x = cuda.alloc(0).unwrap();
        add(&queue, &x, 0).grid([0, 1, 1]).run().unwrap();
        queue.finish().unwrap();
    });
    if let Some(report) = after {
        assert!(report.kernels.is_empty(), "{:?}", report.kernels);
    }
}
