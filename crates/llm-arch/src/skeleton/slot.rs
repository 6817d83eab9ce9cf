//! A tensor that a model needs: whose it is, what it is there, and how checkpoints hold it.

use std::fmt;
use std::ops::Deref;

use llm_tensor::DType;

use crate::spec::Side;

/// The smallest placeable part of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// Token and position tables.
    Embedding,
    /// The table of rows that layers take in beside the residual stream: it is looked up in, and may rest where it is slow.
    PerLayerTable,
    /// A block, without its experts.
    Layer(Side, usize),
    /// One expert of a block of the decoder.
    Expert {
        /// The block.
        layer: usize,
        /// The expert.
        expert: usize,
    },
    /// The norm after a side's last block.
    FinalNorm(Side),
    /// Parts that make logits, but for the embedding's table.
    Head,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unit::Embedding => f.write_str("embedding"),
            Unit::PerLayerTable => f.write_str("per-layer table"),
            Unit::Layer(Side::Encoder, i) => write!(f, "encoder layer {i}"),
            Unit::Layer(Side::Decoder, i) => write!(f, "layer {i}"),
            Unit::Expert { layer, expert } => write!(f, "expert {expert} of layer {layer}"),
            Unit::FinalNorm(Side::Encoder) => f.write_str("encoder's final norm"),
            Unit::FinalNorm(Side::Decoder) => f.write_str("final norm"),
            Unit::Head => f.write_str("head"),
        }
    }
}

/// The roles: each with that of a bias, if models have one, and with the kind of its tensors in most families.
macro_rules! roles {
    ($($(#[$doc:meta])* $role:ident $(+ $bias:ident)? : $kind:ident;)+) => {
        /// Role of a tensor in its unit.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "the names are the field's own")]
        pub enum Role {
            $($(#[$doc])* $role, $($bias,)?)+
        }

        const ROLES: &[(Role, &[Role], TensorKind)] =
            &[$((Role::$role, &[$(Role::$bias)?], TensorKind::$kind)),+];
    };
}

roles! {
    TokenTable: Other;
    PositionTable: Other;
    EmbedNorm + EmbedNormBias: Other;
    /// From the embedding's width to the hidden one, and back.
    ProjectIn: Projection;
    ProjectOut: Projection;
    /// Rows that layers take in, `[tokens, layers · width]`; what is added to them of the residual, and its norm.
    PerLayerTable: Other;
    PerLayerModel: Projection;
    PerLayerNorm: Other;
    /// Stretches of the rotary wavelengths, `[rotary dim / 2]`.
    RopeFactors: Other;
    /// Bias of each head for each bucket of distances, `[buckets, heads]`.
    RelativeBias: Other;
    AttnNorm + AttnNormBias: Other;
    /// Queries, keys and values in one, rows `[q | k | v]`.
    Qkv + QkvBias: Projection;
    Q + QBias: Projection;
    K + KBias: Projection;
    V + VBias: Projection;
    QNorm + QNormBias: Other;
    KNorm + KNormBias: Other;
    Out + OutBias: Projection;
    /// To the latent of queries, its norm, and queries of it.
    QDown + QDownBias: Projection;
    QLatentNorm: Other;
    QUp: Projection;
    /// To the latent of keys and values with the key that heads share behind it, the latent's norm, and keys and values of it.
    KvDown + KvDownBias: Projection;
    KvLatentNorm: Other;
    KvUp: Both;
    /// Where they lie apart, latents of each head's keys, and each head's values of a latent.
    KeysUp: Both;
    ValuesUp: Both;
    /// Queries and keys of the heads that select positions, the norm of keys, and weights of heads.
    IndexQ: Projection;
    IndexK: Projection;
    IndexKNorm + IndexKNormBias: Other;
    // A few rows that transformers quantizes as little as the router's.
    IndexWeights: Other;
    /// Features of positions that entries are compressed of, their gates, what is added to these by the place in a run,
    /// `[rate, features]`, and the norm of entries. Matrices, too, stay as they are published, in 16 bits, and as transformers keeps
    /// them;
    EntryFeatures: Other;
    EntryGates: Other;
    EntryPlaces: Other;
    EntryNorm: Other;
    /// and the same of the keys by which entries are selected.
    IndexFeatures: Other;
    IndexGates: Other;
    IndexPlaces: Other;
    IndexNorm: Other;
    /// From each group of heads' results by rows of its own.
    OutGroups: Both;
    /// Scores of heads beside those of positions, `[heads]`.
    Sinks: Other;
    /// Gates and input of a short convolution in one, rows `[B | C | x]`.
    ConvIn + ConvInBias: Projection;
    /// Taps of each channel, `[channels, kernel]`.
    ConvTaps + ConvTapsBias: Other;
    /// Taps of queries, of keys and of values, where these are apart.
    QTaps: Other;
    KTaps: Other;
    VTaps: Other;
    ConvOut + ConvOutBias: Projection;
    /// Projections of a delta rule: rows `[q | k | v]`, gates of results, strengths and decays,
    DeltaQkv: Projection;
    DeltaGate: Projection;
    DeltaStrength: Projection;
    DeltaDecay: Projection;
    /// or gates of results and decays by way of a latent each.
    DeltaGateDown: Projection;
    DeltaGateUp: Projection;
    DeltaDecayDown: Projection;
    DeltaDecayUp: Projection;
    /// or queries, keys, values and gates by key head, and strengths and decays.
    DeltaQkvGate: Projection;
    DeltaStrengthDecay: Projection;
    /// How fast each head decays, as a logarithm, and what is added to its decays: `[heads]`.
    DeltaRate: Other;
    DeltaOffset: Other;
    /// Gain of the norm of results, `[elements of a head]`.
    DeltaNorm: Other;
    DeltaOut: Projection;
    /// Projections of a state space in one, rows `[gates | values | written by | read by | steps]`.
    SpaceIn + SpaceInBias: Projection;
    /// How fast each head's state fades, as a logarithm, what is added to its steps, and what multiplies its values beside the
    /// state: `[heads]`.
    SpaceRate: Other;
    SpaceOffset: Other;
    SpaceSkip: Other;
    /// Gain of the norm of gated results, `[elements of all heads]`.
    SpaceNorm: Other;
    SpaceOut + SpaceOutBias: Projection;
    PostAttnNorm: Other;
    CrossNorm: Other;
    CrossQ: Projection;
    CrossK: Projection;
    CrossV: Projection;
    CrossOut: Projection;
    MlpNorm + MlpNormBias: Other;
    /// Scores the experts, `[experts, hidden]`.
    // A few rows, on whose smallest differences the choice of experts hangs.
    Router + RouterBias: Other;
    /// Corrects the experts' ranks, `[experts]`.
    RouterCorrection: Other;
    /// Experts of each token, `[tokens, active experts]`.
    RouterTokens: Single;
    /// From the residual to the narrower rows of experts, and back.
    ExpertsIn: Projection;
    ExpertsOut: Projection;
    /// Multiplies the router's norm of the residual, `[hidden]`, and the chosen experts' weights, `[experts]`.
    RouterNorm: Other;
    RouterScales: Other;
    /// Gains of norms of what all experts read and make, and of what the one for all tokens makes.
    ExpertsNorm: Other;
    PostExpertsNorm: Other;
    PostSharedNorm: Other;
    Gate + GateBias: Projection;
    Up + UpBias: Projection;
    /// Gate and up in one, rows `[gate | up]`; of experts they may alternate.
    GateUp + GateUpBias: Projection;
    Down + DownBias: Projection;
    /// Numbers of xIELU, one each.
    XieluAlphaP: Other;
    XieluAlphaN: Other;
    XieluBeta: Other;
    XieluEps: Other;
    /// Score of a token for the shared expert, `[1, hidden]`.
    // A linear layer, which transformers quantizes.
    SharedScore: Projection;
    SharedGate: Projection;
    SharedUp: Projection;
    SharedGateUp: Projection;
    SharedDown: Projection;
    PostMlpNorm: Other;
    /// To the gate of a layer's part of those rows, from it to the residual, and the norm of that.
    PerLayerGate: Projection;
    PerLayerOut: Projection;
    PostPerLayerNorm: Other;
    /// Multiplies a layer's result, the residual included: `[1]`.
    LayerScale: Other;
    /// From the residual to each of its further streams, and from these to what is made one row of.
    StreamIn1: Projection;
    StreamIn2: Projection;
    StreamIn3: Projection;
    StreamOut1: Projection;
    StreamOut2: Projection;
    StreamOut3: Projection;
    /// Norm of what makes the coefficients of streams; a number for each stream, `[streams, hidden]`; and of these the coefficients
    /// of predictions and of corrections.
    StreamNorm: Other;
    StreamRouter: Projection;
    StreamPredict: Projection;
    StreamCorrect: Projection;
    /// Multiplies the first stream where it gates a layer's inputs, `[hidden]`.
    StreamScale: Other;
    /// Products with all streams of which weights are made, what is added to them, and what multiplies them: around the mixer,
    /// the feed-forward, and where streams are made one row.
    MixerStreams: Single;
    MixerStreamsBase: Single;
    MixerStreamsScale: Single;
    MlpStreams: Single;
    MlpStreamsBase: Single;
    MlpStreamsScale: Single;
    EndStreams: Single;
    EndStreamsBase: Single;
    EndStreamsScale: Single;
    /// A learned residual beside the mixer: to few features, from them, and the norm of that.
    LaurelDown: Projection;
    LaurelUp: Projection;
    LaurelNorm: Other;
    FinalNorm + FinalNormBias: Other;
    Head + HeadBias: Head;
}

impl Role {
    /// Kind of the role's tensors, in most families.
    pub(super) fn kind(self) -> TensorKind {
        let of_weight = ROLES.iter().find(|(role, ..)| *role == self);
        of_weight.map_or(TensorKind::Other, |(.., kind)| *kind)
    }

    /// True of a matrix that whole rows of activations are multiplied with, and nothing else is done with: of such a one some
    /// rows may be there at a time. A table of tokens is one where it makes the logits too.
    pub fn is_multiplied(self) -> bool {
        match self.kind() {
            TensorKind::Projection | TensorKind::WideProjection | TensorKind::Head => {
                self.biased().is_none()
            }
            TensorKind::Both | TensorKind::Single | TensorKind::Other => self == Role::TokenTable,
        }
    }

    /// True of what makes keys and values of an encoder's result: once a sequence, before its first pass.
    pub fn reads_encoded(self) -> bool {
        matches!(self, Role::CrossK | Role::CrossV)
    }

    /// Unit of a table in which rows are looked up; none of what is no table.
    pub fn table_of(self) -> Option<Unit> {
        match self {
            Role::TokenTable | Role::PositionTable => Some(Unit::Embedding),
            Role::PerLayerTable => Some(Unit::PerLayerTable),
            _ => None,
        }
    }

    /// Role of a weight's bias, if models have one.
    pub(super) fn bias(self) -> Option<Role> {
        let (_, bias, _) = ROLES.iter().find(|(role, ..)| *role == self)?;
        bias.first().copied()
    }

    /// Role of a bias's weight.
    pub(super) fn biased(self) -> Option<Role> {
        let of_bias = ROLES.iter().find(|(_, bias, _)| bias.contains(&self));
        of_bias.map(|(role, ..)| *role)
    }
}

/// A tensor that the model needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The part that it belongs to.
    pub unit: Unit,
    /// Role in its unit.
    pub role: Role,
    /// Its shape after loading: `[out, in]`, `[rows, width]` or `[width]`.
    pub shape: Extents,
    /// Storage in the checkpoint.
    pub stored: Stored,
    /// Kind of tensor.
    pub kind: TensorKind,
    /// Module in transformers.
    pub module: Module,
    /// Its name in a checkpoint, in full.
    pub name: String,
    /// The part of the name that checkpoints of the bare base model lack.
    pub base_prefix: &'static str,
}

impl Slot {
    /// Elements.
    pub fn n_elements(&self) -> u64 {
        self.shape.iter().map(|&d| d as u64).product()
    }

    /// Rows and columns of what computes with it: output and input features, and 1 and the width of a vector.
    pub fn matrix(&self) -> (usize, usize) {
        match self.shape {
            Extents::Matrix([rows, cols]) => (rows, cols),
            Extents::Vector([width]) => (1, width),
        }
    }

    /// The type of its elements in a checkpoint of weights in `dtype`.
    pub fn stored_dtype(&self, dtype: DType) -> DType {
        match self.role {
            Role::RouterTokens => DType::I64,
            _ => dtype,
        }
    }

    /// The shape in the checkpoint.
    pub fn stored_shape(&self) -> Vec<usize> {
        match self.stored {
            Stored::AsIs
            | Stored::Pairs { .. }
            | Stored::Stacked { .. }
            | Stored::OneMore
            | Stored::NegatedExp => self.shape.to_vec(),
            Stored::Column | Stored::NegatedExpColumn => {
                self.shape.iter().copied().chain([1]).collect()
            }
            Stored::Groups { n_groups } => {
                let (_, width) = self.matrix();
                vec![n_groups, width / n_groups]
            }
            Stored::Depthwise => {
                let (channels, kernel) = self.matrix();
                vec![channels, 1, kernel]
            }
            Stored::Heads { n_heads } => {
                let (rows, cols) = self.matrix();
                vec![n_heads, rows / n_heads, cols]
            }
            Stored::Scalar => Vec::new(),
            Stored::Channel => {
                let (_, width) = self.matrix();
                vec![1, 1, width, 1]
            }
            Stored::Row => [1].into_iter().chain(self.shape.iter().copied()).collect(),
            Stored::Transposed => self.shape.iter().rev().copied().collect(),
        }
    }

    /// The name in a checkpoint of the bare base model, where it differs.
    pub fn short_name(&self) -> Option<&str> {
        self.name
            .strip_prefix(self.base_prefix)
            .filter(|short| short.len() < self.name.len())
    }
}

/// Extents of a slot, outermost first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extents {
    /// `[width]`.
    Vector([usize; 1]),
    /// `[rows, cols]`.
    Matrix([usize; 2]),
}

impl Extents {
    /// # Panics
    /// When there are neither one nor two of them.
    pub(super) fn of(extents: &[usize]) -> Self {
        match *extents {
            [width] => Extents::Vector([width]),
            [rows, cols] => Extents::Matrix([rows, cols]),
            ref extents => panic!("a slot is a vector or a matrix, not {extents:?}"),
        }
    }

    /// All of them.
    pub fn as_slice(&self) -> &[usize] {
        match self {
            Extents::Vector(extents) => extents,
            Extents::Matrix(extents) => extents,
        }
    }
}

impl Deref for Extents {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        self.as_slice()
    }
}

/// As a list: `[4096, 1024]`.
impl fmt::Debug for Extents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

/// Storage of a tensor in a checkpoint, against its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The same.
    AsIs,
    /// `[in, out]`.
    Transposed,
    /// A matrix of its own for the rows of each head: `[heads, rows, in]`.
    Heads {
        /// Heads.
        n_heads: usize,
    },
    /// Its rows, or a bias's elements, in the order in which a rotary position turns two neighbours of each head, and not
    /// one of the head's first half with one of the second.
    Pairs {
        /// Rows of a head.
        head_dim: usize,
    },
    /// Its rows, or a bias's elements, in the order all queries, all keys, all values, and not for each key head its
    /// queries', its own and its values'.
    Stacked {
        /// Key heads.
        n_kv_heads: usize,
        /// Heads of queries for each.
        n_queries: usize,
        /// Rows of a head.
        head_dim: usize,
    },
    /// Each element greater by one.
    OneMore,
    /// Each element the negative of its exponential.
    NegatedExp,
    /// A vector as a matrix of one column,
    Column,
    /// and each element the negative of its exponential.
    NegatedExpColumn,
    /// A vector as a matrix with a row for each group of its elements.
    Groups {
        /// Groups.
        n_groups: usize,
    },
    /// Each row a matrix of its own, of one row: `[channels, 1, kernel]`.
    Depthwise,
    /// A vector as a matrix of one row.
    Row,
    /// A vector of one element as a number, which has no extents.
    Scalar,
    /// A vector with extents of one around it: `[1, 1, width, 1]`.
    Channel,
}

impl Stored {
    /// True where the elements are the same, in the same order.
    pub fn is_in_order(self) -> bool {
        match self {
            Stored::AsIs
            | Stored::Heads { .. }
            | Stored::Depthwise
            | Stored::Row
            | Stored::Column
            | Stored::Groups { .. }
            | Stored::Scalar
            | Stored::Channel => true,
            Stored::Transposed
            | Stored::Pairs { .. }
            | Stored::Stacked { .. }
            | Stored::OneMore
            | Stored::NegatedExp
            | Stored::NegatedExpColumn => false,
        }
    }

    /// Index of row `row` among the stored rows, where rows are all that differs.
    pub fn stored_row(self, row: usize) -> usize {
        match self {
            Stored::AsIs
            | Stored::Heads { .. }
            | Stored::Transposed
            | Stored::OneMore
            | Stored::NegatedExp
            | Stored::NegatedExpColumn
            | Stored::Column
            | Stored::Groups { .. }
            | Stored::Depthwise
            | Stored::Row
            | Stored::Scalar
            | Stored::Channel => row,
            Stored::Pairs { head_dim } => {
                let (head, at) = (row / head_dim, row % head_dim);
                let (half, pair) = (at / (head_dim / 2), at % (head_dim / 2));
                head * head_dim + 2 * pair + half
            }
            Stored::Stacked {
                n_kv_heads,
                n_queries,
                head_dim,
            } => {
                let (head, at) = (row / head_dim, row % head_dim);
                let (group, in_group) = (head / (n_queries + 2), head % (n_queries + 2));
                let stored_head = match in_group.checked_sub(n_queries) {
                    None => group * n_queries + in_group,
                    // The key, then the value.
                    Some(which) => n_kv_heads * (n_queries + which) + group,
                };
                stored_head * head_dim + at
            }
        }
    }
}

/// Module of a projection in transformers (5.24). Its quantizers convert plain linear layers and nothing else, so that
/// this decides what of a quantized checkpoint it can read. Of what is no projection it says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Module {
    /// A linear layer, or GPT-2's `Conv1D`.
    Linear,
    /// A family's own kind of linear layer, of this name.
    Custom(&'static str),
    /// One parameter for the experts of a layer.
    Experts,
}

/// Kind of tensor, where elements are kept in fewer bits than the checkpoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorKind {
    /// A matrix that hidden states are multiplied with.
    Projection,
    /// One whose results leave the range of f16: beside tensors in f16 it is kept in f32.
    WideProjection,
    /// One of whose rows each head has its own, which may be multiplied with from their other side, by columns: it is never
    /// quantized.
    Both,
    /// The matrix that makes logits.
    Head,
    /// A vector or a table.
    Other,
    /// A few numbers on which much hangs: they are kept in f32, whatever is asked for.
    Single,
}
