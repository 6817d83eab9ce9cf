//! cuBLAS as the loader finds it: what it computes, and when; and what it answers to mistakes.
#![expect(unsafe_code, reason = "the library's own functions are called")]

use std::ffi::{c_int, c_void};

use cuda_emulator::harness::{BlasLibrary, Machine};
use cudarc::driver::sys::CUresult;
use libloading::Library;

use crate::lab::{self, Arg, BASICS, Lab, at};

type GemmEx = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const f32,
    u64,
    c_int,
    c_int,
    u64,
    c_int,
    c_int,
    *const f32,
    u64,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

/// The library, with a handle.
struct Blas {
    library: Library,
    handle: *mut c_void,
}

/// `out [2, 3] = x [2, 4] · weight [3, 4]ᵀ`.
const X: [f32; 8] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
const WEIGHT: [f32; 12] = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0];
const PRODUCT: [f32; 6] = [1.0, 2.0, 10.0, 5.0, 6.0, 26.0];

impl Blas {
    fn start() -> Result<Self, c_int> {
        // SAFETY: the library is this crate's own, and its functions are of these types.
        let library = unsafe { Library::new("libcublas.so.12") }.expect("the library");
        let mut handle = std::ptr::null_mut();
        let code = {
            type Create = unsafe extern "C" fn(*mut *mut c_void) -> c_int;
            // SAFETY: as above; it writes a handle.
            unsafe { library.get::<Create>(b"cublasCreate_v2").expect("it")(&raw mut handle) }
        };
        match code {
            0 => Ok(Blas { library, handle }),
            code => Err(code),
        }
    }

    fn set_stream(&self, lab: &Lab) -> c_int {
        type SetStream = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;
        let stream = lab.stream.cu_stream().cast();
        // SAFETY: as in `start`.
        unsafe {
            self.library
                .get::<SetStream>(b"cublasSetStream_v2")
                .expect("it")(self.handle, stream)
        }
    }

    fn set_workspace(&self, memory: u64, n_bytes: usize) -> c_int {
        type SetWorkspace = unsafe extern "C" fn(*mut c_void, u64, usize) -> c_int;
        // SAFETY: as in `start`.
        unsafe {
            let set = self.library.get::<SetWorkspace>(b"cublasSetWorkspace_v2");
            set.expect("it")(self.handle, memory, n_bytes)
        }
    }

    /// The product, its columns being so many.
    fn multiply(&self, [x, weight, out]: [u64; 3], beta: f32, cols: c_int) -> c_int {
        let alpha = 1f32;
        // SAFETY: as in `start`; both factors live through the call.
        unsafe {
            let gemm = self.library.get::<GemmEx>(b"cublasGemmEx").expect("it");
            gemm(
                self.handle,
                1,
                0,
                3,
                2,
                cols,
                &raw const alpha,
                weight,
                0,
                4,
                x,
                0,
                4,
                &raw const beta,
                out,
                0,
                3,
                68,
                -1,
            )
        }
    }
}

fn address(of: Arg) -> u64 {
    let Arg::Pointer(address) = of else {
        panic!("an address")
    };
    address
}

#[test]
fn a_product_is_work_of_its_stream() {
    let machine = Machine::new().blas(BlasLibrary::Emulated);
    let report = machine.inside(|| {
        let lab = Lab::new(BASICS);
        let blas = Blas::start().expect("a handle");
        let (x, weight, out) = (lab.put(&X), lab.put(&WEIGHT), lab.room(6));
        let memory = lab.put(&[0f32; 256]);
        assert_eq!(blas.set_stream(&lab), 0);
        assert_eq!(blas.set_workspace(address(at(&memory)), 1024), 0);
        let of = [at(&x), at(&weight), at(&out)].map(address);
        // What was there counts where it is asked for alone: nothing was, but NaN.
        assert_eq!(blas.multiply(of, 0.0, 4), 0);
        assert_eq!(blas.multiply(of, 1.0, 4), 0);
        lab.launch("add_one", 1, 32, &[at(&out), Arg::Int(6)])
            .expect("a launch");
        assert_eq!(lab.get(&out), PRODUCT.map(|x| 2.0 * x + 1.0));
        // It may have used all of its memory.
        assert!(lab.get(&memory).iter().all(|x| x.is_nan()));
    });
    if let Some(report) = report {
        assert_eq!(report.kernels["cublasGemmEx"].launches, 2);
    }
}

#[test]
fn a_stream_takes_memory_back_that_was_given() {
    let machine = Machine::new().blas(BlasLibrary::Emulated);
    let report = machine.inside(|| {
        let lab = Lab::new(BASICS);
        let blas = Blas::start().expect("a handle");
        let (x, weight, out) = (lab.put(&X), lab.put(&WEIGHT), lab.room(6));
        let memory = lab.put(&[0f32; 256]);
        let of = [at(&x), at(&weight), at(&out)].map(address);
        assert_eq!(blas.set_workspace(address(at(&memory)), 1024), 0);
        assert_eq!(blas.set_stream(&lab), 0);
        assert_eq!(blas.multiply(of, 0.0, 4), 14);
        // More than there is, and not on a border.
        assert_eq!(blas.set_workspace(address(at(&memory)), 1025), 7);
        assert_eq!(blas.set_workspace(address(at(&memory)) + 4, 16), 7);
        // Rows that are longer than their distance.
        assert_eq!(blas.set_workspace(address(at(&memory)), 1024), 0);
        assert_eq!(blas.multiply(of, 0.0, 5), 7);
        assert_eq!(blas.multiply(of, 0.5, 4), 15);
    });
    if let Some(report) = report {
        assert!(report.faults[0].contains("memory of the library's own"));
    }
}

#[test]
fn products_of_what_is_not_there_are_faults() {
    for (what, unwritten) in [("nothing wrote", true), ("lies", false)] {
        let machine = Machine::new().blas(BlasLibrary::Emulated);
        let run = machine.outcome(|| {
            let lab = Lab::new(BASICS);
            let blas = Blas::start().expect("a handle");
            let (x, out, memory) = (lab.put(&X), lab.room(6), lab.put(&[0f32; 256]));
            // Too short, or never written.
            let weight = if unwritten {
                lab.room(12)
            } else {
                lab.put(&WEIGHT[..11])
            };
            blas.set_stream(&lab);
            blas.set_workspace(address(at(&memory)), 1024);
            let of = [at(&x), at(&weight), at(&out)].map(address);
            assert_eq!(blas.multiply(of, 0.0, 4), 0);
            let code = match unwritten {
                true => CUresult::CUDA_ERROR_LAUNCH_FAILED,
                false => CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
            };
            assert_eq!(lab.stream.synchronize(), Err(lab::error(code)));
        });
        if let Some(run) = run {
            assert!(run.output.status.success(), "{}", run.text());
            let faults = run.report.expect("a report").faults;
            assert!(faults[0].contains(what), "{faults:?}");
        }
    }
}

#[test]
fn a_handle_takes_memory_and_gives_it_back() {
    const POOL: u64 = 8 << 20;
    let machine = Machine::new().memory(POOL + POOL / 2);
    machine.clone().blas(BlasLibrary::Emulated).inside(|| {
        let _lab = Lab::new(BASICS);
        let blas = Blas::start().expect("a handle");
        // For a second one there is no room.
        assert_eq!(Blas::start().err(), Some(3));
        type Destroy = unsafe extern "C" fn(*mut c_void) -> c_int;
        // SAFETY: as in `start`.
        let code = unsafe {
            blas.library
                .get::<Destroy>(b"cublasDestroy_v2")
                .expect("it")(blas.handle)
        };
        assert_eq!(code, 0);
        assert!(Blas::start().is_ok());
    });
    machine.blas(BlasLibrary::Broken).inside(|| {
        let _lab = Lab::new(BASICS);
        assert_eq!(Blas::start().err(), Some(1));
    });
}
