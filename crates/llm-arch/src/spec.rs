//! Spec of a model: plain data, and all that the runtime needs to know of a family.

mod delta;
mod experts;
mod head;
mod index;
mod non_linearity;
mod per_layer;
mod positions;
mod shared_key;
mod short_conv;
mod streams;

use llm_tensor::{Activation, DType, Norm};

pub use self::delta::{DeltaPacking, DeltaSpec, ValueOrder};
pub use self::experts::{ExpertsSpec, Join, SharedSpec};
pub use self::head::{HeadMatrix, HeadSpec};
pub use self::index::{IndexHeads, IndexSpec};
pub use self::non_linearity::NonLinearity;
pub use self::per_layer::{PerLayerPart, PerLayerSpec};
pub use self::positions::Positions;
pub use self::shared_key::{EntriesSpec, EntryIndexSpec, EntryKind, SharedKeySpec};
pub use self::short_conv::ShortConvSpec;
pub use self::streams::{AltUpSpec, HyperSpec, StreamsJoin, StreamsSpec};

/// A whole model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The family's name, as `llama`.
    pub family: &'static str,
    /// Elements of the residual stream.
    pub hidden: usize,
    /// Tokens that the embedding and the head know.
    pub vocab: usize,
    /// Positions the model was made for: prompt and generation together.
    pub context: usize,
    /// Embedding of tokens.
    pub embedding: EmbeddingSpec,
    /// Encoder, in encoder-decoder models.
    pub encoder: Option<EncoderSpec>,
    /// Blocks of the decoder.
    pub decoder: StackSpec,
    /// Head: hidden states to logits.
    pub head: HeadSpec,
    /// Layers that checkpoints may hold behind the decoder's, which guess further tokens: they are not run.
    pub n_drafting: usize,
    /// The element type that the configuration names for the weights.
    pub dtype: Option<DType>,
}

impl ModelSpec {
    /// True if the table of tokens makes the logits too.
    pub fn is_tied(&self) -> bool {
        match self.head.matrix {
            HeadMatrix::Tied => true,
            HeadMatrix::Separate => false,
        }
    }

    /// A run of blocks; of an encoder, if the model has one.
    pub fn stack(&self, side: Side) -> Option<&StackSpec> {
        match side {
            Side::Encoder => self.encoder.as_ref().map(|encoder| &encoder.stack),
            Side::Decoder => Some(&self.decoder),
        }
    }
}

/// Embedding of tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmbeddingSpec {
    /// Elements of a token's vector; where they are not `hidden`, a matrix projects them in, and another out again.
    pub width: usize,
    /// Multiplies the vectors.
    pub scale: f32,
    /// Normalises them.
    pub norm: Option<NormSpec>,
    /// Rows that layers take in beside them.
    pub per_layer: Option<PerLayerSpec>,
}

/// The encoder of an encoder-decoder model.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderSpec {
    /// Its layers.
    pub stack: StackSpec,
    /// First token of every generation.
    pub start_token: u32,
}

/// One of a model's two runs of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// Reads the prompt of an encoder-decoder model.
    Encoder,
    /// Continues it.
    Decoder,
}

/// A run of blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct StackSpec {
    /// Layers, which may differ.
    pub layers: Vec<LayerSpec>,
    /// Position encoding.
    pub positions: Positions,
    /// Every normalisation of the stack.
    pub norm: NormSpec,
    /// Norm after the last block, if any.
    pub final_norm: FinalNorm,
    /// Residual connections, and the places of norms in a block.
    pub residual: Residual,
    /// True if each layer multiplies its result, the residual included, by a number of its own (Gemma 4).
    pub scaled_layers: bool,
    /// Streams of the residual, where it has several: then a final norm follows.
    pub streams: Option<StreamsSpec>,
}

impl StackSpec {
    /// Blocks.
    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// Attention of each layer that attends.
    pub fn attentions(&self) -> impl Iterator<Item = &AttentionSpec> {
        self.layers
            .iter()
            .filter_map(|layer| layer.mixer.attention())
    }

    /// Attention of each layer that attends to latents.
    pub fn latents(&self) -> impl Iterator<Item = &LatentSpec> {
        self.layers.iter().filter_map(|layer| layer.mixer.latent())
    }

    /// Attention of each layer that attends to one key of all heads.
    pub fn shared_keys(&self) -> impl Iterator<Item = &SharedKeySpec> {
        let mixers = self.layers.iter().map(|layer| &layer.mixer);
        mixers.filter_map(MixerSpec::shared_key)
    }

    /// Kinds of entries that runs of positions are compressed to, in order.
    pub fn entry_kinds(&self) -> Vec<EntryKind> {
        let kind = |of: &SharedKeySpec| {
            let rate = of.entries?.rate;
            Some(EntryKind {
                rate,
                rotary_idx: of.rotary_idx,
            })
        };
        let mut kinds: Vec<_> = self.shared_keys().filter_map(kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// Attention of each layer that attends.
    pub fn attentions_mut(&mut self) -> impl Iterator<Item = &mut AttentionSpec> {
        let layers = self.layers.iter_mut();
        layers.filter_map(|layer| match &mut layer.mixer {
            MixerSpec::Attention(attention) => Some(attention),
            MixerSpec::Hybrid(hybrid) => Some(&mut hybrid.attention),
            MixerSpec::Latent(_)
            | MixerSpec::SharedKey(_)
            | MixerSpec::Conv(_)
            | MixerSpec::Delta(_)
            | MixerSpec::StateSpace(_)
            | MixerSpec::Absent => None,
        })
    }

    /// The layer whose keys and values, or other state, layer `i` has: mostly its own.
    pub fn state_of(&self, i: usize) -> usize {
        let attention = self.layers[i].mixer.attention();
        attention.and_then(|of| of.keys_of).unwrap_or(i)
    }

    /// Layers whose keys and values others have too, with their attention.
    pub fn lenders(&self) -> Vec<(usize, &AttentionSpec)> {
        let mut lenders: Vec<_> = self.attentions().filter_map(|of| of.keys_of).collect();
        lenders.sort_unstable();
        lenders.dedup();
        let attention = |i: usize| Some((i, self.layers[i].mixer.attention()?));
        lenders.into_iter().filter_map(attention).collect()
    }

    /// True where a layer's state is what its sequence came to: the state of fewer positions is computed anew, or kept.
    pub fn is_recurrent(&self) -> bool {
        let mut layers = self.layers.iter();
        layers.any(|layer| layer.mixer.is_recurrent())
    }

    /// True where tokens of a sequence may have to be read anew.
    pub fn rereads(&self) -> bool {
        self.is_recurrent() || self.positions.borders().next().is_some()
    }

    /// Query heads, of which the layers of a stack with biases by distance have equally many.
    pub fn n_heads(&self) -> usize {
        let heads = self.attentions().map(|attention| attention.n_heads);
        heads.max().unwrap_or(0)
    }
}

/// Norm after the last block, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalNorm {
    /// There is one.
    Present,
    /// The last block's own is the last.
    Absent,
}

/// A normalisation with its learned vectors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormSpec {
    /// Statistic.
    pub norm: Norm,
    /// True if a bias is added, as most LayerNorms do.
    pub bias: bool,
    /// Added under the root.
    pub eps: f32,
    /// Added to the stored gain.
    pub gain_offset: f32,
}

/// A block: what may differ from one to the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerSpec {
    /// Mixer across positions.
    pub mixer: MixerSpec,
    /// Feed-forward.
    pub mlp: MlpSpec,
}

/// A block's mixer: how positions learn of each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MixerSpec {
    /// Each sees the keys and values of those before it.
    Attention(AttentionSpec),
    /// The same, with the keys and values of all heads made of one short vector a position.
    Latent(LatentSpec),
    /// The same, with one key of all heads, which is their value too, and what runs of positions are compressed to.
    SharedKey(SharedKeySpec),
    /// Each is a weighted sum of its own features and those of a few before it.
    Conv(ShortConvSpec),
    /// Each corrects a state of its sequence, and reads it: the gated delta rule.
    Delta(DeltaSpec),
    /// Each lets a state of its sequence fade, adds to it, and reads it: a state space.
    StateSpace(StateSpaceSpec),
    /// Attention and a state space of the same input, side by side; their results are added.
    Hybrid(HybridSpec),
    /// There is none: the block is but a feed-forward.
    Absent,
}

impl MixerSpec {
    /// The attention, alone or beside a state space.
    pub fn attention(&self) -> Option<&AttentionSpec> {
        match self {
            MixerSpec::Attention(attention) => Some(attention),
            MixerSpec::Hybrid(hybrid) => Some(&hybrid.attention),
            MixerSpec::Latent(_)
            | MixerSpec::SharedKey(_)
            | MixerSpec::Conv(_)
            | MixerSpec::Delta(_)
            | MixerSpec::StateSpace(_)
            | MixerSpec::Absent => None,
        }
    }

    /// The state space, alone or beside attention.
    pub fn space(&self) -> Option<&StateSpaceSpec> {
        match self {
            MixerSpec::StateSpace(space) => Some(space),
            MixerSpec::Hybrid(hybrid) => Some(&hybrid.space),
            MixerSpec::Attention(_)
            | MixerSpec::Latent(_)
            | MixerSpec::SharedKey(_)
            | MixerSpec::Conv(_)
            | MixerSpec::Delta(_)
            | MixerSpec::Absent => None,
        }
    }

    /// The attention to one key of all heads.
    pub fn shared_key(&self) -> Option<&SharedKeySpec> {
        match self {
            MixerSpec::SharedKey(attention) => Some(attention),
            MixerSpec::Attention(_)
            | MixerSpec::Latent(_)
            | MixerSpec::Conv(_)
            | MixerSpec::Delta(_)
            | MixerSpec::StateSpace(_)
            | MixerSpec::Hybrid(_)
            | MixerSpec::Absent => None,
        }
    }

    /// The attention to latents.
    pub fn latent(&self) -> Option<&LatentSpec> {
        match self {
            MixerSpec::Latent(latent) => Some(latent),
            MixerSpec::Attention(_)
            | MixerSpec::SharedKey(_)
            | MixerSpec::Conv(_)
            | MixerSpec::Delta(_)
            | MixerSpec::StateSpace(_)
            | MixerSpec::Hybrid(_)
            | MixerSpec::Absent => None,
        }
    }

    /// True where the state of a sequence is of one size, and is overwritten by each position.
    pub fn is_recurrent(&self) -> bool {
        match self {
            MixerSpec::Attention(_)
            | MixerSpec::Latent(_)
            | MixerSpec::SharedKey(_)
            | MixerSpec::Absent => false,
            MixerSpec::Conv(_)
            | MixerSpec::Delta(_)
            | MixerSpec::StateSpace(_)
            | MixerSpec::Hybrid(_) => true,
        }
    }

    /// Features that the mixer projects its input to.
    pub fn projected_width(&self) -> usize {
        match self {
            MixerSpec::Attention(attention) => attention.row_width(),
            MixerSpec::Latent(latent) => {
                let index = latent.index.and_then(|index| index.heads);
                let queries = index.map_or(0, |heads| heads.q_width());
                queries.max(latent.n_heads * latent.key_dim())
            }
            // Queries; or features and gates of entries, and keys, on their way to pools.
            MixerSpec::SharedKey(of) => {
                let index = of.index().map_or(0, |index| index.q_width());
                of.q_width().max(index)
            }
            MixerSpec::Conv(conv) => conv.projected_width(),
            MixerSpec::Delta(delta) => delta.projected_width(),
            MixerSpec::StateSpace(space) => space.projected_width(),
            MixerSpec::Hybrid(hybrid) => hybrid.widest(MixerSpec::projected_width),
            MixerSpec::Absent => 0,
        }
    }

    /// Features that it projects back to the residual, or of what lies there before.
    pub fn mixed_width(&self) -> usize {
        match self {
            MixerSpec::Attention(attention) => attention.q_width(),
            MixerSpec::Latent(latent) => {
                let widths = [latent.values_width(), latent.q_width(), latent.key_dim()];
                widths.into_iter().max().unwrap_or(0)
            }
            MixerSpec::SharedKey(of) => {
                let pooled = of.entry_dims();
                let pooled = pooled.map(|(entries, width)| 2 * entries.features(width));
                let weights = of.index().map_or(0, |index| index.n_heads);
                pooled.max().unwrap_or(0).max(of.q_width()).max(weights)
            }
            MixerSpec::Conv(conv) => conv.n_channels,
            MixerSpec::Delta(delta) => delta.mixed_width(),
            MixerSpec::StateSpace(space) => space.values_width(),
            MixerSpec::Hybrid(hybrid) => hybrid.widest(MixerSpec::mixed_width),
            MixerSpec::Absent => 0,
        }
    }

    /// Features of a row that lies beside what the mixer projects its input to: before they are in order, or convolved.
    pub fn beside_width(&self) -> usize {
        match self {
            MixerSpec::Attention(attention) => match attention.is_in_groups() {
                true => attention.row_width(),
                false => 0,
            },
            MixerSpec::Latent(latent) => {
                let results = latent.n_heads * latent.kv_rank;
                let index = latent.index.and_then(|index| index.heads);
                let weights = index.map_or(0, |heads| heads.n_heads);
                results.max(latent.q_rank.unwrap_or(0)).max(weights)
            }
            MixerSpec::SharedKey(of) => of.q_rank.max(of.groups_rank()),
            MixerSpec::Conv(_) => 0,
            MixerSpec::Delta(delta) => match delta.packing {
                DeltaPacking::Separate => delta.conv_width(),
                DeltaPacking::PerKeyHead | DeltaPacking::PairsPerKeyHead => delta.projected_width(),
                // Decays are as many as features of keys.
                DeltaPacking::Channels { .. } => delta.conv_width() + delta.n_value_heads,
            },
            MixerSpec::StateSpace(space) => space.conv_width(),
            MixerSpec::Hybrid(hybrid) => hybrid.widest(MixerSpec::beside_width),
            MixerSpec::Absent => 0,
        }
    }

    /// Elements of the widest head; none where there are no heads.
    pub fn head_dim(&self) -> usize {
        match self {
            MixerSpec::Attention(attention) => attention.head_dim,
            MixerSpec::Latent(latent) => latent.key_dim(),
            MixerSpec::SharedKey(of) => of.head_dim,
            MixerSpec::Conv(_) => 0,
            MixerSpec::Delta(delta) => delta.key_dim.max(delta.value_dim),
            MixerSpec::Hybrid(hybrid) => hybrid.attention.head_dim,
            // No device needs more for a longer one.
            MixerSpec::StateSpace(_) | MixerSpec::Absent => 0,
        }
    }
}

/// A state space (Mamba-2: Dao and Gu 2024) of values, and of what they are written by and read by, which are convolved over a
/// few positions first; its results are gated, and normalised in groups.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StateSpaceSpec {
    /// Heads of values.
    pub n_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Numbers that a state keeps for each element.
    pub state_dim: usize,
    /// Groups of heads, each of which writes and reads states alike; divides `n_heads`.
    pub n_groups: usize,
    /// Positions that a convolution's result is made of, its own included.
    pub kernel: usize,
    /// Applied to what was convolved.
    pub activation: Activation,
    /// True if the convolution has biases.
    pub conv_bias: bool,
    /// True if the projections have biases.
    pub bias: bool,
    /// Smallest and largest step.
    pub step_limits: [f32; 2],
    /// Norm of gated results; none leaves them as they are.
    pub norm: Option<GroupNorm>,
    /// Multiplies the input, where a mixer stands beside it.
    pub input_scale: f32,
    /// Multiplies what is projected: gates, values, what is written by, what is read by, and steps.
    pub scales: Option<[f32; 5]>,
    /// Multiplies what is projected back.
    pub result_scale: f32,
}

/// A norm of groups of features, each by its own statistic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupNorm {
    /// The norm, with a gain for each feature of all groups.
    pub norm: NormSpec,
    /// Groups.
    pub n_groups: usize,
}

impl StateSpaceSpec {
    /// Features of all values, and of the gates of results.
    pub fn values_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Features that are convolved: values, and what all groups write and read by.
    pub fn conv_width(&self) -> usize {
        self.values_width() + 2 * self.n_groups * self.state_dim
    }

    /// Features of `[gates | values | written by | read by | steps]`.
    pub fn projected_width(&self) -> usize {
        self.values_width() + self.conv_width() + self.n_heads
    }

    /// Elements of a sequence's inputs of the positions before, and of its state.
    pub fn elements(&self) -> [usize; 2] {
        let before = self.conv_width() * (self.kernel - 1);
        [before, self.values_width() * self.state_dim]
    }
}

/// Attention and a state space side by side (Falcon-H1): one after the other computes, in the same buffers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HybridSpec {
    /// The attention.
    pub attention: AttentionSpec,
    /// The state space.
    pub space: StateSpaceSpec,
}

impl HybridSpec {
    /// The larger of both mixers' widths.
    fn widest(&self, width: fn(&MixerSpec) -> usize) -> usize {
        let attention = width(&MixerSpec::Attention(self.attention));
        attention.max(width(&MixerSpec::StateSpace(self.space)))
    }
}

/// Residual connections; the residual is `x`.
///
/// ```text
/// Sequential  x ─┬─ norm ─ mixer ─ + ─┬─ norm ─ mlp ─ + ─►
///                └─────────────────┘  └──────────────┘
/// Sandwich    the same, with a norm before each +
/// PostNorm    x ─┬─ mixer ─ + ─ norm ─┬─ mlp ─ + ─ norm ─►
///                └──────────┘         └────────┘
/// Normed      x ─ norm ─┬─ mixer ─ + ─ norm ─┬─ mlp ─ + ─►
///                       └──────────┘         └────────┘
/// Results     x ─┬─ mixer ─ norm ─ + ─┬─ mlp ─ norm ─ + ─►
///                └─────────────────┘  └──────────────┘
/// Parallel    x ─┬─ norm ─ mixer ─ + ─ + ─►
///                ├─ norm ─ mlp ────┘   │
///                └─────────────────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residual {
    /// `x += mixer(norm(x)); x += mlp(norm(x))`.
    Sequential,
    /// The same, with each result normalised before it is added.
    Sandwich,
    /// `x = norm(x + mixer(x)); x = norm(x + mlp(x))`.
    PostNorm,
    /// `x += norm(mixer(x)); x += norm(mlp(x))`: only results are normalised.
    Results,
    /// `x = norm(x); x += mixer(x)`, and so with the feed-forward: the normed `x` is the residual.
    Normed,
    /// `x += mixer(n) + mlp(n)` of one `n = norm(x)`.
    ParallelOneNorm,
    /// `x += mixer(norm(x)) + mlp(norm'(x))`.
    ParallelTwoNorms,
}

/// Attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub n_heads: usize,
    /// Heads of keys, and of values; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Storage of the three projections.
    pub packing: Packing,
    /// True if the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// True if the output projection has one.
    pub out_bias: bool,
    /// Normalises queries and keys.
    pub qk_norm: Option<QkNorm>,
    /// Divides each head's values by the root of their mean square and this number: an RMSNorm without a gain (Gemma 4).
    pub v_norm: Option<f32>,
    /// Divides each head's queries and keys, once they are turned, by the root of their mean square and this number (Llama 4).
    pub turned_norm: Option<f32>,
    /// Multiplies the input, where a mixer stands beside it.
    pub input_scale: f32,
    /// Multiplies the products of queries and keys.
    pub scale: f32,
    /// Multiplies what is projected back.
    pub result_scale: f32,
    /// Bounds the scores.
    pub soft_cap: Option<f32>,
    /// Positions that a query sees, its own included; none bounds them.
    pub window: Option<usize>,
    /// True if the window does not slide: a query sees those of its chunk, which begins at a multiple of so many positions (Llama 4).
    pub chunked: bool,
    /// True if each head has a learned score that joins its softmax (gpt-oss).
    pub sinks: bool,
    /// Layer before it whose keys and values it sees: it has none of its own (Gemma 3n), and projects queries alone.
    pub keys_of: Option<usize>,
    /// Index among the stack's rotary positions; none leaves queries and keys as they are (NoPE).
    pub rotary_idx: Option<usize>,
    /// Index of the rotary positions that multiply queries, once they were turned.
    pub growth_idx: Option<usize>,
    /// True if each head's result is multiplied by sigmoids, which the query projection makes too: behind each head's query.
    pub output_gate: bool,
}

impl AttentionSpec {
    /// Output features of the query projection.
    pub fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Query heads per key head where the rows of one matrix, or its results, lie in groups.
    pub fn grouped(&self) -> Option<usize> {
        // A single group is `[q | k | v]` already.
        let is_grouped = self.packing == Packing::PerGroup && self.n_kv_heads > 1;
        is_grouped.then(|| self.n_heads / self.n_kv_heads)
    }

    /// Output features of the key projection, and of the value projection.
    pub fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Output features of the query projection, gates of results included.
    pub fn gated_q_width(&self) -> usize {
        match self.output_gate {
            true => 2 * self.q_width(),
            false => self.q_width(),
        }
    }

    /// True where results of projections are brought into order.
    pub fn is_in_groups(&self) -> bool {
        self.output_gate || self.keys_are_values() || self.grouped().is_some()
    }

    /// True where values are keys before these are normalised and turned.
    pub fn keys_are_values(&self) -> bool {
        self.packing == Packing::KeysAreValues
    }

    /// Output features of all projections, `[q | k | v | gates of results]`.
    pub fn row_width(&self) -> usize {
        self.gated_q_width() + self.own_kv_width()
    }

    /// Output features of queries, keys and values, side by side.
    pub fn qkv_width(&self) -> usize {
        self.q_width() + self.own_kv_width()
    }

    /// Key heads that it projects: none where it sees those of another layer.
    pub fn n_own_kv_heads(&self) -> usize {
        match self.keys_of {
            None => self.n_kv_heads,
            Some(_) => 0,
        }
    }

    /// Output features of keys and values together.
    pub fn own_kv_width(&self) -> usize {
        2 * self.n_own_kv_heads() * self.head_dim
    }
}

/// Multi-head latent attention (DeepSeek-V2, Liu et al. 2024): what a position's keys and values are made of is a latent that
/// all heads share, and beside it is one key, turned by the position, that they share too.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatentSpec {
    /// Heads.
    pub n_heads: usize,
    /// Elements of the latent that queries are made of; none where they are made of the input.
    pub q_rank: Option<usize>,
    /// Elements of the latent that keys and values are made of.
    pub kv_rank: usize,
    /// Elements of a head's queries, and of its keys, that have no position.
    pub nope_dim: usize,
    /// Elements of a head's queries, behind those, that are turned; and of the key that all heads share.
    pub rope_dim: usize,
    /// Elements of a head's values.
    pub value_dim: usize,
    /// True if the projections to latents, and the one to the residual, have biases.
    pub bias: bool,
    /// Norm of latents.
    pub norm: NormSpec,
    /// Multiplies the products of queries and keys.
    pub scale: f32,
    /// Index among the stack's rotary positions; none where nothing is turned.
    pub rotary_idx: Option<usize>,
    /// Selection of the positions that a query sees; none where it sees all before it.
    pub index: Option<IndexSpec>,
    /// True if what makes values of latents is a matrix of its own, beside that of keys, of which a head's are transposed.
    pub kv_apart: bool,
}

impl LatentSpec {
    /// Elements of a head's queries, as they are projected.
    pub fn q_dim(&self) -> usize {
        self.nope_dim + self.rope_dim
    }

    /// Output features of the query projection.
    pub fn q_width(&self) -> usize {
        self.n_heads * self.q_dim()
    }

    /// Elements of what is kept of a position: its latent and the turned key. It is the one key of all heads.
    pub fn key_dim(&self) -> usize {
        self.kv_rank + self.rope_dim
    }

    /// Rows of each head in the matrix that makes keys and values of latents: its keys', then its values'.
    pub fn kv_dim(&self) -> usize {
        self.nope_dim + self.value_dim
    }

    /// Features of all heads' results.
    pub fn values_width(&self) -> usize {
        self.n_heads * self.value_dim
    }
}

/// Normalisation of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QkNorm {
    /// The norm.
    pub norm: NormSpec,
    /// What it takes the statistic of.
    pub over: NormOver,
    /// Order of it and of positions.
    pub order: NormOrder,
}

/// Order of a norm of queries and keys and of the positions that turn them, which gains tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormOrder {
    /// They are normalised, then turned.
    BeforePositions,
    /// They are turned, then normalised.
    AfterPositions,
}

/// Elements whose statistic a norm of queries or keys takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormOver {
    /// Each head's, with one gain for all heads.
    Head,
    /// Those of all heads.
    AllHeads,
}

/// Storage of the query, key and value projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Three matrices.
    Separate,
    /// One matrix, all queries' features, then all keys', then all values'.
    Stacked,
    /// One matrix, for each key head its queries' features, its own and its values'.
    PerGroup,
    /// Two matrices, for queries and for keys, which are the values too (Gemma 4).
    KeysAreValues,
}

/// Feed-forward.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MlpSpec {
    /// One for all tokens.
    Dense(DenseMlp),
    /// Several, of which a router chooses some for each token (Shazeer et al. 2017).
    Experts(ExpertsSpec),
    /// There is none: the block is but a mixer.
    Absent,
}

impl MlpSpec {
    /// Experts, if it is made of them.
    pub fn experts(&self) -> Option<&ExpertsSpec> {
        match self {
            MlpSpec::Dense(_) | MlpSpec::Absent => None,
            MlpSpec::Experts(experts) => Some(experts),
        }
    }

    /// Number of experts.
    pub fn n_experts(&self) -> usize {
        self.experts()
            .map_or(0, |experts| experts.routing.n_experts)
    }
}

/// A feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DenseMlp {
    /// Features between the two projections.
    pub width: usize,
    /// The non-linearity.
    pub activation: NonLinearity,
    /// Gating of the activated features, and its storage (Shazeer 2020).
    pub gating: Gating,
    /// Multiplies what the gate makes before it is activated, and what is projected back.
    pub scales: Option<[f32; 2]>,
    /// Deviations above their mean below which a token's gates are zero; of the rest the distance is activated (Gemma 3n).
    pub cut_off: Option<f32>,
    /// True if the projections have biases.
    pub bias: bool,
}

/// Gating of activated features by a second projection's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gating {
    /// There is none.
    None,
    /// The checkpoint holds two matrices.
    Separate,
    /// The checkpoint holds one, the gate's rows first.
    Fused,
}
