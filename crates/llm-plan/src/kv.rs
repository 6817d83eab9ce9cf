//! States of sequences: the pool of keys and values of each layer that attends, the block tables that layers share, and what
//! other mixers keep.

use llm_arch::{AttentionSpec, LatentSpec, MixerSpec, ModelSpec, SharedKeySpec, ShortConvSpec};
use llm_tensor::{DType, KvShape, KvValues, StateShape};

use crate::Limits;

/// Block tables that layers with pools of the same blocks share, one a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KvTable {
    /// Positions of a sequence that are held: the last so many.
    pub capacity: usize,
    /// Positions of a block.
    pub block_len: usize,
    /// Positions of a sequence that one of the table stands for: more than one where it has the entries that runs of them are
    /// compressed to.
    pub rate: usize,
}

impl KvTable {
    /// Table of the layers with a pool of `shape`.
    pub fn of(shape: &KvShape, block_len: usize) -> Self {
        let capacity = shape.capacity;
        KvTable {
            capacity,
            block_len,
            rate: 1,
        }
    }

    /// The same of entries, each of which a run of `rate` positions is compressed to.
    pub fn of_entries(shape: &KvShape, block_len: usize, rate: usize) -> Self {
        KvTable {
            rate,
            ..Self::of(shape, block_len)
        }
    }

    /// Blocks of a sequence.
    pub fn table_len(&self) -> usize {
        self.capacity.div_ceil(self.block_len)
    }
}

/// Pools of a decoder's layer for its own positions.
#[derive(Debug, Clone, Copy, Default)]
pub struct PoolShapes {
    /// Of keys and values, unless it sees another layer's.
    pub own: Option<KvShape>,
    /// Of the keys by which it selects positions.
    pub index: Option<KvShape>,
    /// Of entries that runs of positions are compressed to: those that it sees, and the keys by which it selects among them.
    pub entries: [Option<EntryShapes>; 2],
}

/// Pools of what runs of positions are compressed to.
#[derive(Debug, Clone, Copy)]
pub struct EntryShapes {
    /// Of the last positions' features, as keys, and of their gates, as values.
    pub features: KvShape,
    /// Of entries.
    pub entries: KvShape,
    /// Positions of a run.
    pub rate: usize,
}

impl PoolShapes {
    /// Those of a mixer, where it has such.
    pub fn of(mixer: &MixerSpec, limits: &Limits, dtype: DType) -> Self {
        let attention = mixer.attention().filter(|own| own.keys_of.is_none());
        let heads = attention.map(|own| kv_shape(own, limits, dtype));
        let latent = mixer.latent();
        let latents = latent.map(|own| latent_kv_shape(own, limits, dtype));
        let shared = mixer.shared_key();
        let keys = shared.map(|own| {
            let capacity = limits.capacity(Some(own.window));
            shared_kv_shape(own.head_dim, capacity, limits, dtype)
        });
        PoolShapes {
            own: heads.or(latents).or(keys),
            index: latent.and_then(|own| index_kv_shape(own, limits, dtype)),
            entries: shared.map_or([None; 2], |own| entry_shapes(own, limits, dtype)),
        }
    }

    /// All of them, each with the positions that one of its own stands for.
    pub fn iter(&self) -> impl Iterator<Item = (KvShape, usize)> + use<> {
        let own = [self.own, self.index].map(|shape| Some((shape?, 1)));
        let entries = self.entries.into_iter().flatten();
        let entries = entries.flat_map(|of| [(of.features, 1), (of.entries, of.rate)]);
        own.into_iter().flatten().chain(entries)
    }
}

/// Of entries, where contexts are long enough for one; and of the keys by which they are selected, where there may be more than
/// are.
fn entry_shapes(shared: &SharedKeySpec, limits: &Limits, dtype: DType) -> [Option<EntryShapes>; 2] {
    let Some(entries) = shared.entries.filter(|entries| limits.compresses(entries)) else {
        return [None; 2];
    };
    let of = |width| {
        let n_features = entries.features(width);
        let held = limits.capacity(Some(entries.reach()));
        EntryShapes {
            features: KvShape {
                values: KvValues::Own,
                ..shared_kv_shape(n_features, held, limits, dtype)
            },
            entries: shared_kv_shape(width, limits.n_entries(&entries), limits, dtype),
            rate: entries.rate,
        }
    };
    let index = entries.index.filter(|_| limits.selects_entries(&entries));
    [
        Some(of(shared.head_dim)),
        index.map(|index| of(index.head_dim)),
    ]
}

/// Of one key for all heads, which is their value too.
fn shared_kv_shape(head_dim: usize, capacity: usize, limits: &Limits, dtype: DType) -> KvShape {
    KvShape {
        n_kv_heads: 1,
        head_dim,
        values: KvValues::OfKeys(head_dim),
        capacity,
        n_sequences: limits.n_sequences,
        dtype,
    }
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

/// Rates of the entries that some of these tables have, in order.
pub fn entry_rates(tables: &[KvTable]) -> Vec<usize> {
    let mut rates: Vec<_> = tables.iter().map(|table| table.rate).collect();
    rates.retain(|&rate| rate > 1);
    rates.sort_unstable();
    rates.dedup();
    rates
}

/// Block tables of a decoder's layers.
pub fn kv_tables(
    spec: &ModelSpec,
    limits: &Limits,
    dtype: DType,
    block_len: impl Fn(&KvShape) -> usize,
) -> Vec<KvTable> {
    let table =
        |(shape, rate): (KvShape, usize)| KvTable::of_entries(&shape, block_len(&shape), rate);
    let layers = spec.decoder.layers.iter();
    let shapes = layers.flat_map(|layer| PoolShapes::of(&layer.mixer, limits, dtype).iter());
    let mut tables: Vec<_> = shapes.map(table).collect();
    tables.sort_unstable();
    tables.dedup();
    tables
}
