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

/// Pools of a decoder's layer for its own positions, where its mixer has such: of keys and values, unless it sees another layer's,
/// and of the keys by which it selects positions.
pub fn own_kv_shapes(mixer: &MixerSpec, limits: &Limits, dtype: DType) -> [Option<KvShape>; 2] {
    let attention = mixer.attention().filter(|own| own.keys_of.is_none());
    let heads = attention.map(|own| kv_shape(own, limits, dtype));
    let latent = mixer.latent();
    let latents = latent.map(|own| latent_kv_shape(own, limits, dtype));
    let index = latent.and_then(|own| index_kv_shape(own, limits, dtype));
    [heads.or(latents), index]
}

/// Of keys and values by heads.
fn kv_shape(attention: &AttentionSpec, limits: &Limits, dtype: DType) -> KvShape {
    KvShape {
        n_kv_heads: attention.n_kv_heads,
        head_dim: attention.head_dim,
        values: KvValues::Own,
        capacity: limits.capacity(attention.window),
        n_sequences: limits.n_sequences,
        dtype,
    }
}

/// Of latents: one key for all heads, whose values are the latent in it.
fn latent_kv_shape(latent: &LatentSpec, limits: &Limits, dtype: DType) -> KvShape {
    KvShape {
        n_kv_heads: 1,
        head_dim: latent.key_dim(),
        values: KvValues::OfKeys(latent.kv_rank),
        capacity: limits.capacity(None),
        n_sequences: limits.n_sequences,
        dtype,
    }
}

/// Of the keys by which positions are selected, where a layer has heads for that and contexts have more positions than are
/// selected.
fn index_kv_shape(latent: &LatentSpec, limits: &Limits, dtype: DType) -> Option<KvShape> {
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
    let shapes = layers.flat_map(|layer| own_kv_shapes(&layer.mixer, limits, dtype));
    let mut tables: Vec<_> = shapes.flatten().map(table).collect();
    tables.sort_unstable();
    tables.dedup();
    tables
}
