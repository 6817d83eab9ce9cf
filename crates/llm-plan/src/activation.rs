//! The buffers of a pass: what the runtime allocates, and hence what a plan counts. Elements are f32.

use std::ops::Range;

use llm_arch::{
    AttentionSpec, DenseMlp, Gating, LatentSpec, LayerSpec, MixerSpec, MlpSpec, ModelSpec,
    Positions, RopeScaling, RotarySpec, SharedKeySpec, StackSpec,
};
use llm_tensor::{Gate, WorkspaceShape};

use crate::Limits;

/// The buffers of a pass, by their names.
macro_rules! activations {
    ($($(#[$doc:meta])* $buffer:ident,)+) => {
        /// Something for each buffer of a pass; every device that computes has all of them.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct ActivationsOf<T> {
            $($(#[$doc])* pub $buffer: T,)+
            /// `[cos | sin]` of the rotary angles, for each kind of them; then of entries' positions, for each kind of entries.
            pub angles: Vec<T>,
        }

        impl<T> ActivationsOf<T> {
            /// Each of them.
            pub fn iter(&self) -> impl Iterator<Item = &T> {
                [$(&self.$buffer),+].into_iter().chain(&self.angles)
            }

            /// The same of what `f` makes of each, or its first error.
            ///
            /// # Errors
            /// Those of `f`.
            pub fn try_map<U, E>(
                &self,
                mut f: impl FnMut(&T) -> Result<U, E>,
            ) -> Result<ActivationsOf<U>, E> {
                Ok(ActivationsOf {
                    $($buffer: f(&self.$buffer)?,)+
                    angles: self.angles.iter().map(f).collect::<Result<_, _>>()?,
                })
            }
        }
    };
}

activations! {
    /// The residual stream.
    x,
    /// Its streams side by side, where it has several: `x` is what a block computes with then,
    streams,
    /// and the coefficients by which they are made of each other.
    mixing,
    /// A normalised copy of it.
    normed,
    /// A result that is yet to be normalised or weighed.
    delta,
    /// Token vectors that are yet to be projected to the residual stream's width.
    embedded,
    /// `[q | k | v]`, or what another mixer projects its input to.
    qkv,
    /// The same as projections make them whose rows lie in groups, before they are put in order; or what of them is convolved.
    grouped,
    /// Heads' results, or another mixer's.
    attended,
    /// `[gate | up]`, or just `up`.
    up,
    /// The product of both.
    gated,
    /// The router's, one an expert.
    scores,
    /// An expert's rows.
    gathered,
    /// What experts read where they have rows of their own,
    entered,
    /// and the sum of their results.
    left,
    /// What layers take in beside the residual, of all of them.
    inputs,
    /// Keys and values that later layers see too, on their way to other devices: of each layer that lends some.
    lent,
    /// An encoder's result for the prompt.
    encoded,
}

/// Elements of a row in each buffer of a pass, for as many rows as [`Limits::n_tokens`]. A width of zero is a buffer that
/// the model does not need.
pub type ActivationWidths = ActivationsOf<usize>;

impl ActivationWidths {
    /// Those of a model.
    pub fn of(spec: &ModelSpec) -> Self {
        let widest = |width: &dyn Fn(&StackSpec) -> usize| stacks(spec).map(width).max();
        let widest = |width| widest(width).unwrap_or(0);
        let layers = || stacks(spec).flat_map(|stack| &stack.layers);
        let mixers = |width: &dyn Fn(&MixerSpec) -> usize| {
            let widths = layers().map(|layer| width(&layer.mixer));
            widths.max().unwrap_or(0)
        };
        let n_experts = n_experts(spec);
        let experts = layers().filter_map(|layer| layer.mlp.experts());
        let own_rows = experts.filter(|experts| experts.have_own_rows());
        let own_rows = own_rows.map(|experts| experts.row_width(spec.hidden));
        let own_rows = own_rows.max().unwrap_or(0);
        let by_token = layers().filter_map(|layer| layer.mlp.experts());
        let by_token = by_token.filter(|experts| experts.by_token);
        let by_token = by_token
            .map(|experts| experts.routing.n_active)
            .max()
            .unwrap_or(0);
        let rotary = spec.decoder.positions.rotary();
        let of_entries = spec.decoder.entry_kinds();
        let of_entries = of_entries.iter().map(|of| rotary[of.rotary_idx].dim);
        let per_layer = spec.embedding.per_layer;
        let streams = spec.decoder.streams;
        let beside = [
            per_layer.map_or(0, |of| of.width),
            streams.map_or(0, |of| of.beside_width()),
        ];
        ActivationWidths {
            x: spec.hidden,
            streams: streams.map_or(0, |of| of.row_width(spec.hidden)),
            mixing: streams.map_or(0, |of| of.n_coefficients()),
            normed: spec.hidden,
            delta: spec.hidden,
            embedded: unless_hidden(spec),
            qkv: mixers(&MixerSpec::projected_width),
            grouped: mixers(&MixerSpec::beside_width),
            attended: beside
                .into_iter()
                .fold(mixers(&MixerSpec::mixed_width), usize::max),
            up: widest(&|stack| widest_mlp(stack).0),
            gated: widest(&|stack| widest_mlp(stack).1),
            scores: n_experts,
            // Before experts have rows, it has the numbers of those that a table says.
            gathered: if n_experts > 0 {
                spec.hidden.max(by_token)
            } else {
                0
            },
            entered: own_rows,
            left: own_rows,
            inputs: per_layer.map_or(0, |of| of.width * spec.decoder.n_layers()),
            lent: spec.decoder.lenders().iter().map(lent_width).sum(),
            encoded: if spec.encoder.is_some() {
                spec.hidden
            } else {
                0
            },
            angles: rotary
                .iter()
                .map(|rotary| rotary.dim)
                .chain(of_entries)
                .collect(),
        }
    }

    /// Elements of a row, over all buffers.
    pub fn total(&self) -> usize {
        self.iter().sum()
    }

    /// Elements of the rows that go from device to device with those of the residual stream, which are none where there are no such
    /// rows: what layers take in, keys and values that several see, and bits of positions that a layer selects for those behind.
    pub fn beside(spec: &ModelSpec, limits: &Limits) -> [usize; 3] {
        let widths = Self::of(spec);
        let mut index = spec.decoder.latents().filter_map(|latent| latent.index);
        let is_shared = index.any(|index| index.heads.is_none());
        let selected = selected_words(spec, limits).filter(|_| is_shared);
        [widths.inputs, widths.lent, selected.unwrap_or(0)]
    }

    /// Elements of the widest row that crosses between devices.
    pub fn widest_crossing(spec: &ModelSpec, limits: &Limits) -> usize {
        let beside = Self::beside(spec, limits);
        let streams = spec
            .decoder
            .streams
            .map_or(0, |of| of.row_width(spec.hidden));
        beside
            .into_iter()
            .fold(spec.hidden.max(streams), usize::max)
    }

    /// Columns of `lent` in which a layer's keys and values lie, if others see them.
    pub fn lent_columns(spec: &ModelSpec, layer: usize) -> Option<Range<usize>> {
        let mut first = 0;
        for of in spec.decoder.lenders() {
            let columns = first..first + lent_width(&of);
            if of.0 == layer {
                return Some(columns);
            }
            first = columns.end;
        }
        None
    }
}

fn lent_width((_, attention): &(usize, &AttentionSpec)) -> usize {
    attention.own_kv_width()
}

/// Elements of a row in the buffers where logits are made; the device of the head has them, for as many rows as
/// [`Limits::n_logits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadWidths {
    /// The rows that logits are asked of.
    pub rows: usize,
    /// The same, normalised.
    pub normed: usize,
    /// The same, projected to the table's width.
    pub projected: usize,
    /// Logits.
    pub logits: usize,
}

impl HeadWidths {
    /// Those of a model.
    pub fn of(spec: &ModelSpec) -> Self {
        HeadWidths {
            rows: spec.hidden,
            normed: spec.hidden,
            projected: unless_hidden(spec),
            logits: spec.vocab,
        }
    }

    /// Elements of a row, over all buffers.
    pub fn total(&self) -> usize {
        self.rows + self.normed + self.projected + self.logits
    }
}

/// Elements of a stack's table of biases by distance: `[heads, distances]`. `context` is the most positions that it has
/// to serve.
pub fn bias_elements(stack: &StackSpec, context: usize) -> usize {
    let row = match stack.positions {
        Positions::Learned { .. } | Positions::Rotary(_) => 0,
        Positions::Alibi { .. } => context,
        Positions::Buckets { max_distance, .. } => 2 * max_distance + 1,
    };
    stack.n_heads() * row
}

/// Words that have a bit of each position for a row, where rows select the positions that they attend to.
pub fn selected_words(spec: &ModelSpec, limits: &Limits) -> Option<usize> {
    let index = spec.decoder.latents().filter_map(|latent| latent.index);
    let positions = index.filter(|index| limits.selects(index));
    let positions = positions.map(|_| limits.context);
    let entries = spec.decoder.shared_keys().filter_map(|of| of.entries);
    let entries = entries.filter(|entries| limits.selects_entries(entries));
    let entries = entries.map(|entries| limits.n_entries(&entries));
    let most = positions.chain(entries).max()?;
    Some(most.div_ceil(u32::BITS as usize))
}

/// Workspace of a device that computes with any part of a model.
pub fn workspace_shape(spec: &ModelSpec, limits: &Limits) -> WorkspaceShape {
    let widths = ActivationWidths::of(spec);
    let widest = |width: fn(&AttentionSpec) -> usize| attentions(spec).map(width).max();
    let heads = |width| widest(width).unwrap_or(0);
    let of_latents = |width: fn(&LatentSpec) -> usize| {
        let latents = stacks(spec).flat_map(StackSpec::latents);
        latents.map(width).max().unwrap_or(0)
    };
    let of_shared = |n: &dyn Fn(&SharedKeySpec) -> usize| {
        let shared = stacks(spec).flat_map(StackSpec::shared_keys);
        shared.map(n).max().unwrap_or(0)
    };
    let cols = [
        spec.hidden,
        widths.attended,
        widths.grouped,
        widths.up,
        spec.embedding.width,
        of_latents(|latent| latent.q_rank.unwrap_or(0)),
    ];
    let rows = [
        widths.qkv,
        widths.up,
        widths.inputs,
        spec.hidden,
        spec.vocab,
        widths.scores,
        widths.mixing,
        of_latents(LatentSpec::q_width),
    ];
    WorkspaceShape {
        n_tokens: limits.n_tokens,
        cols: cols.into_iter().max().unwrap_or(0),
        rows: rows.into_iter().max().unwrap_or(0),
        context: limits.context,
        n_heads: heads(|attention| attention.n_heads)
            .max(of_latents(|latent| latent.n_heads))
            .max(of_shared(&|of| of.n_heads)),
        // All heads share one.
        n_kv_heads: heads(|attention| attention.n_kv_heads)
            .max(of_latents(|_| 1))
            .max(of_shared(&|_| 1)),
        head_dim: stacks(spec)
            .flat_map(|stack| &stack.layers)
            .map(|layer| layer.mixer.head_dim())
            .max()
            .unwrap_or(0),
        n_selecting: stacks(spec)
            .flat_map(StackSpec::latents)
            .filter_map(|latent| latent.index.filter(|index| limits.selects(index))?.heads)
            .map(|heads| heads.n_heads)
            .max()
            .unwrap_or(0)
            .max(of_shared(&|of| {
                let selects = of.entries.filter(|of| limits.selects_entries(of));
                selects.and_then(|of| of.index).map_or(0, |of| of.n_heads)
            })),
    }
}

/// RAM of the process for passes, wherever they compute, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HostBuffers {
    /// The logits that a call returns.
    pub(crate) logits: u64,
    /// The ids of sequences that may have to be read anew.
    pub(crate) history: u64,
    /// Rows that cross from device to device, or from an encoder to the blocks that attend to it.
    pub(crate) hidden: u64,
    /// Elements of each row that crosses with one of the residual stream.
    pub(crate) beside: [usize; 3],
    /// True if rows cross on a single device too.
    pub(crate) always_crosses: bool,
    /// For each device that computes: which rows go to which expert, positions and the angles that they mean.
    pub(crate) per_device: u64,
}

impl HostBuffers {
    pub(crate) fn of(spec: &ModelSpec, limits: &Limits) -> Self {
        let (n_tokens, n_experts) = (limits.n_tokens as u64, n_experts(spec) as u64);
        // Of each expert how many rows it has.
        let routing = n_experts * size_of::<usize>() as u64;
        let kinds = spec.decoder.positions.rotary();
        let widest = kinds.iter().map(|kind| kind.dim).max().unwrap_or(0) as u64;
        // Each kind's frequencies, and the factors that the checkpoint holds for them.
        let frequencies = |kind: &RotarySpec| {
            let n_vectors = if kind.scaling == RopeScaling::Stored {
                2
            } else {
                1
            };
            kind.dim as u64 / 2 * n_vectors * F32
        };
        let frequencies = kinds.iter().map(frequencies).sum::<u64>();
        // The pass's positions and their angles.
        let angles = n_tokens * (size_of::<u32>() as u64 + widest * F32) + frequencies;
        HostBuffers {
            logits: limits.n_logits as u64 * spec.vocab as u64 * F32,
            history: match spec.decoder.rereads() {
                true => limits.n_sequences as u64 * limits.context as u64 * ID,
                false => 0,
            },
            hidden: n_tokens * ActivationWidths::widest_crossing(spec, limits) as u64 * F32,
            beside: ActivationWidths::beside(spec, limits),
            always_crosses: spec.encoder.is_some(),
            per_device: routing + angles,
        }
    }
}

/// The stacks of a model.
fn stacks(spec: &ModelSpec) -> impl Iterator<Item = &StackSpec> {
    let encoder = spec.encoder.iter().map(|encoder| &encoder.stack);
    encoder.chain([&spec.decoder])
}

/// The attention of all layers.
fn attentions(spec: &ModelSpec) -> impl Iterator<Item = &AttentionSpec> {
    stacks(spec).flat_map(StackSpec::attentions)
}

/// The width of the embedding where that is not the residual stream's.
fn unless_hidden(spec: &ModelSpec) -> usize {
    if spec.embedding.width == spec.hidden {
        0
    } else {
        spec.embedding.width
    }
}

/// Features of the widest feed-forward of a stack: what goes in, gates included, and what comes out of the gates.
fn widest_mlp(stack: &StackSpec) -> (usize, usize) {
    let dense = |mlp: DenseMlp| match mlp.gating {
        Gating::None => (mlp.width, 0),
        Gating::Separate | Gating::Fused => (2 * mlp.width, mlp.width),
    };
    let widest = |a: (usize, usize), b: (usize, usize)| (a.0.max(b.0), a.1.max(b.1));
    let widths = |layer: &LayerSpec| match layer.mlp {
        MlpSpec::Absent => (0, 0),
        MlpSpec::Dense(mlp) => dense(mlp),
        MlpSpec::Experts(experts) => {
            let shared = experts.shared.map_or((0, 0), |shared| dense(shared.mlp));
            let of_one = match experts.gate {
                Gate::Of(_) | Gate::Clamped(_) => (2 * experts.width, experts.width),
                Gate::Absent(_) => (experts.width, 0),
            };
            widest(of_one, shared)
        }
    };
    stack.layers.iter().map(widths).fold((0, 0), widest)
}

/// Experts of the layer that has most.
fn n_experts(spec: &ModelSpec) -> usize {
    let layers = stacks(spec).flat_map(|stack| &stack.layers);
    layers.map(|layer| layer.mlp.n_experts()).max().unwrap_or(0)
}

/// Bytes of an element.
pub(crate) const F32: u64 = 4;
/// Bytes of a token's id.
const ID: u64 = 4;
