//! Machines: what a program sees of devices, memory, drivers, and libraries that are none.
#![expect(
    unsafe_code,
    reason = "the driver is looked for without cudarc's wrappers"
)]

use cuda_emulator::harness::{Library, Machine};
use cudarc::driver::CudaContext;
use cudarc::driver::sys::{self, CUresult};

use crate::lab::{self, BASICS, Lab, error};

#[test]
fn devices_and_their_memory_are_as_asked_for() {
    Machine::new()
        .devices(3)
        .memory(1 << 20)
        .compute(75)
        .inside(|| {
            assert_eq!(CudaContext::device_count(), Ok(3));
            for ordinal in 0..3 {
                let context = CudaContext::new(ordinal).expect("a device");
                assert_eq!(context.compute_capability(), Ok((7, 5)));
                assert_eq!(context.total_mem(), Ok(1 << 20));
                assert_eq!(context.mem_get_info(), Ok((1 << 20, 1 << 20)));
            }
            assert!(CudaContext::new(3).is_err());
        });
}

#[test]
fn a_context_takes_of_its_device_where_contexts_are_told_of() {
    let machine = Machine::new().devices(2).memory(1 << 20).context(1 << 16);
    machine.inside(|| {
        let context = CudaContext::new(0).expect("a device");
        let less = (1 << 20) - (1 << 16);
        assert_eq!(context.mem_get_info(), Ok((less, 1 << 20)));
    });
}

#[test]
fn devices_may_be_unlike() {
    Machine::new()
        .devices(3)
        .memories(&[1 << 20, 2 << 20])
        .computes(&[75, 80])
        .inside(|| {
            for (ordinal, compute, memory) in [(0, (7, 5), 1), (1, (8, 0), 2), (2, (8, 0), 2)] {
                let context = CudaContext::new(ordinal).expect("a device");
                assert_eq!(context.compute_capability(), Ok(compute));
                assert_eq!(context.mem_get_info(), Ok((memory << 20, memory << 20)));
            }
        });
}

#[test]
fn memory_that_is_full_is_an_error_until_some_is_freed() {
    Machine::new().memory(1 << 20).inside(|| {
        let lab = Lab::new(BASICS);
        let first = lab.room(150_000);
        // SAFETY: the buffer is not made.
        let second = unsafe { lab.stream.alloc::<f32>(150_000) };
        assert_eq!(
            second.err(),
            Some(error(CUresult::CUDA_ERROR_OUT_OF_MEMORY))
        );
        // What is freed in stream order is there for the next.
        drop(first);
        lab.room(150_000);
    });
}

#[test]
fn a_machine_without_devices_says_so() {
    Machine::new().devices(0).inside(|| {
        let none = Err(error(CUresult::CUDA_ERROR_NO_DEVICE));
        assert_eq!(CudaContext::device_count(), none);
    });
}

#[test]
fn modules_that_the_driver_or_the_device_cannot_take() {
    let load = |ptx: &str| {
        let context = CudaContext::new(0).expect("a device");
        lab::load(&context, ptx).err()
    };
    Machine::new().driver(11080).inside(|| {
        let old = error(CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
        assert_eq!(load(BASICS), Some(old));
    });
    Machine::new().compute(75).inside(|| {
        assert_eq!(
            load(BASICS),
            Some(error(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU))
        );
    });
    let run = Machine::new().outcome(|| {
        let unknown = BASICS.replace("add.f32", "add.magic.f32");
        assert_eq!(
            load(&unknown),
            Some(error(CUresult::CUDA_ERROR_INVALID_PTX))
        );
    });
    if let Some(run) = run {
        let text = run.text();
        assert!(run.output.status.success(), "{text}");
        assert!(
            text.contains("`add.magic.f32`: modifier .magic of add is unknown"),
            "{text}"
        );
        assert!(text.contains("line "), "{text}");
    }
}

#[test]
fn libraries_that_are_no_driver() {
    Machine::new().library(Library::Broken).inside(|| {
        // SAFETY: the library is looked for, no more.
        assert!(!unsafe { sys::is_culib_present() });
    });
    Machine::new().library(Library::Foreign).inside(|| {
        // SAFETY: as above.
        assert!(unsafe { sys::is_culib_present() });
        assert!(std::panic::catch_unwind(CudaContext::device_count).is_err());
    });
}

#[test]
fn a_device_cannot_touch_the_memory_of_another() {
    let run = Machine::new().devices(2).outcome(|| {
        let first = Lab::new(BASICS);
        let second = CudaContext::new(1).expect("a second device");
        let x = second
            .default_stream()
            .clone_htod(&[1f32; 64])
            .expect("a buffer");
        let y = first.room(64);
        let args = [
            lab::at(&x),
            lab::at(&y),
            lab::Arg::Int(64),
            lab::Arg::Float(1.0),
        ];
        first.launch("scale", 1, 64, &args).expect("a launch");
        let failed = Err(error(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS));
        assert_eq!(first.stream.synchronize(), failed);
        // The other device goes on.
        let back = second.default_stream().clone_dtoh(&x).expect("a copy");
        assert_eq!(back, [1f32; 64]);
    });
    if let Some(run) = run {
        let text = run.text();
        assert!(run.output.status.success(), "{text}");
        assert!(text.contains("lies in memory of another device"), "{text}");
    }
}
