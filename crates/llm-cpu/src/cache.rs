//! Keys and values of one sequence in one layer, laid out as attention reads them.

use std::marker::PhantomData;

use llm_backend::KvShape;
use llm_tensor::Bytes;

use crate::isa::Geometry;
use crate::memory::Buffer;
use crate::simd::{Element, ElementType};

/// A head's keys lie in panels `[head_dim, positions]`, so that a register holds one element of many positions and
/// scores need no horizontal sums; its values lie `[position, head_dim]`. Heads follow each other.
#[derive(Debug)]
pub struct KvCache {
    shape: KvShape,
    element: ElementType,
    /// Positions in a panel of keys.
    panel: usize,
    memory: Buffer,
}

/// Elements of a cache: whole panels of keys, the values, and a panel more, since registers of the last values may
/// reach beyond them.
fn n_elements(shape: &KvShape, panel: usize) -> usize {
    let n_positions = shape.capacity.next_multiple_of(panel) + shape.capacity;
    n_positions * shape.n_kv_heads * shape.head_dim + panel
}

/// f32 that a cache's memory takes.
fn n_words(shape: &KvShape, geometry: Geometry) -> usize {
    let size = shape.dtype.size();
    (n_elements(shape, geometry.panel) * size).div_ceil(size_of::<f32>())
}

/// The bytes that [`KvCache::new`] allocates.
pub(crate) fn bytes(shape: &KvShape, geometry: Geometry) -> Bytes {
    Bytes::new((n_words(shape, geometry) * size_of::<f32>()) as u64)
}

impl KvCache {
    /// # Errors
    /// What was asked for, when the system does not give it.
    ///
    /// # Panics
    /// When the elements are not f32, f16 or bf16.
    pub(crate) fn new(shape: &KvShape, geometry: Geometry) -> Result<Self, Bytes> {
        let element = ElementType::of(shape.dtype)
            .unwrap_or_else(|| panic!("a cache of {} elements", shape.dtype));
        Ok(KvCache {
            shape: *shape,
            element,
            panel: geometry.panel,
            memory: Buffer::zeroed(n_words(shape, geometry))?,
        })
    }

    /// How much memory it is once it is full.
    pub fn bytes(&self) -> Bytes {
        self.memory.bytes()
    }

    pub(crate) fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// A view that several threads use at once.
    pub(crate) fn heads(&mut self) -> Heads<'_> {
        Heads {
            shape: self.shape,
            element: self.element,
            panel: self.panel,
            start: self.memory.as_mut_slice().as_mut_ptr().cast(),
            lifetime: PhantomData,
        }
    }
}

/// The heads of a cache; each may be appended to by one thread, or read by many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads<'a> {
    pub(crate) shape: KvShape,
    pub(crate) element: ElementType,
    pub(crate) panel: usize,
    start: *mut u8,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: a pointer into plain data that is borrowed for the lifetime; all access through it is unsafe.
unsafe impl Send for Heads<'_> {}
// SAFETY: as above.
unsafe impl Sync for Heads<'_> {}

impl Heads<'_> {
    /// The panels of a head's keys.
    ///
    /// # Panics
    /// When there is no such head.
    pub(crate) fn keys(&self, kv_head: usize) -> *mut u8 {
        assert!(kv_head < self.shape.n_kv_heads);
        self.at(kv_head * self.keys_len())
    }

    /// The rows of a head's values; a panel of elements after the last can be read.
    ///
    /// # Panics
    /// When there is no such head.
    pub(crate) fn values(&self, kv_head: usize) -> *mut u8 {
        assert!(kv_head < self.shape.n_kv_heads);
        let all_keys = self.shape.n_kv_heads * self.keys_len();
        self.at(all_keys + kv_head * self.shape.capacity * self.shape.head_dim)
    }

    /// Stores the key and value of one head at `position`, rounded to the cache's elements.
    ///
    /// # Panics
    /// When the position or the head is beyond the cache, or the rows are not a head wide.
    ///
    /// # Safety
    /// Nobody else accesses this head meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn store<E: Element>(
        &self,
        kv_head: usize,
        position: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let head_dim = self.shape.head_dim;
        assert!(position < self.shape.capacity && key.len() == head_dim && value.len() == head_dim);
        let panel_start = position / self.panel * self.panel * head_dim;
        let lane = position % self.panel;
        let (keys, values) = (self.keys(kv_head), self.values(kv_head));
        for (d, (&key, &value)) in key.iter().zip(value).enumerate() {
            let key_at = panel_start + d * self.panel + lane;
            let value_at = position * head_dim + d;
            // SAFETY: both lie within the head's memory as the position is within the capacity; exclusive as the
            // caller promises.
            unsafe {
                E::write(keys.add(key_at * E::SIZE), key);
                E::write(values.add(value_at * E::SIZE), value);
            }
        }
    }

    fn keys_len(&self) -> usize {
        self.shape.capacity.next_multiple_of(self.panel) * self.shape.head_dim
    }

    fn at(&self, element: usize) -> *mut u8 {
        self.start.wrapping_add(element * self.element.size())
    }
}
