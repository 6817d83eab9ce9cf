//! The stack that reads an encoder-decoder model's prompt.

use std::collections::BTreeMap;
use std::ops::Range;

use llm_arch::{EncoderSpec, Side, Unit};
use llm_backend::{Backend, Rows};
use llm_plan::{Home, Term};
use llm_tensor::Bytes;

use super::{cache, final_norm};
use crate::activations::Activations;
use crate::block::{Block, BlockCache, Call};
use crate::device::StageOptions;
use crate::memory::Allocated;
use crate::pass::Interrupt;
use crate::probe::Probe;
use crate::projection::NormWeights;
use crate::relative::BiasTable;
use crate::source::WeightSource;
use crate::stream::{Key, Stream, Weights};
use crate::{Result, RuntimeError};

/// What a device has of an encoder.
pub(super) struct Encoder<B: Backend> {
    spec: EncoderSpec,
    hidden: usize,
    /// Layers of the stack, by number.
    blocks: BTreeMap<usize, Weights<Block<B>>>,
    bias: Option<BiasTable<B>>,
    norm: Option<Weights<NormWeights<B>>>,
    /// Of one block at a time: an encoder's keys and values are forgotten after it.
    cache: Option<BlockCache<B>>,
}

impl<B: Backend> Encoder<B> {
    /// That of a device which has some of it.
    pub(super) fn load(
        backend: &B,
        spec: &EncoderSpec,
        options: &StageOptions,
        stream: Option<&Stream>,
        source: &mut dyn WeightSource,
    ) -> Result<Option<Self>> {
        let (stack, n_tokens) = (&spec.stack, options.limits.n_tokens);
        let block = |i| {
            let key = Key::Unit(Unit::Layer(Side::Encoder, i));
            let block = Weights::load(stream, key, source, |source| {
                Block::load(backend, source, stack, (Side::Encoder, i), false)
            })?;
            Ok((i, block))
        };
        let layers = options.own().flat_map(|stage| stage.layers(Side::Encoder));
        let blocks: BTreeMap<_, _> = layers.map(block).collect::<Result<_>>()?;
        let norm = Unit::FinalNorm(Side::Encoder);
        let (has_layers, has_norm) = (!blocks.is_empty(), options.has(norm));
        if !has_layers && !has_norm {
            return Ok(None);
        }
        Ok(Some(Encoder {
            spec: spec.clone(),
            hidden: options.spec.hidden,
            blocks,
            bias: match has_layers {
                true => BiasTable::load(backend, source, (Side::Encoder, stack), n_tokens)?,
                false => None,
            },
            norm: match has_norm {
                true => Some(Weights::load(stream, Key::Unit(norm), source, |source| {
                    final_norm(backend, source, Side::Encoder, &stack.norm)
                })?),
                false => None,
            },
            cache: match has_layers {
                true => Some(cache(backend, stack, n_tokens, options.kv_dtype, None)?),
                false => None,
            },
        }))
    }

    /// Takes the prompt's rows in `a.x` through some units; the norm after the last layer leaves them in `a.memory`.
    pub(super) fn forward(
        &mut self,
        backend: &B,
        stream: Option<&Stream>,
        (layers, ends): (Range<usize>, bool),
        n_tokens: usize,
        (interrupt, probe): (&Interrupt, Option<&Probe>),
        a: &mut Activations<B>,
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
        for (&i, block) in self.blocks.range(layers) {
            if interrupt.is_raised() {
                return Err(RuntimeError::Interrupted);
            }
            let block = block.get(stream, |source| {
                Block::load(backend, source, stack, (Side::Encoder, i), false)
            })?;
            let caches = self.cache.as_mut_slice();
            block.forward(&call, &stack.layers[i], a, caches)?;
            if let Some(probe) = probe {
                let unit = Unit::Layer(Side::Encoder, i);
                probe.look(backend, &a.x, n_tokens * self.hidden, unit)?;
            }
        }
        if let Some(norm) = self.norm.as_ref().filter(|_| ends) {
            let norm = norm.get(stream, |source| {
                final_norm(backend, source, Side::Encoder, &stack.norm)
            })?;
            backend.norm(&norm.op(), &a.x, &mut a.memory, n_tokens)?;
        }
        Ok(())
    }

    /// Counts everything but the weights.
    pub(super) fn count(&self, home: Home, allocated: &mut Allocated) {
        let cache = self.cache.as_ref().map_or(Bytes::ZERO, BlockCache::bytes);
        allocated.add(home, Term::KvCache, cache);
        let bias = self.bias.as_ref().map_or(Bytes::ZERO, BiasTable::bytes);
        allocated.add(home, Term::Activations, bias);
    }
}
