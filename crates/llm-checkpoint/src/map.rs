//! The only `unsafe` of this crate: mapping a file into memory, and what happens when somebody shortens it then.
//!
//! To touch a page that a file no longer has raises SIGBUS, which ends the process. A handler puts zeros there instead and
//! marks the mapping: whoever computes with it asks for the mark when a pass has ended. Nothing is asked on the way, and
//! no byte is copied.
#![expect(
    unsafe_code,
    reason = "the operating system cannot promise that nobody else changes a mapped file"
)]

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use libc::{sigaction, siginfo_t};
use memmap2::{Mmap, MmapOptions};

/// Bytes of a whole file, mapped or in memory.
pub(crate) type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A mapped file.
pub(crate) struct Mapped {
    // Dropped first: a range that is not watched any more may be another's.
    watch: Watch,
    map: Mmap,
}

impl Mapped {
    /// Maps the first `len` bytes of `file`, read-only. Nothing is read before it is touched.
    ///
    /// # Errors
    /// What the operating system answers, and when the file has fewer than `len` bytes by now.
    pub(crate) fn new(file: &File, len: u64) -> io::Result<Self> {
        let now = file.metadata()?.len();
        if now < len {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the file had {len} bytes when it was opened and has {now} now"),
            ));
        }
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        // SAFETY: the mapping is read-only, `len` bytes lie inside the file (just checked), and every bit pattern is
        // a valid `u8`. That another process changes or shortens the file meanwhile is outside what we can prevent;
        // the crate's documentation says what happens then.
        let map = unsafe { MmapOptions::new().len(len).map(file) }?;
        Ok(Mapped {
            watch: Watch::begin(map.as_ptr().addr(), map.len())?,
            map,
        })
    }

    /// True once bytes were touched that the file does not have any more, or that its disk could not read: there are zeros.
    pub(crate) fn is_cut(&self) -> bool {
        self.watch.0.is_cut.load(Ordering::Relaxed)
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

/// A range of addresses that the handler knows, as long as this lives.
struct Watch(&'static Range);

/// A range of addresses, or none: these are never freed, as the handler may look at them at any time, and used again.
struct Range {
    is_taken: AtomicBool,
    /// Address of the first byte; 0 where there is no range.
    start: AtomicUsize,
    len: AtomicUsize,
    is_cut: AtomicBool,
    next: AtomicPtr<Range>,
}

/// All ranges that there ever were.
static RANGES: AtomicPtr<Range> = AtomicPtr::new(null_mut());

impl Watch {
    fn begin(start: usize, len: usize) -> io::Result<Self> {
        static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
        let installed = INSTALLED.get_or_init(install);
        installed.map_err(io::Error::from_raw_os_error)?;
        let is_free = |range: &&Range| {
            let taken =
                range
                    .is_taken
                    .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
            taken.is_ok()
        };
        let range = ranges().find(is_free).unwrap_or_else(Range::add);
        range.is_cut.store(false, Ordering::Relaxed);
        range.len.store(len, Ordering::Relaxed);
        // The handler reads it first.
        range.start.store(start, Ordering::Release);
        Ok(Watch(range))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.start.store(0, Ordering::Relaxed);
        self.0.is_taken.store(false, Ordering::Release);
    }
}

impl Range {
    /// Adds a range that is taken.
    fn add() -> &'static Range {
        let range: &'static Range = Box::leak(Box::new(Range {
            is_taken: AtomicBool::new(true),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            is_cut: AtomicBool::new(false),
            next: AtomicPtr::new(null_mut()),
        }));
        let address = std::ptr::from_ref(range).cast_mut();
        let linked = |first: *mut Range| {
            range.next.store(first, Ordering::Relaxed);
            Some(address)
        };
        // It never refuses.
        let _ = RANGES.fetch_update(Ordering::AcqRel, Ordering::Acquire, linked);
        range
    }
}

fn ranges() -> impl Iterator<Item = &'static Range> {
    let mut next = RANGES.load(Ordering::Acquire);
    std::iter::from_fn(move || {
        // SAFETY: it is null or of `Range::add`, which leaks what it links.
        let range = unsafe { next.as_ref() }?;
        next = range.next.load(Ordering::Acquire);
        Some(range)
    })
}

/// Handler of SIGBUS before ours, and bytes of a page.
static BEFORE: OnceLock<(sigaction, usize)> = OnceLock::new();

/// Has the handler called from now on; the operating system's error number.
fn install() -> Result<(), i32> {
    let error = || io::Error::last_os_error().raw_os_error().unwrap_or(0);
    // SAFETY: it asks for a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page = usize::try_from(page).map_err(|_| error())?;
    let mut before = MaybeUninit::<sigaction>::uninit();
    // SAFETY: with null for a new one it writes the present handler to `before`.
    if unsafe { sigaction(libc::SIGBUS, std::ptr::null(), before.as_mut_ptr()) } != 0 {
        return Err(error());
    }
    // SAFETY: it was written, as there was no error.
    let before = unsafe { before.assume_init() };
    // Only the first call is ever made.
    let _ = BEFORE.set((before, page));
    // SAFETY: zeros are a handler without flags, with an empty mask, of the default action.
    let mut ours: sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    ours.sa_sigaction = on_bus_error as *const () as usize;
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `on_bus_error` has the signature that SA_SIGINFO asks for, and does nothing that a handler may not.
    match unsafe { sigaction(libc::SIGBUS, &raw const ours, null_mut()) } {
        0 => Ok(()),
        _ => Err(error()),
    }
}

/// Puts zeros where a mapped file has no bytes any more; what is no mapping of ours goes to the handler before.
///
/// It takes no lock and allocates nothing: any thread may be interrupted anywhere.
extern "C" fn on_bus_error(_: c_int, info: *mut siginfo_t, _: *mut std::ffi::c_void) {
    // SAFETY: the operating system calls this with what it says of the signal.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
    // SAFETY: it is this thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let error_before = unsafe { *errno };
    let is_handled = code == BUS_ADRERR && put_zeros(address);
    if !is_handled && let Some((before, _)) = BEFORE.get() {
        // The same instruction raises the signal again, and it takes its way.
        // SAFETY: this was the handler.
        unsafe { sigaction(libc::SIGBUS, before, null_mut()) };
    }
    // SAFETY: as above.
    unsafe { *errno = error_before };
}

/// Puts zeros in the place of all bytes from a page of a mapping on; false where the address is in none.
fn put_zeros(address: usize) -> bool {
    let Some((_, page)) = BEFORE.get() else {
        return false;
    };
    let holds = |range: &&Range| {
        let start = range.start.load(Ordering::Acquire);
        let len = range.len.load(Ordering::Relaxed);
        start != 0 && (start..start.saturating_add(len)).contains(&address)
    };
    let Some(range) = ranges().find(holds) else {
        return false;
    };
    let start = range.start.load(Ordering::Acquire);
    let end = start.saturating_add(range.len.load(Ordering::Relaxed));
    let from = address / page * page;
    let len = end.next_multiple_of(*page) - from;
    // SAFETY: `from..from + len` are pages of one mapping of ours, which is read-only and lives, as somebody reads it; whoever
    // has its bytes reads zeros where the process would have ended.
    let zeros = unsafe {
        libc::mmap(
            std::ptr::without_provenance_mut(from),
            len,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    range.is_cut.store(true, Ordering::Relaxed);
    zeros != libc::MAP_FAILED
}

/// Code of an address without memory behind it; others are faults of the memory itself.
const BUS_ADRERR: c_int = 2;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A file of `n` pages of ones, mapped.
    fn mapped(n: usize) -> (File, Mapped) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; n * 4096]).unwrap();
        let map = Mapped::new(&file, n as u64 * 4096).unwrap();
        (file, map)
    }

    #[test]
    fn a_file_that_is_shortened_reads_as_zeros_and_says_so() {
        for n_left in [0, 1, 5] {
            let (file, map) = mapped(9);
            let (_, other) = mapped(3);
            file.set_len(n_left * 4096).unwrap();
            assert!(!map.is_cut(), "nobody has touched it");
            let sums: Vec<u32> = std::thread::scope(|scope| {
                let sum = || map.as_ref().iter().map(|&byte| u32::from(byte)).sum();
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(sum)).collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            });
            assert_eq!(sums, [n_left as u32 * 4096; 4]);
            assert!(map.is_cut());
            assert!(other.as_ref().iter().all(|&byte| byte == 1) && !other.is_cut());
        }
    }

    #[test]
    fn ranges_are_used_again() {
        let n_ranges = || ranges().count();
        drop((mapped(1), mapped(1)));
        let n_before = n_ranges();
        for _ in 0..100 {
            drop(mapped(1));
        }
        // Other tests may map something at the same time.
        assert!(n_ranges() < n_before + 50);
    }
}
