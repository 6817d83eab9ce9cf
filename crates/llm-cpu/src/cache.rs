//! Keys and values of one sequence in one layer, laid out as attention reads them.

use std::ops::Range;

use half::{bf16, f16};
use llm_backend::{Allocation, KvColumns};
use llm_tensor::{Bytes, KvShape};

use crate::isa::Geometry;
use crate::memory::{Buffer, Shared};
use crate::simd::{Element, ElementType, Kernel, Simd};

/// A head's keys lie in panels `[head_dim, slots]`, so that a register holds one element of many positions and
/// scores need no horizontal sums; its values lie `[slot, head_dim]`. Heads follow each other.
///
/// Positions take the slots in turn. The slots are whole panels, hence a panel of positions is one of slots wherever
/// the turn begins anew.
#[derive(Debug)]
pub struct KvCache {
    layout: Layout,
    memory: Buffer,
}

/// The bytes that [`KvCache::new`] allocates.
pub(crate) fn bytes(shape: &KvShape, geometry: Geometry) -> Bytes {
    Bytes::new((Layout::new(shape, geometry).n_words() * size_of::<f32>()) as u64)
}

impl KvCache {
    /// # Errors
    /// What was asked for, when the system does not give it.
    ///
    /// # Panics
    /// When the elements are not f32, f16 or bf16, or nothing is to be kept.
    pub(crate) fn new(shape: &KvShape, geometry: Geometry) -> Result<Self, Bytes> {
        assert!(shape.capacity > 0, "a cache keeps a position at least");
        let layout = Layout::new(shape, geometry);
        Ok(KvCache {
            layout,
            memory: Buffer::zeroed(layout.n_words())?,
        })
    }

    pub(crate) fn shape(&self) -> &KvShape {
        &self.layout.shape
    }

    /// Positions in a panel of keys.
    pub(crate) fn panel(&self) -> usize {
        self.layout.panel
    }

    /// Takes what `from` holds of the positions below `n_positions`, or of as many as it has slots for.
    ///
    /// # Panics
    /// When the caches are not of the same shape.
    pub(crate) fn copy_from(&mut self, from: &KvCache, n_positions: usize) {
        let Layout {
            shape,
            element,
            panel,
            n_slots,
        } = from.layout;
        assert!(
            shape == self.layout.shape && panel == self.layout.panel,
            "caches of the same shape"
        );
        let n = n_positions.min(n_slots);
        // The keys of a panel's positions lie among each other.
        let (n_keys, n_values) = (
            n.next_multiple_of(panel) * shape.head_dim,
            n * shape.head_dim,
        );
        let source: &[u8] = bytemuck::cast_slice(from.memory.as_slice());
        let own: &mut [u8] = bytemuck::cast_slice_mut(self.memory.as_mut_slice());
        for head in 0..shape.n_kv_heads {
            let keys = (from.layout.keys(head, 0), n_keys);
            let values = (from.layout.value(head, 0), n_values);
            for (first, n_elements) in [keys, values] {
                let bytes = first * element.size()..(first + n_elements) * element.size();
                own[bytes.clone()].copy_from_slice(&source[bytes]);
            }
        }
    }

    pub(crate) fn view(&self) -> KvView<'_> {
        KvView {
            layout: self.layout,
            memory: self.memory.as_slice(),
        }
    }

    /// For several threads at once, each with positions of its own.
    pub(crate) fn writer(&mut self) -> KvWriter<'_> {
        KvWriter {
            layout: self.layout,
            memory: Shared::new(self.memory.as_mut_slice()),
        }
    }
}

/// What it takes once it is full: pages that no position was written to are not committed.
impl Allocation for KvCache {
    fn bytes(&self) -> Bytes {
        self.memory.bytes()
    }
}

/// Where everything lies, in elements.
#[derive(Debug, Clone, Copy)]
struct Layout {
    shape: KvShape,
    element: ElementType,
    /// Slots in a panel of keys.
    panel: usize,
    n_slots: usize,
}

impl Layout {
    /// # Panics
    /// When the elements are not f32, f16 or bf16.
    fn new(shape: &KvShape, geometry: Geometry) -> Self {
        let element = ElementType::of(shape.dtype)
            .unwrap_or_else(|| panic!("a cache of {} elements", shape.dtype));
        Layout {
            shape: *shape,
            element,
            panel: geometry.panel,
            n_slots: shape.capacity.next_multiple_of(geometry.panel),
        }
    }

    /// f32 of memory: keys, values, and a panel of elements more, since registers of the last values may reach beyond
    /// them.
    fn n_words(&self) -> usize {
        let n_elements = 2 * self.shape.n_kv_heads * self.head_len() + self.panel;
        (n_elements * self.element.size()).div_ceil(size_of::<f32>())
    }

    /// Elements of a head's keys, and of its values.
    fn head_len(&self) -> usize {
        self.n_slots * self.shape.head_dim
    }

    /// The first element of the panel of keys that begins with `position`.
    ///
    /// # Panics
    /// When there is no such head.
    fn keys(&self, kv_head: usize, position: usize) -> usize {
        assert!(kv_head < self.shape.n_kv_heads);
        debug_assert!(position.is_multiple_of(self.panel));
        kv_head * self.head_len() + position % self.n_slots * self.shape.head_dim
    }

    /// The first element of the value at `position`.
    ///
    /// # Panics
    /// When there is no such head.
    fn value(&self, kv_head: usize, position: usize) -> usize {
        assert!(kv_head < self.shape.n_kv_heads);
        (self.shape.n_kv_heads + kv_head) * self.head_len()
            + position % self.n_slots * self.shape.head_dim
    }
}

/// A cache to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KvView<'a> {
    layout: Layout,
    memory: &'a [f32],
}

impl KvView<'_> {
    pub(crate) fn element(&self) -> ElementType {
        self.layout.element
    }

    pub(crate) fn shape(&self) -> &KvShape {
        &self.layout.shape
    }

    /// Positions in a panel of keys.
    pub(crate) fn panel(&self) -> usize {
        self.layout.panel
    }

    /// The panel `[head_dim, panel]` of a head's keys from `position` on, a multiple of the panel.
    ///
    /// # Panics
    /// When there is no such head.
    pub(crate) fn keys(&self, kv_head: usize, position: usize) -> *const u8 {
        self.at(self.layout.keys(kv_head, position))
    }

    /// The rows of a head's values from `position` on, as many as [`run_len`](Self::run_len) says; a panel of elements
    /// after the last can be read.
    ///
    /// # Panics
    /// When there is no such head.
    pub(crate) fn values(&self, kv_head: usize, position: usize) -> *const u8 {
        self.at(self.layout.value(kv_head, position))
    }

    /// Positions from `position` on whose slots follow each other.
    pub(crate) fn run_len(&self, position: usize) -> usize {
        self.layout.n_slots - position % self.layout.n_slots
    }

    fn at(&self, element: usize) -> *const u8 {
        let start = self.memory.as_ptr().cast::<u8>();
        start.wrapping_add(element * self.layout.element.size())
    }
}

/// A cache to write.
#[derive(Clone, Copy)]
pub(crate) struct KvWriter<'a> {
    layout: Layout,
    memory: Shared<'a>,
}

impl KvWriter<'_> {
    /// Stores the key and value of one head at `position`, rounded to the cache's elements.
    ///
    /// # Panics
    /// When there is no such head, or the rows are not a head wide.
    ///
    /// # Safety
    /// Nobody else accesses this position meanwhile, nor another of its slot; the elements are of the cache's type.
    #[inline(always)]
    unsafe fn store<E: Element>(
        &self,
        kv_head: usize,
        position: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let Layout { shape, panel, .. } = self.layout;
        assert!(key.len() == shape.head_dim && value.len() == shape.head_dim);
        let memory = self.memory.as_mut_ptr().cast::<u8>();
        let lane = position % panel;
        let keys = self.layout.keys(kv_head, position - lane) + lane;
        let keys = memory.wrapping_add(keys * E::SIZE);
        let values = memory.wrapping_add(self.layout.value(kv_head, position) * E::SIZE);
        for (d, (&key, &value)) in key.iter().zip(value).enumerate() {
            // SAFETY: both lie within the head's memory, as the layout keeps every position in a slot; exclusive as
            // the caller promises.
            unsafe {
                E::write(keys.add(d * panel * E::SIZE), key);
                E::write(values.add(d * E::SIZE), value);
            }
        }
    }
}

/// Stores the keys and values of some tokens.
pub(crate) struct Append<'a> {
    pub(crate) cache: KvWriter<'a>,
    /// `[tokens, row_width]`.
    pub(crate) rows: &'a [f32],
    pub(crate) columns: KvColumns,
    /// Of the rows, one a token; nobody else accesses their slots meanwhile.
    pub(crate) positions: Range<usize>,
}

impl Kernel for Append<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        match self.cache.layout.element {
            ElementType::F32 => self.all::<f32>(),
            ElementType::F16 => self.all::<f16>(),
            ElementType::Bf16 => self.all::<bf16>(),
        }
    }
}

impl Append<'_> {
    #[inline(always)]
    fn all<E: Element>(self) {
        let KvShape {
            n_kv_heads,
            head_dim,
            ..
        } = self.cache.layout.shape;
        let rows = self.rows.chunks_exact(self.columns.row_width);
        for (position, row) in self.positions.zip(rows) {
            let row = &row[self.columns.first..][..2 * n_kv_heads * head_dim];
            let (keys, values) = row.split_at(n_kv_heads * head_dim);
            let heads = keys
                .chunks_exact(head_dim)
                .zip(values.chunks_exact(head_dim));
            for (kv_head, (key, value)) in heads.enumerate() {
                // SAFETY: the caller of the kernel keeps others away from these slots; `run` chose the element type.
                unsafe { self.cache.store::<E>(kv_head, position, key, value) };
            }
        }
    }
}
