//! Keys and values of all sequences in one layer, laid out as attention reads them.

use std::ops::Range;

use half::{bf16, f16};
use llm_backend::{Allocation, Batch, KvColumns};
use llm_tensor::{Bytes, KvShape, KvValues};

use crate::Cpu;
use crate::isa::Geometry;
use crate::memory::Buffer;
use crate::share::{Divide, Shared};
use crate::simd::{Element, ElementType, Kernel, Simd};

/// Blocks of a panel of positions each. Of each head a block has a panel of keys `[head_dim, panel]`, so that a register
/// holds one element of many positions and scores need no horizontal sums, and the values `[panel, head_dim]`, unless those
/// are elements of the keys.
///
/// All blocks' keys of a head follow each other, and so do its values: blocks in a row, as a sequence has them unless it
/// shares some, are read as one stream.
#[derive(Debug)]
pub struct KvPool {
    layout: Layout,
    memory: Buffer,
}

/// Bytes that [`KvPool::new`] allocates.
pub(crate) fn bytes(shape: &KvShape, geometry: Geometry) -> Bytes {
    Bytes::new((Layout::new(shape, geometry).n_words() * size_of::<f32>()) as u64)
}

impl KvPool {
    /// # Errors
    /// What was asked for, when the system does not give it.
    ///
    /// # Panics
    /// When the elements are not f32, f16 or bf16, or nothing is to be kept.
    pub(crate) fn new(shape: &KvShape, geometry: Geometry) -> Result<Self, Bytes> {
        assert!(shape.capacity > 0, "a pool keeps a position at least");
        let layout = Layout::new(shape, geometry);
        Ok(KvPool {
            layout,
            memory: Buffer::zeroed(layout.n_words())?,
        })
    }

    pub(crate) fn shape(&self) -> &KvShape {
        &self.layout.shape
    }

    /// Positions of a block.
    pub(crate) fn panel(&self) -> usize {
        self.layout.panel
    }

    /// Copies blocks, `(from, to)` each.
    ///
    /// # Panics
    /// When there are no such blocks.
    pub(crate) fn copy_blocks(&mut self, blocks: &[(u32, u32)]) {
        let Layout { n_blocks, .. } = self.layout;
        let len = self.layout.head_len() * self.layout.element.size();
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(self.memory.as_mut_slice());
        for &(from, to) in blocks {
            let (from, to) = (from as usize, to as usize);
            assert!(from < n_blocks && to < n_blocks, "blocks {from} and {to}");
            for first in (0..self.layout.n_heads()).map(|head| head * n_blocks) {
                let from = (first + from) * len;
                bytes.copy_within(from..from + len, (first + to) * len);
            }
        }
    }

    /// Keys and values of the sequence that has the block table `table`.
    pub(crate) fn sequence<'a>(&'a self, table: &'a [u32]) -> KvView<'a> {
        KvView {
            layout: self.layout,
            memory: self.memory.as_slice(),
            table,
        }
    }
}

impl Allocation for KvPool {
    fn bytes(&self) -> Bytes {
        self.memory.bytes()
    }
}

/// Layout of keys and values, in elements.
#[derive(Debug, Clone, Copy)]
struct Layout {
    shape: KvShape,
    element: ElementType,
    /// Positions of a block.
    panel: usize,
    n_blocks: usize,
}

impl Layout {
    /// # Panics
    /// When the elements are not f32, f16 or bf16.
    fn new(shape: &KvShape, geometry: Geometry) -> Self {
        let element = ElementType::of(shape.dtype)
            .unwrap_or_else(|| panic!("keys and values of {}", shape.dtype));
        Layout {
            shape: *shape,
            element,
            panel: geometry.panel,
            n_blocks: shape.n_sequences * shape.table_len(geometry.panel),
        }
    }

    /// f32 of memory: the blocks, and a panel of elements more, since registers of the last values may reach beyond them.
    fn n_words(&self) -> usize {
        let n_elements = self.n_heads() * self.n_blocks * self.head_len() + self.panel;
        (n_elements * self.element.size()).div_ceil(size_of::<f32>())
    }

    /// Heads of keys and of values that are stored.
    fn n_heads(&self) -> usize {
        match self.shape.values {
            KvValues::Own => 2 * self.shape.n_kv_heads,
            KvValues::OfKeys(_) => self.shape.n_kv_heads,
        }
    }

    /// First element of all values, which is the number of elements of all keys.
    fn values_first(&self) -> usize {
        self.shape.n_kv_heads * self.n_blocks * self.head_len()
    }

    /// Elements of a head's keys in a block, and of its values.
    fn head_len(&self) -> usize {
        self.panel * self.shape.head_dim
    }

    /// First element of a head's panel of keys.
    ///
    /// # Panics
    /// When there is no such head or block.
    #[inline(always)]
    fn keys(&self, kv_head: usize, block: u32) -> usize {
        let block = block as usize;
        assert!(kv_head < self.shape.n_kv_heads && block < self.n_blocks);
        (kv_head * self.n_blocks + block) * self.head_len()
    }

    /// First element of a head's values.
    ///
    /// # Panics
    /// When there is no such head or block, or values are not stored.
    #[inline(always)]
    fn values(&self, kv_head: usize, block: u32) -> usize {
        assert!(self.shape.values == KvValues::Own, "values are stored");
        self.values_first() + self.keys(kv_head, block)
    }
}

/// Block of `position` in a sequence's table, which is used anew from its start when it ends.
#[inline(always)]
fn block_of(table: &[u32], panel: usize, position: usize) -> u32 {
    table[position / panel % table.len()]
}

/// Keys and values of a sequence, to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KvView<'a> {
    layout: Layout,
    memory: &'a [f32],
    table: &'a [u32],
}

impl KvView<'_> {
    pub(crate) fn element(&self) -> ElementType {
        self.layout.element
    }

    pub(crate) fn shape(&self) -> &KvShape {
        &self.layout.shape
    }

    /// Positions of a block.
    pub(crate) fn panel(&self) -> usize {
        self.layout.panel
    }

    /// The panel `[head_dim, panel]` of a head's keys in the block of `position`.
    ///
    /// # Panics
    /// When there is no such head.
    #[inline(always)]
    pub(crate) fn keys(&self, kv_head: usize, position: usize) -> *const u8 {
        let block = block_of(self.table, self.layout.panel, position);
        self.at(self.layout.keys(kv_head, block))
    }

    /// The rows of a head's values from `position` on to the end of its block; a panel of elements after the last can be
    /// read.
    ///
    /// # Panics
    /// When there is no such head.
    #[inline(always)]
    pub(crate) fn values(&self, kv_head: usize, position: usize) -> *const u8 {
        let Layout { panel, shape, .. } = self.layout;
        let block = block_of(self.table, panel, position);
        self.at(self.layout.values(kv_head, block) + position % panel * shape.head_dim)
    }

    #[inline(always)]
    fn at(&self, element: usize) -> *const u8 {
        let start = self.memory.as_ptr().cast::<u8>();
        start.wrapping_add(element * self.layout.element.size())
    }
}

/// Takes the keys and values of all sequences' rows of `kv` `[_, row_width]` to their positions.
pub(crate) fn append(
    cpu: &Cpu,
    kv: &[f32],
    columns: KvColumns,
    batch: &Batch<'_, Cpu>,
    pool: &mut KvPool,
) {
    let layout = pool.layout;
    let width = layout.shape.keys_width();
    assert!(
        columns.first + layout.shape.width() <= columns.row_width,
        "{columns:?} within a row"
    );
    let n_tokens: usize = batch.rows.iter().map(|rows| rows.n_tokens).sum();
    let min_columns = MIN_APPENDED.div_ceil(2 * n_tokens.max(1));
    let writers = Writers {
        layout,
        memory: Shared::new(pool.memory.as_mut_slice()),
    };
    cpu.pool
        .split(width, min_columns, writers, |features, mut into| {
            let tables = batch.tables.as_slice().chunks_exact(batch.table_len);
            for (rows, table) in batch.rows.iter().zip(tables) {
                // What would be overwritten by the same pass is left out.
                let n_tokens = rows.n_tokens.min(layout.shape.capacity);
                let first = rows.n_tokens - n_tokens;
                let kv = &kv[(rows.first + first) * columns.row_width..];
                let start = rows.start + first;
                cpu.level.run(Append {
                    into: &mut into,
                    table,
                    rows: &kv[..n_tokens * columns.row_width],
                    columns,
                    positions: start..start + n_tokens,
                    features: features.clone(),
                });
            }
        });
}

/// A pool to write, of which every unit is a feature: an element of the keys of a position, and that of its values.
struct Writers<'a> {
    layout: Layout,
    memory: Shared<'a>,
}

// SAFETY: an element of the memory belongs to one feature, whatever blocks the tables name.
unsafe impl<'a> Divide for Writers<'a> {
    type Piece = Writer<'a>;

    unsafe fn piece(&self, _: usize, units: Range<usize>) -> Writer<'a> {
        Writer {
            layout: self.layout,
            memory: self.memory,
            features: units,
        }
    }
}

/// Features of a pool that belong to one thread.
struct Writer<'a> {
    layout: Layout,
    memory: Shared<'a>,
    features: Range<usize>,
}

impl Writer<'_> {
    /// Stores elements of the key and the value of one head in `lane` of a block, from element `first` of the head on,
    /// rounded to the pool's elements `E`; no value where values are elements of the keys.
    ///
    /// # Panics
    /// When there is no such head, block or lane, or the elements are not this thread's, or not of one length.
    #[inline(always)]
    fn store<E: Element>(
        &mut self,
        (block, lane): (u32, usize),
        (kv_head, first): (usize, usize),
        key: &[f32],
        value: &[f32],
    ) {
        let Layout { shape, panel, .. } = self.layout;
        let feature = kv_head * shape.head_dim + first;
        assert!(self.features.start <= feature && feature + key.len() <= self.features.end);
        assert!(first + key.len() <= shape.head_dim);
        assert!(lane < panel && E::SIZE == self.layout.element.size());
        let memory = self.memory.as_mut_ptr().cast::<u8>();
        let keys = self.layout.keys(kv_head, block) + first * panel + lane;
        let keys = memory.wrapping_add(keys * E::SIZE);
        for (d, &key) in key.iter().enumerate() {
            // SAFETY: it lies within the head's part of a block that there is, and is an element of this thread's features, as
            // asserted.
            unsafe { E::write(keys.add(d * panel * E::SIZE), key) };
        }
        if value.is_empty() {
            return;
        }
        assert_eq!(key.len(), value.len(), "a value as long as its key");
        let values = self.layout.values(kv_head, block) + lane * shape.head_dim + first;
        let values = memory.wrapping_add(values * E::SIZE);
        for (d, &value) in value.iter().enumerate() {
            // SAFETY: as above.
            unsafe { E::write(values.add(d * E::SIZE), value) };
        }
    }
}

/// Stores some features of the keys and values of a sequence's rows.
struct Append<'a, 'p> {
    into: &'a mut Writer<'p>,
    table: &'a [u32],
    /// `[tokens, row_width]`.
    rows: &'a [f32],
    columns: KvColumns,
    /// Of the rows, one a token.
    positions: Range<usize>,
    features: Range<usize>,
}

impl Kernel for Append<'_, '_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        match self.into.layout.element {
            ElementType::F32 => self.all::<f32>(),
            ElementType::F16 => self.all::<f16>(),
            ElementType::Bf16 => self.all::<bf16>(),
        }
    }
}

impl Append<'_, '_> {
    #[inline(always)]
    fn all<E: Element>(self) {
        let Layout { shape, panel, .. } = self.into.layout;
        let (head_dim, width) = (shape.head_dim, shape.keys_width());
        let rows = self.rows.chunks_exact(self.columns.row_width);
        for (position, row) in self.positions.zip(rows) {
            let (keys, values) = row[self.columns.first..][..shape.width()].split_at(width);
            let to = (block_of(self.table, panel, position), position % panel);
            let mut start = self.features.start;
            while start < self.features.end {
                let (kv_head, first) = (start / head_dim, start % head_dim);
                let end = self.features.end.min((kv_head + 1) * head_dim);
                let key = &keys[start..end];
                let value = match shape.values {
                    KvValues::Own => &values[start..end],
                    KvValues::OfKeys(_) => &[],
                };
                self.into.store::<E>(to, (kv_head, first), key, value);
                start = end;
            }
        }
    }
}

/// Elements below which a thread is not worth a fork in storing keys and values.
const MIN_APPENDED: usize = if cfg!(miri) { 1 } else { 1 << 13 };
