//! Functions of cuBLAS, in the same library: who looks for `libcublas.so.12` finds them where the loader's path has it.
#![expect(unsafe_code, reason = "symbols of cuBLAS, under their names")]

use std::ffi::{c_int, c_void};

use super::{current, put, stream_of};
use crate::driver::{BlasHandle, Element, GemmCall, Matrix, Work, lock};

#[unsafe(no_mangle)]
extern "C" fn cublasCreate_v2(handle: *mut usize) -> c_int {
    let mut driver = lock();
    let (Some(driver), Some(device)) = (driver.as_mut(), current()) else {
        return NOT_INITIALIZED;
    };
    if !driver.settings.blas_starts {
        return NOT_INITIALIZED;
    }
    let Some(pool) = driver.memory.allocate(device, POOL) else {
        return ALLOC_FAILED;
    };
    driver.tell_neighbours(device);
    let number = driver.handle();
    driver.blas.insert(number, BlasHandle::new(device, pool));
    put(handle, number).map_or(INVALID_VALUE, |()| 0)
}

#[unsafe(no_mangle)]
extern "C" fn cublasDestroy_v2(handle: usize) -> c_int {
    with(|driver| {
        let blas = driver.blas.remove(&handle).ok_or(NOT_INITIALIZED)?;
        driver.memory.free(blas.pool, false);
        driver.tell_neighbours(blas.device);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasGetVersion_v2(_handle: usize, version: *mut c_int) -> c_int {
    put(version, 120_405).map_or(INVALID_VALUE, |()| 0)
}

/// As the library does it, this takes memory that was given back.
#[unsafe(no_mangle)]
extern "C" fn cublasSetStream_v2(handle: usize, stream: usize) -> c_int {
    with(|driver| {
        let device = driver.blas.get(&handle).ok_or(NOT_INITIALIZED)?.device;
        let stream = stream_of(driver, device, stream).map_err(|_| INVALID_VALUE)?;
        let blas = driver.blas.get_mut(&handle).ok_or(NOT_INITIALIZED)?;
        blas.stream = Some(stream);
        blas.workspace = None;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasSetWorkspace_v2(handle: usize, memory: u64, n_bytes: usize) -> c_int {
    with(|driver| {
        let is_there = driver.memory.find(memory, n_bytes as u64).is_some();
        let blas = driver.blas.get_mut(&handle).ok_or(NOT_INITIALIZED)?;
        if !is_there || !memory.is_multiple_of(256) {
            return Err(INVALID_VALUE);
        }
        blas.workspace = Some((memory, n_bytes as u64));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasGemmEx(
    handle: usize,
    op_a: c_int,
    op_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const f32,
    a: u64,
    a_type: c_int,
    lda: c_int,
    b: u64,
    b_type: c_int,
    ldb: c_int,
    beta: *const f32,
    c: u64,
    c_type: c_int,
    ldc: c_int,
    compute: c_int,
    _algorithm: c_int,
) -> c_int {
    with(|driver| {
        let blas = driver.blas.get(&handle).ok_or(NOT_INITIALIZED)?;
        let (Some(stream), device) = (blas.stream, blas.device) else {
            return Err(INVALID_VALUE);
        };
        if current() != Some(device) {
            return Err(INVALID_VALUE);
        }
        let Some(workspace) = blas.workspace else {
            driver
                .tell("cublasGemmEx in memory of the library's own, where it was to be given some");
            return Err(INTERNAL_ERROR);
        };
        let is_known = (op_a, op_b) == (TRANSPOSED, PLAIN)
            && (c_type, compute) == (R_32F, COMPUTE_32F)
            && a_type == b_type
            && driver.settings.compute(device) >= if a_type == R_16BF { 80 } else { 50 };
        let element = match a_type {
            R_32F => Element::F32,
            R_16F => Element::F16,
            R_16BF => Element::BF16,
            _ => return Err(NOT_SUPPORTED),
        };
        if !is_known {
            return Err(NOT_SUPPORTED);
        }
        let size = |n: c_int| u64::try_from(n).map_err(|_| INVALID_VALUE);
        let [m, n, k] = [size(m)?, size(n)?, size(k)?];
        let [lda, ldb, ldc] = [size(lda)?, size(ldb)?, size(ldc)?];
        if lda < k || ldb < k || ldc < m {
            return Err(INVALID_VALUE);
        }
        // SAFETY: as the library demands it, both point to a factor of the type that sums have.
        let (alpha, beta) = unsafe { (alpha.read_unaligned(), beta.read_unaligned()) };
        if alpha != 1.0 || (beta != 0.0 && beta != 1.0) {
            return Err(NOT_SUPPORTED);
        }
        let call = GemmCall {
            element,
            // What it is column by column is transposed row by row.
            x: Matrix {
                at: b,
                rows: n,
                cols: k,
                stride: ldb,
            },
            weight: Matrix {
                at: a,
                rows: m,
                cols: k,
                stride: lda,
            },
            out: Matrix {
                at: c,
                rows: n,
                cols: m,
                stride: ldc,
            },
            adds: beta != 0.0,
            workspace,
        };
        let queued = driver.enqueue(stream, Vec::new(), Work::Gemm(Box::new(call)));
        queued.map(|_| ()).map_err(|_| EXECUTION_FAILED)
    })
}

fn with(f: impl FnOnce(&mut crate::driver::Driver) -> Result<(), c_int>) -> c_int {
    let mut driver = lock();
    let done = driver.as_mut().ok_or(NOT_INITIALIZED).and_then(f);
    done.err().unwrap_or(0)
}

/// A type's own name for the pointers of handles.
const _: () = assert!(size_of::<*mut c_void>() == size_of::<usize>());

/// Bytes of a device that a handle takes, whether memory is given to it or not.
const POOL: u64 = 8 << 20;

const NOT_INITIALIZED: c_int = 1;
const ALLOC_FAILED: c_int = 3;
const INVALID_VALUE: c_int = 7;
const EXECUTION_FAILED: c_int = 13;
const INTERNAL_ERROR: c_int = 14;
const NOT_SUPPORTED: c_int = 15;
const PLAIN: c_int = 0;
const TRANSPOSED: c_int = 1;
const R_32F: c_int = 0;
const R_16F: c_int = 2;
const R_16BF: c_int = 14;
const COMPUTE_32F: c_int = 68;
