//! State of sequences in a block: what later positions need of earlier ones.

use llm_arch::{MixerSpec, ModelSpec};
use llm_backend::{Allocation, Backend, Ops, Rows};
use llm_plan::{KvTable, Limits, cross_kv_shape, encoder_kv_shape, kv_shape, kv_tables};
use llm_tensor::{Bytes, DType, KvShape};

use crate::Result;
use crate::blocks::Blocks;

/// State of all sequences in one block.
pub(crate) struct LayerState<B: Backend> {
    pub(crate) mixer: MixerState<B>,
    /// Keys and values of what an encoder made of the prompts.
    pub(crate) cross: Option<KvState<B>>,
}

/// State of a block's mixer.
pub(crate) enum MixerState<B: Backend> {
    /// Keys and values.
    Attention(KvState<B>),
}

/// Keys and values of a layer.
pub(crate) struct KvState<B: Backend> {
    pub(crate) pool: B::KvPool,
    /// Index of its block tables.
    pub(crate) group: usize,
}

/// Blocks of all layers' states, by sequence.
pub(crate) struct SequenceBlocks<B: Backend> {
    pub(crate) own: Blocks<B>,
    pub(crate) encoded: Option<Encoded<B>>,
}

/// The same of what an encoder made of the prompts.
pub(crate) struct Encoded<B: Backend> {
    pub(crate) blocks: Blocks<B>,
    /// Positions, by sequence.
    n_positions: Vec<usize>,
}

impl<B: Backend> LayerState<B> {
    /// State of a decoder's layer.
    pub(crate) fn new(
        backend: &B,
        mixer: &MixerSpec,
        sequences: &SequenceBlocks<B>,
        (limits, dtype): (&Limits, DType),
    ) -> Result<Self> {
        let MixerSpec::Attention(attention) = mixer;
        let cross = |encoded: &Encoded<B>| {
            let shape = cross_kv_shape(attention, limits, dtype);
            KvState::new(backend, &shape, &encoded.blocks)
        };
        let own = kv_shape(attention, limits, dtype);
        Ok(LayerState {
            mixer: MixerState::Attention(KvState::new(backend, &own, &sequences.own)?),
            cross: sequences.encoded.as_ref().map(cross).transpose()?,
        })
    }

    /// State of an encoder's layers, one at a time, with the blocks of the one prompt.
    pub(crate) fn of_encoder(
        backend: &B,
        mixer: &MixerSpec,
        (limits, dtype): (&Limits, DType),
    ) -> Result<(Self, SequenceBlocks<B>)> {
        let MixerSpec::Attention(attention) = mixer;
        let shape = encoder_kv_shape(attention, limits, dtype);
        let table = KvTable::of(&shape, backend.kv_block_len(&shape));
        let own = Blocks::new(backend, &[table], 1, limits.n_tokens)?;
        let state = LayerState {
            mixer: MixerState::Attention(KvState::new(backend, &shape, &own)?),
            cross: None,
        };
        let encoded = None;
        Ok((state, SequenceBlocks { own, encoded }))
    }

    /// Copies blocks that sequences no longer share.
    pub(crate) fn copy(
        &mut self,
        queue: &mut B::Queue,
        sequences: &SequenceBlocks<B>,
    ) -> Result<()> {
        let MixerState::Attention(kv) = &mut self.mixer;
        match sequences.own.copies(kv.group) {
            [] => Ok(()),
            copies => Ok(queue.copy_blocks(&mut kv.pool, copies)?),
        }
    }

    /// Memory once all positions are taken.
    pub(crate) fn bytes(&self) -> Bytes {
        let MixerState::Attention(kv) = &self.mixer;
        let cross = self.cross.as_ref();
        kv.pool.bytes() + cross.map_or(Bytes::ZERO, |kv| kv.pool.bytes())
    }
}

impl<B: Backend> KvState<B> {
    fn new(backend: &B, shape: &KvShape, blocks: &Blocks<B>) -> Result<Self> {
        let table = KvTable::of(shape, backend.kv_block_len(shape));
        Ok(KvState {
            pool: backend.kv_pool(shape)?,
            group: blocks.group(table),
        })
    }
}

impl<B: Backend> SequenceBlocks<B> {
    /// Empty ones of a decoder.
    pub(crate) fn new(
        backend: &B,
        spec: &ModelSpec,
        limits: &Limits,
        dtype: DType,
    ) -> Result<Self> {
        let (n_sequences, n_tokens) = (limits.n_sequences, limits.n_tokens);
        let tables = kv_tables(spec, limits, dtype, |shape| backend.kv_block_len(shape));
        let cross = |attention| {
            let shape = cross_kv_shape(attention, limits, dtype);
            KvTable::of(&shape, backend.kv_block_len(&shape))
        };
        let encoded = match spec.encoder {
            Some(_) => {
                let mut tables: Vec<_> = spec.decoder.attentions().map(cross).collect();
                tables.dedup();
                Some(Encoded {
                    blocks: Blocks::new(backend, &tables, n_sequences, n_tokens)?,
                    n_positions: vec![0; n_sequences],
                })
            }
            None => None,
        };
        Ok(SequenceBlocks {
            own: Blocks::new(backend, &tables, n_sequences, n_tokens)?,
            encoded,
        })
    }

    /// Gives the rows of a pass their blocks, and tells the device. [`LayerState::copy`] is to follow, of all layers.
    pub(crate) fn begin(
        &mut self,
        queue: &mut B::Queue,
        sequences: &[(usize, Rows)],
    ) -> Result<()> {
        for &(
            sequence,
            Rows {
                start, n_tokens, ..
            },
        ) in sequences
        {
            self.own.reserve(sequence, start..start + n_tokens);
        }
        self.own.tell(queue, sequences.iter().copied())?;
        if let Some(encoded) = &mut self.encoded {
            let n_positions = &encoded.n_positions;
            let all = |&(sequence, rows): &(usize, Rows)| {
                let n_positions = n_positions[sequence];
                (
                    sequence,
                    Rows {
                        n_positions,
                        ..rows
                    },
                )
            };
            encoded.blocks.tell(queue, sequences.iter().map(all))?;
        }
        Ok(())
    }

    /// Makes sequence `to` what `from` is.
    pub(crate) fn fork(&mut self, from: usize, to: usize) {
        self.own.fork(from, to);
        if let Some(encoded) = &mut self.encoded {
            encoded.blocks.fork(from, to);
            encoded.n_positions[to] = encoded.n_positions[from];
        }
    }

    /// Memory on the device.
    pub(crate) fn bytes(&self) -> Bytes {
        let encoded = self.encoded.as_ref();
        self.own.bytes() + encoded.map_or(Bytes::ZERO, |encoded| encoded.blocks.bytes())
    }
}

impl<B: Backend> Encoded<B> {
    /// Gives a prompt's result its blocks in the place of the last, and tells the device.
    pub(crate) fn begin(
        &mut self,
        queue: &mut B::Queue,
        sequence: usize,
        n_positions: usize,
    ) -> Result<()> {
        self.n_positions[sequence] = n_positions;
        begin_anew(&mut self.blocks, queue, sequence, n_positions)
    }
}

/// Tells the device of a sequence that is written from its first position on.
pub(crate) fn begin_anew<B: Backend>(
    blocks: &mut Blocks<B>,
    queue: &mut B::Queue,
    sequence: usize,
    n_positions: usize,
) -> Result<()> {
    blocks.rewind(sequence, 0);
    blocks.reserve(sequence, 0..n_positions);
    let rows = Rows {
        first: 0,
        n_tokens: n_positions,
        start: 0,
        n_positions,
    };
    blocks.tell(queue, std::iter::once((sequence, rows)))
}
