//! The stack that reads an encoder-decoder model's prompt.

use std::slice::from_mut;

use llm_arch::{BlockOf, EncoderSpec, NormOf, Role, Side, Unit};
use llm_backend::{Backend, Rows};
use llm_plan::{Limits, Term};
use llm_tensor::Bytes;

use super::{StageOptions, WeightSource};
use crate::activations::Activations;
use crate::block::{self, Call};
use crate::memory::Allocated;
use crate::probe::Probe;
use crate::projection::norm_op;
use crate::relative::BiasTable;
use crate::session::Interrupt;
use crate::state::LayerState;
use crate::stream::{Key, Stream, Weights};
use crate::{Result, RuntimeError};

pub(super) struct Encoder<B: Backend> {
    spec: EncoderSpec,
    hidden: usize,
    blocks: Vec<Weights<B, BlockOf<Role>>>,
    bias: Option<BiasTable<B>>,
    norm: Weights<B, NormOf<Role>>,
    /// Of one block at a time: an encoder's keys and values are forgotten after it.
    state: LayerState<B>,
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
            let roles = BlockOf::of(&options.spec, Side::Encoder, i);
            let key = Key::Unit(Unit::Layer(Side::Encoder, i));
            Weights::load(backend, stream, key, roles, source)
        };
        let blocks = (0..stack.n_layers()).map(block).collect::<Result<_>>()?;
        let norm =
            NormOf::of_stack(&options.spec, Side::Encoder).expect("an encoder ends with a norm");
        let norm_key = Key::Unit(Unit::FinalNorm(Side::Encoder));
        // It reads a prompt in one pass. Its layers all attend alike.
        let limits = Limits {
            context: n_tokens,
            ..options.limits
        };
        let mixer = &stack.layers[0].mixer;
        Ok(Encoder {
            spec: spec.clone(),
            hidden: options.spec.hidden,
            blocks,
            bias: BiasTable::load(backend, source, (Side::Encoder, stack), n_tokens)?,
            norm: Weights::load(backend, stream, norm_key, norm, source)?,
            state: LayerState::new(backend, mixer, &limits, options.kv_dtype, false)?,
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
        for (i, block) in self.blocks.iter().enumerate() {
            if interrupt.is_raised() {
                return Err(RuntimeError::Interrupted);
            }
            let block = block.get(backend, stream)?;
            block::forward(&block, &call, a, from_mut(&mut self.state))?;
            if let Some(probe) = probe {
                let unit = Unit::Layer(Side::Encoder, i);
                probe.look(backend, &a.x, n_tokens * self.hidden, unit)?;
            }
        }
        let norm = self.norm.get(backend, stream)?;
        Ok(backend.norm(&norm_op(&norm), &a.x, memory, n_tokens)?)
    }

    /// Counts everything but the weights.
    pub(super) fn count(&self, allocated: &mut Allocated) {
        allocated.add(Term::KvCache, self.state.bytes());
        let bias = self.bias.as_ref().map_or(Bytes::ZERO, BiasTable::bytes);
        allocated.add(Term::Activations, bias);
    }
}
