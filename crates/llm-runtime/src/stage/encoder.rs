//! The stack that reads an encoder-decoder model's prompt.

use llm_arch::{EncoderSpec, Side, Unit};
use llm_backend::{Backend, Rows};
use llm_plan::Term;
use llm_tensor::Bytes;

use super::{StageOptions, WeightSource, cache, final_norm};
use crate::activations::Activations;
use crate::block::{Block, BlockCache, Call};
use crate::memory::Allocated;
use crate::probe::Probe;
use crate::projection::NormWeights;
use crate::relative::BiasTable;
use crate::session::Interrupt;
use crate::stream::{Key, Stream, Weights};
use crate::{Result, RuntimeError};

pub(super) struct Encoder<B: Backend> {
    spec: EncoderSpec,
    hidden: usize,
    blocks: Vec<Weights<Block<B>>>,
    bias: Option<BiasTable<B>>,
    norm: Weights<NormWeights<B>>,
    /// Of one block at a time: an encoder's keys and values are forgotten after it.
    cache: BlockCache<B>,
}

impl<B: Backend> Encoder<B> {
    pub(super) fn load(
        backend: &B,
        spec: &EncoderSpec,
        options: &StageOptions,
        stream: Option<&Stream>,
        source: &mut dyn WeightSource,
    ) -> Result<Self> {
        let (stack, n_tokens) = (&spec.stack, options.limits.n_tokens);
        let block = |i| {
            let key = Key::Unit(Unit::Layer(Side::Encoder, i));
            Weights::load(stream, key, source, |source| {
                Block::load(backend, source, stack, (Side::Encoder, i), false)
            })
        };
        let blocks = (0..stack.n_layers()).map(block).collect::<Result<_>>()?;
        let key = Key::Unit(Unit::FinalNorm(Side::Encoder));
        Ok(Encoder {
            spec: spec.clone(),
            hidden: options.spec.hidden,
            blocks,
            bias: BiasTable::load(backend, source, (Side::Encoder, stack), n_tokens)?,
            norm: Weights::load(stream, key, source, |source| {
                final_norm(backend, source, Side::Encoder, &stack.norm)
            })?,
            cache: cache(backend, stack, n_tokens, options.kv_dtype, None)?,
        })
    }

    /// What a pass is computed with, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> + use<B> {
        let layers = 0..self.blocks.len();
        let layers = layers.map(|i| Key::Unit(Unit::Layer(Side::Encoder, i)));
        layers.chain([Key::Unit(Unit::FinalNorm(Side::Encoder))])
    }

    /// From the embedded prompt in `a.x` to `memory`.
    pub(super) fn forward(
        &mut self,
        backend: &B,
        stream: Option<&Stream>,
        n_tokens: usize,
        (interrupt, probe): (&Interrupt, Option<&Probe>),
        a: &mut Activations<B>,
        memory: &mut B::Buffer,
    ) -> Result<()> {
        let stack = &self.spec.stack;
        let rows = Rows {
            first: 0,
            n_tokens,
            start: 0,
        };
        let call = Call {
            backend,
            side: Side::Encoder,
            stack,
            bias: self.bias.as_ref(),
            n_tokens,
            sequences: &[(0, rows)],
        };
        for (i, (block, layer)) in self.blocks.iter().zip(&stack.layers).enumerate() {
            if interrupt.is_raised() {
                return Err(RuntimeError::Interrupted);
            }
            let block = block.get(stream, |source| {
                Block::load(backend, source, stack, (Side::Encoder, i), false)
            })?;
            let caches = std::slice::from_mut(&mut self.cache);
            block.forward(&call, layer, a, caches)?;
            if let Some(probe) = probe {
                let unit = Unit::Layer(Side::Encoder, i);
                probe.look(backend, &a.x, n_tokens * self.hidden, unit)?;
            }
        }
        let norm = self.norm.get(stream, |source| {
            final_norm(backend, source, Side::Encoder, &stack.norm)
        })?;
        Ok(backend.norm(&norm.op(), &a.x, memory, n_tokens)?)
    }

    /// Counts everything but the weights.
    pub(super) fn count(&self, allocated: &mut Allocated) {
        allocated.add(Term::KvCache, self.cache.bytes());
        let bias = self.bias.as_ref().map_or(Bytes::ZERO, BiasTable::bytes);
        allocated.add(Term::Activations, bias);
    }
}
