//! State of sequences in a block: what later positions need of earlier ones.

use llm_arch::{AttentionSpec, MixerSpec, ModelSpec};
use llm_backend::{Allocation, Backend, Ops, Rows, StateBatch};
use llm_plan::{
    EntryShapes, KvTable, Limits, PoolShapes, conv_state_shape, cross_kv_shape, encoder_kv_shape,
    kv_tables, state_shapes,
};
use llm_tensor::{Bytes, DType, KvShape, StateShape};

use crate::Result;
use crate::blocks::Blocks;
use crate::slots::Slots;

/// State of all sequences in one block.
pub(crate) struct LayerState<B: Backend> {
    pub(crate) mixer: MixerState<B>,
    /// Keys and values of what an encoder made of the prompts.
    pub(crate) cross: Option<KvState<B>>,
}

/// State of a block's mixer, as far as it has such.
pub(crate) struct MixerState<B: Backend> {
    /// Keys and values.
    pub(crate) kv: Option<KvState<B>>,
    /// Keys by which positions are selected.
    pub(crate) index: Option<KvState<B>>,
    /// What runs of positions are compressed to: what it sees of that, and by which it selects of it.
    pub(crate) entries: [Option<EntryState<B>>; 2],
    /// Inputs of the last positions, of each convolution.
    pub(crate) conv: Vec<SlotState<B>>,
    /// What a delta rule corrects or a state space adds up.
    pub(crate) rule: Option<SlotState<B>>,
}

/// A layer's states of one size, in slots.
pub(crate) struct SlotState<B: Backend> {
    /// `[n_sequences, n_elements]`.
    pub(crate) buffer: B::Buffer,
    shape: StateShape,
}

/// Keys and values of a layer.
pub(crate) struct KvState<B: Backend> {
    pub(crate) pool: B::KvPool,
    /// Index of its block tables.
    pub(crate) group: usize,
}

/// What runs of positions are compressed to.
pub(crate) struct EntryState<B: Backend> {
    /// Features of the last positions as keys, and their gates as values.
    pub(crate) features: KvState<B>,
    pub(crate) entries: KvState<B>,
    /// Positions of a run.
    pub(crate) rate: usize,
}

/// Blocks of all layers' states, by sequence.
pub(crate) struct SequenceBlocks<B: Backend> {
    pub(crate) own: Blocks<B>,
    /// Slots, where layers have states of one size.
    pub(crate) slots: Option<Slots<B>>,
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
        let PoolShapes {
            own,
            index,
            entries,
        } = PoolShapes::of(mixer, limits, dtype);
        let convolved = |elements| {
            let [conv, rule] = state_shapes(elements, limits);
            (vec![conv], Some(rule))
        };
        let (conv, rule) = match mixer {
            MixerSpec::Conv(conv) => (vec![conv_state_shape(conv, limits)], None),
            MixerSpec::Delta(delta) => {
                let (all, rule) = convolved(delta.elements());
                let of_part = |n_channels| StateShape {
                    n_elements: n_channels * (delta.kernel - 1),
                    ..all[0]
                };
                (delta.convolved().into_iter().map(of_part).collect(), rule)
            }
            MixerSpec::StateSpace(space) => convolved(space.elements()),
            MixerSpec::Hybrid(hybrid) => convolved(hybrid.space.elements()),
            MixerSpec::Attention(_)
            | MixerSpec::Latent(_)
            | MixerSpec::SharedKey(_)
            | MixerSpec::Absent => (Vec::new(), None),
        };
        let kv = |shape: KvShape| KvState::new(backend, &shape, &sequences.own);
        let of_entries = |shapes: EntryShapes| EntryState::new(backend, &shapes, &sequences.own);
        let [seen, compared] = entries.map(|shapes| shapes.map(of_entries).transpose());
        let slots = |shape: StateShape| SlotState::new(backend, shape);
        let cross = match (mixer, &sequences.encoded) {
            (MixerSpec::Attention(attention), Some(encoded)) => {
                let shape = cross_kv_shape(attention, limits, dtype);
                Some(KvState::new(backend, &shape, &encoded.blocks)?)
            }
            _ => None,
        };
        Ok(LayerState {
            mixer: MixerState {
                kv: own.map(kv).transpose()?,
                index: index.map(kv).transpose()?,
                entries: [seen?, compared?],
                conv: conv.into_iter().map(slots).collect::<Result<_>>()?,
                rule: rule.map(slots).transpose()?,
            },
            cross,
        })
    }

    /// State of an encoder's layers, one at a time, with the blocks of the one prompt.
    pub(crate) fn of_encoder(
        backend: &B,
        attention: &AttentionSpec,
        (limits, dtype): (&Limits, DType),
    ) -> Result<(Self, SequenceBlocks<B>)> {
        let shape = encoder_kv_shape(attention, limits, dtype);
        let table = KvTable::of(&shape, backend.kv_block_len(&shape));
        let own = Blocks::new(backend, &[table], 1, limits.n_tokens)?;
        let state = LayerState {
            mixer: MixerState {
                kv: Some(KvState::new(backend, &shape, &own)?),
                index: None,
                entries: [None, None],
                conv: Vec::new(),
                rule: None,
            },
            cross: None,
        };
        let sequences = SequenceBlocks {
            own,
            slots: None,
            encoded: None,
        };
        Ok((state, sequences))
    }

    /// Copies blocks that sequences no longer share.
    pub(crate) fn copy(
        &mut self,
        queue: &mut B::Queue,
        sequences: &SequenceBlocks<B>,
    ) -> Result<()> {
        // States of one size are nobody else's.
        for kv in self.mixer.pools_mut() {
            match sequences.own.copies(kv.group) {
                [] => {}
                copies => queue.copy_blocks(&mut kv.pool, copies)?,
            }
        }
        Ok(())
    }

    /// Copies the states of sequence `from` to `to`, where they are of one size: blocks are shared.
    pub(crate) fn copy_slot(&mut self, queue: &mut B::Queue, slots: (usize, usize)) -> Result<()> {
        let MixerState {
            conv,
            rule,
            kv: _,
            index: _,
            entries: _,
        } = &mut self.mixer;
        for state in conv.iter_mut().chain(rule) {
            state.copy(queue, slots)?;
        }
        Ok(())
    }

    /// Memory once all positions are taken.
    pub(crate) fn bytes(&self) -> Bytes {
        let MixerState { conv, rule, .. } = &self.mixer;
        let pools = self.mixer.pools().chain(&self.cross);
        let slots = conv.iter().chain(rule);
        pools.map(|kv| kv.pool.bytes()).sum::<Bytes>()
            + slots.map(|state| state.buffer.bytes()).sum()
    }
}

impl<B: Backend> MixerState<B> {
    /// All pools.
    fn pools(&self) -> impl Iterator<Item = &KvState<B>> {
        let own = [&self.kv, &self.index].into_iter().flatten();
        let entries = self.entries.iter().flatten();
        own.chain(entries.flat_map(|of| [&of.features, &of.entries]))
    }

    fn pools_mut(&mut self) -> impl Iterator<Item = &mut KvState<B>> {
        let own = [&mut self.kv, &mut self.index].into_iter().flatten();
        let entries = self.entries.iter_mut().flatten();
        own.chain(entries.flat_map(|of| [&mut of.features, &mut of.entries]))
    }
}

impl<B: Backend> EntryState<B> {
    fn new(backend: &B, shapes: &EntryShapes, blocks: &Blocks<B>) -> Result<Self> {
        let entries = &shapes.entries;
        let block_len = backend.kv_block_len(entries);
        let table = KvTable::of_entries(entries, block_len, shapes.rate);
        Ok(EntryState {
            features: KvState::new(backend, &shapes.features, blocks)?,
            entries: KvState {
                pool: backend.kv_pool(entries)?,
                group: blocks.group(table),
            },
            rate: shapes.rate,
        })
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

impl<B: Backend> SlotState<B> {
    fn new(backend: &B, shape: StateShape) -> Result<Self> {
        Ok(SlotState {
            buffer: backend.alloc(shape.total())?,
            shape,
        })
    }

    /// Elements of a sequence's.
    pub(crate) fn n_elements(&self) -> usize {
        self.shape.n_elements
    }

    fn copy(&mut self, queue: &mut B::Queue, slots: (usize, usize)) -> Result<()> {
        Ok(queue.copy_slot(&mut self.buffer, self.shape.n_elements, slots)?)
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
        let slots = match spec.decoder.is_recurrent() {
            true => Some(Slots::new(backend, n_sequences)?),
            false => None,
        };
        Ok(SequenceBlocks {
            slots,
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
        if let Some(slots) = &mut self.slots {
            slots.tell(queue, sequences)?;
        }
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

    /// The sequences of a pass, as layers with states of one size see them.
    ///
    /// # Panics
    /// When there are no such layers.
    pub(crate) fn states(&self) -> StateBatch<'_, B> {
        let slots = self.slots.as_ref().expect("slots for the states of layers");
        let (rows, rows_index) = self.own.rows();
        slots.batch(rows, rows_index)
    }

    /// True if a sequence can go on from its first `len` positions.
    pub(crate) fn can_rewind(&self, sequence: usize, len: usize) -> bool {
        let slots = self.slots.as_ref();
        let has_states = slots.is_none_or(|slots| slots.can_rewind(sequence, len));
        has_states && self.own.can_rewind(sequence, len)
    }

    /// Forgets positions of a sequence from `len` on, which [`SequenceBlocks::can_rewind`] allows.
    pub(crate) fn rewind(&mut self, sequence: usize, len: usize) {
        self.own.rewind(sequence, len);
        if let Some(slots) = &mut self.slots {
            slots.rewind(sequence, len);
        }
    }

    /// Makes sequence `to` what `from` is; true if layers have states to be copied ([`LayerState::copy_slot`]).
    pub(crate) fn fork(&mut self, from: usize, to: usize) -> bool {
        self.own.fork(from, to);
        if let Some(encoded) = &mut self.encoded {
            encoded.blocks.fork(from, to);
            encoded.n_positions[to] = encoded.n_positions[from];
        }
        let slots = self.slots.as_mut();
        slots.is_some_and(|slots| slots.fork(from, to))
    }

    /// Memory on the device.
    pub(crate) fn bytes(&self) -> Bytes {
        let encoded = self.encoded.as_ref();
        let slots = self.slots.as_ref().map_or(Bytes::ZERO, Slots::bytes);
        self.own.bytes() + slots + encoded.map_or(Bytes::ZERO, |encoded| encoded.blocks.bytes())
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
