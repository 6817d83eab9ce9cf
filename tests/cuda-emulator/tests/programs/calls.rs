//! Calls of the driver that cudarc's wrappers do not make, and what they answer to mistakes.
#![expect(unsafe_code, reason = "the driver's own functions are called")]

use std::ffi::{CString, c_void};

use cuda_emulator::harness::Machine;
use cudarc::driver::sys::{self, CUresult};

use crate::lab::{self, Arg, BASICS, Lab, at};

#[test]
fn packed_arguments_must_have_the_length_of_the_parameters() {
    Machine::new().inside(|| {
        let lab = Lab::new(BASICS);
        let x = lab.put(&[1f32; 32]);
        let Arg::Pointer(address) = at(&x) else {
            panic!("an address")
        };
        let mut buffer = address.to_le_bytes().to_vec();
        buffer.extend(32i32.to_le_bytes());
        let launch = |mut n: usize| {
            let mut extra: [*mut c_void; 5] = [
                std::ptr::without_provenance_mut(1),
                buffer.as_ptr().cast_mut().cast(),
                std::ptr::without_provenance_mut(2),
                (&raw mut n).cast(),
                std::ptr::null_mut(),
            ];
            let function = lab.function("add_one").expect("a kernel");
            let stream = lab.stream.cu_stream();
            // SAFETY: the list is as the driver wants it; the length may be wrong, which it notices.
            unsafe {
                sys::cuLaunchKernel(
                    function,
                    1,
                    1,
                    1,
                    32,
                    1,
                    1,
                    0,
                    stream,
                    std::ptr::null_mut(),
                    extra.as_mut_ptr(),
                )
            }
        };
        assert_eq!(launch(8), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(launch(16), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(launch(12), CUresult::CUDA_SUCCESS);
        assert_eq!(lab.get(&x), [2f32; 32]);
    });
}

#[test]
fn launches_that_no_device_can_take_are_refused_at_once() {
    Machine::new().inside(|| {
        let lab = Lab::new(BASICS);
        let x = lab.put(&[1f32; 32]);
        let refused = Err(lab::error(CUresult::CUDA_ERROR_INVALID_VALUE));
        for (blocks, threads) in [(0, 32), (1, 0), (1, 1025)] {
            let args = [at(&x), Arg::Int(32)];
            assert_eq!(lab.launch("add_one", blocks, threads, &args), refused);
        }
        // Too few arguments: the list's next entry is none.
        assert_eq!(lab.launch("add_one", 1, 32, &[at(&x), Arg::None]), refused);
        assert_eq!(lab.get(&x), [1f32; 32]);
    });
}

#[test]
fn asking_again_and_again_lets_work_be_done() {
    Machine::new().inside(|| {
        let lab = Lab::new(BASICS);
        let x = lab.put(&[1f32; 32]);
        lab.launch("add_one", 1, 32, &[at(&x), Arg::Int(32)])
            .expect("a launch");
        let event = lab.stream.record_event(None).expect("an event");
        let asked = (0..10).position(|_| event.is_complete()).expect("an end");
        assert!(asked > 0, "nothing runs before it is asked for");
    });
}

#[test]
fn registered_memory_is_page_locked_until_it_is_not() {
    Machine::new().inside(|| {
        let lab = Lab::new(BASICS);
        let x = lab.put(&[0f32]);
        let Arg::Pointer(address) = at(&x) else {
            panic!("an address")
        };
        let mut values = vec![1f32; 1024];
        let pointer: *mut c_void = values.as_mut_ptr().cast();
        let stream = lab.stream.cu_stream();
        let done = CUresult::CUDA_SUCCESS;
        // SAFETY: the memory outlives every copy from it.
        unsafe {
            assert_eq!(sys::cuMemHostRegister_v2(pointer, 4096, 0), done);
            let twice = sys::cuMemHostRegister_v2(pointer, 4096, 0);
            assert_eq!(twice, CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
            assert_eq!(sys::cuMemcpyHtoDAsync_v2(address, pointer, 4, stream), done);
            pointer.cast::<f32>().write_volatile(2.0);
            lab.stream.synchronize().expect("the copy");
            assert_eq!(lab.get(&x), [2.0], "read when the copy ran");
            assert_eq!(sys::cuMemHostUnregister(pointer), done);
            assert_eq!(sys::cuMemcpyHtoDAsync_v2(address, pointer, 4, stream), done);
            pointer.cast::<f32>().write_volatile(3.0);
            assert_eq!(lab.get(&x), [2.0], "read when it was asked for");
            let again = sys::cuMemHostUnregister(pointer);
            assert_eq!(again, CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
        }
    });
}

#[test]
fn the_log_of_a_module_names_what_is_not_known() {
    Machine::new().inside(|| {
        let lab = Lab::new(BASICS);
        let text = CString::new(BASICS.replace("mul.f32", "frobnicate.f32")).expect("text");
        let mut log = [0u8; 200];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
        let mut module = std::ptr::null_mut();
        lab.context.bind_to_thread().expect("a context");
        // SAFETY: as many options as values; the log has the room that it says.
        let result = unsafe {
            sys::cuModuleLoadDataEx(
                &mut module,
                text.as_ptr().cast(),
                2,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        assert_eq!(result, CUresult::CUDA_ERROR_INVALID_PTX);
        let log = String::from_utf8_lossy(&log);
        assert!(
            log.starts_with("kernel scale: line ")
                && log.contains("`frobnicate.f32`: an unknown instruction"),
            "{log}"
        );
    });
}
