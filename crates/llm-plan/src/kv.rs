//! States of sequences: the pool of keys and values of each layer that attends, the block tables that layers share, and what
//! other mixers keep.

use llm_arch::{AttentionSpec, LatentSpec, MixerSpec, ModelSpec, ShortConvSpec};
use llm_tensor::{DType, KvShape, KvValues, StateShape};

use crate::Limits;

/// Block tables that layers with pools of the same blocks share, one a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KvTable {
    /// Positions of a sequence that are held: the last so many.
    pub capacity: usize,
    /// Positions of a block.
    pub block_len: usize,
}

impl KvTable {
    /// Table of the layers with a pool of `shape`.
    pub fn of(shape: &KvShape, block_len: usize) -> Self {
        let capacity = shape.capacity;
        KvTable {
            capacity,
            block_len,
        }
    }

    /// Blocks of a sequence.
    pub fn table_len(&self) -> usize {
        self.capacity.div_ceil(self.block_len)
    }
}

/// Pool of a decoder's layer for its own positions.
pub fn kv_shape(attention: &AttentionSpec, limits: &Limits, dtype: DType) -> KvShape {
    KvShape {
        n_kv_heads: attention.n_kv_heads,
        head_dim: attention.head_dim,
        values: KvValues::Own,
        capacity: limits.capacity(attention.window),
        n_sequences: limits.n_sequences,
        dtype,
    }
}

/// Pool of a decoder's layer that attends to latents: one key for all heads, whose values are the latent in it.
pub fn latent_kv_shape(latent: &LatentSpec, limits: &Limits, dtype: DType) -> KvShape {
    KvShape {
        n_kv_heads: 1,
        head_dim: latent.key_dim(),
        values: KvValues::OfKeys(latent.kv_rank),
        capacity: limits.capacity(None),
        n_sequences: limits.n_sequences,
        dtype,
    }
}

/// Pool of the keys by which a decoder's layer selects positions, where it has heads for that and contexts have more of them than
/// are selected.
pub fn index_kv_shape(latent: &LatentSpec, limits: &Limits, dtype: DType) -> Option<KvShape> {
    let index = latent.index.filter(|index| limits.selects(index))?;
    let head_dim = index.heads?.head_dim;
    Some(KvShape {
        head_dim,
        values: KvValues::OfKeys(head_dim),
        ..latent_kv_shape(latent, limits, dtype)
    })
}

/// Pool of a decoder's layer for what an encoder made of the prompts.
pub fn cross_kv_shape(attention: &AttentionSpec, limits: &Limits, dtype: DType) -> KvShape {
    KvShape {
        capacity: limits.n_tokens,
        ..kv_shape(attention, limits, dtype)
    }
}

/// Pool of an encoder, of one layer at a time.
pub fn encoder_kv_shape(attention: &AttentionSpec, limits: &Limits, dtype: DType) -> KvShape {
    KvShape {
        n_sequences: 1,
        ..cross_kv_shape(attention, limits, dtype)
    }
}

/// State of a decoder's layer that convolves.
pub fn conv_state_shape(conv: &ShortConvSpec, limits: &Limits) -> StateShape {
    StateShape {
        n_elements: conv.state_elements(),
        n_sequences: limits.n_sequences,
    }
}

/// States of a decoder's layer of so many `elements`, as those of one that convolves, and corrects or adds up what that gives.
pub fn state_shapes(elements: [usize; 2], limits: &Limits) -> [StateShape; 2] {
    elements.map(|n_elements| StateShape {
        n_elements,
        n_sequences: limits.n_sequences,
    })
}

/// Block tables of a decoder's layers.
pub fn kv_tables(
    spec: &ModelSpec,
    limits: &Limits,
    dtype: DType,
    block_len: impl Fn(&KvShape) -> usize,
) -> Vec<KvTable> {
    let table = |shape: KvShape| KvTable::of(&shape, block_len(&shape));
    let layers = spec.decoder.layers.iter();
    let index = spec.decoder.latents();
    let index = index.filter_map(|latent| index_kv_shape(latent, limits, dtype));
    let shapes = layers.filter_map(|layer| match &layer.mixer {
        // Another's, in the same table.
        MixerSpec::Attention(attention) if attention.keys_of.is_some() => None,
        MixerSpec::Attention(attention) => Some(kv_shape(attention, limits, dtype)),
        MixerSpec::Hybrid(hybrid) => Some(kv_shape(&hybrid.attention, limits, dtype)),
        MixerSpec::Latent(latent) => Some(latent_kv_shape(latent, limits, dtype)),
        MixerSpec::Conv(_) | MixerSpec::Delta(_) | MixerSpec::StateSpace(_) | MixerSpec::Absent => {
            None
        }
    });
    let mut tables: Vec<_> = shapes.chain(index).map(table).collect();
    tables.sort_unstable();
    tables.dedup();
    tables
}
