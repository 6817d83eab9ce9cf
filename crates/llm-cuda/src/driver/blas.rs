//! cuBLAS: NVIDIA's library of matrix products, used where it is installed. The few functions are looked up when the
//! program runs.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::{Arc, OnceLock};

use libloading::Library;
use llm_tensor::DType;

use super::library::version;
use super::{Context, DeviceMemory, Failure, Stream};

/// The library, loaded for as long as the program runs.
#[derive(Debug)]
pub(crate) struct BlasLibrary {
    name: &'static str,
    create: unsafe extern "C" fn(*mut Handle) -> c_int,
    destroy: unsafe extern "C" fn(Handle) -> c_int,
    version: unsafe extern "C" fn(Handle, *mut c_int) -> c_int,
    set_stream: unsafe extern "C" fn(Handle, *mut c_void) -> c_int,
    set_workspace: unsafe extern "C" fn(Handle, *mut c_void, usize) -> c_int,
    gemm: GemmEx,
    /// What the functions are of.
    _library: Library,
}

type Handle = *mut c_void;

type GemmEx = unsafe extern "C" fn(
    Handle,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const c_void,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    *mut c_void,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

impl BlasLibrary {
    /// The newest that the driver takes, which works.
    ///
    /// # Errors
    /// The reason why there is none, in a sentence without its full stop.
    pub(crate) fn load() -> Result<&'static Self, &'static str> {
        static LOADED: OnceLock<Result<BlasLibrary, String>> = OnceLock::new();
        LOADED
            .get_or_init(Self::find)
            .as_ref()
            .map_err(String::as_str)
    }

    fn find() -> Result<Self, String> {
        let driver = version().map_err(|none| none.to_string())?;
        let mut told = None;
        for (major, name) in NAMES {
            if major > driver / 1000 {
                continue;
            }
            match Self::open(name) {
                Ok(library) => return Ok(library),
                Err(flaw) => told = told.or(flaw),
            }
        }
        Err(told.unwrap_or_else(|| "cuBLAS is not installed".to_owned()))
    }

    /// No flaw is told of a library that is not there.
    fn open(name: &'static str) -> Result<Self, Option<String>> {
        // SAFETY: loading the library runs its initialisers, as any program that uses it does.
        let library = unsafe { Library::new(name) }.map_err(|_| None)?;
        macro_rules! function {
            ($symbol:literal) => {
                // SAFETY: the library's function of that name has this type in every version that has it.
                *unsafe { library.get($symbol) }.map_err(|_| {
                    let function = String::from_utf8_lossy($symbol);
                    Some(format!("{name} lacks `{function}`"))
                })?
            };
        }
        Ok(BlasLibrary {
            name,
            create: function!(b"cublasCreate_v2"),
            destroy: function!(b"cublasDestroy_v2"),
            version: function!(b"cublasGetVersion_v2"),
            set_stream: function!(b"cublasSetStream_v2"),
            set_workspace: function!(b"cublasSetWorkspace_v2"),
            gemm: function!(b"cublasGemmEx"),
            _library: library,
        })
    }
}

/// cuBLAS on a device, for one stream.
#[derive(Debug)]
pub(crate) struct Blas {
    library: &'static BlasLibrary,
    handle: Handle,
    context: Arc<Context>,
    /// Its own, for as long as its work may use it.
    workspace: Option<Arc<DeviceMemory>>,
}

// SAFETY: a handle may be used by any thread, by one at a time: it is one queue's, and not shared.
unsafe impl Send for Blas {}

/// A product of row-major matrices: `out [n, rows]` of `x [n, cols]` and `weight [rows, cols]`, `x` and `weight` of the same
/// type, in f32 sums.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gemm {
    pub(crate) n: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) dtype: DType,
    /// Address of the first element, and elements from one row to the next.
    pub(crate) x: (u64, usize),
    pub(crate) weight: (u64, usize),
    /// f32.
    pub(crate) out: (u64, usize),
    /// To what is there.
    pub(crate) adds: bool,
}

impl Blas {
    /// Makes it ready for a stream, with memory that it computes in.
    ///
    /// # Errors
    /// Those of the library, which may be none for this device.
    pub(crate) fn new(
        library: &'static BlasLibrary,
        stream: &Stream,
        workspace: Arc<DeviceMemory>,
    ) -> Result<Self, Failure> {
        let context = Arc::clone(stream.context());
        context.bind()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the thread has a context; the library writes a handle, given back when this is dropped.
        let code = unsafe { (library.create)(&raw mut handle) };
        answer(code, || format!("starting {}", library.name))?;
        let blas = Blas {
            library,
            handle,
            context,
            workspace: None,
        };
        let mut blas = blas.without_workspace(stream)?;
        let at = workspace.address() as *mut c_void;
        // SAFETY: so many bytes are there, and stay while this lives.
        let code = unsafe { (library.set_workspace)(handle, at, workspace.n_bytes()) };
        answer(code, || "giving cuBLAS memory".to_owned())?;
        blas.workspace = Some(workspace);
        Ok(blas)
    }

    /// The same with no memory but what the library has for itself: it forgets other when it is given a stream.
    pub(crate) fn without_workspace(mut self, stream: &Stream) -> Result<Self, Failure> {
        // SAFETY: the handle is this one's, and its stream is there for as long as it is used.
        let code = unsafe { (self.library.set_stream)(self.handle, stream.raw().cast()) };
        answer(code, || "giving cuBLAS a stream".to_owned())?;
        self.workspace = None;
        Ok(self)
    }

    /// `cuBLAS 12.4.5`.
    pub(crate) fn name(&self) -> String {
        let mut version: c_int = 0;
        // SAFETY: the handle is this one's; the library writes a number.
        let code = unsafe { (self.library.version)(self.handle, &raw mut version) };
        match (code, version) {
            (0, 100_000..) => format!(
                "cuBLAS {}.{}.{}",
                version / 10_000,
                version % 10_000 / 100,
                version % 100
            ),
            (0, version) => format!("cuBLAS {version}"),
            _ => self.library.name.to_owned(),
        }
    }

    /// Puts a product into its stream.
    ///
    /// # Safety
    /// All rows of the three matrices are in memory of the device that stays until the stream has done this.
    pub(crate) unsafe fn multiply(&self, gemm: &Gemm) -> Result<(), Failure> {
        let number = |n: usize| match c_int::try_from(n) {
            Ok(n) => n,
            Err(_) => panic!("{n} is not below 2^31"),
        };
        let ty = match gemm.dtype {
            DType::F32 => CUDA_R_32F,
            DType::F16 => CUDA_R_16F,
            DType::BF16 => CUDA_R_16BF,
            other => panic!("products of {other}"),
        };
        let (alpha, beta) = (1f32, if gemm.adds { 1f32 } else { 0f32 });
        self.context.bind()?;
        // The library's matrices are column-major: what it is told of is the transposed product.
        // SAFETY: the caller vouches for the memory; both factors are f32, as the library reads them before it returns.
        let code = unsafe {
            (self.library.gemm)(
                self.handle,
                CUBLAS_OP_T,
                CUBLAS_OP_N,
                number(gemm.rows),
                number(gemm.n),
                number(gemm.cols),
                (&raw const alpha).cast(),
                gemm.weight.0 as *const c_void,
                ty,
                number(gemm.weight.1),
                gemm.x.0 as *const c_void,
                ty,
                number(gemm.x.1),
                (&raw const beta).cast(),
                gemm.out.0 as *mut c_void,
                CUDA_R_32F,
                number(gemm.out.1),
                CUBLAS_COMPUTE_32F,
                CUBLAS_GEMM_DEFAULT,
            )
        };
        answer(code, || {
            let Gemm { n, rows, cols, .. } = gemm;
            format!("multiplying {n} rows of {cols} by [{rows}, {cols}] by cuBLAS")
        })
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // Its work may still be in the stream.
        let _ = self.context.synchronize();
        // SAFETY: the handle is this one's.
        let _ = unsafe { (self.library.destroy)(self.handle) };
    }
}

/// The library's answer; `operation` is put into words only where it is refused.
fn answer(code: c_int, operation: impl FnOnce() -> String) -> Result<(), Failure> {
    if code == 0 {
        return Ok(());
    }
    let name = STATUS.iter().find(|(of, _)| *of == code);
    Err(Failure {
        operation: operation(),
        code: code.unsigned_abs(),
        name: name
            .map_or("an error without a name", |(_, name)| name)
            .to_owned(),
    })
}

/// By major version of CUDA, the newest first.
const NAMES: [(u32, &str); 3] = [
    (13, "libcublas.so.13"),
    (12, "libcublas.so.12"),
    (11, "libcublas.so.11"),
];

const CUBLAS_OP_N: c_int = 0;
const CUBLAS_OP_T: c_int = 1;
const CUDA_R_32F: c_int = 0;
const CUDA_R_16F: c_int = 2;
const CUDA_R_16BF: c_int = 14;
const CUBLAS_COMPUTE_32F: c_int = 68;
const CUBLAS_GEMM_DEFAULT: c_int = -1;

const STATUS: [(c_int, &str); 8] = [
    (1, "CUBLAS_STATUS_NOT_INITIALIZED"),
    (3, "CUBLAS_STATUS_ALLOC_FAILED"),
    (7, "CUBLAS_STATUS_INVALID_VALUE"),
    (8, "CUBLAS_STATUS_ARCH_MISMATCH"),
    (11, "CUBLAS_STATUS_MAPPING_ERROR"),
    (13, "CUBLAS_STATUS_EXECUTION_FAILED"),
    (14, "CUBLAS_STATUS_INTERNAL_ERROR"),
    (15, "CUBLAS_STATUS_NOT_SUPPORTED"),
];
