//! Parameters of the operations.

use llm_tensor::{Activation, Gate, Norm, Pairing};

use crate::{Backend, Beside, Selected};

/// Description of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Name that people know it by, as `cpu (avx512, 2 threads)`.
    pub name: String,
}

/// A normalisation and its learned vectors.
#[derive(Debug)]
pub struct NormOp<'a, B: Backend> {
    /// Statistic that is divided by.
    pub norm: Norm,
    /// Added to the variance or the mean square before the root.
    pub eps: f32,
    /// Added to the gain: 1 where a checkpoint stores its distance from 1.
    pub gain_offset: f32,
    /// `[width]`.
    pub gain: &'a B::Weight,
    /// `[width]`.
    pub bias: Option<&'a B::Weight>,
}

/// One of the matrices that a linear operation applies to the same rows.
#[derive(Debug)]
pub struct LinearPart<'a, B: Backend> {
    /// `[rows, cols]`.
    pub weight: &'a B::Weight,
    /// `[rows]`.
    pub bias: Option<&'a B::Weight>,
}

impl<B: Backend> Clone for LinearPart<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for LinearPart<'_, B> {}

/// Columns of rows of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutColumns {
    /// The first of them.
    pub first: usize,
    /// Elements of a row.
    pub width: usize,
}

impl OutColumns {
    /// All columns of a result, unless they are some of `of`.
    ///
    /// # Panics
    /// When a row of the result has not so many.
    pub fn of(of: Option<Self>, n_columns: usize) -> Self {
        let all = OutColumns {
            first: 0,
            width: n_columns,
        };
        let columns = of.unwrap_or(all);
        assert!(
            columns.first + n_columns <= columns.width,
            "{n_columns} columns from {} on in rows of {}",
            columns.first,
            columns.width
        );
        columns
    }
}

/// Use of a linear operation's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Replaces it.
    Write,
    /// Adds to it: the residual connection.
    Add,
}

/// Rotation of the leading heads of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotary {
    /// Heads from the start of the row: the queries' and then the keys'.
    pub n_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Elements of a head before those that are turned.
    pub first: usize,
    /// Elements that are turned; even.
    pub rotary_dim: usize,
    /// Pairs that are turned together.
    pub pairing: Pairing,
    /// Elements of a row, the values included.
    pub row_width: usize,
}

impl Rotary {
    /// # Panics
    /// When a head has not the elements that are turned, or a row not the heads.
    pub fn check(&self) {
        let is_within = self.first + self.rotary_dim <= self.head_dim
            && self.n_heads * self.head_dim <= self.row_width;
        assert!(is_within && self.rotary_dim.is_multiple_of(2), "{self:?}");
    }
}

/// Some heads of each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// The first head.
    pub first: usize,
    /// Heads that follow each other.
    pub n_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Elements of a row.
    pub row_width: usize,
}

impl Heads {
    /// # Panics
    /// When a row has not the heads.
    pub fn check(&self) {
        assert!(
            (self.first + self.n_heads) * self.head_dim <= self.row_width,
            "{self:?}"
        );
    }

    /// The heads of some rows.
    pub fn of_rows<'a>(&self, rows: &'a mut [f32]) -> impl Iterator<Item = &'a mut [f32]> {
        let Heads {
            first,
            n_heads,
            head_dim,
            row_width,
        } = *self;
        let rows = rows.chunks_exact_mut(row_width);
        rows.flat_map(move |row| row.chunks_exact_mut(head_dim).skip(first).take(n_heads))
    }
}

/// Columns of rows that lie in groups, each of the same parts, and where they go: each part of all groups side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Groups {
    /// Groups.
    pub n_groups: usize,
    /// Parts of a group, in the order in which they lie there.
    pub parts: [GroupPart; Groups::MAX_PARTS],
    /// The first group's first element.
    pub first: usize,
    /// Elements of a grouped row.
    pub row_width: usize,
    /// Elements of a row that parts go to.
    pub out_width: usize,
}

/// A part of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupPart {
    /// Elements of it in each group; none where a group has fewer parts.
    pub width: usize,
    /// Where the first group's goes in a row; those of other groups follow.
    pub to: usize,
}

impl Groups {
    /// Parts that a group may have.
    pub const MAX_PARTS: usize = 4;

    /// Parts that go side by side, in order, from column `to` on.
    pub fn parts(widths: &[usize], n_groups: usize, to: usize) -> [GroupPart; Groups::MAX_PARTS] {
        let mut parts = [GroupPart::default(); Groups::MAX_PARTS];
        let mut to = to;
        for (part, &width) in parts.iter_mut().zip(widths) {
            *part = GroupPart { width, to };
            to += n_groups * width;
        }
        parts
    }

    /// Elements of a group.
    pub fn group_width(&self) -> usize {
        self.parts.iter().map(|part| part.width).sum()
    }

    /// Elements of all groups of a row.
    pub fn width(&self) -> usize {
        self.n_groups * self.group_width()
    }

    /// # Panics
    /// When parts leave a row.
    pub fn check(&self) {
        let fits = |part: &GroupPart| part.to + self.n_groups * part.width <= self.out_width;
        assert!(
            self.first + self.width() <= self.row_width && self.parts.iter().all(fits),
            "{self:?}"
        );
    }
}

/// Columns of keys and values in a row: the pool's number of heads each, values right after keys. Of a pool without values of
/// its own, columns of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvColumns {
    /// The first element of the keys.
    pub first: usize,
    /// Elements of a row.
    pub row_width: usize,
}

/// Attention of queries to the keys and values of a pool.
pub struct Attention<'a, B: Backend> {
    /// Query heads; a multiple of `n_kv_heads`, consecutive ones sharing a key head.
    pub n_heads: usize,
    /// Heads of keys, and of values.
    pub n_kv_heads: usize,
    /// Elements of a head's queries and keys; values are as the pool has them.
    pub head_dim: usize,
    /// Elements of a row that begins with the queries.
    pub row_width: usize,
    /// Multiplies the products of queries and keys.
    pub scale: f32,
    /// Bounds them: `cap · tanh(product / cap)`.
    pub soft_cap: Option<f32>,
    /// Positions that a query sees.
    pub mask: Mask,
    /// Added to them.
    pub bias: Option<RelativeBias<'a, B>>,
    /// A score for each head, `[n_heads]`, that joins its softmax and has no value: it takes weight from the positions
    /// (attention sinks, Xiao et al. 2023, learned).
    pub sinks: Option<&'a B::Weight>,
    /// Positions that each row sees among those that the mask shows, which is a causal one then without a window; none hides no other.
    pub selected: Option<Selected<'a, B>>,
    /// Entries that each row sees beside the positions.
    pub beside: Option<Beside<'a, B>>,
}

impl<B: Backend> Attention<'_, B> {
    /// # Panics
    /// When positions are selected under another mask than the causal one.
    pub fn check_selected(&self) {
        assert!(
            self.selected.is_none() || self.mask == Mask::Causal { window: None },
            "positions are selected among all before, not by {:?}",
            self.mask
        );
    }
}

/// Positions of its sequence that a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// Its own and all before it, of these the last `window`.
    Causal {
        /// Its own position included; none bounds it.
        window: Option<usize>,
    },
    /// Its own and those before it that lie in the same chunk: positions from a multiple of `len` on (Llama 4).
    Chunked {
        /// Positions of a chunk.
        len: usize,
    },
    /// All that the sequence has ([`Rows::n_positions`]), wherever it stands itself.
    Full,
}

/// Numbers that are added to the product of a query and a key, by head and by distance.
pub struct RelativeBias<'a, B: Backend> {
    /// `[n_heads, row]`: element `zero + key's position − query's position` of the head's row.
    pub table: &'a B::Buffer,
    /// Elements of a row; distances beyond its ends take its first or last element.
    pub row: usize,
    /// The element of distance zero.
    pub zero: usize,
}

impl<B: Backend> Clone for RelativeBias<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for RelativeBias<'_, B> {}

/// Rows of a pass that belong to one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// The first row in the pass's buffers.
    pub first: usize,
    /// Rows that follow each other.
    pub n_tokens: usize,
    /// Position of the first row in its sequence.
    pub start: usize,
    /// Positions that the pool holds of the sequence when its rows attend.
    pub n_positions: usize,
}

impl Rows {
    /// Elements of [`Rows::words`].
    pub const N_WORDS: usize = 4;

    /// The rows as a device's index has them.
    pub fn words(&self) -> [u32; Rows::N_WORDS] {
        [self.first, self.n_tokens, self.start, self.n_positions].map(|n| n as u32)
    }
}

/// Sequences of a pass, as the operations on keys and values are told of them.
#[derive(Debug)]
pub struct Batch<'a, B: Backend> {
    /// Their rows, for the host to share out the work.
    pub rows: &'a [Rows],
    /// The same on the device, `[n_sequences, Rows::N_WORDS]`.
    pub rows_index: &'a B::Index,
    /// Block tables `[n_sequences, table_len]`: position p lies in block `table[p / block_len % table_len]`.
    pub tables: &'a B::Index,
    /// Blocks of a table.
    pub table_len: usize,
}

impl<B: Backend> Clone for Batch<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Batch<'_, B> {}

/// Sequences of a pass, as the operations on states of one size are told of them.
///
/// A state lies in a slot: element `i` of slot `s` is element `s · n_elements + i` of a layer's buffer. Where a sequence's
/// rows start at position 0 it has no state yet, whatever lies there: all of it is zero.
#[derive(Debug)]
pub struct StateBatch<'a, B: Backend> {
    /// Their rows, for the host to share out the work.
    pub rows: &'a [Rows],
    /// The same on the device, `[n_sequences, Rows::N_WORDS]`.
    pub rows_index: &'a B::Index,
    /// Slot of each sequence's states, `[n_sequences]`, each another.
    pub slots: &'a B::Index,
}

impl<B: Backend> Clone for StateBatch<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for StateBatch<'_, B> {}

/// A causal convolution of each channel for itself, over the positions of each sequence.
#[derive(Debug)]
pub struct ShortConv<'a, B: Backend> {
    /// `[n_channels, kernel]`, the last tap for the position itself.
    pub taps: &'a B::Weight,
    /// `[n_channels]`.
    pub bias: Option<&'a B::Weight>,
    /// Channels.
    pub n_channels: usize,
    /// Positions that a result is made of, up to [`MAX_TAPS`](llm_tensor::MAX_TAPS).
    pub kernel: usize,
    /// What is convolved, and what becomes of the sums.
    pub rows: ConvRows,
}

/// Rows that a convolution takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConvRows {
    /// Some columns of each are convolved.
    Columns {
        /// The first channel's.
        first: usize,
        /// Elements of a row.
        row_width: usize,
        /// Applied to the sums.
        activation: Option<Activation>,
    },
    /// Of rows `[B | C | x]` of the channels each `B · x` is convolved, and the sums are multiplied by `C`.
    Gated,
}

impl<B: Backend> Clone for ShortConv<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for ShortConv<'_, B> {}

impl<B: Backend> ShortConv<'_, B> {
    /// Elements of a sequence's state `[kernel - 1, n_channels]`: what was convolved at the positions before, the last one last.
    pub fn state_elements(&self) -> usize {
        (self.kernel - 1) * self.n_channels
    }

    /// Elements of an input row.
    pub fn row_width(&self) -> usize {
        match self.rows {
            ConvRows::Columns { row_width, .. } => row_width,
            ConvRows::Gated => 3 * self.n_channels,
        }
    }
}

/// What a router has beside scores: learned vectors, `[n_experts]` each, and experts that are chosen by something else.
#[derive(Debug)]
pub struct RouterVectors<'a, B: Backend> {
    /// Added to ranks, and to no weight.
    pub correction: Option<&'a B::Weight>,
    /// Multiplies the weights of chosen experts' results, once they are normalised.
    pub scales: Option<&'a B::Weight>,
    /// Experts of each row, `[n_tokens, n_active]`, as numbers below that of experts: they are not chosen by rank then.
    pub chosen: Option<&'a B::Buffer>,
}

impl<B: Backend> RouterVectors<'_, B> {
    /// Those of a router that has neither.
    pub const NONE: Self = RouterVectors {
        correction: None,
        scales: None,
        chosen: None,
    };
}

impl<B: Backend> Clone for RouterVectors<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for RouterVectors<'_, B> {}

/// A feed-forward of which only chosen rows are sent through.
pub struct Expert<'a, B: Backend> {
    /// Number among the layer's experts.
    pub expert: usize,
    /// Gate and up, `[width, hidden]` each, or both in one; or just up.
    pub gate_up: &'a [LinearPart<'a, B>],
    /// `[hidden, width]`.
    pub down: LinearPart<'a, B>,
    /// Gating of the features of both.
    pub gate: Gate,
    /// Features between the projections.
    pub width: usize,
    /// Elements of a row.
    pub hidden: usize,
}

/// Consecutive columns of a row, and what multiplies them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Run {
    /// Columns.
    pub n_columns: usize,
    /// Multiplies each of them.
    pub factor: f32,
}

impl Run {
    /// Most runs of a row.
    pub const MOST: usize = 5;

    /// Columns of all runs.
    ///
    /// # Panics
    /// When there are more than [`Run::MOST`].
    pub fn width(runs: &[Run]) -> usize {
        assert!(runs.len() <= Run::MOST, "{runs:?}");
        runs.iter().map(|run| run.n_columns).sum()
    }
}

/// Buffers of a pass that experts compute in.
pub struct ExpertBuffers<'a, B: Backend> {
    /// `[n_tokens, hidden]`.
    pub gathered: &'a mut B::Buffer,
    /// `[n_tokens, 2 · width]`, or `[n_tokens, width]` where nothing gates.
    pub up: &'a mut B::Buffer,
    /// `[n_tokens, width]`; none where nothing gates.
    pub gated: &'a mut B::Buffer,
    /// `[n_tokens, hidden]`.
    pub delta: &'a mut B::Buffer,
}
