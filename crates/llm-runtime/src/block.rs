//! One block, generic over the backend.

use std::mem::swap;

use llm_arch::{
    AttentionSpec, LayerSpec, Packing, Positions, Residual, Role, Side, StackSpec, Unit,
};
use llm_backend::{
    Allocation, Attention, Backend, HeadGroups, Heads, KvColumns, Output, Rotary, Rows, Seen,
};
use llm_tensor::Bytes;

use crate::Result;
use crate::activations::Activations;
use crate::mlp::Mlp;
use crate::projection::{NormWeights, Projection};
use crate::relative::BiasTable;
use crate::source::WeightSource;

/// One block's weights on a device.
pub(crate) struct Block<B: Backend> {
    attn_norm: NormWeights<B>,
    qkv: Projection<B>,
    /// Of each head's queries, and of its keys.
    qk_norm: Option<[NormWeights<B>; 2]>,
    out: Projection<B>,
    post_attn_norm: Option<NormWeights<B>>,
    cross: Option<CrossAttention<B>>,
    mlp_norm: Option<NormWeights<B>>,
    mlp: Mlp<B>,
    post_mlp_norm: Option<NormWeights<B>>,
}

/// Attention to what an encoder made of the prompt.
struct CrossAttention<B: Backend> {
    norm: NormWeights<B>,
    q: Projection<B>,
    kv: Projection<B>,
    out: Projection<B>,
}

/// The keys and values of one sequence in one block.
pub(crate) struct BlockCache<B: Backend> {
    /// Its own positions'.
    pub(crate) own: B::KvCache,
    /// The encoder's.
    pub(crate) cross: Option<B::KvCache>,
    /// Positions that the encoder's hold.
    pub(crate) n_encoded: usize,
    /// Which prompt's these are, counted in its stage; the same for those that are copies of each other.
    pub(crate) encoding: u64,
}

/// What all blocks of a pass are told.
pub(crate) struct Call<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) side: Side,
    pub(crate) stack: &'a StackSpec,
    pub(crate) bias: Option<&'a BiasTable<B>>,
    pub(crate) n_tokens: usize,
    /// Which rows belong to which sequence.
    pub(crate) sequences: &'a [(usize, Rows)],
}

impl<B: Backend> BlockCache<B> {
    /// What it takes once all of its positions are taken.
    pub(crate) fn bytes(&self) -> Bytes {
        let cross = self.cross.as_ref().map_or(Bytes::ZERO, B::KvCache::bytes);
        self.own.bytes() + cross
    }

    /// Takes the place of `other`, which has reached `n_positions`.
    pub(crate) fn copy_from(
        &mut self,
        backend: &B,
        other: &Self,
        n_positions: usize,
    ) -> Result<()> {
        backend.copy_cache(&other.own, n_positions, &mut self.own)?;
        // Sequences that continue the same prompt have it already.
        if self.encoding != other.encoding
            && let (Some(theirs), Some(ours)) = (&other.cross, &mut self.cross)
        {
            backend.copy_cache(theirs, other.n_encoded, ours)?;
            (self.n_encoded, self.encoding) = (other.n_encoded, other.encoding);
        }
        Ok(())
    }
}

impl<B: Backend> Block<B> {
    pub(crate) fn load(
        backend: &B,
        source: &mut dyn WeightSource,
        stack: &StackSpec,
        (side, layer): (Side, usize),
        has_cross: bool,
    ) -> Result<Self> {
        let unit = Unit::Layer(side, layer);
        let (attention, residual) = (&stack.block.attention, stack.block.residual);
        let biased = |role, bias| (role, attention.qkv_bias.then_some(bias));
        let separate = [
            biased(Role::Q, Role::QBias),
            biased(Role::K, Role::KBias),
            biased(Role::V, Role::VBias),
        ];
        let qkv = match attention.packing {
            Packing::Separate => &separate[..],
            Packing::Stacked | Packing::PerGroup => &[biased(Role::Qkv, Role::QkvBias)],
        };
        let norm = |source: &mut dyn WeightSource, gain, bias| {
            NormWeights::load(backend, source, unit, &stack.norm, (gain, bias))
        };
        let post_norm = |source: &mut dyn WeightSource, gain| match residual {
            Residual::Sandwich => {
                NormWeights::load_gain(backend, source, unit, &stack.norm, gain).map(Some)
            }
            Residual::Sequential
            | Residual::PostNorm
            | Residual::Normed
            | Residual::ParallelOneNorm
            | Residual::ParallelTwoNorms => Ok(None),
        };
        Ok(Block {
            attn_norm: norm(source, Role::AttnNorm, Role::AttnNormBias)?,
            qkv: Projection::load(backend, source, unit, qkv)?,
            qk_norm: match &attention.qk_norm {
                Some(spec) => Some([
                    NormWeights::load_gain(backend, source, unit, spec, Role::QNorm)?,
                    NormWeights::load_gain(backend, source, unit, spec, Role::KNorm)?,
                ]),
                None => None,
            },
            out: {
                let bias = attention.out_bias.then_some(Role::OutBias);
                Projection::load(backend, source, unit, &[(Role::Out, bias)])?
            },
            post_attn_norm: post_norm(source, Role::PostAttnNorm)?,
            cross: match has_cross {
                true => Some(CrossAttention::load(backend, source, stack, unit)?),
                false => None,
            },
            mlp_norm: match residual {
                Residual::ParallelOneNorm => None,
                Residual::Sequential
                | Residual::Sandwich
                | Residual::PostNorm
                | Residual::Normed
                | Residual::ParallelTwoNorms => {
                    Some(norm(source, Role::MlpNorm, Role::MlpNormBias)?)
                }
            },
            mlp: Mlp::load(backend, source, unit, &stack.layers[layer].mlp)?,
            post_mlp_norm: post_norm(source, Role::PostMlpNorm)?,
        })
    }

    /// Runs the block over the rows of `a.x`, but for experts, which follow: it ends with the choice of them.
    ///
    /// ```text
    /// Sequential  x ─┬─ norm ─ attention ─ + ─┬─ norm ─ mlp ─ + ─►
    ///                └─────────────────────┘  └──────────────┘
    /// Sandwich    the same, with a norm before each +
    /// PostNorm    x ─┬─ attention ─ + ─ norm ─┬─ mlp ─ + ─ norm ─►
    ///                └──────────────┘         └────────┘
    /// Normed      x ─ norm ─┬─ attention ─ + ─ norm ─┬─ mlp ─ + ─►
    ///                       └──────────────┘         └────────┘
    /// Parallel    x ─┬─ norm ─ attention ─ + ─ + ─►
    ///                ├─ norm ─ mlp ────────┘   │
    ///                └─────────────────────────┘
    /// ```
    pub(crate) fn forward(
        &self,
        call: &Call<'_, B>,
        layer: &LayerSpec,
        a: &mut Activations<B>,
        caches: &mut [BlockCache<B>],
    ) -> Result<()> {
        let Call {
            backend,
            stack,
            n_tokens,
            ..
        } = *call;
        let residual = stack.block.residual;
        let from_stream = self.enter(call, &self.attn_norm, a)?;
        self.attend(call, layer, a, from_stream, caches)?;
        if let (Residual::ParallelTwoNorms, Some(norm)) = (residual, &self.mlp_norm) {
            // Before the attention's result joins the stream.
            backend.norm(&norm.op(), &a.x, &mut a.normed, n_tokens)?;
        }
        let (output, out) = match residual {
            Residual::Sandwich => (Output::Write, &mut a.delta),
            Residual::Sequential
            | Residual::PostNorm
            | Residual::Normed
            | Residual::ParallelOneNorm
            | Residual::ParallelTwoNorms => (Output::Add, &mut a.x),
        };
        self.out.apply(
            backend,
            &a.attended,
            (output, out),
            n_tokens,
            &mut a.workspace,
        )?;
        self.leave(call, self.post_attn_norm.as_ref(), Some(&self.attn_norm), a)?;
        if let Some(cross) = &self.cross {
            cross.forward(call, layer, a, caches)?;
        }
        let from_stream = match (residual, &self.mlp_norm) {
            (Residual::ParallelOneNorm | Residual::ParallelTwoNorms, _) | (_, None) => false,
            (_, Some(norm)) => self.enter(call, norm, a)?,
        };
        let output = match residual {
            Residual::Sandwich => Output::Write,
            Residual::Sequential
            | Residual::PostNorm
            | Residual::Normed
            | Residual::ParallelOneNorm
            | Residual::ParallelTwoNorms => Output::Add,
        };
        self.mlp.forward(call, a, from_stream, output)?;
        self.leave(call, self.post_mlp_norm.as_ref(), self.mlp_norm.as_ref(), a)
    }

    /// Normalises what attention or the feed-forward reads; whether that is the stream itself.
    fn enter(
        &self,
        call: &Call<'_, B>,
        norm: &NormWeights<B>,
        a: &mut Activations<B>,
    ) -> Result<bool> {
        match call.stack.block.residual {
            Residual::PostNorm => Ok(true),
            Residual::Normed => {
                call.backend
                    .norm(&norm.op(), &a.x, &mut a.normed, call.n_tokens)?;
                swap(&mut a.x, &mut a.normed);
                Ok(true)
            }
            Residual::Sequential
            | Residual::Sandwich
            | Residual::ParallelOneNorm
            | Residual::ParallelTwoNorms => {
                call.backend
                    .norm(&norm.op(), &a.x, &mut a.normed, call.n_tokens)?;
                Ok(false)
            }
        }
    }

    /// What follows once a result has joined the stream, or lies beside it to be normalised first.
    fn leave(
        &self,
        call: &Call<'_, B>,
        sandwich: Option<&NormWeights<B>>,
        post: Option<&NormWeights<B>>,
        a: &mut Activations<B>,
    ) -> Result<()> {
        let Call {
            backend, n_tokens, ..
        } = *call;
        match (call.stack.block.residual, sandwich, post) {
            (Residual::Sandwich, Some(norm), _) => {
                backend.norm(&norm.op(), &a.delta, &mut a.normed, n_tokens)?;
                backend.add(&a.normed, &mut a.x, a.hidden, n_tokens)?;
            }
            (Residual::PostNorm, _, Some(norm)) => {
                backend.norm(&norm.op(), &a.x, &mut a.normed, n_tokens)?;
                swap(&mut a.x, &mut a.normed);
            }
            _ => {}
        }
        Ok(())
    }

    /// Self-attention of the stream or its normed copy into `a.attended`.
    fn attend(
        &self,
        call: &Call<'_, B>,
        layer: &LayerSpec,
        a: &mut Activations<B>,
        from_stream: bool,
        caches: &mut [BlockCache<B>],
    ) -> Result<()> {
        let Call {
            backend,
            stack,
            n_tokens,
            ..
        } = *call;
        let attention = &stack.block.attention;
        let AttentionSpec {
            n_heads,
            n_kv_heads,
            head_dim,
            ..
        } = *attention;
        let row_width = attention.q_width() + 2 * attention.kv_width();
        let x = if from_stream { &a.x } else { &a.normed };
        let grouped = attention.grouped();
        let qkv = match grouped {
            Some(_) => &mut a.grouped,
            None => &mut a.qkv,
        };
        let qkv = (Output::Write, qkv);
        self.qkv
            .apply(backend, x, qkv, n_tokens, &mut a.workspace)?;
        if let Some(n_queries) = grouped {
            let groups = HeadGroups {
                n_groups: n_kv_heads,
                n_queries,
                head_dim,
            };
            backend.ungroup(&groups, &a.grouped, &mut a.qkv, n_tokens)?;
        }
        if let Some([q_norm, k_norm]) = &self.qk_norm {
            let q = Heads {
                first: 0,
                n_heads,
                head_dim,
                row_width,
            };
            let k = Heads {
                first: n_heads,
                n_heads: n_kv_heads,
                head_dim,
                row_width,
            };
            backend.norm_heads(&q_norm.op(), &q, &mut a.qkv, n_tokens)?;
            backend.norm_heads(&k_norm.op(), &k, &mut a.qkv, n_tokens)?;
        }
        if let Positions::Rotary(kinds) = &stack.positions {
            let rotary = &kinds[layer.rotary_idx];
            let op = Rotary {
                n_heads: n_heads + n_kv_heads,
                head_dim,
                rotary_dim: rotary.dim,
                pairing: rotary.pairing,
                row_width,
            };
            backend.rotate(&op, &a.angles[layer.rotary_idx], &mut a.qkv, n_tokens)?;
        }
        let columns = KvColumns {
            first: attention.q_width(),
            row_width,
        };
        for &(sequence, rows) in call.sequences {
            let cache = &mut caches[sequence].own;
            backend.append(&a.qkv, &columns, rows, cache)?;
            let seen = match call.side {
                Side::Encoder => Seen::All {
                    n_positions: rows.n_tokens,
                },
                Side::Decoder => Seen::Past {
                    window: layer.window,
                },
            };
            let op = attention_op(call, layer, row_width, seen);
            backend.attention(&op, &a.qkv, rows, cache, &mut a.attended, &mut a.workspace)?;
        }
        Ok(())
    }

    /// Takes an encoder's result, `[n_positions, hidden]` in `a.memory`, to a sequence's cache.
    pub(crate) fn encode_memory(
        &self,
        backend: &B,
        attention: &AttentionSpec,
        n_positions: usize,
        a: &mut Activations<B>,
        cache: &mut BlockCache<B>,
    ) -> Result<()> {
        let (Some(cross), Some(cross_cache)) = (&self.cross, &mut cache.cross) else {
            return Ok(());
        };
        cross.kv.apply(
            backend,
            &a.memory,
            (Output::Write, &mut a.qkv),
            n_positions,
            &mut a.workspace,
        )?;
        let columns = KvColumns {
            first: 0,
            row_width: 2 * attention.kv_width(),
        };
        let rows = Rows {
            first: 0,
            n_tokens: n_positions,
            start: 0,
        };
        backend.append(&a.qkv, &columns, rows, cross_cache)?;
        cache.n_encoded = n_positions;
        Ok(())
    }
}

impl<B: Backend> CrossAttention<B> {
    fn load(
        backend: &B,
        source: &mut dyn WeightSource,
        stack: &StackSpec,
        unit: Unit,
    ) -> Result<Self> {
        Ok(CrossAttention {
            norm: NormWeights::load_gain(backend, source, unit, &stack.norm, Role::CrossNorm)?,
            q: Projection::load(backend, source, unit, &[(Role::CrossQ, None)])?,
            kv: Projection::load(
                backend,
                source,
                unit,
                &[(Role::CrossK, None), (Role::CrossV, None)],
            )?,
            out: Projection::load(backend, source, unit, &[(Role::CrossOut, None)])?,
        })
    }

    fn forward(
        &self,
        call: &Call<'_, B>,
        layer: &LayerSpec,
        a: &mut Activations<B>,
        caches: &[BlockCache<B>],
    ) -> Result<()> {
        let Call {
            backend,
            stack,
            n_tokens,
            ..
        } = *call;
        backend.norm(&self.norm.op(), &a.x, &mut a.normed, n_tokens)?;
        self.q.apply(
            backend,
            &a.normed,
            (Output::Write, &mut a.qkv),
            n_tokens,
            &mut a.workspace,
        )?;
        for &(sequence, rows) in call.sequences {
            let cache = &caches[sequence];
            let seen = Seen::All {
                n_positions: cache.n_encoded,
            };
            // Distances to the encoder's positions mean nothing.
            let op = Attention {
                bias: None,
                ..attention_op(call, layer, stack.block.attention.q_width(), seen)
            };
            let cross = cache
                .cross
                .as_ref()
                .expect("a block with cross-attention has a cache for it");
            backend.attention(&op, &a.qkv, rows, cross, &mut a.attended, &mut a.workspace)?;
        }
        self.out.apply(
            backend,
            &a.attended,
            (Output::Add, &mut a.x),
            n_tokens,
            &mut a.workspace,
        )
    }
}

fn attention_op<'a, B: Backend>(
    call: &Call<'a, B>,
    layer: &LayerSpec,
    row_width: usize,
    seen: Seen,
) -> Attention<'a, B> {
    let attention = &call.stack.block.attention;
    Attention {
        n_heads: attention.n_heads,
        n_kv_heads: attention.n_kv_heads,
        head_dim: attention.head_dim,
        row_width,
        scale: layer.scale,
        soft_cap: attention.soft_cap,
        seen,
        bias: call.bias.map(BiasTable::op),
    }
}
