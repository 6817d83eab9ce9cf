//! The stack that reads an encoder-decoder model's prompt.

use std::collections::BTreeMap;
use std::ops::Range;

use llm_arch::{BlockOf, EncoderSpec, NormOf, Role, Side, Unit};
use llm_backend::{Backend, Ops};
use llm_plan::{Home, Term};
use llm_tensor::Bytes;

use crate::activations::Activations;
use crate::allocated::Allocated;
use crate::block;
use crate::device::StageOptions;
use crate::pass::Interrupts;
use crate::probe::Probe;
use crate::projection::norm_op;
use crate::relative::BiasTable;
use crate::source::WeightSource;
use crate::state::{LayerState, SequenceBlocks, begin_anew};
use crate::stream::{Key, Stream, Weights};
use crate::sublayer::Call;
use crate::{Result, RuntimeError};

/// A device's part of an encoder.
pub(super) struct Encoder<B: Backend> {
    spec: EncoderSpec,
    hidden: usize,
    /// Layers of the stack, by number.
    blocks: BTreeMap<usize, Weights<B, BlockOf<Role>>>,
    bias: Option<BiasTable<B>>,
    norm: Option<Weights<B, NormOf<Role>>>,
    /// Of one block at a time: an encoder's keys and values are forgotten after it.
    state: Option<(LayerState<B>, SequenceBlocks<B>)>,
}

impl<B: Backend> Encoder<B> {
    /// Encoder of a device which has some of it.
    pub(super) fn load(
        backend: &B,
        queue: &mut B::Queue,
        spec: &EncoderSpec,
        options: &StageOptions,
        stream: Option<&Stream<B>>,
        source: &mut dyn WeightSource,
    ) -> Result<Option<Self>> {
        let (stack, n_tokens) = (&spec.stack, options.limits.n_tokens);
        let block = |i| {
            let roles = options.spec.roles().block(Side::Encoder, i);
            let key = Key::Unit(Unit::Layer(Side::Encoder, i));
            Ok((i, Weights::load(backend, stream, key, roles, source)?))
        };
        let layers = options.own().flat_map(|stage| stage.layers(Side::Encoder));
        let blocks: BTreeMap<_, _> = layers.map(block).collect::<Result<_>>()?;
        let norm_unit = Unit::FinalNorm(Side::Encoder);
        let norm = options.spec.roles().final_norm(Side::Encoder);
        let norm = norm.filter(|_| options.has(norm_unit));
        let has_layers = !blocks.is_empty();
        if !has_layers && norm.is_none() {
            return Ok(None);
        }
        // Its layers all attend alike.
        let sizes = (&options.limits, options.kv_dtype);
        let attention = stack.attentions().next().filter(|_| has_layers);
        Ok(Some(Encoder {
            spec: spec.clone(),
            hidden: options.spec.hidden,
            blocks,
            bias: match has_layers {
                true => BiasTable::load(backend, queue, source, (Side::Encoder, stack), n_tokens)?,
                false => None,
            },
            norm: match norm {
                Some(norm) => {
                    let key = Key::Unit(norm_unit);
                    Some(Weights::load(backend, stream, key, norm, source)?)
                }
                None => None,
            },
            state: match attention {
                Some(attention) => Some(LayerState::of_encoder(backend, attention, sizes)?),
                None => None,
            },
        }))
    }

    /// Takes the prompt's rows in `a.rows.x` through some units; the norm after the last layer leaves them in `a.rows.encoded`.
    pub(super) fn forward(
        &mut self,
        queue: &mut B::Queue,
        stream: Option<&Stream<B>>,
        (layers, ends): (Range<usize>, bool),
        n_tokens: usize,
        (interrupt, probe): (Interrupts<'_>, Option<&Probe>),
        a: &mut Activations<B>,
    ) -> Result<()> {
        if let Some((_, sequences)) = &mut self.state {
            begin_anew(&mut sequences.own, queue, 0, n_tokens)?;
        }
        for (&i, block) in self.blocks.range(layers) {
            if interrupt.is_raised() {
                return Err(RuntimeError::Interrupted);
            }
            let (state, sequences) = self.state.as_mut().expect("a state for the layers");
            let mut call = Call {
                lends: None,
                queue: &mut *queue,
                side: Side::Encoder,
                stack: &self.spec.stack,
                bias: self.bias.as_ref(),
                n_tokens,
                sequences,
            };
            let block = block.get(call.queue, stream)?;
            block::forward(&block, &mut call, a, state)?;
            block.end(queue)?;
            if let Some(probe) = probe {
                let unit = Unit::Layer(Side::Encoder, i);
                probe.look::<B>(queue, &a.rows.x, n_tokens * self.hidden, unit)?;
            }
        }
        if let Some(norm) = self.norm.as_ref().filter(|_| ends) {
            let norm = norm.get(queue, stream)?;
            queue.norm(&norm_op(&norm), &a.rows.x, &mut a.rows.encoded, n_tokens)?;
            norm.end(queue)?;
        }
        Ok(())
    }

    /// Counts everything but the weights.
    pub(super) fn count(&self, home: Home, allocated: &mut Allocated) {
        if let Some((state, sequences)) = &self.state {
            allocated.add(home, Term::KvCache, state.bytes());
            allocated.add(home, Term::Activations, sequences.bytes());
        }
        let bias = self.bias.as_ref().map_or(Bytes::ZERO, BiasTable::bytes);
        allocated.add(home, Term::Activations, bias);
    }
}
