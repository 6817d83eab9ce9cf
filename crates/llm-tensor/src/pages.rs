use std::ops::{Deref, DerefMut};
use std::{fmt, io};

use memmap2::MmapMut;

/// Zeroed memory of whole pages, for readers that go past the page cache to fill.
///
/// It lies in huge pages where the kernel has some: a device that reads past the page cache is told every page of where the
/// bytes go, which takes it as long as a third of the reading.
pub struct PageBuf(MmapMut);

impl PageBuf {
    /// Bytes of a page: as large as the sectors of any device.
    pub const PAGE: usize = 4096;

    /// `len` bytes, rounded up to whole pages, and one page at least. Nothing is taken before it is touched.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        let map = MmapMut::map_anon(len.max(1).next_multiple_of(Self::PAGE))?;
        // Without huge pages it is slower, and that is all.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(PageBuf(map))
    }
}

impl Deref for PageBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for PageBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl AsRef<[u8]> for PageBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for PageBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageBuf({} bytes)", self.len())
    }
}
