//! State of a sequence in a block: what later positions need of earlier ones.

use llm_arch::{AttentionSpec, MixerSpec};
use llm_backend::{Allocation, Backend, KvColumns, Rows};
use llm_plan::{Limits, kv_shape};
use llm_tensor::{Bytes, DType};

use crate::Result;

/// State of one sequence in one block.
pub(crate) struct LayerState<B: Backend> {
    mixer: MixerState<B>,
    cross: Option<EncodedState<B>>,
}

enum MixerState<B: Backend> {
    Attention(KvState<B>),
}

/// Keys and values of a sequence's own positions.
pub(crate) struct KvState<B: Backend> {
    pub(crate) cache: B::KvCache,
    /// Positions that it holds at a time, each in the place of the one so many before it.
    capacity: usize,
    /// Rows of the largest pass.
    n_tokens: usize,
    /// The most positions taken since it was last empty.
    reached: usize,
}

/// Keys and values of what an encoder made of the prompt.
pub(crate) struct EncodedState<B: Backend> {
    pub(crate) cache: B::KvCache,
    /// Positions.
    pub(crate) n_positions: usize,
    /// Which prompt's these are, counted in its stage; the same for those that are copies of each other.
    pub(crate) encoding: u64,
}

impl<B: Backend> LayerState<B> {
    /// That of an empty sequence.
    pub(crate) fn new(
        backend: &B,
        mixer: &MixerSpec,
        limits: &Limits,
        dtype: DType,
        has_cross: bool,
    ) -> Result<Self> {
        let MixerSpec::Attention(attention) = mixer;
        Ok(LayerState {
            mixer: MixerState::Attention(KvState::new(backend, attention, limits, dtype)?),
            cross: match has_cross {
                true => Some(EncodedState {
                    cache: cache(backend, attention, limits.n_tokens, dtype)?,
                    n_positions: 0,
                    encoding: 0,
                }),
                false => None,
            },
        })
    }

    /// Keys and values of a block that attends.
    pub(crate) fn kv(&mut self) -> &mut KvState<B> {
        let MixerState::Attention(kv) = &mut self.mixer;
        kv
    }

    /// What cross-attention sees.
    pub(crate) fn encoded(&mut self) -> Option<&mut EncodedState<B>> {
        self.cross.as_mut()
    }

    /// Forgets positions from `len` on; returns how many are left: `len`, or fewer where what the position before `len`
    /// needs is gone.
    pub(crate) fn rewind(&mut self, len: usize) -> usize {
        match &mut self.mixer {
            MixerState::Attention(kv) => kv.rewind(len),
        }
    }

    /// Takes the place of `other`.
    pub(crate) fn copy_from(&mut self, backend: &B, other: &Self) -> Result<()> {
        match (&mut self.mixer, &other.mixer) {
            (MixerState::Attention(ours), MixerState::Attention(theirs)) => {
                ours.reached = theirs.reached;
                backend.copy_cache(&theirs.cache, theirs.reached, &mut ours.cache)?;
            }
        }
        if let (Some(ours), Some(theirs)) = (&mut self.cross, &other.cross)
            // Sequences that continue the same prompt have it already.
            && ours.encoding != theirs.encoding
        {
            backend.copy_cache(&theirs.cache, theirs.n_positions, &mut ours.cache)?;
            (ours.n_positions, ours.encoding) = (theirs.n_positions, theirs.encoding);
        }
        Ok(())
    }

    /// Memory once all positions are taken.
    pub(crate) fn bytes(&self) -> Bytes {
        let mixer = match &self.mixer {
            MixerState::Attention(kv) => kv.cache.bytes(),
        };
        let cross = self.cross.as_ref();
        mixer + cross.map_or(Bytes::ZERO, |cross| cross.cache.bytes())
    }
}

impl<B: Backend> KvState<B> {
    fn new(backend: &B, attention: &AttentionSpec, limits: &Limits, dtype: DType) -> Result<Self> {
        let capacity = limits.capacity(attention.window);
        Ok(KvState {
            cache: cache(backend, attention, capacity, dtype)?,
            capacity,
            n_tokens: limits.n_tokens,
            reached: 0,
        })
    }

    /// Takes the keys and values of some rows of `qkv`.
    pub(crate) fn append(
        &mut self,
        backend: &B,
        qkv: &B::Buffer,
        columns: &KvColumns,
        rows: Rows,
    ) -> Result<()> {
        self.reached = self.reached.max(rows.start + rows.n_tokens);
        Ok(backend.append(qkv, columns, rows, &mut self.cache)?)
    }

    fn rewind(&mut self, len: usize) -> usize {
        let is_held = self.reached <= self.capacity || len + self.n_tokens >= self.reached;
        let kept = if is_held { len } else { 0 };
        if kept == 0 {
            self.reached = 0;
        }
        kept
    }
}

fn cache<B: Backend>(
    backend: &B,
    attention: &AttentionSpec,
    capacity: usize,
    dtype: DType,
) -> Result<B::KvCache> {
    Ok(backend.kv_cache(&kv_shape(attention, capacity, dtype))?)
}
