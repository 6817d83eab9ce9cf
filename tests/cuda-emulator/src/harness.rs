//! Programs and tests started anew on an emulated machine. They find the driver as they would find NVIDIA's: the loader's
//! path leads to a folder with a `libcuda.so.1`.
//!
//! ```no_run
//! use cuda_emulator::harness::Machine;
//!
//! // In a test: the closure runs in a process of its own, on a machine with two small devices.
//! let report = Machine::new().devices(2).memory(64 << 20).inside(|| {
//!     // … calls of the driver, assertions …
//! });
//! // `None` in that process; here the account of what it did.
//! if let Some(report) = report {
//!     assert_eq!(report.devices[0].allocated, 0);
//! }
//! ```

use std::cell::Cell;
use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::pace::Pace;
use crate::report::Report;
use crate::settings;

/// What the loader finds under the driver's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// The emulated driver.
    Emulated,
    /// A file that is no library.
    Broken,
    /// A library that has none of the driver's functions.
    Foreign,
}

/// What the loader finds under the names of cuBLAS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlasLibrary {
    /// Files that are no libraries, whatever else the machine has.
    Missing,
    /// The emulated one, for CUDA 12.
    Emulated,
    /// The same, which cannot be started.
    Broken,
    /// A library that has none of its functions.
    Foreign,
}

/// A machine to be emulated.
#[derive(Clone, Debug)]
pub struct Machine {
    library: Library,
    blas: BlasLibrary,
    environment: Vec<(&'static str, String)>,
}

/// How a program ended, and what it did.
#[derive(Debug)]
pub struct Run {
    /// Exit status and what was printed.
    pub output: Output,
    /// Account of the driver; nothing where the program never initialized it.
    pub report: Option<Report>,
}

impl Machine {
    /// A machine with one device of compute capability 8.0 with 8 GiB, a driver of CUDA 12.2, and all checks.
    #[must_use]
    pub fn new() -> Self {
        Self {
            library: Library::Emulated,
            blas: BlasLibrary::Missing,
            environment: Vec::new(),
        }
    }

    fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.environment.retain(|(other, _)| *other != name);
        self.environment.push((name, value.to_string()));
        self
    }

    /// Number of devices.
    #[must_use]
    pub fn devices(self, n: usize) -> Self {
        self.with(settings::DEVICES, n)
    }

    /// Bytes of memory of each device.
    #[must_use]
    pub fn memory(self, bytes: u64) -> Self {
        self.with(settings::MEMORY, bytes)
    }

    /// Bytes that each process's context takes of a device. Processes of one run, as a program and those that it starts, then
    /// see what the others have taken; by default contexts take nothing, and each process sees its own memory.
    #[must_use]
    pub fn context(self, bytes: u64) -> Self {
        self.with(settings::CONTEXT, bytes)
    }

    /// Compute capability, 75 for 7.5.
    #[must_use]
    pub fn compute(self, capability: u32) -> Self {
        self.with(settings::COMPUTE, capability)
    }

    /// Compute capability of each device; the last also of those that follow.
    #[must_use]
    pub fn computes(self, capabilities: &[u32]) -> Self {
        self.with(settings::COMPUTE, listed(capabilities))
    }

    /// Bytes of memory of each device; the last also of those that follow.
    #[must_use]
    pub fn memories(self, bytes: &[u64]) -> Self {
        self.with(settings::MEMORY, listed(bytes))
    }

    /// Whether the driver locks memory that the host has. It does by default.
    #[must_use]
    pub fn registers(self, on: bool) -> Self {
        self.with(settings::REGISTERS, u8::from(on))
    }

    /// Devices that other programs have to themselves, so that they cannot be opened.
    #[must_use]
    pub fn busy(self, devices: &[usize]) -> Self {
        self.with(settings::BUSY, listed(devices))
    }

    /// Whether devices can reach each other's memory, so that copies between them go straight. They can by default.
    #[must_use]
    pub fn peers(self, on: bool) -> Self {
        self.with(settings::PEERS, u8::from(on))
    }

    /// Version of the driver, 12020 for 12.2.
    #[must_use]
    pub fn driver(self, version: u32) -> Self {
        self.with(settings::DRIVER, version)
    }

    /// Seed of the order in which work of several streams runs, among the orders that streams and events allow, and of the
    /// order of a kernel's blocks and warps. With 0, which is the default, work runs as late as it may, blocks as they are
    /// numbered.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        self.with(settings::SEED, seed)
    }

    /// Whether accesses to shared memory without a barrier between them are faults. They are by default.
    #[must_use]
    pub fn races(self, on: bool) -> Self {
        self.with(settings::RACES, u8::from(on))
    }

    /// Whether reads of global memory that nothing wrote are faults. They are by default.
    #[must_use]
    pub fn unwritten(self, on: bool) -> Self {
        self.with(settings::UNWRITTEN, u8::from(on))
    }

    /// Whether bytes between memory and kernels are counted. They are by default, which takes time.
    #[must_use]
    pub fn counts(self, on: bool) -> Self {
        self.with(settings::COUNTS, u8::from(on))
    }

    /// Threads of the host that blocks run on.
    #[must_use]
    pub fn threads(self, n: usize) -> Self {
        self.with(settings::THREADS, n)
    }

    /// Costs of work, with which a timeline is kept.
    ///
    /// # Panics
    ///
    /// Where nothing is ever copied.
    #[must_use]
    pub fn pace(self, pace: Pace) -> Self {
        assert!(pace.to_device > 0 && pace.to_host > 0, "{pace:?}");
        self.with(settings::PACE, pace.to_text())
    }

    /// What the loader finds in place of the driver.
    #[must_use]
    pub fn library(mut self, library: Library) -> Self {
        self.library = library;
        self
    }

    /// What the loader finds in place of cuBLAS, by default nothing that works.
    #[must_use]
    pub fn blas(mut self, library: BlasLibrary) -> Self {
        self.blas = library;
        self.with(settings::BLAS, u8::from(library != BlasLibrary::Broken))
    }

    /// Runs a command on the machine.
    ///
    /// # Panics
    ///
    /// If the command cannot be started.
    pub fn run(&self, command: &mut Command) -> Run {
        let folder = tempfile::tempdir().expect("a folder for the driver");
        self.install(folder.path());
        let report = folder.path().join("report.json");
        let is_context = |(name, _): &(&str, _)| *name == settings::CONTEXT;
        if self.environment.iter().any(is_context) {
            let shared = folder.path().join("shared");
            std::fs::create_dir(&shared).expect("a folder for what processes share");
            command.env(settings::SHARED, shared);
        }
        command
            .env("LD_LIBRARY_PATH", loader_path(folder.path()))
            .env(settings::REPORT, &report)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let report = std::fs::read(report)
            .ok()
            .map(|text| serde_json::from_slice(&text).expect("a report"));
        Run { output, report }
    }

    /// Runs `body`, which must be called from a test's own thread, in a new process on the machine. The process is the test
    /// itself, started again: what stands before the call runs there too, what stands after should look at the report only.
    ///
    /// Returns what the process did, and nothing in that process.
    ///
    /// # Panics
    ///
    /// If the process fails, with all that it printed.
    pub fn inside(&self, body: impl FnOnce()) -> Option<Report> {
        self.outcome(body).map(|run| {
            assert!(run.output.status.success(), "on {self:?}:\n{}", run.text());
            run.report.unwrap_or_default()
        })
    }

    /// As [`Self::inside`], for a body that may fail.
    ///
    /// # Panics
    ///
    /// If the process ran no test.
    pub fn outcome(&self, body: impl FnOnce()) -> Option<Run> {
        let call = CALLS.get();
        CALLS.set(call + 1);
        if let Ok(inside) = std::env::var(INSIDE) {
            if inside == call.to_string() {
                body();
            }
            return None;
        }
        let program = std::env::current_exe().expect("the test's own program");
        // Tests run in threads of their names.
        let thread = std::thread::current();
        let test = thread.name().expect("the thread of a test");
        let mut command = Command::new(program);
        command
            .args(["--exact", test, "--nocapture", "--include-ignored"])
            .env(INSIDE, call.to_string());
        let run = self.run(&mut command);
        let text = run.text();
        assert!(text.contains("running 1 test"), "no test {test}:\n{text}");
        Some(run)
    }

    fn install(&self, folder: &Path) {
        let library = folder.join("libcuda.so.1");
        match self.library {
            Library::Emulated => symlink(emulator(), &library).expect("a link to the emulator"),
            Library::Broken => std::fs::write(&library, "no library").expect("a file"),
            // Any library that is there for certain.
            Library::Foreign => symlink(libm(), &library).expect("a link to another library"),
        }
        symlink("libcuda.so.1", folder.join("libcuda.so")).expect("a second name");
        let other = |name: &str| std::fs::write(folder.join(name), "no library").expect("a file");
        ["libcublas.so.13", "libcublas.so.11"]
            .into_iter()
            .for_each(other);
        let blas = folder.join("libcublas.so.12");
        match self.blas {
            BlasLibrary::Missing => other("libcublas.so.12"),
            BlasLibrary::Emulated | BlasLibrary::Broken => {
                symlink(emulator(), blas).expect("a link to the emulator");
            }
            BlasLibrary::Foreign => symlink(libm(), blas).expect("a link to another library"),
        }
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Run {
    /// All that was printed.
    #[must_use]
    pub fn text(&self) -> String {
        let Output { stdout, stderr, .. } = &self.output;
        format!(
            "{}{}",
            String::from_utf8_lossy(stdout),
            String::from_utf8_lossy(stderr)
        )
    }
}

fn listed(numbers: &[impl ToString]) -> String {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    numbers.join(",")
}

/// Account of this process up to now, where it runs on an emulated machine and has initialized the driver.
#[expect(
    unsafe_code,
    reason = "the driver was loaded by the program, and is asked for a function of ours"
)]
#[must_use]
pub fn report() -> Option<Report> {
    type Ask = extern "C" fn(*mut u8, usize) -> usize;
    // SAFETY: the names end with zeros; the function, where it is found, is the emulator's, of that type.
    let ask = unsafe {
        let library = dlopen(c"libcuda.so.1".as_ptr(), RTLD_LAZY | RTLD_NOLOAD);
        if library.is_null() {
            return None;
        }
        let symbol = dlsym(library, c"cuda_emulator_report".as_ptr());
        if symbol.is_null() {
            return None;
        }
        std::mem::transmute::<*mut std::ffi::c_void, Ask>(symbol)
    };
    let mut text = Vec::new();
    loop {
        let len = ask(text.as_mut_ptr(), text.len());
        if len <= text.len() {
            text.truncate(len);
            return serde_json::from_slice(&text).ok();
        }
        // Other threads may use the driver meanwhile, and it has more to tell.
        text = vec![0; 2 * len];
    }
}

#[expect(unsafe_code, reason = "the loader's own interface")]
unsafe extern "C" {
    fn dlopen(name: *const std::ffi::c_char, flags: i32) -> *mut std::ffi::c_void;
    fn dlsym(
        library: *mut std::ffi::c_void,
        name: *const std::ffi::c_char,
    ) -> *mut std::ffi::c_void;
}

const RTLD_LAZY: i32 = 1;
const RTLD_NOLOAD: i32 = 4;

/// Shared library of this crate, which cargo builds beside every program that uses the crate.
fn emulator() -> PathBuf {
    let program = std::env::current_exe().expect("the program's own path");
    program
        .ancestors()
        .skip(1)
        .take(2)
        // What lies beside the folder of dependencies may be of an earlier build.
        .flat_map(|folder| [folder.join("deps").join(NAME), folder.join(NAME)])
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("no {NAME} beside {}", program.display()))
}

fn libm() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines()
        .filter_map(|line| line.split_whitespace().last())
        .find(|path| path.contains("libgcc_s.so") || path.contains("libc.so"))
        .map(PathBuf::from)
        .expect("a library that this program has loaded")
}

fn loader_path(first: &Path) -> OsString {
    let mut path = first.as_os_str().to_owned();
    if let Some(rest) = std::env::var_os("LD_LIBRARY_PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}

thread_local! {
    /// Number of closures that this test has come to.
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

/// In a process that was started for a closure: which one it is.
const INSIDE: &str = "CUDA_EMULATOR_INSIDE";
const NAME: &str = "libcuda_emulator.so";
