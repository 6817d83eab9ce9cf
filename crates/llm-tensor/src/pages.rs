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
        #[cfg(all(target_os = "linux", not(miri)))]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_pages_of_zeros() {
        for (len, n_pages) in [(0, 1), (1, 1), (PageBuf::PAGE, 1), (PageBuf::PAGE + 1, 2)] {
            let mut pages = PageBuf::zeroed(len).unwrap();
            assert_eq!(pages.len(), n_pages * PageBuf::PAGE);
            assert_eq!(pages.as_ptr() as usize % PageBuf::PAGE, 0);
            assert!(pages.iter().all(|&byte| byte == 0));
            pages.fill(7);
            assert_eq!(pages[pages.len() - 1], 7);
        }
    }
}
