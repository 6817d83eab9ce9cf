//! Memory of the GPU: the one way to allocate it, and views of it that kernels are given.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use llm_backend::{Allocation, BackendError, Result};
use llm_tensor::Bytes;

use crate::card::Card;
use crate::driver::DeviceMemory;

/// An allocation of exactly as many bytes as were asked for, on the account of its card.
#[derive(Debug)]
pub(crate) struct Memory {
    raw: Arc<DeviceMemory>,
    purpose: &'static str,
    card: Arc<Card>,
}

impl Memory {
    /// Memory with whatever was left there.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`].
    pub(crate) fn new(card: &Arc<Card>, n_bytes: usize, purpose: &'static str) -> Result<Self> {
        let raw = DeviceMemory::new(&card.context, n_bytes);
        let raw = raw.map_err(|failure| card.refused(failure, purpose, n_bytes))?;
        card.count(purpose, n_bytes);
        Ok(Memory {
            raw: Arc::new(raw),
            purpose,
            card: Arc::clone(card),
        })
    }

    /// Memory for `n` elements of `size` bytes, all zero.
    pub(crate) fn zeroed(
        card: &Arc<Card>,
        (n, size): (usize, usize),
        purpose: &'static str,
    ) -> Result<Self> {
        let n_bytes = n
            .checked_mul(size)
            .ok_or_else(|| BackendError::OutOfMemory {
                device: card.name.clone(),
                purpose,
                requested: Bytes::new(u64::MAX),
                free: None,
            })?;
        let memory = Self::new(card, n_bytes, purpose)?;
        let zeroed = card
            .setup
            .zero(&memory.raw)
            .and_then(|()| card.setup.synchronize());
        zeroed.map_err(|failure| card.failed(failure))?;
        Ok(memory)
    }

    /// Memory that holds `bytes`.
    pub(crate) fn holding(card: &Arc<Card>, bytes: &[u8], purpose: &'static str) -> Result<Self> {
        let memory = Self::new(card, bytes.len(), purpose)?;
        let written = card.setup.write(bytes, &memory.raw, 0);
        written.map_err(|failure| card.failed(failure))?;
        Ok(memory)
    }

    pub(crate) fn raw(&self) -> &DeviceMemory {
        &self.raw
    }

    /// The memory itself, for what outlives this.
    pub(crate) fn share(&self) -> Arc<DeviceMemory> {
        Arc::clone(&self.raw)
    }

    pub(crate) fn n_bytes(&self) -> usize {
        self.raw.n_bytes()
    }

    /// Some of its bytes.
    ///
    /// # Panics
    /// When it has not so many.
    pub(crate) fn span(&self, range: Range<usize>) -> Span<'_> {
        assert!(
            range.start <= range.end && range.end <= self.n_bytes(),
            "bytes {range:?} of {} for {}",
            self.n_bytes(),
            self.purpose
        );
        Span {
            address: self.raw.address() + range.start as u64,
            n_bytes: range.len(),
            of: PhantomData,
        }
    }

    /// Copies bytes from `at` on back, and waits for it.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn fetch(&self, at: usize, dst: &mut [u8]) -> Result<()> {
        let read = self.card.setup.read(&self.raw, at, dst);
        read.map_err(|failure| self.card.failed(failure))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.card.retire(&self.raw);
        self.card.uncount(self.purpose, self.n_bytes());
    }
}

/// Bytes of the GPU that a kernel is given: as long as the memory that they are of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span<'a> {
    address: u64,
    n_bytes: usize,
    of: PhantomData<&'a Memory>,
}

/// Rows of a product: at most so many, and exactly as many as two numbers on the GPU lie apart, where these are given.
pub(crate) type NumRows<'a> = (usize, Option<Span<'a>>);

impl Span<'_> {
    pub(crate) fn address(self) -> u64 {
        self.address
    }

    /// True if the first byte lies on a border of `n` bytes.
    pub(crate) fn is_aligned(self, n: u64) -> bool {
        self.address.is_multiple_of(n)
    }

    /// The same, for a kernel that reads `n` bytes at once.
    ///
    /// # Panics
    /// When it does not lie on a border of so many.
    pub(crate) fn aligned(self, n: u64) -> Self {
        assert!(
            self.is_aligned(n),
            "memory at {:#x} for reads of {n} bytes",
            self.address
        );
        self
    }

    /// The same, where it is long enough.
    ///
    /// # Panics
    /// When it has fewer than `n` bytes.
    pub(crate) fn holding(self, n: usize) -> Self {
        assert!(self.n_bytes >= n, "{n} bytes of {}", self.n_bytes);
        self
    }

    /// Some of its bytes.
    ///
    /// # Panics
    /// When it has not so many.
    pub(crate) fn part(self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.n_bytes,
            "bytes {range:?} of {}",
            self.n_bytes
        );
        Span {
            address: self.address + range.start as u64,
            n_bytes: range.len(),
            of: PhantomData,
        }
    }
}

/// f32 activations on the GPU.
#[derive(Debug)]
pub struct Buffer(pub(crate) Memory);

/// A list of u32 on the GPU.
#[derive(Debug)]
pub struct Index(pub(crate) Memory);

impl Buffer {
    pub(crate) fn zeroed(card: &Arc<Card>, n: usize) -> Result<Self> {
        Memory::zeroed(card, (n, size_of::<f32>()), "activations").map(Buffer)
    }

    /// Elements.
    pub(crate) fn n(&self) -> usize {
        self.0.n_bytes() / size_of::<f32>()
    }

    /// The first `n` elements.
    ///
    /// # Panics
    /// When it has fewer.
    pub(crate) fn first(&self, n: usize) -> Span<'_> {
        self.0.span(0..bytes_of(n))
    }
}

impl Index {
    pub(crate) fn zeroed(card: &Arc<Card>, n: usize) -> Result<Self> {
        Memory::zeroed(card, (n, size_of::<u32>()), "lists").map(Index)
    }

    /// The first `n` elements.
    ///
    /// # Panics
    /// When it has fewer.
    pub(crate) fn first(&self, n: usize) -> Span<'_> {
        self.0.span(0..bytes_of(n))
    }
}

impl Allocation for Buffer {
    fn bytes(&self) -> Bytes {
        Bytes::new(self.0.n_bytes() as u64)
    }
}

impl Allocation for Index {
    fn bytes(&self) -> Bytes {
        Bytes::new(self.0.n_bytes() as u64)
    }
}

/// Bytes of `n` elements of four.
///
/// # Panics
/// When they cannot be counted.
pub(crate) fn bytes_of(n: usize) -> usize {
    n.checked_mul(4)
        .expect("elements of activations can be counted")
}
