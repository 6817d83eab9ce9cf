//! The stack that reads an encoder-decoder model's prompt.

use std::collections::BTreeMap;
use std::ops::Range;

use llm_arch::{BlockOf, EncoderSpec, NormOf, Role, Side, Unit};
use llm_backend::{Backend, Rows};
use llm_plan::{Home, Limits, Term};
use llm_tensor::Bytes;

use crate::activations::Activations;
use crate::block::{self, Call};
use crate::device::StageOptions;
use crate::memory::Allocated;
use crate::pass::Interrupt;
use crate::probe::Probe;
use crate::projection::norm_op;
use crate::relative::BiasTable;
use crate::source::WeightSource;
use crate::state::LayerState;
use crate::stream::{Key, Stream, Weights};
use crate::{Result, RuntimeError};

/// What a device has of an encoder.
pub(super) struct Encoder<B: Backend> {
    spec: EncoderSpec,
    hidden: usize,
    /// Layers of the stack, by number.
    blocks: BTreeMap<usize, Weights<B, BlockOf<Role>>>,
    bias: Option<BiasTable<B>>,
    norm: Option<Weights<B, NormOf<Role>>>,
    /// Of one block at a time: an encoder's keys and values are forgotten after it.
    state: Option<LayerState<B>>,
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
            let roles = BlockOf::of(&options.spec, Side::Encoder, i);
            let key = Key::Unit(Unit::Layer(Side::Encoder, i));
            Ok((i, Weights::load(backend, stream, key, roles, source)?))
        };
        let layers = options.own().flat_map(|stage| stage.layers(Side::Encoder));
        let blocks: BTreeMap<_, _> = layers.map(block).collect::<Result<_>>()?;
        let norm_unit = Unit::FinalNorm(Side::Encoder);
        let norm = NormOf::of_stack(&options.spec, Side::Encoder);
        let norm = norm.filter(|_| options.has(norm_unit));
        let has_layers = !blocks.is_empty();
        if !has_layers && norm.is_none() {
            return Ok(None);
        }
        // It reads a prompt in one pass. Its layers all attend alike.
        let limits = Limits {
            context: n_tokens,
            ..options.limits
        };
        let (mixer, kv_dtype) = (&stack.layers[0].mixer, options.kv_dtype);
        Ok(Some(Encoder {
            spec: spec.clone(),
            hidden: options.spec.hidden,
            blocks,
            bias: match has_layers {
                true => BiasTable::load(backend, source, (Side::Encoder, stack), n_tokens)?,
                false => None,
            },
            norm: match norm {
                Some(norm) => {
                    let key = Key::Unit(norm_unit);
                    Some(Weights::load(backend, stream, key, norm, source)?)
                }
                None => None,
            },
            state: match has_layers {
                true => Some(LayerState::new(backend, mixer, &limits, kv_dtype, false)?),
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
            let block = block.get(backend, stream)?;
            block::forward(&block, &call, a, self.state.as_mut_slice())?;
            if let Some(probe) = probe {
                let unit = Unit::Layer(Side::Encoder, i);
                probe.look(backend, &a.x, n_tokens * self.hidden, unit)?;
            }
        }
        if let Some(norm) = self.norm.as_ref().filter(|_| ends) {
            let norm = norm.get(backend, stream)?;
            backend.norm(&norm_op(&norm), &a.x, &mut a.memory, n_tokens)?;
        }
        Ok(())
    }

    /// Counts everything but the weights.
    pub(super) fn count(&self, home: Home, allocated: &mut Allocated) {
        let state = self.state.as_ref().map_or(Bytes::ZERO, LayerState::bytes);
        allocated.add(home, Term::KvCache, state);
        let bias = self.bias.as_ref().map_or(Bytes::ZERO, BiasTable::bytes);
        allocated.add(home, Term::Activations, bias);
    }
}
