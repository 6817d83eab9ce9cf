//! Planted faults: each is told with its kernel, block, thread and line.

use cuda_emulator::harness::Machine;
use cudarc::driver::sys::CUresult;

use crate::lab::{Arg, BASICS, FAULTS, Lab, at, error};

/// A launch of one block of a faulty kernel, and what must be told of it.
struct Case {
    kernel: &'static str,
    threads: u32,
    /// Values of the input and of the output, if the kernel has them.
    n_in: usize,
    n_out: usize,
    number: Option<i32>,
    code: CUresult,
    words: &'static [&'static str],
}

const CASE: Case = Case {
    kernel: "",
    threads: 32,
    n_in: 0,
    n_out: 0,
    number: None,
    code: CUresult::CUDA_ERROR_LAUNCH_FAILED,
    words: &[],
};

fn check(case: &Case) {
    let run = Machine::new().outcome(|| {
        let lab = Lab::new(FAULTS);
        let x = (case.n_in > 0).then(|| lab.put(&vec![1f32; case.n_in]));
        let y = (case.n_out > 0).then(|| lab.room(case.n_out));
        let mut args: Vec<Arg> = x.iter().chain(&y).map(at).collect();
        args.extend(case.number.map(Arg::Int));
        lab.launch(case.kernel, 1, case.threads, &args)
            .expect("a launch");
        // The fault is seen where the host waits, and from then on.
        assert_eq!(lab.stream.synchronize(), Err(error(case.code)));
        assert_eq!(lab.stream.synchronize(), Err(error(case.code)));
    });
    let Some(run) = run else { return };
    let report = run.report.as_ref().expect("a report");
    let [fault] = &report.faults[..] else {
        panic!("{}: {}", case.kernel, run.text());
    };
    let kernel = format!("kernel {}, block (0, 0, 0), ", case.kernel);
    for words in case.words.iter().copied().chain([&kernel[..], "PTX line "]) {
        assert!(fault.contains(words), "{fault:?} without {words:?}");
    }
}

#[test]
fn missing_barrier_of_the_block() {
    check(&Case {
        kernel: "missing_barrier",
        threads: 64,
        n_in: 64,
        n_out: 64,
        // The first warp reads before the second has written.
        words: &["reads byte", "which nothing wrote before", "ld.shared.f32"],
        ..CASE
    });
}

#[test]
fn missing_barrier_of_the_warp() {
    check(&Case {
        kernel: "missing_warp_barrier",
        n_in: 32,
        n_out: 32,
        words: &[
            "thread (0, 0, 0)",
            "which thread 31 wrote, with no barrier between",
        ],
        ..CASE
    });
}

#[test]
fn missing_barrier_at_the_end_of_a_round() {
    check(&Case {
        kernel: "missing_second_barrier",
        threads: 64,
        n_in: 64,
        n_out: 64,
        number: Some(3),
        words: &[
            "writes byte",
            "read, with no barrier between",
            "st.shared.f32",
        ],
        ..CASE
    });
}

#[test]
fn two_threads_that_write_different_values() {
    check(&Case {
        kernel: "race_of_writes",
        n_out: 32,
        words: &[
            "thread (1, 0, 0)",
            "writes byte 0x0",
            "which thread 0 wrote",
        ],
        ..CASE
    });
}

#[test]
fn barrier_on_both_sides_of_a_branch() {
    check(&Case {
        kernel: "divergent_barrier",
        n_out: 32,
        number: Some(20),
        words: &["wait for lanes that do not come", "bar.sync"],
        ..CASE
    });
}

#[test]
fn shuffle_with_lanes_that_do_not_come() {
    check(&Case {
        kernel: "lanes_left_out",
        n_out: 32,
        words: &[
            "wait for lanes that do not come",
            "shfl.sync",
            "bar.warp.sync",
        ],
        ..CASE
    });
}

#[test]
fn read_of_one_element_too_many() {
    check(&Case {
        kernel: "over_read",
        threads: 64,
        n_in: 33,
        n_out: 64,
        number: Some(33),
        code: CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        words: &[
            "thread (33, 0, 0)",
            "reads 4 bytes",
            "132 bytes into an allocation of 132 bytes",
            "ld.global",
        ],
    });
}

#[test]
fn vector_that_is_not_aligned() {
    check(&Case {
        kernel: "misaligned",
        threads: 1,
        n_in: 16,
        n_out: 1,
        code: CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
        words: &["16 bytes at", "not aligned", "v4.f32"],
        ..CASE
    });
}

#[test]
fn shared_memory_that_nothing_wrote() {
    check(&Case {
        kernel: "unwritten_shared",
        threads: 64,
        n_out: 64,
        words: &[
            "thread (32, 0, 0)",
            "reads byte 0x80",
            "which nothing wrote",
        ],
        ..CASE
    });
}

#[test]
fn read_past_the_end_of_shared_memory() {
    check(&Case {
        kernel: "shared_over_read",
        n_out: 32,
        number: Some(5),
        code: CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        words: &[
            "thread (27, 0, 0)",
            "4 bytes at 0x80 of 0x80 bytes of shared memory",
        ],
        ..CASE
    });
}

#[test]
fn trap() {
    check(&Case {
        kernel: "trapped",
        number: Some(7),
        words: &["trap"],
        ..CASE
    });
}

#[test]
fn asynchronous_copy_that_is_not_waited_for() {
    check(&Case {
        kernel: "copy_not_waited",
        n_in: 256,
        n_out: 256,
        words: &["asynchronous copy to it is not waited for", "cp.async"],
        ..CASE
    });
}

#[test]
fn read_only_load_of_what_the_kernel_stores() {
    check(&Case {
        kernel: "stale_read",
        n_out: 64,
        number: Some(32),
        words: &[
            "through the read-only cache",
            "the kernel has written it",
            "ld.global.nc",
        ],
        ..CASE
    });
}

#[test]
fn global_memory_that_nothing_wrote() {
    let run = Machine::new().outcome(|| {
        let lab = Lab::new(BASICS);
        let (x, y) = (lab.room(64), lab.room(64));
        let args = [at(&x), at(&y), Arg::Int(64), Arg::Float(1.0)];
        lab.launch("scale", 1, 64, &args).expect("a launch");
        let failed = Err(error(CUresult::CUDA_ERROR_LAUNCH_FAILED));
        assert_eq!(lab.stream.synchronize(), failed);
    });
    let Some(run) = run else { return };
    let text = run.text();
    assert!(
        text.contains("reads byte 0 of an allocation of 256 bytes, which nothing wrote"),
        "{text}"
    );
}

#[test]
fn use_after_free() {
    let run = Machine::new().outcome(|| {
        let lab = Lab::new(BASICS);
        let x = lab.put(&vec![1f32; 64]);
        let y = lab.room(64);
        let args = [at(&x), at(&y), Arg::Int(64), Arg::Float(1.0)];
        drop(x);
        lab.launch("scale", 1, 64, &args).expect("a launch");
        let failed = Err(error(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS));
        assert_eq!(lab.stream.synchronize(), failed);
    });
    let Some(run) = run else { return };
    let text = run.text();
    assert!(
        text.contains("argument 0") && text.contains("that was freed"),
        "{text}"
    );
}

#[test]
fn argument_of_another_size_than_the_parameter() {
    let run = Machine::new().outcome(|| {
        let lab = Lab::new(BASICS);
        let y = lab.room(64);
        // A length where the kernel has its first pointer.
        let args = [Arg::Int(64), at(&y), Arg::Int(64), Arg::Float(1.0)];
        lab.launch("scale", 1, 64, &args).expect("a launch");
        let failed = Err(error(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS));
        assert_eq!(lab.stream.synchronize(), failed);
    });
    let Some(run) = run else { return };
    let text = run.text();
    assert!(
        text.contains("kernel scale: argument 0 is taken for an address"),
        "{text}"
    );
}
