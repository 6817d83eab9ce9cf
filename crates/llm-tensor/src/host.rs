use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

/// Bytes in host memory that are shared, not copied: a range of something that stays alive as long as they do.
///
/// The owner is a heap buffer ([`AlignedBuf`]) or a mapped file; whoever computes with the bytes cannot tell.
///
/// ```
/// use llm_tensor::HostBytes;
///
/// let file = HostBytes::new(vec![1, 2, 3, 4, 5]);
/// let tensor = file.slice(2..4);
/// drop(file);
/// assert_eq!(*tensor, [3, 4]);
/// ```
#[derive(Clone)]
pub struct HostBytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl HostBytes {
    /// All bytes of `owner`.
    pub fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        let range = 0..owner.as_ref().len();
        HostBytes {
            owner: Arc::new(owner),
            range,
        }
    }

    /// The bytes of `owner` in `range`.
    ///
    /// # Panics
    /// When the range leaves the owner's bytes.
    pub fn of_shared(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Self {
        let len = (*owner).as_ref().len();
        assert!(
            range.start <= range.end && range.end <= len,
            "range {range:?} leaves the {len} bytes of its owner"
        );
        HostBytes { owner, range }
    }

    /// A part of these bytes, sharing the owner.
    ///
    /// # Panics
    /// When the range leaves these bytes.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "range {range:?} leaves the {} bytes",
            self.len()
        );
        HostBytes {
            owner: Arc::clone(&self.owner),
            range: self.range.start + range.start..self.range.start + range.end,
        }
    }
}

impl Deref for HostBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl AsRef<[u8]> for HostBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for HostBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostBytes({} bytes)", self.len())
    }
}

/// A zeroed heap buffer whose first byte lies on a cache line, as SIMD loads like it.
pub struct AlignedBuf {
    // Whole words, one cache line more than needed: the aligned start is found inside them without `unsafe`.
    words: Vec<u64>,
    start: usize,
    len: usize,
}

impl AlignedBuf {
    /// The alignment of the first byte.
    pub const ALIGNMENT: usize = 64;

    /// `len` zero bytes. The operating system hands out zeroed pages on first touch: nothing is written here.
    pub fn zeroed(len: usize) -> Self {
        let words = vec![0u64; len.div_ceil(8) + Self::ALIGNMENT / 8];
        let start =
            (words.as_ptr() as usize).next_multiple_of(Self::ALIGNMENT) - words.as_ptr() as usize;
        AlignedBuf { words, start, len }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[self.start..self.start + self.len]
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_whatever_their_length() {
        for len in [0, 1, 7, 8, 63, 64, 65, 4097] {
            let mut buf = AlignedBuf::zeroed(len);
            assert_eq!(
                (buf.len(), buf.as_ptr() as usize % AlignedBuf::ALIGNMENT),
                (len, 0)
            );
            buf.fill(7);
            assert!(buf.iter().all(|&b| b == 7));
        }
    }

    #[test]
    fn slices_share_their_owner() {
        let bytes = HostBytes::new((0..100).collect::<Vec<u8>>());
        let inner = bytes.slice(10..20).slice(2..4);
        drop(bytes);
        assert_eq!(*inner, [12, 13]);
    }
}
